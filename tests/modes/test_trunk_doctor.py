"""What doctor says of clocks and of a PBX that is not as it was told to be."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web

from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import SipProbeError
from kallglot_ari.modes import trunk_doctor
from kallglot_ari.settings import AmiSettings, TrunkSettings
from tests.kallglot.test_tls import certificate, secure  # noqa: F401 - a fixture


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
    assert (await trunk_doctor.clock_skew((api[0],), SystemClock())).startswith("within ")


@pytest.mark.parametrize(("hours", "words"), [(-1, "s ahead of the API's"), (1, "s behind the API's")])
async def test_clocks_that_differ(api: tuple[str, dict[str, str]], hours: int, words: str) -> None:
    api[1]["Date"] = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
    with pytest.raises(SipProbeError, match=words) as caught:
        await trunk_doctor.clock_skew((api[0],), SystemClock())
    assert "time service" in caught.value.advice


async def test_an_api_that_tells_no_time_or_is_away(api: tuple[str, dict[str, str]]) -> None:
    api[1]["Date"] = "soon"
    assert await trunk_doctor.clock_skew((api[0],), SystemClock()) == "the API does not say what time it is"
    with pytest.raises(SipProbeError):
        await trunk_doctor.clock_skew(("http://127.0.0.1:9/v1",), SystemClock())


async def test_the_first_address_that_answers_tells_the_time(api: tuple[str, dict[str, str]]) -> None:
    urls = ("http://127.0.0.1:9/v1", api[0])
    assert (await trunk_doctor.clock_skew(urls, SystemClock())).startswith("within ")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")
async def test_the_clock_of_an_api_with_a_ca_of_its_own(certificate: Path) -> None:  # noqa: F811
    async with secure(certificate) as (url, _):
        with pytest.raises(SipProbeError, match="certificate verify failed"):
            await trunk_doctor.clock_skew((url,), SystemClock())
        assert (await trunk_doctor.clock_skew((url,), SystemClock(), str(certificate))).startswith("within ")


async def test_no_manager_interface() -> None:
    with pytest.raises(SipProbeError, match=r"no connection to 127\.0\.0\.1:9") as caught:
        await trunk_doctor.pbx_side(AmiSettings(port=9, username="x"), TrunkSettings())
    assert "manager.conf" in caught.value.advice
