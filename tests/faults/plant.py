"""What faults are done to: a service with a real Asterisk, two real phones, a strict Kallglot, a database, and a proxy on every line."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.phones import Phone, PhoneCall
from tests.audio_checks import tone, tone_presence
from tests.double.server import KallglotDouble
from tests.faults.proxy import Proxy
from tests.faults.served import Served, free_port
from tests.store.conftest import Postgres

CUSTOMER_HZ, AGENT_HZ, FOR_AGENT_HZ, FOR_CUSTOMER_HZ = 453.0, 613.0, 787.0, 1013.0


async def heard(phone: Phone, hertz: float, after: int, timeout: float) -> bool:
    """Whether the phone hears `hertz` for 200 ms within `timeout`, in what it heard beyond its first `after` samples.

    Samples, not seconds: the recording of a phone that is without a call for long stands still.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        recording = phone.recording
        there = tone_presence(recording.samples[after:], recording.rate, hertz) > 0.8
        if any(there[begin : begin + 10].all() for begin in range(max(0, len(there) - 10))):
            return True
        await asyncio.sleep(0.1)
    return False


@dataclass
class Site:
    """Everything but the phones: what faults are done to."""

    asterisk: LabAsterisk
    double: KallglotDouble
    served: Served
    ari: Proxy
    api: Proxy
    stream: Proxy
    database: Proxy | None
    postgres: Postgres | None
    folder: Path

    async def new_phones(self) -> None:
        """In place of those whose calls died with Asterisk."""
        raise NotImplementedError

    async def extension(self) -> None:
        """The call's dialplan, which an Asterisk that was started again does not know."""
        raise NotImplementedError


@dataclass
class Plant(Site):
    """With two phones that are real, and one call at a time."""

    customer: Phone = field(kw_only=True)
    agent: Phone = field(kw_only=True)
    call: PhoneCall | None = None
    log_before: int = 0
    sessions_before: set[str] = field(default_factory=set)

    async def new_phones(self) -> None:
        """In place of those whose calls died with Asterisk."""
        await asyncio.gather(self.customer.stop(), self.agent.stop())
        self.customer, self.agent = await _phones(self.asterisk)
        self.call = None

    async def extension(self) -> None:
        """900: the call as the table makes it; the dialplan goes on with a tone."""
        await self.asterisk.extension(
            "900",
            "Stasis(kallglot,source=de,target=en,agent=PJSIP/agent)",
            "Log(NOTICE,went-on ${KALLGLOT_STATUS})",
            "Answer()",
            "Milliwatt()",
        )

    # --- a call ------------------------------------------------------------------------------------------------------

    async def dial(self) -> None:
        self.log_before = len(self.asterisk.log())
        self.sessions_before = set(self.double.sessions)
        await self.agent.on_call("ring")
        self.call = await self.customer.call("900")

    async def answer(self) -> None:
        """The agent answers whatever rings, now or later."""
        ringing = [call for call in self.agent.calls if not call.ended and "CONFIRMED" not in call.states]
        await self.agent.on_call(0.1)
        if ringing:
            await self.agent.answer(ringing[-1])

    @property
    def alive(self) -> bool:
        """The caller's SIP call is up."""
        return self.call is not None and not self.call.ended

    @property
    def went_on(self) -> str:
        """The status with which the dialplan went on; empty if it did not."""
        found = re.findall(r"NOTICE.*went-on (\w+)", self.asterisk.log()[self.log_before :])
        return found[-1] if found else ""

    async def translated(self, timeout: float) -> bool:
        """Both parties are heard by Kallglot, and hear what it says."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            since = time.monotonic()
            for session in [s for s in self.double.open_sessions if s.connected]:
                fresh = [any(a.at > since - 0.5 for a in audio.arrivals) for audio in session.audio.values()]
                if len(fresh) < 2 or not all(fresh):
                    continue
                agent, customer = (len(phone.recording.samples) for phone in (self.agent, self.customer))
                try:
                    await asyncio.gather(
                        session.speak("customer", tone(FOR_AGENT_HZ, 0.5, 8000)),
                        session.speak("agent", tone(FOR_CUSTOMER_HZ, 0.5, 8000)),
                    )
                except (AssertionError, ConnectionError):
                    continue
                if all(
                    await asyncio.gather(
                        heard(self.agent, FOR_AGENT_HZ, agent, 2), heard(self.customer, FOR_CUSTOMER_HZ, customer, 2)
                    )
                ):
                    return True
            await asyncio.sleep(0.1)
        return False

    # --- afterwards --------------------------------------------------------------------------------------------------

    async def left_over(self, timeout: float) -> str:
        """What is left of calls after `timeout` at most, in words; empty when nothing is."""
        deadline = time.monotonic() + timeout
        while True:
            left = await self._left()
            if not left or time.monotonic() > deadline:
                return left
            await asyncio.sleep(0.2)

    async def _left(self) -> str:
        found = await left_of_calls(self.asterisk, self.served)
        new = [s for s in self.double.sessions.values() if s.id not in self.sessions_before]
        open_ = sum(s.status != "ended" for s in new)
        found += [f"{open_} sessions open"] if open_ else []
        return ", ".join(found)

    def sessions(self) -> tuple[int, int, int]:
        """Of the cell's: created, ended, and those ended more than once."""
        new = [s for s in self.double.sessions.values() if s.id not in self.sessions_before]
        return len(new), sum(bool(s.ends) or s.status == "ended" for s in new), sum(len(s.ends) > 1 for s in new)


