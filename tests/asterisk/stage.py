"""A call on a real Asterisk with phones that each say a tone of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kallglot_ari.app import Service
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.phones import Phone
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import nothing_left, running, settings_for, until
from tests.asterisk.tones import HZ, SHIFT, Interpreter, hears
from tests.double.server import KallglotDouble

__all__ = ["HZ", "Stage"]


class Stage:
    """A call between customer and agent, and the other phones."""

    def __init__(self, asterisk: LabAsterisk, double: KallglotDouble, service: Service, phones: PhoneFactory) -> None:
        self.asterisk, self.double, self.service, self._make = asterisk, double, service, phones
        self.phones: dict[str, Phone] = {}

    async def phone(self, name: str, *, says: bool = True, **options: object) -> Phone:
        """A phone that says its tone."""
        phone = self.phones[name] = await self._make(self.asterisk, name, codecs=("PCMU",), **options)
        if says:
            await phone.tone(HZ[name])
        return phone

    async def call(self, number: str = "101") -> tuple[Phone, Phone]:
        customer = await self.phone("customer")
        agent = await self.phone("agent", on_call=0.2)
        await customer.call(number)
        await customer.wait_state("CONFIRMED")
        await self.active(2)
        return customer, agent

    async def active(self, legs: int) -> None:
        await until(
            lambda: (
                [(c.state, sum(leg.state == "up" for leg in c.legs)) for c in self.service.calls()]
                == [("active", legs)]
            ),
            what=f"one call with {legs} parties, found {self.service.calls()}",
        )

    async def talk(self, one: Phone, other: Phone, languages: tuple[str, str] = ("de", "en")) -> None:
        """The two hear each other translated into their languages, and nobody else."""
        async with Interpreter(self.double):
            await hears(one, {HZ[other.name] + SHIFT[languages[0]]})
            await hears(other, {HZ[one.name] + SHIFT[languages[1]]})

    async def over(self, customer: Phone) -> None:
        await customer.hangup()
        await nothing_left(self.service, self.asterisk)
        assert self.double.open_sessions == []
        assert all(len(session.ends) == 1 for session in self.double.sessions.values()), "each ended once"


@asynccontextmanager
async def staged(
    asterisk: LabAsterisk, phones: PhoneFactory, folder: Path, **sections: dict[str, Any]
) -> AsyncIterator[Stage]:
    """A service with these settings between `asterisk` and a double that finds nothing wrong with what it was sent."""
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk, folder, double, **sections)) as service,
    ):
        yield Stage(asterisk, double, service, phones)
        assert double.violations == []
