"""The only place that builds the service: every part gets what it needs here, starts in order and stops in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from kallglot_ari import log, memory
from kallglot_ari.ari.client import AriClient
from kallglot_ari.ari.socket import SocketEvent
from kallglot_ari.calls.hub import Hub
from kallglot_ari.calls.model import CallView
from kallglot_ari.calls.orders import Invitation, Outbound, Supervision, Supervisor, Transfer
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import ApiError, InterpreterError, ListenError, UsageError
from kallglot_ari.kallglot.client import KallglotClient
from kallglot_ari.media import recording
from kallglot_ari.media.engine import MediaEngine
from kallglot_ari.media.udp import open_socket
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes import diagnosis, stillness
from kallglot_ari.modes.actions import Plant
from kallglot_ari.modes.instance import earlier_name, instance_name
from kallglot_ari.modes.journal import Journal
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.outbox import Outbox
from kallglot_ari.modes.pbx import PbxService
from kallglot_ari.modes.readiness import Readiness
from kallglot_ari.modes.sip_quality import SipQualities
from kallglot_ari.modes.stasis import StasisMode
from kallglot_ari.modes.trunk import TrunkMode
from kallglot_ari.sandbox.engine import Engine
from kallglot_ari.sandbox.run import make_engine
from kallglot_ari.sandbox.server import Sandbox
from kallglot_ari.settings import MediaSettings, Settings
from kallglot_ari.store.store import open_store
from kallglot_ari.tasks import Tasks
from kallglot_ari.web import server as web_server
from kallglot_ari.web import tls
from kallglot_ari.web.server import WebServer

_log = log.get(__name__)

PROBE_SECONDS, PROBE_AGAIN = 15.0, 2.0
"""Seconds between two looks at the API at most, and at least."""
CLAIM_EVERY = 1.0
TAKE_OVER_SECONDS = 10.0
"""How long a run that takes over waits for the other to let go; then that one is taken for dead."""
MEDIA_SILENT = 5.0
QUIET_SECONDS = 10.0, 60.0
"""Without a call; then the memory that calls took is given back, and what the connections took that are closed by then."""
WEBHOOKS = ("session.ended", "transcript.ready", "recording.ready")
"""What the embedded Kallglot notifies us of; the rest its streams tell."""


class Service:
    """All of it. `start` raises nothing for an Asterisk or an API that is down: it goes on trying, and `/readyz` says so.

    :raises KallglotAriError: from `start`, when a port is taken, the store cannot be opened, or a setting cannot work.
    """

    def __init__(self, settings: Settings, *, take_over: bool = False) -> None:
        """:param take_over: a running service of this instance's name is asked to leave its calls to us."""
        log.hide(settings.secrets())
        self.settings = settings
        self.clock = SystemClock()
        self.metrics = Metrics()
        self.hub = Hub(self.clock, on_dropped=self.metrics.events_dropped.inc)
        self.store = open_store(settings.store, self.clock, retention_days=settings.store.retention_days)
        self.embedded: Sandbox | None = None
        self.ari = AriClient(settings.ari, self.metrics, self.clock)
        self._stops: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._tasks = Tasks("app")
        self._take_over = take_over
        self._keep_calls = False
        self._run_id = secrets.token_hex(8)
        self._instance, self._earlier = instance_name(settings), earlier_name(settings)
        self._prefix = f"kg-{self._instance}"
        self._earlier_prefix = f"kg-{self._earlier}" if self._earlier else ""
        self._journal = Journal(self.store, self._prefix, self._earlier_prefix)
        self.replaced = asyncio.Event()
        """Another run of this instance wants to take the calls over: `hand_over` is waited for."""
        self._api_problem = "not asked yet"
        self._ready_asked = asyncio.Event()
        self._interpreter_problem = ""
        self.web_url = ""

    async def start(self) -> None:
        """Start every part in order; when one cannot, those before it are stopped again."""
        try:
            await self._start()
        except BaseException:
            await self.stop(drain=False, keep_calls=True)
            await self.ari.close()
            raise

    async def _start(self) -> None:
        await self.store.start()
        self._on_stop("store", self.store.close)
        await self._start_kallglot()
        if self.settings.debug.record != "off":
            recording.check(self.settings.debug.record)
        await diagnosis.warn(self.settings)
        self._on_stop("journal", self._journal.close)
        if self._take_over:
            # Its port is the other run's until that lets go of its calls; what else keeps us from starting is told before.
            await web_server.check(self.settings.web.model_copy(update={"port": 0}))
            if not await self._journal.take_over(self._run_id, TAKE_OVER_SECONDS):
                _log.warning("nobody_handed_over", seconds=TAKE_OVER_SECONDS)
        await web_server.check(self.settings.web)
        place = await self._journal.place()
        await self._start_media(place)
        await self._start_calls(place)
        self._start_watching()
        await self._start_web()
        await self._journal.claim(self._run_id)
        self._tasks.spawn(self._watch_claim(), name="claim")
        _log.info(
            "started",
            web=self.web_url,
            ari=self.settings.ari.url,
            app=self.settings.ari.app,
            kallglot="embedded" if self.embedded else ",".join(self.settings.kallglot.urls),
            rtp=":".join(map(str, self.media.address)),
            instance=self._prefix,
        )

    async def _start_kallglot(self) -> None:
        """The API's client, and before it the embedded Kallglot if that is what it asks."""
        s = self.settings
        urls: tuple[str, ...] | None = None
        api_key: str | None = None
        if s.kallglot.embedded:
            engine = make_engine(s.interpreter, self.metrics, self.clock)
            self._on_stop("interpreter", engine.close)
            self._tasks.spawn(self._warm(engine), name="warm")
            self.embedded = Sandbox(engine, clock=self.clock)
            await self.embedded.start()
            self._on_stop("embedded Kallglot", self.embedded.stop)
            urls, api_key = (self.embedded.url,), self.embedded.api_key
            log.hide([api_key])
        self.translator = KallglotClient(s.kallglot, s.trunk, self.metrics, self.clock, urls=urls, api_key=api_key)
        await self.translator.start()
        self._on_stop("Kallglot client", self.translator.close)

    async def _start_media(self, place: dict[str, Any]) -> None:
        """:param place: where the earlier run's media were."""
        s = self.settings
        self.media = MediaEngine(
            self._media_settings(place),
            encoding=s.kallglot.encoding,
            sample_rate=s.kallglot.sample_rate,
            chunk_ms=s.kallglot.chunk_ms,
            metrics=self.metrics,
            clock=self.clock,
            asterisk_url=s.ari.url,
            asterisk_ca=s.ari.ca_file,
        )
        await self.media.start()
        self._on_stop("media", self.media.stop)

    async def _start_calls(self, place: dict[str, Any]) -> None:
        """The three kinds of calls and what they share, ARI among it. Those of the earlier run are taken up."""
        s = self.settings
        load = Load(self.metrics, s.service.max_calls)
        await self._start_media_mode(load)
        rtp = list(self.media.address)
        self.stasis.resume.start(same_port=place.get("rtp") == rtp)
        self._journal.start()
        self.trunk = TrunkMode(
            self.translator,
            self.store,
            self.hub,
            kallglot=s.kallglot,
            trunk=s.trunk,
            agi=s.agi,
            ami=s.ami,
            metrics=self.metrics,
            clock=self.clock,
            load=load,
            instance=self._instance,
            earlier=self._earlier,
            debug=s.debug,
            ari=self.ari,
            app=s.ari.app,
        )
        self._on_stop("ARI", self.ari.close)
        self._on_stop("calls", self.stasis.close)
        await self.trunk.start()  # first: what ARI shows is compared with the calls that it takes up
        self._on_stop("trunk mode", self._stop_trunk)
        # not before FastAGI's port is ours: another run may be up, whose calls send where the journal says
        await self._journal.settle(rtp=rtp)
        await self.ari.start(self._on_ari)
        self.stasis.start()
        self.pbx = PbxService(
            self.translator,
            self.store,
            self.hub,
            kallglot=s.kallglot,
            trunk=s.trunk,
            web=s.web,
            metrics=self.metrics,
            clock=self.clock,
            load=load,
            instance=self._instance,
            trunk_mode=self.trunk,
        )
        await self.pbx.start()
        self._on_stop("PBX service", self.pbx.stop)
        self.outbox.watch(f"{self._instance}-t-", self.trunk.live_keys)
        self.outbox.watch(f"{self._instance}-p-", self.pbx.live_keys)
        if self._earlier:
            self.outbox.watch(f"{self._earlier}-t-", self.trunk.live_keys, only_to_end=True)
            self.outbox.watch(f"{self._earlier}-p-", self.pbx.live_keys, only_to_end=True)

    async def _start_media_mode(self, load: Load) -> None:
        """Its calls and the outbox of their sessions; ARI is not connected yet."""
        s = self.settings
        self.outbox = Outbox(
            self.translator,
            self.store,
            self.metrics,
            self.clock,
            prefix=self._prefix,
            embedded=self.embedded.url if self.embedded else "",
            earlier=self._earlier_prefix,
        )
        plant = Plant(
            self.ari,
            s.ari.app,
            self.media,
            self.translator,
            self.outbox,
            self.store,
            self.hub,
            self.metrics,
            self.clock,
            SipQualities(self.ari, self.metrics, self.clock),
            s.debug,
        )
        self.stasis = StasisMode(
            plant, s.service, s.kallglot, s.media, s.conference, s.features,
            self._prefix, self._journal, load, self._is_trunk_s,
        )  # fmt: skip
        await self.outbox.start(await self.stasis.resume.read())
        self._on_stop("outbox", self.outbox.stop)

    def _start_watching(self) -> None:
        """What looks at the parts from now on."""
        self.readiness = Readiness(
            self.metrics, self.ari, self.media, self.settings.media.transport, self.store,
            {
                "api": self._api_problems,
                "interpreter": lambda: [self._interpreter_problem and f"interpreter: {self._interpreter_problem}"],
                "trunk": self.trunk.problems,
                # At max_calls it is ready all the same: the calls that it has are none of a probe's business.
                "service": lambda: ["draining: no new calls are taken" if self.stasis.draining else ""],
            },
        )  # fmt: skip
        self._tasks.spawn(self._probe(), name="probe")
        self._tasks.spawn(self.readiness.watch(), name="readiness")
        self._tasks.spawn(stillness.watch(self.clock), name="stillness")
        self._tasks.spawn(self._give_back(), name="memory")
        self._on_stop("tasks", self._tasks.close)

    async def _start_web(self) -> None:
        """The web server, which the embedded Kallglot is told of."""
        s, web_settings = self.settings, self.settings.web
        if self.embedded is not None and not web_settings.webhook_secret.get_secret_value():
            web_settings = web_settings.model_copy(update={"webhook_secret": SecretStr(secrets.token_urlsafe(32))})
        webhook_secret = web_settings.webhook_secret.get_secret_value()
        log.hide([webhook_secret])
        self.web = WebServer(
            web_settings,
            control=self,
            store=self.store,
            hub=self.hub,
            metrics=self.metrics,
            health=self,
            clock=self.clock,
            pbx=self.pbx,
            on_session_ended=self._session_ended,
            languages=(s.kallglot.source_language, s.kallglot.target_language),
            keep_days=s.store.retention_days,
        )
        await self.web.start()
        self._on_stop("web", self.web.stop)
        self.web_url = self.web.url
        if self.embedded is not None and not s.web.allowed_ips:  # else loopback may be shut out
            self.embedded.notify(f"{self.web_url}/webhooks/kallglot", webhook_secret, WEBHOOKS, tls.asking(s.web))

    def _on_ari(self, event: SocketEvent) -> None:
        self.stasis.on_event(event)
        self.trunk.on_ari(event)

    def _is_trunk_s(self, channel_id: str) -> bool:
        return self.trunk.has_channel(channel_id)

    def _media_settings(self, place: dict[str, Any]) -> MediaSettings:
        """With the port of the earlier run, whose calls still send there, if any port will do and it is free."""
        media = self.settings.media
        address = place.get("rtp")
        if media.port or not isinstance(address, list) or len(address) != 2 or not isinstance(address[1], int):
            return media
        try:
            open_socket(media.bind, address[1]).close()
        except ListenError:
            return media
        return media.model_copy(update={"port": address[1]})

    async def _warm(self, engine: Engine) -> None:
        """Load the interpreter's models while the rest is up already; a call that comes earlier waits for them."""
        source, target = self.settings.kallglot.source_language, self.settings.kallglot.target_language
        pairs = [] if "auto" in (source, target) else [(source, target), (target, source)]
        self._interpreter_problem = "its models are being loaded"
        try:
            await engine.warm(*pairs)
            self._interpreter_problem = ""
        except InterpreterError as error:
            self._interpreter_problem = str(error)
            _log.error("interpreter_not_ready", error=str(error))

    def _on_stop(self, name: str, stop: Callable[[], Awaitable[None]]) -> None:
        self._stops.append((name, stop))

    async def _watch_claim(self) -> None:
        while await self._journal.held(self._run_id):  # noqa: ASYNC110 - the other run is another process
            await asyncio.sleep(CLAIM_EVERY)
        _log.warning("another_run_takes_over", calls=len(self.calls()))
        self.replaced.set()

    async def hand_over(self) -> None:
        """Stop at once and leave the calls as they are, for the next run of this instance, and tell it that they are its own."""
        self._stops.insert(1, ("claim", lambda: self._journal.release(self._run_id)))
        await self.stop(drain=False, keep_calls=True)

    async def stop(self, *, drain: bool = True, keep_calls: bool = False, seconds: float | None = None) -> None:
        """Drain, then stop every part in reverse; one that fails to does not keep the others.

        :param keep_calls: the next run of this instance goes on with them.
        :param seconds: that calls may go on for; None: as the settings say.
        """
        self._keep_calls = keep_calls
        if keep_calls and hasattr(self, "outbox"):
            self.outbox.leave()
        if drain and hasattr(self, "stasis"):
            seconds = self.settings.service.drain_seconds if seconds is None else seconds
            _log.info("draining", calls=len(self.stasis.calls) + len(self.trunk.calls()), seconds=seconds)
            self.trunk.drain()
            self.pbx.drain()  # its calls are not ended with us: the PBX tells the next run
            await asyncio.gather(self.stasis.drain(seconds), self.trunk.wait_empty(seconds))
        while self._stops:
            name, stop = self._stops.pop()
            try:
                async with asyncio.timeout(15):
                    await stop()
            except Exception as error:  # noqa: BLE001 - whatever keeps one part, the others are stopped
                _log.error("part_not_stopped", part=name, error=str(error) or type(error).__name__)
        self.hub.close()

    async def _stop_trunk(self) -> None:
        """An embedded Kallglot's sessions end with us, so there the calls do too."""
        await self.trunk.stop(keep_calls=self._keep_calls and self.embedded is None)

    # --- health ------------------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Whether the API is there: now and then, and soon after somebody asked whether we are ready."""
        while True:
            self._ready_asked.clear()
            try:
                await self.translator.probe()
                self._api_problem = ""
            except ApiError as error:
                self._api_problem = str(error)
            await asyncio.sleep(PROBE_AGAIN)
            if not self._api_problem:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_SECONDS - PROBE_AGAIN):
                        await self._ready_asked.wait()

    async def _give_back(self) -> None:
        """After the last of some calls: the memory that they took. Not while there are calls: they would hear it."""
        while True:
            await self.stasis.calls.wait_busy()
            for seconds in QUIET_SECONDS:
                await self.stasis.calls.wait_quiet(seconds)
                await memory.give_back()

    async def live(self) -> list[str]:
        """Reasons why this process should be restarted; its calls are taken up by the next."""
        silent = self.media.silent
        return [f"media: no tick for {silent:.0f} s"] if silent > MEDIA_SILENT else []

    def _api_problems(self) -> list[str]:
        problem = self._api_problem or ("no address answers" if self.translator.away else "")
        return [f"Kallglot API: {problem}"] if problem else []

    async def ready(self) -> list[str]:
        """Reasons why a call could not be translated now."""
        self._ready_asked.set()
        return await self.readiness.reasons()

    def _session_ended(self, session_id: str, reason: str) -> None:
        """Kallglot's webhook: a session is over."""
        if not self.stasis.session_ended(session_id, reason):
            self._tasks.spawn(self._hang_up_elsewhere(session_id, reason), name="session-ended")

    async def _hang_up_elsewhere(self, session_id: str, reason: str) -> None:
        if not await self.trunk.session_ended(session_id, {"reason": reason}):
            await self.pbx.session_ended(session_id, {"reason": reason})

    # --- CallControl -------------------------------------------------------------------------------------------------

    def calls(self) -> list[CallView]:
        return [*self.stasis.calls.views(), *self.trunk.calls(), *self.pbx.calls()]

    def call(self, call_id: str) -> CallView | None:
        return self.stasis.calls.view(call_id) or self.trunk.call(call_id) or self.pbx.call(call_id)

    async def originate(self, order: Outbound) -> CallView:
        return await self.stasis.originate(order)

    def _with_media(self, call_id: str, what: str) -> StasisMode:
        """:raises UsageError: for a call whose parties and RTP are the PBX's alone."""
        if self.trunk.call(call_id) or self.pbx.call(call_id):
            raise UsageError(f"{what}: expected a call in media mode, found {call_id}, which its PBX controls")
        return self.stasis

    async def hangup(self, call_id: str) -> None:
        if self.trunk.call(call_id):
            await self.trunk.hangup(call_id)
        elif self.pbx.call(call_id):
            await self.pbx.end(call_id)
        else:
            await self.stasis.hangup(call_id)

    async def transfer(self, call_id: str, order: Transfer) -> None:
        await self._with_media(call_id, "transfer").transfer(call_id, order)

    async def drop(self, call_id: str, *, party: str) -> None:
        await self._with_media(call_id, "leg").drop(call_id, party=party)

    async def supervise(self, call_id: str, order: Supervisor) -> CallView:
        return await self._with_media(call_id, "supervise").supervise(call_id, order)

    async def change_supervision(self, call_id: str, speaker: str, order: Supervision) -> None:
        await self._with_media(call_id, "supervise").change_supervision(call_id, speaker, order)

    async def dtmf(self, call_id: str, *, party: str, digits: str) -> None:
        await self._with_media(call_id, "dtmf").dtmf(call_id, party=party, digits=digits)

    async def original(self, call_id: str, *, party: str, gain_db: float | None) -> None:
        await self._with_media(call_id, "original_gain_db").original(call_id, party=party, gain_db=gain_db)

    async def capture(self, call_id: str, *, on: bool) -> Path:
        return await self._with_media(call_id, "pcap").capture(call_id, on=on)

    async def captured(self, call_id: str) -> Path | None:
        return await self.stasis.captured(call_id)

    async def add_leg(self, call_id: str, order: Invitation) -> CallView:
        return await self._with_media(call_id, "leg").add_leg(call_id, order)
