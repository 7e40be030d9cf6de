"""What `kallglot-ari config asterisk` writes, in a real Asterisk: loaded without a warning, and a call goes through."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from kallglot_ari.errors import LabError
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.roots import Version
from kallglot_ari.pbx.asterisk import pjsip
from kallglot_ari.pbx.run import run_config
from kallglot_ari.settings import AmiSettings, AriSettings, Endpoint, KallglotSettings, Settings, TrunkSettings
from tests.asterisk.conftest import PhoneFactory, missing
from tests.asterisk.running import nothing_left, running, settings_for, until
from tests.asterisk.trunk_lab import free_port

PASSWORD = 's3;cret" & <x>'
INCLUDED = {
    "ari.conf": "kallglot-ari.conf", "http.conf": "kallglot-http.conf", "pjsip.conf": "kallglot-pjsip.conf",
    "manager.conf": "kallglot-manager.conf",
}  # fmt: skip

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


@pytest.mark.parametrize("version", ["22", pytest.param("16", marks=pytest.mark.asterisk16)])
async def test_asterisk_takes_what_is_written(version: Version, phones: PhoneFactory, tmp_path: Path) -> None:
    written = Settings(
        ari=AriSettings(username="other", password=SecretStr(PASSWORD), app="other-app"),
        ami=AmiSettings(username="other", password=SecretStr(PASSWORD)),
        kallglot=KallglotSettings(source_language="es"),
        trunk=TrunkSettings(
            username="other", password=SecretStr(PASSWORD), transport="tcp", srtp=False, bind_port=free_port()
        ),
    )
    assert run_config("asterisk", written, tmp_path / "out") == 0
    local = {name: (tmp_path / "out" / file).read_text() for name, file in INCLUDED.items()}
    # The lab's own port, the address of its phones, and no second copy of the contexts that the lab has already.
    local["http.conf"] = local["http.conf"].replace("bindport = 8088\n", "")
    dialplan = (tmp_path / "out" / "kallglot-calls.conf").read_text().replace("kallglot-", "written-")
    trunk = (tmp_path / "out" / "kallglot-extensions.conf").read_text().replace("kallglot-trunk", "written-trunk")
    number = "[kallglot-phones](+)\nexten = 777,1,Goto(written-inbound,s,1)\n"
    asterisk = LabAsterisk(version, phones=0, local={**local, "extensions.conf": dialplan + trunk + number})
    try:
        await asterisk.start()
    except LabError as error:
        missing(str(error))
    try:
        assert asterisk.complaints() == []
        # Not 5060, which Asterisk would take for "any port", and which the PBX's own phones have.
        assert f"0.0.0.0:{written.trunk.bind_port}\n" in await asterisk.cli("pjsip show transports")
        ours = settings_for(
            asterisk, tmp_path, None, ari={"username": "other", "password": written.ari.password, "app": "other-app"},
            ami={"port": asterisk.manager_port, "username": "other", "password": written.ami.password},
            trunk=written.trunk.model_dump(),
        )  # fmt: skip
        async with running(ours) as service:
            # Kallglot's own endpoint may have been asked already, and may be out of reach
            problems = service.trunk.problems()
            assert [problem for problem in problems if problem != "SIP endpoint kallglot: Unreachable"] == []
            customer = await phones(asterisk, "customer")
            await phones(asterisk, "agent", on_call=0.1)
            await customer.call("777")
            await until(lambda: [call.state for call in service.calls()] == ["active"], what="the call is up")
            assert service.calls()[0].source_language == "es"
            await customer.hangup()
            await nothing_left(service, asterisk)
        assert asterisk.complaints() == []
    finally:
        await asterisk.stop()


@pytest.mark.parametrize("version", ["22", pytest.param("16", marks=pytest.mark.asterisk16)])
async def test_an_endpoint_with_an_ipv6_address_is_dialled(version: Version) -> None:
    """Asterisk takes a transport of IPv4 for it too, and then sends nothing."""
    received: asyncio.Queue[list[str]] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readuntil(b"m=audio")
        received.put_nowait(data.decode().splitlines())
        writer.close()

    server = await asyncio.start_server(listen, "::1", 0)
    endpoint = f"[::1]:{server.sockets[0].getsockname()[1]}"
    trunk = TrunkSettings(endpoints=(Endpoint(uri=endpoint),), transport="tcp", srtp=False, bind_port=free_port())
    asterisk = LabAsterisk(
        version, phones=0, local={"pjsip.conf": pjsip(trunk).replace("qualify_frequency = 60\n", "")}
    )
    try:
        await asterisk.start()
    except LabError as error:
        missing(str(error))
    try:
        uri = f"sip:sess_1@{endpoint};transport=tcp"
        where = "/channels?timeout=3&context=nowhere&extension=s&endpoint=" + quote(f"PJSIP/kallglot/{uri}", safe="")
        await asyncio.to_thread(asterisk.ari, "POST", where)
        lines = await asyncio.wait_for(received.get(), 3)
        assert lines[0] == f"INVITE {uri} SIP/2.0"
        assert next(line for line in lines if line.startswith("c=")).startswith("c=IN IP6 "), "and the sound too"
        assert asterisk.complaints() == []
    finally:
        server.close()
        await asterisk.stop()
