"""What the process asks of the system."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from kallglot_ari import serve


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_shells_limit_of_descriptors_is_raised_as_far_as_may_be(limits: tuple[int, int]) -> None:
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    serve.more_descriptors()
    most = serve.DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, serve.DESCRIPTORS)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)
    serve.more_descriptors()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)


def test_few_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    told: list[str] = []
    monkeypatch.setattr(serve, "_log", SimpleNamespace(warning=lambda event, **_: told.append(event)))
    serve.more_descriptors()
    assert (asked, told) == ([(1024, 1024)], ["few_descriptors"])
