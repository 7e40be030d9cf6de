"""The command line: what cannot be used is one line on stderr that names it, with status 2; what fails has status 1."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kallglot_ari.cli import main
from kallglot_ari.settings import InterpreterSettings

COMMANDS = ("serve", "demo", "sandbox", "doctor", "config", "calls", "hangup", "transfer", "call", "bench", "models")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KALLGLOT_API_KEY", raising=False)
    monkeypatch.delenv("KALLGLOT_CONFIG", raising=False)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; nothing is on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: kallglot-ari {command}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "COMMAND: expected a value, found none (kallglot-ari --help has all arguments)"),
        ("dance", "COMMAND: expected one of serve, demo, sandbox, doctor, config, calls, hangup, transfer, call, bench, models, found 'dance'"),
        ("--config c.toml serve", "expected a COMMAND first, found '--config'"),
        ("serve --loud", "expected no argument '--loud' (kallglot-ari serve --help has all arguments)"),
        ("hangup c-1 now", "expected no argument 'now' (kallglot-ari hangup --help has all arguments)"),
        ("models list --loud", "expected no argument '--loud' (kallglot-ari models list --help has all arguments)"),
        ("serve --config", "--config: expected a value, found none"),
        ("serve --config=", "--config: expected the name of a file, found ''"),
        ("serve --config gone.toml", "configuration file gone.toml: there is no such file"),
        ("serve --config .", "configuration file .: cannot be read: Is a directory"),
        ("sandbox --port x", "--port: expected a port of 0 to 65535, found 'x'"),
        ("sandbox --port -1", "--port: expected a port of 0 to 65535, found '-1'"),
        ("sandbox --port 65536", "--port: expected a port of 0 to 65535, found '65536'"),
        ("sandbox --host=", "--host: expected an address or a host name, found ''"),
        ("sandbox --webhook-url ftp://a", "--webhook-url: expected a URL that begins with http:// or https://, found 'ftp://a'"),
        ("sandbox --engine loud", "--engine: expected one of offline, echo, found 'loud'"),
        ("config", "PBX: expected a value, found none"),
        ("config avaya", "PBX: expected one of asterisk, freeswitch, cucm, found 'avaya'"),
        ("config asterisk --out=", "--out: expected a folder, found ''"),
        ("hangup", "CALL: expected a value, found none"),
        ("transfer c-1", "TARGET: expected a value, found none"),
        ("demo --source xx --engine echo", "--source: expected one of de, en, es, fr, found 'xx'"),
        ("demo --out= --engine echo", "--out: expected a folder, found ''"),
        ("demo --out c.toml --engine echo", "--out c.toml: expected a folder that can be written, found: File exists"),
        ("bench", "what: expected a value, found none"),
        ("bench media --legs 3", "--legs: expected even numbers of 2 to 16000, found '3'"),
        ("bench media --json .", "--json: expected a file to write, found '.'"),
        ("bench media --markdown=", "--markdown: expected a file to write, found ''"),
        ("bench agi --json .", "--json: expected a file to write, found '.'"),
        ("bench agi --json c.toml/a.json", "--json: expected a file to write, found 'c.toml/a.json'"),
        ("bench media --seconds x", "--seconds: expected a number, found 'x'"),
        ("bench media --seconds 0", "--seconds: expected 1 to 3600, found 0"),
        ("bench agi --seconds 0", "--seconds: expected 1 to 86400, found 0"),
        ("bench agi --seconds x", "--seconds: expected a number, found 'x'"),
        ("bench agi --calls-per-minute 6001", "--calls-per-minute: expected 1 to 6000, found 6001"),
        ("bench agi --loud", "expected no argument '--loud'"),
        ("bench interpreter --calls 0", "--calls: expected 1 to 20, found 0"),
        ("bench interpreter --turns 1001", "--turns: expected 1 to 1000, found 1001"),
        ("bench calls --calls 401", "--calls: expected 1 to 400, found 401"),
        ("bench calls --seconds nan", "--seconds: expected 1 to 3600, found nan"),
        ("call PJSIP/1 PJSIP/2 --timeout nan", "--timeout: expected seconds between 1 and 300, found 'nan'"),
        ("call PJSIP/1 PJSIP/2 --timeout 301", "--timeout: expected seconds between 1 and 300, found '301'"),
        ("models", "command: expected a value, found none"),
        ("models fetch nothing", "NAME: expected one of "),
        ("models fetch --from gone", "--from: expected a folder, found 'gone'"),
        ("models list --config gone.toml", "configuration file gone.toml: there is no such file"),
        ("models burn", "command: expected one of list, fetch, found 'burn'"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line_and_status_2(line: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text("")
    assert main(line.split()) == 2
    assert said(capsys).startswith(f"kallglot-ari: {expected}")


@pytest.mark.parametrize("nonsense", ["", "a b", "a\nb", "ü", "x" * 129])
def test_what_cannot_be_the_id_of_a_call_is_not_asked_for(nonsense: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["hangup", nonsense], ["transfer", nonsense, "102"]):
        assert main(command) == 2
        assert "CALL: expected the id of a call, found " in said(capsys)


@pytest.mark.parametrize("command", ["calls", "models list", "sandbox", "hangup c-1"])
def test_a_slip_in_a_sections_name_is_told_to_who_needs_one_section(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.toml").write_text("[wbe]\nport = 1\n")
    assert main([*command.split(), "--config", "c.toml"]) == 2
    assert said(capsys).startswith("kallglot-ari: unknown section [wbe] (from c.toml); expected one of service, ari")


def test_models_need_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text('[kallglot]\nurl = "https://a.example/v1"\n[interpreter]\nmodels_dir = "here"\n')
    assert main(["models", "list", "--config", "c.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["folder"].startswith("here/")


@pytest.mark.parametrize(("option", "expected"), [([], "echo"), (["--engine", "offline"], "offline")])
def test_the_sandbox_takes_the_engine_of_the_configuration(
    option: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    async def sandbox(
        host: str, port: int, interpreter: InterpreterSettings, api_key: str | None, **webhooks: str
    ) -> int:
        taken.append(interpreter.engine)
        return 0

    monkeypatch.setattr("kallglot_ari.sandbox.run.run_sandbox", sandbox)
    monkeypatch.setenv("KALLGLOT__INTERPRETER__ENGINE", "echo")
    assert main(["sandbox", *option]) == 0
    assert taken == [expected]


@pytest.mark.parametrize("line", ["calls", "calls --json", "calls --watch", "hangup c-1", "transfer c-1 102"])
def test_without_a_running_service_the_status_is_1(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KALLGLOT__WEB__PORT", "9")
    monkeypatch.setenv("KALLGLOT__KALLGLOT__URL", "https://a.example/v1")  # the key of which is not ours to know
    assert main(line.split()) == 1
    assert said(capsys).startswith("kallglot-ari: no service at http://127.0.0.1:9: start it with")


@pytest.mark.parametrize(
    ("line", "setting"),
    [("serve", "KALLGLOT__WEB__PORT"), ("serve", "KALLGLOT__AGI__PORT"), ("sandbox --engine echo --port {port}", "")],
)
def test_a_port_that_is_taken_is_a_failure_and_names_the_setting(
    line: str, setting: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KALLGLOT__INTERPRETER__ENGINE", "echo")
    monkeypatch.setenv("KALLGLOT__LOG__LEVEL", "error")
    monkeypatch.setenv("KALLGLOT__ARI__URL", "http://127.0.0.1:9")
    for name in ("WEB", "AGI"):
        monkeypatch.setenv(f"KALLGLOT__{name}__PORT", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        if setting:
            monkeypatch.setenv(setting, port)
        assert main(line.format(port=port).split()) == 1
    name = setting.removeprefix("KALLGLOT__").replace("__", ".").lower() or "sandbox"
    (error,) = capfd.readouterr().err.splitlines()
    assert error == f"kallglot-ari: {name}: cannot listen on 127.0.0.1:{port}: the port is taken"


@pytest.mark.parametrize("section", ["web", "agi", "media"])
def test_an_address_that_is_not_ours_is_a_failure_and_names_the_setting(
    section: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WEB", "AGI"):
        monkeypatch.setenv(f"KALLGLOT__{name}__PORT", "0")
    monkeypatch.setenv("KALLGLOT__INTERPRETER__ENGINE", "echo")
    monkeypatch.setenv("KALLGLOT__LOG__LEVEL", "error")
    monkeypatch.setenv("KALLGLOT__ARI__URL", "http://127.0.0.1:9")
    monkeypatch.setenv("KALLGLOT__WEB__TOKEN", "hush")
    monkeypatch.setenv("KALLGLOT__AGI__ALLOWED_IPS", "127.0.0.1")
    monkeypatch.setenv(f"KALLGLOT__{section.upper()}__BIND", "192.0.2.1")
    assert main(["serve"]) == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert error.startswith(f"kallglot-ari: {section}.bind: cannot ")
    assert error.endswith(": Cannot assign requested address")


def test_the_sandbox_tells_url_and_key_at_once_in_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kallglot_ari", "sandbox", "--engine", "echo", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    told, deadline = tmp_path / "told.txt", time.monotonic() + 20
    with told.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output) as process:
        while len(told.read_text().splitlines()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        lines = told.read_text().splitlines()
        process.terminate()
        assert process.wait(10) == 0
    assert [line.partition(":")[0] for line in lines] == ["Kallglot sandbox", "API key"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_harms_nothing(closed: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = taken.getsockname()[1]
    run = f"{sys.executable} -m kallglot_ari"
    watched = (
        f"{run} sandbox --engine echo --port {free} {closed} & p=$!; "
        f"for _ in $(seq 100); do {sys.executable} -c 'import socket; socket.create_connection((\"127.0.0.1\", {free}))' "
        "2>/dev/null && break; sleep 0.1; done; kill -TERM $p; wait $p"
    )
    done = subprocess.run(["sh", "-c", watched], cwd=tmp_path, env=_environment(), timeout=60, check=False)
    assert done.returncode == 0
    asked = subprocess.run(
        ["sh", "-c", f"exec {run} calls --json {closed}"],
        cwd=tmp_path, env=_environment() | {"KALLGLOT__WEB__PORT": str(free)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert asked.returncode == 1
    assert len(asked.stderr.splitlines()) == (0 if "2>&-" in closed else 1)


def test_what_the_terminals_encoding_does_not_have_is_a_question_mark(tmp_path: Path) -> None:
    code = "from kallglot_ari import standard; standard.prepare(); print('a \u2026 \u2713 \u00fc')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment() | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"a ? ? \xfc\n")
    done = subprocess.run(
        [sys.executable, "-m", "kallglot_ari", "doctor"], cwd=tmp_path, check=False,
        env=_environment() | {"PYTHONIOENCODING": "latin-1", "KALLGLOT_API_KEY": "x"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def _environment() -> dict[str, str]:
    """Ours, with the package's folder: these run as processes of their own, elsewhere."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def test_sighup_ends_nothing(tmp_path: Path) -> None:
    """What a rotation of logs or a closed terminal sends; then SIGTERM ends it as ever."""
    named = {"KALLGLOT__ARI__URL": "http://127.0.0.1:9", "KALLGLOT__WEB__PORT": "0", "KALLGLOT__AGI__PORT": "0"}
    named |= {
        "KALLGLOT__INTERPRETER__ENGINE": "echo",
        "KALLGLOT__SERVICE__DRAIN_SECONDS": "0",
        "KALLGLOT__LOG__FORMAT": "json",
    }
    command = [sys.executable, "-m", "kallglot_ari", "serve"]
    told, deadline = tmp_path / "log", time.monotonic() + 30
    with (
        told.open("wb") as output,
        subprocess.Popen(command, cwd=tmp_path, env=_environment() | named, stderr=output) as process,
    ):
        for event, number in (("started", signal.SIGHUP), ("sighup_does_nothing", signal.SIGTERM)):
            while f'"{event}"' not in told.read_text() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(number)
        assert process.wait(20) == 0


def test_ctrl_c_while_the_libraries_load_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "loaded.py").write_text(
        """
import importlib.abc, signal, sys
class Interrupts(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "kallglot_ari.cli":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from kallglot_ari.__main__ import main
sys.argv[1:] = ["--version"]
sys.exit(main())
"""
    )
    done = subprocess.run(
        [sys.executable, "loaded.py"], cwd=tmp_path, env=_environment(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
