"""A call that outlives the process that made it: written down as it stands, and taken up again from that and from what Asterisk shows.

What Asterisk shows is right. What was written down says what it means: whose channel that is, which session pays for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.call import CallPlan
from kallglot_ari.calls.dialling import dial, dial_customer
from kallglot_ari.calls.ending import READY_TIMER, RING_TIMER
from kallglot_ari.calls.legs import Candidate, Leg, Thing
from kallglot_ari.calls.link import Link, LinkState
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.model import CallState, DialplanStatus, EndReason, Session
from kallglot_ari.calls.placing import all_lost
from kallglot_ari.calls.transfers import FETCH_SECONDS
from kallglot_ari.calls.translating import READY_SECONDS

RING_LEAST = 5.0
"""Seconds that an agent is left to answer after the resumption, however long it has rung."""
TRANSFER_SECONDS = 30.0
FORM = 1
"""Number of the written form; another one is not read."""


@dataclass(slots=True)
class WrittenLink:
    """One pair of languages of a call, as it is written down."""

    name: str
    source: str = ""
    target: str = ""
    mode: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    created: int = 0
    """Sessions that were asked for."""
    creating: str = ""
    """The key of the last of them, if it was not answered."""
    session: Session | None = None
    key: str = ""
    """The key under which `session` was created."""
    ever_open: bool = False


@dataclass(slots=True)
class Written:
    """A call as it is written down."""

    plan: CallPlan
    state: CallState
    started: AwareDatetime
    answered: AwareDatetime | None = None
    legs: list[Leg] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    links: list[WrittenLink] = field(default_factory=list)
    serial: int = 0
    failures: list[tuple[int, bool]] = field(default_factory=list)
    direct: bool = False
    problem: str = ""
    dtmf: list[dict[str, str]] = field(default_factory=list)
    consulting: tuple[str, str] | None = None
    human: str = ""
    unwanted: list[str] = field(default_factory=list)
    ringing_told: bool = False
    session_told: list[str] = field(default_factory=list)
    last_session: str = ""
    reason: EndReason | None = None
    status: DialplanStatus | None = None
    form: int = FORM

    @property
    def keys(self) -> set[str]:
        """Keys of the sessions that the call goes on with."""
        return {key for link in self.links for key in (link.creating, link.key) if key}


_FORM: TypeAdapter[Written] = TypeAdapter(Written)


@dataclass(frozen=True, slots=True)
class Seen:
    """Asterisk as it is."""

    channels: Mapping[str, str]
    """Every channel: its name by its id."""
    ours: frozenset[str]
    """Those in our application; one that we dial is from the beginning."""
    up: frozenset[str]
    """Those that were answered."""
    bridges: Mapping[str, frozenset[str]]
    """Every bridge: the channels in it."""


@dataclass(slots=True)
class Resumed:
    """A call taken up: its machine, the commands to begin with, and what happened while nobody listened."""

    machine: CallMachine
    commands: list[c.Command]
    missed: list[e.Event]


def write(machine: CallMachine) -> dict[str, Any]:
    """The call as JSON's types. It holds the tokens of its streams."""
    written = Written(
        plan=machine.plan,
        state=machine.state,
        started=machine.start_wall,
        answered=machine.answered_wall,
        legs=list(machine.legs.values()),
        candidates=list(machine.candidates.values()),
        links=[_link(link) for link in machine.links if link.state is not LinkState.CLOSED],
        serial=machine.serial,
        failures=machine.failures,
        direct=machine.direct,
        problem=machine.problem,
        dtmf=machine.dtmf,
        consulting=machine.consulting,
        human=machine.human,
        unwanted=sorted(machine.unwanted),
        ringing_told=machine.ringing_told,
        session_told=sorted(machine.session_told),
        last_session=machine.last_session,
        reason=machine.reason,
        status=machine.status,
    )
    value: dict[str, Any] = _FORM.dump_python(written, mode="json")
    return value


