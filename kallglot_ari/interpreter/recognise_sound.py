"""What a recording says: for checks, not for live calls."""

from __future__ import annotations

from kallglot_ari.interpreter.ears import Ears
from kallglot_ari.interpreter.protocols import Recogniser, Sound
from kallglot_ari.interpreter.turns import Kind
from kallglot_ari.interpreter.vad import SileroVoiceActivity


async def recognise_sound(sound: Sound, language: str, recogniser: Recogniser) -> str:
    """The words of a recording of any rate, turn by turn; empty when nobody speaks."""
    texts = []
    for turn in split(sound):
        found = await recogniser.recognise(turn, language)
        texts.append(found.text if found else "")
    return " ".join(text for text in texts if text)


def split(sound: Sound) -> list[Sound]:
    """The turns in a recording, by the same ears as in a call."""
    import soxr

    rate = 8000 if sound.sample_rate <= 8000 else 16000
    pcm = soxr.resample(sound.pcm, sound.sample_rate, rate) if sound.sample_rate != rate else sound.pcm
    ears = Ears(SileroVoiceActivity(rate), rate)
    heard = [*ears.hear(pcm), *ears.missing(1000), *ears.flush()]
    return [event.sound for event in heard if event.kind is Kind.ENDED and event.sound is not None]
