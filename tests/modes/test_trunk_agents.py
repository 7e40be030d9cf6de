"""Agents that a trunk call rings by itself (`agent=`): who joins, who is let go, and what a restart makes of those who still ring."""

from __future__ import annotations

import asyncio

import pytest

from kallglot_ari.ami import protocol as ami
from kallglot_ari.ami.client import AmiClient
from tests.modes.trunk_lab import Lab


def agents_of(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Channels that are dialled for the call, and those that are hung up again."""
    dialled: list[str] = []
    cancelled: list[str] = []

    async def originate(dial: str, *, channel_id: str, exten: str, **_: object) -> None:
        dialled.append(channel_id)
        assert exten == lab.mode.calls()[0].id

    async def hangup(channel: str, cause: int = 16) -> bool:
        cancelled.append(channel)
        return True

    monkeypatch.setattr(AmiClient, "connected", property(lambda _: True))
    monkeypatch.setattr(lab.follower.client, "originate", originate)
    monkeypatch.setattr(lab.follower.client, "hangup", hangup)
    return dialled, cancelled


async def test_agents_are_rung_and_the_first_joins(followed: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = followed
    dialled, cancelled = agents_of(lab, monkeypatch)
    running = asyncio.get_running_loop().create_task(lab.channel("1.1").agi("session", "agent=PJSIP/1&PJSIP/2"))
    await lab.until(lambda: len(dialled) == 2)
    call_id = lab.mode.calls()[0].id
    found = await lab.channel(dialled[1]).agi("session", f"call={call_id}")
    assert found["SESSION_ID"] == (await running)["SESSION_ID"] == "sess_1"
    assert cancelled == [dialled[0]]
    lab.follower.event(ami.ChannelGone(dialled[1], "PJSIP/2-1", "2.1", 16, ""))
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "agent_hangup")]


async def test_of_two_agents_who_answer_at_once_one_joins(followed: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second, hanging up in wonder, would have ended the call of the other two."""
    lab = followed
    dialled, cancelled = agents_of(lab, monkeypatch)
    caller = asyncio.get_running_loop().create_task(lab.channel("1.1").agi("session", "agent=PJSIP/1&PJSIP/2"))
    await lab.until(lambda: len(dialled) == 2 and bool(lab.mode.calls()[0].session_id))
    call_id = lab.mode.calls()[0].id
    both = [lab.channel(channel) for channel in dialled]
    found = await asyncio.gather(*(channel.agi("session", f"call={call_id}") for channel in both))
    assert [one["SESSION_ID"] for one in found] == ["sess_1", ""]
    assert (await caller)["SESSION_ID"] == "sess_1"
    assert cancelled == [dialled[1]]
    assert (await both[1].agi("session", f"call={call_id}"))["SESSION_ID"] == "", "nor later"
    assert (await both[0].agi("session", f"call={call_id}"))["SESSION_ID"] == "sess_1", "asked again"


async def test_who_answers_where_an_agents_phone_sends_the_call_is_the_agent(
    followed: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asterisk dials there on a channel that we have not named. Who answers there when somebody has joined is one too many."""
    lab = followed
    dialled, cancelled = agents_of(lab, monkeypatch)
    caller = asyncio.get_running_loop().create_task(lab.channel("1.1").agi("session", "agent=PJSIP/1&PJSIP/2"))
    await lab.until(lambda: len(dialled) == 2 and bool(lab.mode.calls()[0].session_id))
    call_id = lab.mode.calls()[0].id
    first, second = lab.channel("8.1"), lab.channel("9.1")
    assert (await first.agi("session", f"call={call_id}"))["SESSION_ID"] == "sess_1"
    assert (await caller)["SESSION_ID"] == "sess_1"
    assert sorted(cancelled) == sorted(dialled)
    assert await second.agi("session", f"call={call_id}") == {"SESSION_ID": "", "KALLGLOT_STATUS": "UNAVAILABLE"}
    assert (await first.agi("session", f"call={call_id}"))["SESSION_ID"] == "sess_1", "asked again"
    lab.follower.event(ami.ChannelGone("8.1", "Local/8-1", "8.1", 16, ""))
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "agent_hangup")]


async def test_an_empty_call_is_nobody_s_and_buys_no_session(followed: Lab) -> None:
    """A dialplan of one's own: a phone that was rung sent the call on (302), and who answers there has none of the originate's variables."""
    found = await followed.channel("9.1").agi("session", "call=")
    assert found == {"SESSION_ID": "", "KALLGLOT_STATUS": "FAILED"}
    assert followed.mode.calls() == []
    assert not followed.store.pending


@pytest.mark.parametrize(("reason", "status"), [(5, "AGENTBUSY"), (3, "NOANSWER"), (0, "NOANSWER")])
async def test_no_agent(followed: Lab, monkeypatch: pytest.MonkeyPatch, reason: int, status: str) -> None:
    lab = followed

    async def originate(dial: str, *, channel_id: str, **_: object) -> None:
        done = ami.OriginateDone(channel_id, False, reason)
        asyncio.get_running_loop().call_later(0.05, lab.follower.event, done)

    async def hangup(channel: str, cause: int = 16) -> bool:
        return False

    monkeypatch.setattr(AmiClient, "connected", property(lambda _: True))
    monkeypatch.setattr(lab.follower.client, "originate", originate)
    monkeypatch.setattr(lab.follower.client, "hangup", hangup)
    found = await lab.channel("1.1").agi("session", "agent=PJSIP/1&PJSIP/2")
    assert found == {"SESSION_ID": "", "KALLGLOT_STATUS": status}
    await lab.quiet()
    assert [reason for _, reason in lab.api.ended] == ["timeout"]


async def test_a_call_whose_agent_still_rings_does_not_outlive_a_restart(
    followed: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dialplan waits for an answer of this process, gets none, and goes on without the session."""

    async def originate(dial: str, **_: object) -> None: ...

    async def hangup(channel: str, cause: int = 16) -> bool:
        cancelled.append(channel)
        return True

    cancelled: list[str] = []
    monkeypatch.setattr(AmiClient, "connected", property(lambda _: True))
    monkeypatch.setattr(followed.follower.client, "originate", originate)
    monkeypatch.setattr(followed.follower.client, "hangup", hangup)
    running = asyncio.get_running_loop().create_task(followed.channel("1.1").agi("session", "agent=PJSIP/1"))
    await followed.until(lambda: bool(followed.api.open))
    await followed.mode.stop(keep_calls=True, grace=0.1)
    assert (await running).get("SESSION_ID", "") == ""
    assert followed.api.ended == [("sess_1", "error")]
    assert len(cancelled) == 1
    assert not followed.store.pending
    assert await followed.store.mappings("trunk") == {}


async def test_a_killed_process_leaves_no_session_whose_dialplan_still_waits_for_it(
    followed: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept as a live call it cost money for as long as the caller went on without it."""

    async def originate(dial: str, **_: object) -> None: ...

    async def hangup(channel: str, cause: int = 16) -> bool:
        return True

    monkeypatch.setattr(AmiClient, "connected", property(lambda _: True))
    monkeypatch.setattr(followed.follower.client, "originate", originate)
    monkeypatch.setattr(followed.follower.client, "hangup", hangup)
    running = asyncio.get_running_loop().create_task(followed.channel("1.1").agi("session", "agent=PJSIP/1"))
    await followed.until(lambda: any(row.session_id for row in followed.store.pending.values()))
    await asyncio.sleep(0.02)
    second = Lab(ami_user="kallglot", store=followed.store)
    await second.mode.start()
    assert second.mode.calls() == []
    assert second.mode.live_keys() == set(), "the sweeper ends it"
    assert second.store.calls == {}, "none that seems to be up for ever"
    (call_id,) = [view.id for view in followed.mode.calls()]
    late = await second.channel(f"{call_id}-a1").agi("session", f"call={call_id}")
    assert late == {"SESSION_ID": "", "KALLGLOT_STATUS": "UNAVAILABLE"}
    await second.mode.stop()
    await followed.mode.hangup(call_id)
    await running
