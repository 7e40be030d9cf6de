"""What is told of a trunk call that nobody answered, as in media mode: `status` in the API and in the one line of the log."""

from __future__ import annotations

import pytest

from tests.modes.trunk_lab import Lab

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize(
    ("how", "reason", "status"),
    [("hang up", "customer_hangup", "COMPLETED"), ("dialled in vain", "error", "UNAVAILABLE")],
)
async def test_a_call_that_kallglot_has_not_answered(lab: Lab, how: str, reason: str, status: str) -> None:
    """Who hangs up before that has, as in media mode, not met with a failure; who was not connected has what the dialplan says of it."""
    channel = lab.channel()
    await channel.agi("session")
    await channel.agi("end", *(["hangup=1"] if how == "hang up" else []))
    await lab.quiet()
    (call,) = lab.store.calls.values()
    assert (call.end_reason, call.status) == (reason, status)
    assert lab.hub.events[-1][2]["status"] == status
