"""The documents say what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

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