def _link(link: Link) -> WrittenLink:
    return WrittenLink(
        link.name,
        link.source,
        link.target,
        link.mode,
        link.labels,
        created=link.created_count,
        creating=link.creating_key,
        session=link.session,
        key=link.key_of(link.session) if link.session else "",
        ever_open=link.ever_open,
    )


def read(value: object) -> Written | None:
    """None for what another release wrote in a form that this one does not know."""
    if not isinstance(value, Mapping) or value.get("form") != FORM:
        return None
    try:
        return _FORM.validate_python(value)
    except ValidationError:
        return None


def resume(written: Written, seen: Seen, now: float, wall: datetime, *, sessions_lost: bool = False) -> Resumed:
    """Take a call up that was setting up, ringing or active.

    :param sessions_lost: the sessions of the earlier process are gone, or shall not be gone on with.
    """
    machine = CallMachine(written.plan, now, written.started)
    machine.state = written.state
    machine.now, machine.wall = now, wall
    if written.answered is not None:
        machine.answered_wall = written.answered
        machine.answered_at = now - (wall - written.answered).total_seconds()
    machine.serial = max([written.serial, *_numbers(written.plan.call_id, r"(?:d|f|\w+\.b)", seen)])
    machine.failures, machine.dtmf = written.failures, written.dtmf
    machine.direct, machine.problem = written.direct, written.problem
    machine.direct_told = written.direct
    machine.consulting, machine.human, machine.unwanted = written.consulting, written.human, set(written.unwanted)
    machine.ringing_told, machine.session_told = written.ringing_told, set(written.session_told)
    machine.last_session = written.last_session
    dialled = [candidate.channel_id for candidate in written.candidates]
    lost = all_lost(written.legs, dialled, seen.channels.keys() | seen.bridges.keys())
    missed: list[e.Event] = [e.AsteriskLost()] if lost else []
    commands: list[c.Command] = [c.Publish("call.resumed", {"state": written.state.value})]
    for leg in written.legs:
        missed += _look(leg, seen, now)
        machine.legs[leg.id] = leg
        if leg.up and not leg.music_done:
            commands.append(c.MusicOnHold(leg.channel_id, leg.music_on))
    if written.links:
        machine.links = []
    else:  # all parties spoke one language
        machine.link.state = LinkState.CLOSED
    for was in written.links:
        link = Link(written.plan.call_id, was.name, was.source, was.target, was.mode, labels=was.labels)
        machine.links.append(link)
        commands += link.resume(
            None if sessions_lost else was.session,
            was.key,
            created=was.created,
            again=bool(was.creating) and not sessions_lost,
            ever_open=was.ever_open,
        )
    here = seen.ours & seen.channels.keys()
    missed += [e.ChannelEntered(i) for i in written.unwanted if i in here and not i.startswith("kg-")]
    away = max(0.0, (wall - written.started).total_seconds())
    commands += _candidates(machine, written, seen, missed, written.plan.timeout - away)
    commands += _strangers(machine, seen)
    if written.state is not CallState.ACTIVE and written.answered is not None:
        commands.append(c.SetTimer(READY_TIMER, READY_SECONDS))
    return Resumed(machine, commands, missed)


def dialled(channel_id: str) -> str:
    """The channel that was dialled: of a Local channel that we dial, the other half is named after it by Asterisk, with `;2`."""
    return channel_id.removesuffix(";2")


def _numbers(call_id: str, what: str, seen: Seen) -> list[int]:
    pattern = re.compile(rf"{re.escape(call_id)}\.{what}(\d+)")
    return [int(found[1]) for thing in (*seen.channels, *seen.bridges) if (found := pattern.fullmatch(thing))]


