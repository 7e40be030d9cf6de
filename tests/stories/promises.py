"""What users are promised, whatever happens. Those about a single moment are in `asterisk`, `kallglot` and `service`, where it is seen.

`watch` looks all the time; `at_rest` when everything has been right for a while; `at_the_end` when everybody has hung up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import permutations

from kallglot_ari.calls.legs import Leg
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.runner import CallRunner
from tests.stories.asterisk import Where
from tests.stories.script import Script
from tests.stories.service import PREFIX, Process

SILENCE, ENDING = 45.0, 60.0
"""Seconds that parties may wait for each other, and a call for its end, where nothing is wrong any more."""


# --- all the time ----------------------------------------------------------------------------------------------------


async def watch(script: Script) -> None:
    """Those who may talk hear each other soon after whatever was wrong, and a call that ends is gone soon."""
    world, since = script.world, dict[tuple[str, ...], float]()
    while True:
        weather = world.weather
        await asyncio.sleep(5.0 if weather.fair else 1.0)
        wrong = weather.asterisk_silent or weather.kallglot_away or not script.asterisk.listens
        if script.process is None or not script.process.ari.connected or wrong:
            since.clear()
            continue
        for runner in script.process.runners:
            if late := _still_rings(runner.machine):
                world.breaks(f"No phone rings for a place that is taken: {late}")
        now = world.clock.now()
        seen = {what: since.get(what, now) for what in _waiting(script.process)}
        for what, began in seen.items():
            if now - began > (ENDING if what[1] == "ends" else SILENCE):
                world.breaks(f"{WAITED[what[1]]}: {' '.join(what)}")
                seen[what] = float("inf")
        since = seen


WAITED = {
    "ends": "A call that ends is gone soon",
    "silence": "Those who may talk hear each other",
}


def _waiting(process: Process) -> Iterator[tuple[str, ...]]:
    for runner in process.runners:
        if not runner.machine.active:
            yield runner.id, "ends"
            continue
        there = [leg for leg in _talking(runner.machine) if leg.channel_id in process.asterisk.channels]
        for one, other in permutations(there, 2):
            if _does_not_hear(process, runner, one, other):
                yield runner.id, "silence", one.channel_id, other.channel_id


def _still_rings(call: CallMachine) -> list[str]:
    return [
        one.channel_id
        for one in call.candidates.values()
        if one.leg not in call.legs or (call.legs[one.leg].up and not one.replaces)
    ]


def _talking(call: CallMachine) -> list[Leg]:
    return [leg for leg in call.talking if not leg.held and not (leg.id == "customer" and call.waits_for_agent)]


def _does_not_hear(process: Process, runner: CallRunner, one: Leg, other: Leg) -> str:
    """Why `one` does not hear `other`, by the bridges, or by flows and streams; empty: it does."""
    channels, call = process.asterisk.channels, runner.machine

    def where(channel_id: str) -> str:
        return channels[channel_id].bridge if channel_id in channels else ""

    here, there = where(one.channel_id), where(other.channel_id)
    if call.direct:
        return "" if here and here == there else f"direct, in {here!r} and {there!r}"
    if not here or not there or here == there or (here, there) != (where(one.media_id), where(other.media_id)):
        return f"bridges {here!r} {there!r}, media in {where(one.media_id)!r} {where(other.media_id)!r}"
    actions = process.mode.calls.actions(runner.id)
    flow, speaking = (actions._flows.get(leg.id) for leg in (one, other))
    if flow is None or speaking is None or flow.id != one.media_id:
        return "no flow"
    if speaking.id in flow.originals:  # type: ignore[attr-defined]
        return ""
    if speaking.paused:  # type: ignore[attr-defined]
        return "its uplink is paused"
    for link, label in actions._speaks.get(other.id, ()):
        opened = actions._streams._open.get(link)
        if opened is None or not opened[1].carries:  # type: ignore[attr-defined]
            continue
        if any(leg == one.id and on == link and label not in deaf for leg, on, deaf in actions._hears):
            return ""
    return f"no stream: {actions._speaks.get(other.id)} {actions._hears} {call.translation}"


# --- when all is well ------------------------------------------------------------------------------------------------


def at_rest(script: Script) -> None:
    """Everything was right for some minutes."""
    process = script.process
    assert process is not None
    for runner in process.runners:
        for broken in _of_call(process, runner):
            script.world.breaks(f"{broken}: {runner.id}")
    for broken in _of_all(script, process):
        script.world.breaks(broken)


def _of_call(process: Process, runner: CallRunner) -> Iterator[str]:
    call, channels = runner.machine, process.asterisk.channels
    if not call.active:
        yield f"A call that ends is gone soon (it waits for {call._outstanding}, {runner._lanes})"
        return
    if call.candidates:
        yield f"No phone rings for ever {list(call.candidates)}"
    if call.answered_at is not None and len(call.parties) < 2 and call.plan.agents:
        yield f"Nobody is left alone in a call {[leg.id for leg in call.legs.values()]}"
    if call.direct:
        yield f"Who was connected directly is translated again {call.problem!r}"
    for leg in call.legs.values():
        channel = channels.get(leg.channel_id)
        if not leg.up:
            continue
        if channel is None or channel.where is not Where.STASIS:
            yield f"Who has left is not taken for a party {leg.id} {leg.channel_id}"
        elif channel.held != leg.held:
            yield f"A phone's hold is known {leg.id} {channel.name} {channel.held}"
        elif channel.music != _waits(call, leg):
            yield f"Who waits hears music, and nobody else {leg.id} {leg.channel_id} {channel.music}"
    for one, other in permutations(_talking(call), 2):
        if why := _does_not_hear(process, runner, one, other):
            yield f"Those who may talk hear each other ({one.id} not {other.id}: {why})"


def _waits(call: CallMachine, leg: Leg) -> bool:
    up, talking = call.parties, [one for one in call.talking if not one.held]
    if leg not in up or leg.held:
        return False
    if call.direct and len(up) > 1:
        return call.parked(leg)
    return leg not in talking or (len(talking) < 2 and (len(up) > 1 or call.waits_for_transfer))


def _of_all(script: Script, process: Process) -> Iterator[str]:
    legs = [leg for runner in process.runners for leg in runner.machine.legs.values()]
    owned = {leg.channel_id for leg in legs} | {leg.media_id for leg in legs}
    for channel in script.asterisk.channels.values():
        if channel.where is Where.STASIS and channel.id not in owned:
            yield f"No channel is left in the application with nobody: {channel.id}"
    used = {link.session.id for runner in process.runners for link in runner.machine.links if link.session is not None}
    for sold in script.kallglot.live:
        if sold.session.id not in used:
            yield f"Every session is ended: nobody uses {sold.session.id}, {script.disk.pending.get(sold.key)}"
    yield from _rows(script, used)


def _rows(script: Script, used: set[str]) -> Iterator[str]:
    for key, row in script.disk.pending.items():
        if row.session_id not in used:
            yield f"What is settled is struck out: {key} {row}"


# --- when all is over ------------------------------------------------------------------------------------------------


def at_the_end(script: Script) -> None:
    """Everybody hung up some minutes ago."""
    process = script.process
    assert process is not None
    for broken in _left(script, process):
        script.world.breaks(broken)


def _left(script: Script, process: Process) -> Iterator[str]:
    for runner in process.runners:
        yield f"A call ends with its parties: {runner.id} {runner.machine.state} {runner.machine._outstanding}"
    for channel in script.asterisk.channels.values():
        if channel.where is Where.STASIS or channel.id.startswith("kg-"):
            yield f"No channel outlives its call: {channel.id} {channel.where}"
    for bridge in script.asterisk.bridges:
        yield f"No bridge outlives its call: {bridge}"
    for sold in script.kallglot.live:
        yield f"Every session is ended: {sold.session.id}"
    yield from _rows(script, set())
    for kind, key in script.disk.maps:
        if kind == f"live:{PREFIX}":
            yield f"A call that is over is not taken up again: {key}"
    for task in asyncio.all_tasks() - process.before:
        if task.get_name().startswith(f"{PREFIX}-"):
            yield f"No task outlives its call: {task.get_name()}"
    calls, mode = process.mode.calls, process.mode
    kept = calls._callers or calls._own or calls._sessions or calls._actions or mode._busy
    if kept:
        yield f"Nothing is kept of a call that is over: {kept}"
    for call in script.disk.calls.values():
        if call.state != "ended":
            yield f"The record of a call that is over says so: {call.id} {call.state}"
