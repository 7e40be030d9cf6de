"""The unit: what it promises, and the names that the documents and the operator's file share with it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kallglot_ari.settings import load

TREE = Path(__file__).parents[1]
UNIT = (TREE / "systemd/kallglot-ari.service").read_text()
OPERATOR = (TREE / "systemd/operator.env").read_text()
OPERATIONS = (TREE / "docs/operations.md").read_text()


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


def environment(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(?:Environment=)?([A-Z_]+)=(.*)$", text, re.MULTILINE))


def test_a_start_that_fails_is_tried_for_ever_and_a_killed_service_is_back_at_once() -> None:
    head = UNIT.partition("[Service]")[0]
    assert "StartLimitIntervalSec=0" in head
    assert values("Restart") == ["always"]
    assert values("RestartSec") == ["200ms"]
    rest = values("ExecStopPost")[0].partition("-c '")[2].removesuffix("'").replace("$$", "$").replace("sleep", "echo")
    for status, said in (("1", "3\n"), ("2", "3\n"), ("KILL", ""), ("0", "")):
        done = subprocess.run(
            ["sh", "-c", rest], env={"EXIT_STATUS": status}, capture_output=True, text=True, check=True
        )
        assert done.stdout == said, status


def test_every_credential_may_be_absent_and_is_named_where_it_is_used() -> None:
    loaded = dict(one.split(":", 1) for one in values("LoadCredential"))
    assert dict(one.split(":", 1) for one in values("SetCredential")) == dict.fromkeys(loaded, "\\n")
    for name, path in loaded.items():
        assert any(value == f"/run/credentials/%n/{name}" for value in environment(UNIT).values())
        assert path in environment(OPERATOR).values()
        assert f"`{name}`" in OPERATIONS


def test_the_operators_file_says_what_the_unit_says() -> None:
    unit, operator = environment(UNIT), environment(OPERATOR)
    assert set(operator) - {"KALLGLOT_CONFIG"} == {name for name in unit if name.startswith("KALLGLOT__")} | {
        "XDG_CACHE_HOME"
    }
    assert operator["KALLGLOT__STORE__URL"] == unit["KALLGLOT__STORE__URL"]
    assert operator["XDG_CACHE_HOME"] == unit["XDG_CACHE_HOME"]


def test_the_operators_file_is_a_configuration(tmp_path: Path) -> None:
    environ = environment(OPERATOR) | {"KALLGLOT_CONFIG": str(tmp_path / "c.toml")}
    (tmp_path / "c.toml").write_text("")
    for name in [name for name in environ if name.endswith("_FILE")]:
        (tmp_path / name).write_text(f"{name}\n")
        environ[name] = str(tmp_path / name)
    settings = load(None, environ)
    assert settings.ari.password.get_secret_value() == "KALLGLOT__ARI__PASSWORD_FILE"
    assert settings.store.url == "sqlite:////var/lib/kallglot-ari/calls.db"


def test_a_secret_that_is_not_there_is_not_set_for_the_command_line_either(tmp_path: Path) -> None:
    """As for the service: one who has the password in the TOML file and the embedded Kallglot needs none of the files."""
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/web-token").write_text("t")
    (tmp_path / "operator.env").write_text(OPERATOR.replace("/etc/kallglot-ari", str(tmp_path)))
    done = subprocess.run(
        ["sh", "-euc", f"set -a; . {tmp_path}/operator.env; env"], env={}, capture_output=True, text=True, check=True
    )
    named = {name for name in environment(done.stdout) if name.endswith("_FILE")}
    assert named == {"KALLGLOT__WEB__TOKEN_FILE"}
    missing = set(environment(OPERATOR)) - {"KALLGLOT__ARI__PASSWORD_FILE", "KALLGLOT__KALLGLOT__API_KEY_FILE"}
    assert missing <= set(environment(done.stdout))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="NOT TESTED: no systemd-analyze")
def test_systemd_reads_all_of_it(tmp_path: Path) -> None:
    unit = tmp_path / "kallglot-ari.service"
    unit.write_text(UNIT.replace("/opt/kallglot-ari/bin/kallglot-ari", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert done.stderr == ""