def _look(leg: Leg, seen: Seen, now: float) -> list[e.Event]:
    """Set what the leg has in Asterisk to what is there; returns what its party did meanwhile."""
    leg.bridge = Thing.LIVE if leg.bridge_id in seen.bridges else Thing.NONE
    where = next((bridge for bridge, members in seen.bridges.items() if leg.channel_id in members), "")
    leg.in_bridge = leg.in_bridge_done = where if leg.up else ""
    tries = _numbers(leg.bridge_id.partition(".")[0], rf"{re.escape(leg.id)}\.m", seen)
    if tries and max(tries) >= leg.media_tries:
        leg.media_tries = max(tries)
        leg.media_id = f"{leg.bridge_id.partition('.')[0]}.{leg.id}.m{leg.media_tries}"
    usable = leg.media_id in seen.ours and leg.bridge is Thing.LIVE
    leg.media = Thing.LIVE if usable else Thing.NONE
    leg.media_entered = leg.media_addressed = usable
    leg.media_bridged = usable and leg.media_id in seen.bridges[leg.bridge_id]
    leg.media_since = now if leg.media_bridged else None
    leg.media_given_up = leg.media_given_up and not leg.media_bridged
    leg.media_waits = False
    leg.uplink_on, leg.interruptible = True, False
    leg.originals = {}
    if leg.up and leg.channel_id not in seen.channels:
        return [e.ChannelGone(leg.channel_id)]
    if leg.up and leg.channel_id not in seen.ours:
        return [e.ChannelLeft(leg.channel_id)]
    return []


def _candidates(
    machine: CallMachine, written: Written, seen: Seen, missed: list[e.Event], left: float
) -> list[c.Command]:
    """Those who were being dialled: still ringing, or answered; one that is gone may have answered when nobody was there to hear."""
    commands: list[c.Command] = []
    waiting: set[str] = set()
    left = max(left, RING_LEAST)
    for candidate in written.candidates:
        leg = machine.legs.get(candidate.leg)
        if leg is None:
            continue
        if candidate.channel_id in seen.channels:
            machine.candidates[candidate.channel_id] = candidate
            waiting.add(leg.id)
            if candidate.channel_id in seen.ours & seen.up:
                missed.append(e.ChannelEntered(candidate.channel_id, seen.channels[candidate.channel_id]))
            elif candidate.replaces or leg.id not in ("customer", "agent"):
                seconds = FETCH_SECONDS if candidate.fetched else TRANSFER_SECONDS
                commands.append(c.SetTimer(f"candidate.{candidate.channel_id}", seconds))
            elif leg.id == "customer":
                commands.append(c.SetTimer(f"candidate.{candidate.channel_id}", left))
        elif candidate.replaces or leg.up or leg.id not in ("customer", "agent"):
            machine.candidates[candidate.channel_id] = candidate
            missed.append(e.ChannelGone(candidate.channel_id, 19))
    plan = machine.plan
    if plan.dial_customer and _is_awaited(machine, "customer") and "customer" not in waiting:
        commands += dial_customer(machine, left)
    if plan.agents and _is_awaited(machine, "agent"):
        for endpoint in plan.agents if "agent" not in waiting else ():
            commands += dial(machine, endpoint, "agent", left)[1]
        commands.append(c.SetTimer(RING_TIMER, left))
    return commands


def _is_awaited(machine: CallMachine, leg_id: str) -> bool:
    leg = machine.legs.get(leg_id)
    return leg is not None and not leg.up and not leg.vacant


def _strangers(machine: CallMachine, seen: Seen) -> list[c.Command]:
    """Channels and bridges with the call's name that it was killed before it wrote down; not those that it gave to the dialplan."""
    prefix = f"{machine.plan.call_id}."
    known = {leg.channel_id for leg in machine.legs.values()} | set(machine.candidates)
    known |= {leg.media_id for leg in machine.legs.values() if leg.media is Thing.LIVE}
    used = {leg.bridge_id for leg in machine.legs.values()} | {leg.in_bridge for leg in machine.legs.values()}
    here = [ch for ch in seen.channels if ch in seen.ours or ch not in seen.up]
    commands: list[c.Command] = [c.Hangup(ch) for ch in here if ch.startswith(prefix) and dialled(ch) not in known]
    return [*commands, *(c.DestroyBridge(b) for b in seen.bridges if b.startswith(prefix) and b not in used)]
