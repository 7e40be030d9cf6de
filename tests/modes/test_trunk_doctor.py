"""What doctor says of clocks and of a PBX that is not as it was told to be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import SipProbeError
from kallglot_ari.modes import trunk_doctor
from kallglot_ari.settings import AmiSettings, TrunkSettings


@pytest.fixture
async def api() -> AsyncIterator[tuple[str, dict[str, str]]]:
    """An address, and the headers it answers with."""
    headers: dict[str, str] = {}

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=404, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/v1", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", headers
    await runner.cleanup()


async def test_clocks_that_agree(api: tuple[str, dict[str, str]]) -> None:
    assert (await trunk_doctor.clock_skew(api[0], SystemClock())).startswith("within ")


@pytest.mark.parametrize(("hours", "words"), [(-1, "s ahead of the API's"), (1, "s behind the API's")])
async def test_clocks_that_differ(api: tuple[str, dict[str, str]], hours: int, words: str) -> None:
    api[1]["Date"] = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
    with pytest.raises(SipProbeError, match=words) as caught:
        await trunk_doctor.clock_skew(api[0], SystemClock())
    assert "time service" in caught.value.advice


async def test_an_api_that_tells_no_time_or_is_away(api: tuple[str, dict[str, str]]) -> None:
    api[1]["Date"] = "soon"
    assert await trunk_doctor.clock_skew(api[0], SystemClock()) == "the API does not say what time it is"
    with pytest.raises(SipProbeError):
        await trunk_doctor.clock_skew("http://127.0.0.1:9/v1", SystemClock())


async def test_no_manager_interface() -> None:
    with pytest.raises(SipProbeError, match="Connect call failed") as caught:
        await trunk_doctor.pbx_side(AmiSettings(port=9, username="x"), TrunkSettings())
    assert "manager.conf" in caught.value.advice