async def left_of_calls(asterisk: LabAsterisk, served: Served) -> list[str]:
    """What there still is of calls, in Asterisk and in the service."""
    found = []
    try:
        for kind in ("channels", "bridges"):
            number = len(await asyncio.to_thread(asterisk.ari, "GET", f"/{kind}"))
            found += [f"{number} {kind}"] if number else []
        calls = await served.calls()
        found += [f"{len(calls)} calls"] if calls else []
        pending = await served.metric("kallglot_sessions_pending_end")
        found += [f"{pending:.0f} sessions pending"] if pending else []
    except OSError as error:
        found.append(f"no answer: {error}")
    return found


async def _phones(asterisk: LabAsterisk) -> list[Phone]:
    """Customer and agent, each with a tone."""
    phones = []
    for name, hertz in (("customer", CUSTOMER_HZ), ("agent", AGENT_HZ)):
        registrar = f"127.0.0.1:{asterisk.sip_port}"
        phone = await Phone.start(name, registrar, asterisk.phone_password, codecs=("PCMU",))
        await phone.tone(hertz)
        phones.append(phone)
    return phones


@asynccontextmanager
async def site(
    folder: Path, postgres: Postgres | None = None, local: Mapping[str, str] | None = None
) -> AsyncIterator[Site]:
    """All but the phones started, with or without PostgreSQL. :param local: more of Asterisk's configuration."""
    async with AsyncExitStack() as stack:
        asterisk = await stack.enter_async_context(LabAsterisk("22", local=local))
        double = await stack.enter_async_context(
            KallglotDouble("routing", chunk_ms=None, port=free_port(), stream_port=free_port(), credits=100_000)
        )
        ari = await stack.enter_async_context(Proxy("127.0.0.1", asterisk.slot.http))
        api = await stack.enter_async_context(Proxy("127.0.0.1", double.port))
        stream = await stack.enter_async_context(Proxy("127.0.0.1", double.port, listen=double.stream_port))
        settings: dict[str, Any] = {
            "ARI__URL": f"http://127.0.0.1:{ari.port}",
            "KALLGLOT__URL": f"http://127.0.0.1:{api.port}/v1",
            "KALLGLOT__FAILOVER_TIMEOUT_MS": 1000,
        }
        database = None
        if postgres is not None:
            database = await stack.enter_async_context(Proxy("127.0.0.1", postgres.port))
            settings["STORE__URL"] = postgres.database().replace(f":{postgres.port}/", f":{database.port}/")
        served = Served(asterisk, folder, double, None, **settings)
        served.module = "tests.faults.jumping"
        await stack.enter_async_context(served)
        yield Site(asterisk, double, served, ari, api, stream, database, postgres, folder)


@asynccontextmanager
async def plant(folder: Path, postgres: Postgres | None = None) -> AsyncIterator[Plant]:
    """Everything started."""
    async with site(folder, postgres) as s:
        customer, agent = await _phones(s.asterisk)
        made = Plant(**vars(s), customer=customer, agent=agent)
        await made.extension()
        try:
            yield made
        finally:
            await asyncio.gather(made.customer.stop(), made.agent.stop())
