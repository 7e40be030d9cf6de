"""What a leg hears of speech that begins and ends, as its codec sends it."""

from __future__ import annotations

import numpy as np
import pytest

from kallglot_ari.audio.codecs import opus, registry
from kallglot_ari.media.speech import Speech, silent_payload
from kallglot_ari.rtp.playout import Prebuffer
from tests.audio_checks import assert_steady_tone, tone

PAUSE, SPOKEN = 1.0, 2.0


@pytest.mark.parametrize("hertz", [823.0, 1019.0, 1733.0, 3019.0])
@pytest.mark.parametrize("name", ["g722", "slin16", "opus_cbr"])
def test_tones_between_silences_are_steady_and_no_louder_than_they_were(name: str, hertz: float) -> None:
    """One payload stands for all silence, which the encoder is not shown: it must not stumble over that when speech begins again."""
    if name == "opus_cbr" and not opus.available():
        pytest.skip("libopus is not installed")
    codec = registry.get(name)
    rate = codec.sample_rate
    speech = Speech(codec, Prebuffer(), backlog_max_ms=30_000, lag_max_ms=30_000, lags=[])
    silence, decoder = silent_payload(codec), codec.decoder()
    sound = tone(hertz, SPOKEN, rate)
    heard = []
    for frame in range(round(3 * (PAUSE + SPOKEN) * 50)):
        now = frame * 0.02
        if frame % round((PAUSE + SPOKEN) * 50) == round(PAUSE * 50):
            speech.play("a", "pcm_16", rate, sound.tobytes(), now, now)
        payload = speech.next(now)
        heard.append(decoder.decode(silence if payload is None else payload))
    whole = np.concatenate(heard)
    assert np.abs(whole.astype(np.int32)).max() < 1.25 * np.abs(sound).max()
    for turn in range(3):
        begin = round((turn * (PAUSE + SPOKEN) + PAUSE + 0.2) * rate)
        assert_steady_tone(whole[begin : begin + round((SPOKEN - 0.3) * rate)], rate, hertz, min_seconds=SPOKEN - 0.4)
