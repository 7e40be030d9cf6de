"""`doctor`: every failure says what to do, and what cannot be looked at is skipped."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from kallglot_ari import doctor
from kallglot_ari.doctor import Doctor, Finding, run_doctor
from kallglot_ari.modes import asterisk_doctor
from kallglot_ari.settings import Settings
from tests.ari.fake import PASSWORD, FakeAsterisk
from tests.web.conftest import Make, make_site  # noqa: F401 - a fixture


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KALLGLOT_API_KEY", raising=False)
    monkeypatch.setattr(doctor, "PATIENCE", 4.0)


def settings(**sections: dict[str, object]) -> Settings:
    base: dict[str, dict[str, object]] = {
        "ari": {"url": "http://127.0.0.1:9"},
        "web": {"port": 0},
        "agi": {"port": 0},
        "store": {"url": "sqlite:///calls.db"},
        "interpreter": {"engine": "echo"},
    }
    return Settings.model_validate({**base, **sections})


async def examine(**sections: dict[str, object]) -> dict[str, Finding]:
    found = {finding.check: finding for finding in await Doctor(settings(**sections)).examine()}
    for finding in found.values():
        assert bool(finding.advice) is (finding.ok is False), finding
    return found


async def test_without_asterisk_its_check_fails_and_the_media_check_is_skipped() -> None:
    found = await examine()
    assert found["Asterisk"].ok is False
    assert "ari.url" in found["Asterisk"].advice
    assert (found["media"].ok, found["media"].found) == (None, "skipped: Asterisk failed, which it needs")
    assert found["store"].ok is True
    assert found["Kallglot API"].ok is True
    assert found["manager interface"].ok is None


async def test_what_fails_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = await examine(
            kallglot={"url": "https://127.0.0.1:9/v1", "api_key": "sk_test_hush"},
            store={"url": "sqlite:///gone/calls.db"},
            agi={"port": port},
            ami={"port": 9, "username": "u", "password": "hush"},
            trunk={"username": "u", "endpoints": [{"uri": "127.0.0.1:9"}]},
        )
    failed = {name for name, finding in found.items() if finding.ok is False}
    endpoint = "SIP endpoint 127.0.0.1:9"
    assert failed == {"store", "Asterisk", "Kallglot API", "FastAGI port", "manager interface", endpoint}
    assert {name for name, finding in found.items() if finding.found.startswith("skipped")} == set(doctor.NEEDS) - {
        "trunk test call"
    }
    assert "hush" not in str(found)


async def test_broken_configuration_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text("[service]\nloud = 1\n")
    assert await run_doctor("c.toml", as_json=True) == 1
    said = capsys.readouterr()
    assert said.err == f"kallglot-ari: {json.loads(said.out)[0]['found']}\n", "as every command says it"
    (finding,) = json.loads(said.out)
    assert (finding["check"], finding["ok"]) == ("configuration", False)
    assert finding["found"].startswith("unknown key service.loud (from c.toml)")
    assert finding["advice"]
    Path("c.toml").write_text("[nonsense]\n")
    assert await run_doctor("c.toml") == 1
    printed = capsys.readouterr().out
    assert "FAIL" in printed
    assert "[nonsense]" in printed, "brackets are no mark-up"


async def test_what_an_endpoint_says_commands_no_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def examine(_: Doctor) -> list[Finding]:
        return [Finding("SIP endpoint", False, "an INVITE was answered 603 \x1b[2J\x1b]0;x\x07", "ask")]

    monkeypatch.setattr(Doctor, "examine", examine)
    monkeypatch.chdir(tmp_path)
    assert await run_doctor(None) == 1
    said = capsys.readouterr().out
    assert "603 \\x1b[2J" in said
    assert not set(said) & {"\x1b", "\x07"}


async def test_the_folder_of_captures_is_looked_at_where_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = await examine(debug={"pcap": True, "dir": "file/x"})
    assert found["captures"].ok is False
    assert "debug.dir" in found["captures"].found
    found = await examine(debug={"record": "wav", "dir": "made"})
    assert found["captures"].ok is True
    assert not (tmp_path / "made").exists(), "doctor may run as root, the service does not"
    assert (await examine())["captures"].ok is None


NEEDED = {**asterisk_doctor.NEEDED, **asterisk_doctor.OF_TRANSPORT["rtp"], **asterisk_doctor.OF_FORMAT["ulaw"]}


def loaded(*missing: str) -> tuple[int, object]:
    names = [name for name in (*NEEDED, *asterisk_doctor.USEFUL) if name not in missing]
    return 200, [
        {"name": n, "status": "Running", "description": "", "support_level": "", "use_count": 0} for n in names
    ]


@pytest.mark.parametrize("missing", [("app_stasis.so",), ("chan_rtp.so", "codec_ulaw.so")])
async def test_a_module_that_asterisk_has_not_loaded_is_named(missing: tuple[str, ...]) -> None:
    async with FakeAsterisk() as fake:
        fake.answers["GET", "/asterisk/modules"] = loaded(*missing)
        found = await examine(ari={"url": fake.settings().url, "password": PASSWORD})
    assert found["Asterisk modules"].ok is False
    for name in missing:
        assert name in found["Asterisk modules"].found
        assert f"load = {name}" in found["Asterisk modules"].advice
    assert found["media"].found == "skipped: Asterisk modules failed, which it needs"


async def test_what_only_some_calls_need_is_no_failure() -> None:
    async with FakeAsterisk() as fake:
        fake.answers["GET", "/asterisk/modules"] = loaded("res_musiconhold.so")
        found = await examine(ari={"url": fake.settings().url, "password": PASSWORD})
    assert found["Asterisk modules"].ok is True
    assert "without res_musiconhold.so: silence on hold" in found["Asterisk modules"].found


async def test_a_part_of_ari_that_is_missing_is_no_matter_of_passwords() -> None:
    async with FakeAsterisk() as fake:
        fake.answers["GET", "/channels"] = (404, {"message": "Resource not found"})
        fake.answers["GET", "/asterisk/modules"] = loaded("res_ari_channels.so")
        found = await examine(ari={"url": fake.settings().url, "password": PASSWORD})
    assert found["Asterisk"].advice == "load the modules that the next line names"
    assert "res_ari_channels.so" in found["Asterisk modules"].found


def test_the_room_is_looked_for_where_the_service_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def usage(folder: Path) -> SimpleNamespace:
        asked.append(str(folder))
        return SimpleNamespace(free=5e6 if folder.name == "recordings" else 5e9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    (tmp_path / "recordings").mkdir()
    debug: dict[str, object] = {"record": "wav", "dir": "recordings/night"}
    machine = doctor._machine(settings(store={"url": f"sqlite:///{tmp_path}/state/calls.db"}, debug=debug))
    assert sorted(asked) == [str(tmp_path), str(tmp_path / "recordings")]
    assert machine.ok is False
    assert f"0.0 GB free in {tmp_path}/recordings" in machine.found
    assert machine.advice
    assert doctor._machine(settings(store={"url": "postgresql://u:hush@db/kallglot"})).ok is True
    assert asked[-1] == str(tmp_path), "the folder it runs in"


async def test_it_makes_no_database_that_the_service_could_not_write(tmp_path: Path) -> None:
    """Run as root before the first start, as the README has it, it left a file of root's, and the service could not start."""
    found = await examine(store={"url": f"sqlite:///{tmp_path}/calls.db"})
    assert found["store"] == Finding("store", True, f"{tmp_path}/calls.db is not there yet; the service makes it")
    assert list(tmp_path.glob("calls.db*")) == []
    assert (await examine(store={"url": "sqlite:////proc/calls.db"}))["store"].ok is False


@pytest.mark.parametrize("allowed", [[], ["192.0.2.1"]])
async def test_the_running_service_s_port_is_no_failure(make_site: Make, allowed: list[str]) -> None:  # noqa: F811
    site = await make_site(allowed_ips=allowed)
    port = int(site.server.url.rsplit(":", 1)[1])
    found = await examine(web={"port": port, "allowed_ips": allowed})
    assert (found["web port"].ok, found["web port"].found) == (
        True, f"127.0.0.1:{port} is in use, by the running service",
    )  # fmt: skip
