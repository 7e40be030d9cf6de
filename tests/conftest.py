"""Tests whose verdict depends on real time are run again when they fail and the machine stood still meanwhile; others never are."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

from tests.steadiness import Standstill, Watch

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")  # one of 200 ms would make the verdict of every such test depend on real time

REAL_TIME = ("real_time", "asterisk", "phones", "docker")
"""Markers of such tests: a real Asterisk and real phones keep their own time and wait for nobody."""
AGAIN = 2
"""Times a test is run again at most."""
_SETTLE = 0.1
"""Seconds after which the watch has said what it saw."""


@pytest.fixture(autouse=True)
def nothing_of_the_log_stays() -> Iterator[None]:
    """A test that sets the log up, as each command does, leaves the others theirs. Loggers of modules would keep it for good, so they do not."""
    configure = structlog.configure

    def not_for_good(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    loggers = [logging.getLogger(name) for name in ("", "kallglot_ari", "aiohttp.access")]
    levels, handlers = [logger.level for logger in loggers], loggers[0].handlers[:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", not_for_good)
        yield
    if structlog.is_configured():
        structlog.reset_defaults()
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


class Steadiness:
    """Decides whether a failure may have been the machine's, and tells what it saw."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._watch = Watch()
        self._test = ""
        self._file: Path | None = None
        self._told: list[str] = []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """What happened before the test is none of its business."""
        self._test = item.nodeid
        if item.path != self._file and any(item.get_closest_marker(name) for name in REAL_TIME):
            self._file = item.path
            # A collection of garbage would stop real time for all objects of all tests before.
            gc.unfreeze()
            gc.collect()
            gc.freeze()
        self._watch.seen()
        return (yield)

    def stood_still(self, error: BaseException | None) -> bool:
        """Whether it did since the test's setup. Asked after its teardown, and of each test, with the failure if there is one."""
        if error is None:
            return False
        time.sleep(_SETTLE)
        seen = self._watch.seen()
        first = str(error).partition("\n")[0][:200]
        if not seen:
            self._tell(f"{self._test} failed, and the machine never stood still: {first}")
            return False
        longest: dict[str, Standstill] = {}
        for one in sorted(seen, key=lambda one: one.seconds):
            longest[one.who] = one
        what = "; ".join(str(one) for one in sorted(longest.values(), key=lambda one: -one.seconds)[:3])
        self._tell(f"{self._test} failed, and {len(seen)} times the machine stood still ({what}): {first}")
        return True

    def _tell(self, line: str) -> None:
        self._told.append(line)
        self._terminal.ensure_newline()
        self._terminal.write_line(line)

    def pytest_terminal_summary(self) -> None:
        if self._told:
            self._terminal.section("tests of real time that failed once")
            for line in self._told:
                self._terminal.write_line(line)

    def pytest_sessionfinish(self) -> None:
        self._watch.stop()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if any(item.get_closest_marker(name) for name in REAL_TIME)]
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if not marked or terminal is None or config.option.collectonly:
        return
    steadiness = Steadiness(terminal)
    config.pluginmanager.register(steadiness, "steadiness")
    for item in marked:
        item.add_marker(pytest.mark.flaky(reruns=AGAIN, condition=steadiness.stood_still))
        # the limit is for all runs together
        limit = item.get_closest_marker("timeout")
        seconds = float(limit.args[0] if limit else config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(seconds * (1 + AGAIN)), append=False)
