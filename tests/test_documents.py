"""The documents say what the code does."""

from __future__ import annotations

import ast
import configparser
import inspect
import re
import runpy
from datetime import UTC, datetime
from pathlib import Path

from kallglot_ari.ari.versions import FEATURES, written
from kallglot_ari.calls.hub import LOST
from kallglot_ari.calls.model import CallView, LegView, SipQuality
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes import stasis
from tests.test_metrics import families

DOCS = Path(__file__).parent.parent / "docs"


def test_the_configuration_page_is_current() -> None:
    written = runpy.run_path(str(DOCS / "generate_configuration.py"))["page"]()
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == written, "run docs/generate_configuration.py"


def test_the_sip_guide_names_tests_that_exist() -> None:
    text = (DOCS / "sip-guide.md").read_text(encoding="utf-8")
    tests = DOCS.parent / "tests"
    source = "".join(file.read_text(encoding="utf-8") for file in tests.rglob("test_*.py"))
    for name in re.findall(r"\btest_\w+", text):
        there = any(tests.rglob(f"{name}.py")) or f"def {name}(" in source
        assert there, name
    for path in re.findall(r"\b(?:tests|kallglot_ari)/[\w/]+\.py", text):
        assert (DOCS.parent / path).is_file(), path


def test_every_module_that_calls_itself_pure_is_held_to_it() -> None:
    """By import-linter, which `make lint` runs."""
    held = configparser.ConfigParser()
    held.read(DOCS.parent / "setup.cfg")
    pure = held["importlinter:contract:pure"]["source_modules"].split()
    for file in (DOCS.parent / "kallglot_ari").rglob("*.py"):
        name = ".".join(file.relative_to(DOCS.parent).with_suffix("").parts)
        says = re.search(
            r"\bpure\b", ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "", re.IGNORECASE
        )
        if says and file.name != "__init__.py":
            assert any(name == one or name.startswith(f"{one}.") for one in pure), name


def part(page: str, heading: str) -> str:
    """The text under a heading of a page, up to the next one."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.split(r"^## ", text.partition(f"## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def names(text: str, heading: str) -> set[str]:
    """What the first column names, of the tables whose first heading is `heading`."""
    found: set[str] = set()
    for table in re.findall(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        for row in table.splitlines():
            found.update(re.findall(r"`([^`]+)`", row.split(" | ")[0]))
    return found


def test_the_http_page_names_every_event() -> None:
    published = {LOST, "webhook.TYPE"}
    for file in (DOCS.parent / "kallglot_ari").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called.lower().lstrip("_") == "publish":
                first = node.args[0]
                either = (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,)
                published.update(
                    one.value for one in either if isinstance(one, ast.Constant) and isinstance(one.value, str)
                )
    assert len(published) > 30
    assert names(part("http-api.md", "Events"), "event") == published


def test_the_http_page_names_every_field_of_a_call() -> None:
    leg = LegView("customer", "1", sip=SipQuality())
    call = CallView("c", "s", "setup", "m", "de", "en", datetime.now(UTC), legs=[leg]).as_json()
    text = part("http-api.md", "A call")
    assert names(text, "field") == set(call)
    assert names(text, "field of a leg") == set(call["legs"][0])
    assert names(text, "field of `sip`") == set(call["legs"][0]["sip"])


def test_the_operations_page_names_every_metric_with_its_labels() -> None:
    code = {
        name + (f"{{{','.join(labels)}}}" if labels else "") for name, (_, _, labels) in families(Metrics()).items()
    }
    assert names(part("operations.md", "Metrics"), "metric") == code


def test_the_operations_page_says_why_calls_are_left_to_the_dialplan() -> None:
    source = inspect.getsource(stasis)
    sent = set(re.findall(r'_send_back\(.*, "(\w+)"\)', source))
    full = inspect.getsource(stasis.StasisMode.full.fget)  # type: ignore[attr-defined]
    sent |= set(re.findall(r'"(\w+)"', full))
    assert names(part("operations.md", "Calls left to the dialplan"), "`reason`") == sent


def test_the_ari_page_names_every_feature_and_its_releases() -> None:
    text = part("ari.md", "Versions")
    assert names(text, "feature") == set(FEATURES)
    for name, since in FEATURES.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(".".join(map(str, one[:2])) in row for one in since), f"{name}: {written(since)}"


def test_the_operations_page_names_log_lines_that_there_are_and_every_alarm() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in (DOCS.parent / "kallglot_ari").rglob("*.py"))
    lines = {name for name in names(part("operations.md", "Logs"), "event") if not name.endswith("…")}
    assert len(lines) > 25
    assert {name for name in lines if f'"{name}"' not in source} == set()
    warned = re.findall(r'\.(?:warning|error|exception)\(\s*"([a-z_]+)"', source)
    lasting = re.findall(r'Lasting\(_log, "([a-z_]+)"', source)
    assert {*warned, *lasting} - lines == set(), "what somebody should look at"
    alarms = (DOCS.parent / "docker/monitoring/alerts.yml").read_text(encoding="utf-8")
    assert names(part("operations.md", "Metrics"), "alarm") == set(re.findall(r"alert: (\w+)", alarms))


def test_the_operations_page_names_every_warning_and_error() -> None:
    logged: set[str] = set()
    source = ""
    for file in (DOCS.parent / "kallglot_ari").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        source += text
        for node in ast.walk(ast.parse(text)) if "lab" not in file.parts else ():
            if isinstance(node, ast.Call):
                logged.update(
                    one.value for one in told(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
                )
    assert len(logged) > 80
    named = names(part("operations.md", "Logs"), "event")
    assert logged - named == set()
    assert [name for name in named if name.isidentifier() and f'"{name}"' not in source] == []


def told(call: ast.Call) -> list[ast.expr]:
    """What a call gives to the log as the name of a warning or an error, now or later."""
    match call.func:
        case ast.Attribute(ast.Name(id=logger) | ast.Attribute(attr=logger), "warning" | "error" | "exception"):
            return call.args[:1] if logger in ("log", "_log") else []
        case ast.Name(id="Lasting") | ast.Attribute(attr="Lasting"):
            return call.args[1:2]
        case ast.Name(id="Door"):
            return [keyword.value for keyword in call.keywords if keyword.arg == "full"]
    return []
