"""`kallglot-ari bench media` and `bench stream` in short."""

from __future__ import annotations

import json

import pytest

from kallglot_ari.errors import UsageError
from kallglot_ari.lab.bench import Run, measure, run_bench
from tests.asterisk.running import long_form

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("form", "encoding"),
    [
        ("ulaw", "mulaw"), ("g722", "pcm_16"),
        pytest.param("g722", "mulaw", marks=long_form), pytest.param("slin16", "pcm_16", marks=long_form),
    ],
)  # fmt: skip
def test_every_format_is_carried_and_sounds_right(form: str, encoding: str) -> None:
    result = measure(Run("ours", 4, 1.0, form=form, encoding=encoding))
    assert (result["form"], result["encoding"]) == (form, encoding)
    assert result["lost"] == result["silent_legs"] == 0
    assert result["tone_share"] > 0.99
    json.dumps(result, allow_nan=False)
    assert (result["way_ms_p50"] is None) == (form != "ulaw"), "no mark comes back as it was sent"
    assert (result["downlink_ms_p99"] is None) == (result["downlink_n"] == 0), "talkspurts that began, if any did"


@pytest.mark.parametrize("tls", [pytest.param(False, marks=long_form), True])
def test_a_stream_is_carried_in_clear_and_encrypted(tls: bool) -> None:
    result = measure(Run("stream", 4, 1.0, tls=tls))
    assert result["lost"] == result["silent_legs"] == result["dropped_chunks"] == 0
    assert result["tone_share"] > 0.99


@pytest.mark.parametrize(
    "argv",
    [
        ["media", "--format", "g722", "--servers", "uvloop"],
        ["stream", "--format", "g722"],
        ["media", "--encoding", "pcm_16", "--pauses"],
        ["media", "--tls"],
        ["stream", "--servers", "stream,ours", "--tls"],
    ],
)
def test_what_cannot_be_measured_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError, match=r"--format|--pauses|--tls"):
        run_bench(argv)
