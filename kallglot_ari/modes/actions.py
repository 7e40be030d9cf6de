"""Where a call's commands meet Asterisk, the media engine and Kallglot."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from weakref import ref

from kallglot_ari.ari.client import AriClient
from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.interfaces import (
    CallStore,
    Flow,
    Hub,
    Media,
    StreamEnd,
    StreamEvent,
    StreamProblem,
    StreamReady,
    StreamSpeech,
    StreamTranscript,
    Translator,
)
from kallglot_ari.calls.legs import Leg
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.model import CallView, LegQuality, SessionRequest, TranscriptTurn, UplinkChunk
from kallglot_ari.calls.runner import CallRunner
from kallglot_ari.clock import Clock
from kallglot_ari.errors import AriConflict, AriError, AriNotFound, AriUnavailable, MediaError, StoreError
from kallglot_ari.log import get
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes import external_media
from kallglot_ari.modes.answers import Answers
from kallglot_ari.modes.diagnosis import Diagnosis
from kallglot_ari.modes.latency import TurnLatency
from kallglot_ari.modes.outbox import Outbox
from kallglot_ari.modes.sip_quality import SipQualities
from kallglot_ari.modes.streams import CallStreams
from kallglot_ari.modes.summary import NOT_REACHED, Course, line_of
from kallglot_ari.modes.tone import DIRECT_TONE
from kallglot_ari.modes.transcripts import Transcripts
from kallglot_ari.modes.waiting import AGAIN, ASTERISK_AWAY, LASTING, LATER, TO_THE_LAST
from kallglot_ari.settings import DebugSettings

SAVED_AT = frozenset({"call.created", "session.created", "call.answered", "call.active"})
UNLOGGED = frozenset({"event", "digit", "digits"})
"""What an event says beside the log: digits are card numbers and PINs."""
TROUBLE = frozenset({"call.degraded", "stream.down", "media.lost"})
"""What the log warns of."""
SAVE_AFTER = 1.0
"""Seconds between what happens to a call and its being written; several things become one write. Its end is written at once."""


@dataclass(frozen=True, slots=True)
class Plant:
    """What all calls share."""

    ari: AriClient
    app: str
    media: Media
    translator: Translator
    outbox: Outbox
    store: CallStore
    hub: Hub
    metrics: Metrics
    clock: Clock
    sip: SipQualities
    debug: DebugSettings = field(default_factory=DebugSettings)


class CallActions:
    """One call's flows, its stream and its routes."""

    def __init__(self, plant: Plant, runner: CallRunner, request: SessionRequest) -> None:
        self._plant = plant
        self._call_id = runner.id
        self._machine = runner.machine
        self._tasks = runner.tasks
        self._runner = ref(runner)
        """Weak: the runner has us, and what is in no circle is freed as soon as the call has ended."""
        self._request = request
        self._flows: dict[str, Flow] = {}
        self._quality: dict[str, LegQuality] = {}
        self._speaks: dict[str, list[tuple[str, str]]] = {}
        """Leg → links and what it is called there."""
        self._hears: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
        self._muted: set[str] = set()
        self._interruptible: set[str] = set()
        self._answers = Answers()
        self._repeats = "repeat" in dict(runner.machine.plan.features).values()
        """Whether anybody can ask for an answer to be said again."""
        self._originals: dict[tuple[str, str], tuple[float | None, float]] = {}
        """Listening leg and the one whose own voice it hears, at so many dB."""
        self._who: dict[tuple[str, str], str] = {}
        """Link and label → leg."""
        self._diagnosis = Diagnosis(self._call_id, plant.debug, plant.media)
        self._transcripts = Transcripts(self._call_id, plant.store, plant.hub, plant.clock, self._tasks)
        self._saving = False
        self._course = Course()
        if runner.machine.direct:  # another process had it
            self._course.begin(runner.machine.problem, plant.clock.now())
        self._latency = TurnLatency(plant.metrics.translation_latency)
        self._log = get(__name__).bind(call=self._call_id)
        self._streams = CallStreams(plant.translator, plant.metrics, plant.clock, self._log)

    # --- at once -----------------------------------------------------------------------------------------------------

    def apply(self, command: c.Command) -> None:
        match command:
            case c.Route():
                self._route(command)
            case c.Uplink():
                (self._muted.discard if command.on else self._muted.add)(command.leg)
                if flow := self._flows.get(command.leg):
                    (flow.resume if command.on else flow.pause)()
            case c.Interruptible():
                (self._interruptible.add if command.on else self._interruptible.discard)(command.leg)
                if flow := self._flows.get(command.leg):
                    flow.interruptible(partial(self._interrupted, command.leg) if command.on else None)
            case c.Pressed():
                if flow := self._flows.get(command.leg):
                    flow.pressed(command.seconds)
            case c.Repeat():
                self._repeat(command.leg)
            case c.Tone():
                if flow := self._flows.get(command.leg):
                    flow.play("tone", DIRECT_TONE)
            case c.Hear():
                if command.gain_db is None:
                    self._originals.pop((command.leg, command.other), None)
                else:
                    self._originals[command.leg, command.other] = (command.gain_db, command.duck_db)
                self._hear(command.leg, command.other)
            case c.Publish():
                self._publish(command)
            case _:
                pass

    def _hear(self, leg: str, other: str) -> None:
        """Tell the flows, if both are there; when one comes later it is told then."""
        if leg in self._flows and other in self._flows:
            self._flows[leg].hear(self._flows[other].id, *self._originals.get((leg, other), (None, 0.0)))

    def _route(self, command: c.Route) -> None:
        self._hears = command.hears
        self._speaks = {}
        for leg, link, label in command.speaks:
            self._speaks.setdefault(leg, []).append((link, label))
            self._who[link, label] = leg

    def _publish(self, command: c.Publish) -> None:
        write = self._log.warning if command.event in TROUBLE else self._log.info
        write(command.event, **{k: v for k, v in command.data.items() if k not in UNLOGGED})
        self._course.take(command.event, command.data, self._plant.clock.now())
        self._plant.hub.publish(command.event, self._call_id, command.data)
        if command.event == "call.active":
            self._plant.metrics.call_setup.observe(command.data["setup_seconds"])
        if command.event == "ladder":
            self._plant.metrics.ladder.labels(command.data["step"]).inc()
        if command.event in SAVED_AT:
            self._save_soon()

    def _save_soon(self) -> None:
        """Calls write little and late, so that the outbox, which calls wait for, is never behind them in the store."""
        if not self._saving:
            self._saving = True
            self._tasks.spawn(self._save_later(), name="save")

    async def _save_later(self) -> None:
        await asyncio.sleep(SAVE_AFTER)
        self._saving = False
        if not self._machine.finished:  # then its last save is done, and the store may be closed
            await self.save()

    async def save(self) -> None:
        """Write the call as it is now; a store that fails does not hurt the call."""
        try:
            await self._plant.store.save_call(self.view())
        except StoreError as error:
            self._log.error("call_not_saved", error=str(error))

    def view(self) -> CallView:
        """The call with its media's figures."""
        view = self._machine.view()
        for leg, shown in zip(self._machine.legs.values(), view.legs, strict=True):
            flow = self._flows.get(leg.id)
            shown.quality = flow.quality() if flow else self._quality.get(leg.id, LegQuality())
            shown.sip = self._plant.sip.of(leg.channel_id)
        return view

    # --- what takes time ---------------------------------------------------------------------------------------------

    async def execute(self, command: c.Command) -> e.Event | None:
        """While Asterisk does not answer, its commands wait up to `ASTERISK_AWAY` seconds, some to the last; then the error is theirs."""
        long = deadline = self._plant.clock.now() + ASTERISK_AWAY
        again = False
        while True:
            try:
                return await self._once(command)
            except AriConflict:
                # It was carried out before, and only the answer was lost; a bridge may be what a run asked for that was killed.
                if isinstance(command, c.CreateBridge) or (again and isinstance(command, c.Dial)):
                    return None
                raise
            except AriUnavailable as error:
                if error.status and error.status != 503:
                    raise  # it did answer: an agent that is not registered, say
                again = True
                await asyncio.sleep(AGAIN if self._plant.clock.now() < long else LATER)
                now = self._plant.clock.now()
                to_the_last = isinstance(command, TO_THE_LAST) and self._machine.active
                if to_the_last:
                    deadline = now + ASTERISK_AWAY
                elif not isinstance(command, LASTING) or now >= deadline:
                    raise
                self._log.debug("command_waits_for_asterisk", command=type(command).__name__, error=str(error))
                try:
                    await self._plant.ari.wait_connected(deadline - now)
                except AriError:
                    if not to_the_last:
                        raise

    async def _once(self, command: c.Command) -> e.Event | None:
        channels, bridges = self._plant.ari.channels, self._plant.ari.bridges
        match command:
            case c.AddToBridge():
                await bridges.add_channel(command.bridge_id, channel=command.channel_id)
            case c.CreateBridge():
                await bridges.create_for_media(command.bridge_id)
            case c.DestroyBridge():
                await bridges.destroy(command.bridge_id)
            case c.CreateMedia():
                await self._create_media(command)
            case c.RemoveMedia():
                await self._remove_media(command)
            case c.Dial():
                await self._dial(command)
            case c.Answer():
                await channels.answer(command.channel_id)
            case c.Ring():
                await (channels.ring if command.on else channels.ring_stop)(command.channel_id)
            case c.Hangup():
                await channels.hangup(command.channel_id)
            case c.ContinueInDialplan():
                await self._continue(command)
            case c.TransferProgress():
                await channels.transfer_progress(command.channel_id, states=command.state)
            case c.Fetch():
                await self._fetch(command)
            case c.SetVariable():
                await channels.set_channel_var(command.channel_id, variable=command.name, value=command.value)
            case c.SendDtmf():
                await channels.send_dtmf(command.channel_id, dtmf=command.digits)
            case c.MusicOnHold():
                await (channels.start_moh if command.on else channels.stop_moh)(command.channel_id)
            case _:
                return await self._kallglot(command)
        return None

    async def _kallglot(self, command: c.Command) -> e.Event | None:
        match command:
            case c.CreateSession():
                session = await self._plant.outbox.create(command.key, self._call_id, self._request_of(command))
                return e.SessionCreated(command, session)
            case c.EndSession():
                await self._plant.outbox.end(command.key, command.session_id, command.reason.value)
                self._plant.hub.publish(
                    "session.ended", self._call_id, {"session_id": command.session_id, "reason": command.reason.value}
                )
            case c.OpenStream():
                known = self._machine.link_of(command.session.id)
                again = known is not None and known.ever_open
                heard = partial(self._heard, command.link, command.session.id)
                await self._streams.open(command.link, command.session, heard, again=again)
                return e.StreamUp(command.session.id)
            case c.CloseStream():
                await self._streams.close_session(command.session_id)
            case _:
                raise TypeError(f"no way to carry out {type(command).__name__}")
        return None

    def _request_of(self, command: c.CreateSession) -> SessionRequest:
        """The call's own request, or one for another pair of languages."""
        request = self._request
        if not command.link:
            return request
        metadata = dict(request.metadata)
        if command.mode != request.mode:  # from Kallglot alone to a person
            metadata["context"] = self._transcripts.context()
            turns = [{"speaker": turn.speaker, "text": turn.text} for turn in self._transcripts.said]
            self._plant.hub.publish("handover", self._call_id, {"transcript": turns})
        return replace(
            request,
            metadata=metadata,
            mode=command.mode or request.mode,
            source_language=command.source or request.source_language,
            target_language=command.target or request.target_language,
        )

    async def _dial(self, command: c.Dial) -> None:
        try:
            await self._plant.ari.channels.originate_with_id(
                command.channel_id,
                endpoint=command.endpoint,
                app=self._plant.app,
                app_args="dialled",
                timeout=max(1, round(command.timeout)),
                originator=command.originator or None,
                caller_id=command.caller_id or None,
            )
        except AriUnavailable as error:
            if error.status == 500:
                error.args = (f"{command.endpoint}: {NOT_REACHED}",)
            raise

    async def _continue(self, command: c.ContinueInDialplan) -> None:
        priority = command.priority
        await self._plant.ari.channels.continue_in_dialplan(
            command.channel_id,
            context=command.context or None,
            extension=command.extension or None,
            priority=int(priority) if priority.isdigit() else None,
            label=priority if priority and not priority.isdigit() else None,
        )

    async def _fetch(self, command: c.Fetch) -> None:
        """The dialplan of asterisk-conf sends the channel to our application; ours is only there to run it."""
        await self._plant.ari.channels.originate_with_id(
            command.helper_id,
            endpoint="Local/fetch@kallglot-fetch/n",
            context="kallglot-fetch",
            extension="helper",
            priority=1,
            timeout=5,
            variables={"KALLGLOT_FETCH": command.name},
        )

    async def _create_media(self, command: c.CreateMedia) -> None:
        leg = self._machine.legs.get(command.leg)
        if leg is None or leg.media_id != command.channel_id:
            raise AriNotFound(f"leg {command.leg} is gone, or has another channel by now")
        flow = self._open_flow(leg, command.channel_id)
        try:
            await external_media.connect(self._plant.ari, self._plant.media, flow)
        except BaseException:
            self._close_flow(command.leg, flow)
            raise

    def _open_flow(self, leg: Leg, channel_id: str) -> Flow:
        """A flow in the place of the leg's last one, with all that was asked for the leg before it was there."""
        if old := self._flows.pop(leg.id, None):
            old.close()
        flow = self._plant.media.open(channel_id, partial(self._spoke, leg.id))
        self._flows[leg.id] = flow
        if leg.id in self._muted:
            flow.pause()
        if leg.id in self._interruptible:
            flow.interruptible(partial(self._interrupted, leg.id))
        for pair in self._originals:
            if leg.id in pair:
                self._hear(*pair)
        self._diagnosis.begins(flow, leg.speaker)
        return flow

    async def capture(self, *, on: bool) -> Path:
        """Write the call's RTP to a file from now on, or no longer; the file. :raises UsageError: there never was one."""
        return await self._diagnosis.capture(self._flows.values(), on=on)

    def end_capture(self) -> None:
        self._diagnosis.end(self._flows.values())

    async def take_up(self, machine: CallMachine) -> list[e.Event]:
        """Open the flows of a call that another process had. Returns what cannot be taken up as it is."""
        lost: list[e.Event] = []

        async def one(leg: Leg) -> None:
            try:
                variables = await self._media_address(leg.media_id)
                await self._open_flow(leg, leg.media_id).attach(variables)
            except (AriError, MediaError) as error:
                self._log.warning("media_not_taken_up", leg=leg.id, error=str(error))
                lost.append(e.ChannelLeft(leg.media_id))

        await asyncio.gather(*(one(leg) for leg in machine.legs.values() if leg.media_usable))
        return lost

    async def _media_address(self, channel_id: str) -> dict[str, object]:
        names = ("UNICASTRTP_LOCAL_ADDRESS", "UNICASTRTP_LOCAL_PORT")
        ask = self._plant.ari.channels.get_channel_var
        values = await asyncio.gather(*(ask(channel_id, variable=name) for name in names))
        return {name: variable.value for name, variable in zip(names, values, strict=True)}

    async def _remove_media(self, command: c.RemoveMedia) -> None:
        flow = self._flows.get(command.leg)
        if flow is not None and flow.id == command.channel_id:
            self._close_flow(command.leg, flow)
        await self._plant.ari.channels.hangup(command.channel_id)

    def _close_flow(self, leg: str, flow: Flow) -> None:
        if self._flows.get(leg) is flow:
            del self._flows[leg]
        self._quality[leg] = flow.close()

    # --- audio -------------------------------------------------------------------------------------------------------

    def _spoke(self, leg: str, chunk: UplinkChunk) -> None:
        for link, label in self._speaks.get(leg, ()):
            if self._streams.send(link, label, chunk):
                self._latency.spoke(label, chunk.audio, self._plant.clock.now())

    def _heard(self, link: str, session_id: str, event: StreamEvent) -> None:
        current = self._streams.has(link, session_id)
        if isinstance(event, StreamSpeech):
            if current:
                self._translated(link, event)
            return
        match event:
            case StreamTranscript():
                self._transcripts.take(self._named(link, event.turn))
            case StreamProblem():
                self._log.warning("stream_problem", code=event.code, message=event.message)
                self._plant.hub.publish("stream.problem", self._call_id, {"code": event.code, "message": event.message})
            case StreamEnd():
                if current:
                    self._streams.lost(link)
                    if (runner := self._runner()) is not None:
                        ended = event.reason if event.ended else None
                        runner.post(e.StreamDown(session_id, event.reason, final=event.ended, ended=ended))
            case StreamReady():
                pass

    def _translated(self, link: str, speech: StreamSpeech) -> None:
        speaker, audio, received_at = speech
        self._latency.translated(speaker, received_at)
        for leg, on, deaf_to in self._hears:
            if on != link or speaker in deaf_to:
                continue
            flow = self._flows.get(leg)
            if flow is not None and not self._answers.cut_off(leg, received_at):
                if self._repeats:
                    self._answers.keep(leg, speech)
                flow.play(f"{link}:{speaker}", audio, received_at=received_at)

    def _repeat(self, leg: str) -> None:
        if flow := self._flows.get(leg):
            for piece in self._answers.last(leg):
                flow.play("repeat", piece.audio)

    def _interrupted(self, leg: str) -> None:
        """The party spoke into an answer; the media have dropped what was there of it."""
        self._answers.interrupted(leg, self._plant.clock.now())
        party = self._machine.legs.get(leg)
        self._plant.hub.publish("barge_in", self._call_id, {"speaker": party.speaker if party else ""})

    def _named(self, link: str, turn: TranscriptTurn) -> TranscriptTurn:
        """With the call's own name of the speaker, and an id that no other session of the call has."""
        leg = self._machine.legs.get(self._who.get((link, turn.speaker), ""))
        speaker = leg.speaker if leg else turn.speaker
        return replace(turn, speaker=speaker, id=f"{link}.{turn.id}" if link else turn.id)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Let go of what the machine may have left: used when the service stops with calls up."""
        for leg, flow in list(self._flows.items()):
            self._close_flow(leg, flow)
        self.end_capture()
        await self._streams.close()

    def summary(self, finish: c.Finish, ended: datetime) -> dict[str, object]:
        """The one line of a finished call."""
        view = self.view()
        shown = dict(zip(self._machine.legs, view.legs, strict=True))
        legs = {leg: (quality, shown.get(leg)) for leg, quality in self._quality.items()}
        return line_of(view, legs, self._course, self._plant.clock.now(), finish, ended, self._machine.problem)
