"""How far a text is from what it should be: word error rate and chrF. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter


def words(text: str) -> list[str]:
    """Lower case, without punctuation; digits one by one, for `4711` may be said in many ways."""
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    return re.findall(r"\d|[^\W\d]+", text)


def edits(expected: list[str], found: list[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(expected, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def word_error_rate(expected: str, found: str) -> float:
    """Edits per expected word; 0 is perfect, more than 1 is possible. :raises ValueError: when nothing is expected."""
    wanted = words(expected)
    if not wanted:
        raise ValueError("word error rate: expected a sentence with words")
    return edits(wanted, words(found)) / len(wanted)


def chrf(expected: str, found: str, *, order: int = 6, beta: float = 2.0) -> float:
    """Character n-gram F-score (Popović 2015), 0 to 100, spaces left out."""
    reference, candidate = ("".join(text.lower().split()) for text in (expected, found))
    precisions, recalls = [], []
    for n in range(1, order + 1):
        wanted = Counter(reference[i : i + n] for i in range(len(reference) - n + 1))
        have = Counter(candidate[i : i + n] for i in range(len(candidate) - n + 1))
        if not wanted or not have:
            continue
        common = sum((wanted & have).values())
        precisions.append(common / sum(have.values()))
        recalls.append(common / sum(wanted.values()))
    if not precisions:
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    if not precision and not recall:
        return 0.0
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
