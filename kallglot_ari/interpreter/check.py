"""Whether a translation can be trusted with what matters most on the telephone: numbers and names. Pure."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from kallglot_ari.interpreter.languages import Language

_NUMBER = re.compile(r"\d+(?:[.,:'’ \u00a0]\d+)*")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`text` is the translation, repaired where that was possible; `reason` is empty when it can be spoken."""

    text: str
    reason: str = ""


def numbers(text: str) -> list[str]:
    """The digits of every number, without what groups them: `1.000,50`, `1,000.50` and `1 000,50` are all `100050`."""
    return [re.sub(r"\D", "", found) for found in _NUMBER.findall(text)]


def digits(text: str) -> str:
    """All digits in order, however they are grouped."""
    return re.sub(r"\D", "", text)


def _same_time(said: str, translated: str) -> bool:
    """`1530` and `330` are the same time of day, and `14` and `2`."""
    for width in (2, 0):
        hour, minutes = (said[:-width], said[-width:]) if width else (said, "")
        other, others = (translated[:-width], translated[-width:]) if width else (translated, "")
        if (
            hour.isdigit()
            and other.isdigit()
            and minutes == others
            and int(hour) <= 24
            and int(hour) % 12 == int(other) % 12
        ):
            return True
    return False


def keep_numbers(said: str, translation: str, source: Language) -> Verdict:
    """Compare the numbers; put right those that are wrong one for one.

    Numbers that only the translation has are no fault where the sentence has number words; every number that was said in
    digits has to be there, in the same grouping or another, or as the same time on a 12 hour clock.
    """
    wanted, found = numbers(said), numbers(translation)
    if Counter(wanted) == Counter(found) or digits(said) == digits(translation):
        return Verdict(translation)
    missing = list((Counter(wanted) - Counter(found)).elements())
    extra = list((Counter(found) - Counter(wanted)).elements())
    for number in list(missing):
        match = next((other for other in extra if _same_time(number, other)), None)
        if match is not None and re.search(
            r"\d[:.]\d\d|\b[ap]\.?m\b|o'clock|uhr|heure|\bh\b|hora|mañana|tarde", f"{said} {translation}", re.I
        ):
            missing.remove(number)
            extra.remove(match)
    if not missing:
        words = set(re.findall(r"\w+", said.lower()))
        if extra and not wanted and not words & source.numbers:
            return Verdict(translation, f"a number that nobody said: {extra[0]}")
        return Verdict(translation)
    if len(missing) == len(extra):
        return Verdict(_replace(translation, dict(zip(extra, missing, strict=True)), said))
    return Verdict(translation, f"a number that is missing: {missing[0]}")


def _replace(translation: str, wrong: dict[str, str], said: str) -> str:
    """Each wrong number by the right one, written as it was said."""
    written = {re.sub(r"\D", "", form): form for form in _NUMBER.findall(said)}

    def right(match: re.Match[str]) -> str:
        number = wrong.pop(re.sub(r"\D", "", match.group()), None)
        return match.group() if number is None else written[number]

    return _NUMBER.sub(right, translation)


def append_numbers(said: str, translation: str) -> str:
    """The last resort: say the numbers that are missing after the sentence."""
    present = Counter(numbers(translation))
    lost = []
    for form in _NUMBER.findall(said):
        number = re.sub(r"\D", "", form)
        if present[number]:
            present[number] -= 1
        else:
            lost.append(form)
    return f"{translation.rstrip()} {', '.join(lost)}." if lost else translation


def check(said: str, translation: str, source: Language, target: Language) -> Verdict:
    """Everything a translation must be before it is spoken."""
    translation = translation.strip()
    if not re.search(r"\w", translation):
        return Verdict(translation, "nothing came back")
    if len(translation) > 3 * len(said) + 40:
        return Verdict(translation, "it is far longer than what was said")
    if re.search(r"[{}]|<\||\bhttps?://", translation) and not re.search(r"[{}]|https?://", said):
        return Verdict(translation, "it is no sentence")
    if source.code != target.code and len(said.split()) >= 4 and translation.casefold() == said.strip().casefold():
        return Verdict(translation, "it was not translated")
    if source.names:
        for name in source.names.findall(said):
            if name.casefold() not in translation.casefold():
                return Verdict(translation, f"a name that is missing: {name}")
    return keep_numbers(said, translation, source)
