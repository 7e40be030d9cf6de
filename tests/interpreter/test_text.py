"""Sentences, Apertium's stream format, languages, scores, slots and loops: text in, text out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter import apertium, languages
from kallglot_ari.interpreter.chain import sentences
from kallglot_ari.interpreter.gguf import Slots
from kallglot_ari.interpreter.score import chrf, word_error_rate
from kallglot_ari.interpreter.whisper import breaks_off, loops, undouble, unloop


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Guten Tag. Wie geht es?", ["Guten Tag.", "Wie geht es?"]),
        ("Am 3. Mai um 15 Uhr.", ["Am 3. Mai um 15 Uhr."]),
        ("Hier ist Dr. Weber. Hallo!", ["Hier ist Dr. Weber.", "Hallo!"]),
        ("Ja", ["Ja"]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text(max_size=200))
def test_no_sentence_is_lost(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(st.text("abc ^$[]{}/\\@<>.", max_size=80))
def test_apertium_text_comes_back_as_it_went(text: str) -> None:
    assert apertium.unescape(apertium.escape(text) + apertium.END) == " ".join(text.split())


def test_apertium_pipelines_flush_and_leave_unknown_words() -> None:
    mode = "lt-proc '/x/a.bin' | apertium-tagger -g $2 '/x/b.prob' | lt-proc $1 /x/c.bin\n"
    assert apertium.pipeline(mode) == "lt-proc -z /x/a.bin | apertium-tagger -z -g /x/b.prob | lt-proc -z -n /x/c.bin"
    with pytest.raises(InterpreterError, match="empty part"):
        apertium.pipeline("lt-proc a | | lt-proc b")


async def test_apertium_that_cannot_be_started_leaves_it_to_the_next_translator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*args: object, **more: object) -> None:
        raise OSError(24, "Too many open files")

    (tmp_path / "de-en.mode").write_text("lt-proc a.bin")
    (tmp_path / "es-en.mode").write_text("lt-proc 'a.bin")
    (tmp_path / "fr-en.mode").write_bytes(b"\xff")
    monkeypatch.setattr(asyncio, "create_subprocess_exec", full)
    translator = apertium.ApertiumTranslator(languages.shipped(), (tmp_path,))
    for source, reason in (("de", "Too many open files"), ("es", "No closing quotation"), ("fr", "utf-8")):
        with pytest.raises(InterpreterError, match=reason):
            await translator.translate("Ja.", source, "en")


def test_four_languages_are_shipped_with_equal_examples() -> None:
    assert set(languages.shipped()) == {"de", "en", "es", "fr"}
    assert len({len(language.examples) for language in languages.shipped().values()}) == 1


def test_a_language_more_by_configuration_alone(tmp_path: Path) -> None:
    (tmp_path / "languages.toml").write_text('[it]\nname = "Italian"\nespeak = "it"\n', encoding="utf-8")
    assert languages.load(tmp_path)["it"].name == "Italian"
    assert "de" in languages.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[it", "not TOML"),
        ("[IT]\nname='x'\nespeak='it'", "ISO 639"),
        ("x = 1", "ISO 639"),
        ("[it]\nname=''\nespeak='it'", "name"),
        ("[it]\nname='Italian'", "espeak"),
        ("[it]\nname='I'\nespeak='it'\nexamples='x'", "examples"),
        ("[it]\nname='I'\nespeak='it'\nnames='('", "regular expression"),
        ("[it]\nname='I'\nespeak='it'\nnames='x'", "one group"),
    ],
)
def test_bad_language_files_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "languages.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InterpreterError, match=message):
        languages.load(tmp_path)


def test_scores() -> None:
    assert word_error_rate("Guten Morgen, Welt!", "guten morgen welt") == 0
    assert word_error_rate("eins zwei drei vier", "eins drei vier fünf") == 0.5
    assert word_error_rate("Nummer 4711", "nummer 4 7 1 1") == 0
    with pytest.raises(ValueError, match="expected a sentence"):
        word_error_rate("...", "x")
    assert chrf("the cat", "the cat") == pytest.approx(100)
    assert chrf("the cat", "xyz") == 0
    assert 0 < chrf("the black cat", "the white cat") < chrf("the black cat", "the black bat") < 100


def test_slots_keep_the_directions_used_last() -> None:
    slots = Slots(2)
    first = slots.get("de", "en")
    second = slots.get("en", "de")
    assert {first, second} == {0, 1}
    assert slots.get("de", "en") == first
    assert slots.get("fr", "en") == second
    assert slots.get("de", "en") == first


@pytest.mark.parametrize(
    ("text", "is_loop", "short"),
    [
        ("Könnnnnnnnnnnnnnnnnn", True, "Kön"),
        ("Können die mir, die mir, die mir, die mir, die mir", True, "Können die mir"),
        ("Ich habe die Rechnung noch nicht erhalten.", False, "Ich habe die Rechnung noch nicht erhalten."),
        ("4711 1111", False, "4711 1111"),
        ("", False, ""),
    ],
)
def test_loops(text: str, is_loop: bool, short: str) -> None:
    assert loops(text) is is_loop
    assert unloop(text) == short


@pytest.mark.parametrize(
    ("text", "seconds", "missing"),
    [
        ("Am Montag habe", 2.4, True),
        ("Am Montag habe ich keine Zeit.", 2.4, False),
        ("Na, das ist möglich.", 2.2, False),
        ("Ja.", 0.8, False),
        ("", 1.2, True),
        ("", 0.4, False),
        ("月曜日は時間がありません。", 2.9, False),
    ],
)
def test_text_that_is_too_short_for_its_sound(text: str, seconds: float, missing: bool) -> None:
    assert breaks_off(text, seconds) is missing


@pytest.mark.parametrize(
    ("text", "seconds", "once"),
    [
        ("Am Montag habe ich keine Zeit. Am Montag habe ich keine Zeit.", 2.2, "Am Montag habe ich keine Zeit."),
        ("Am Montag habe ich keine Zeit. am Montag habe ich keine Zeit", 2.2, "Am Montag habe ich keine Zeit."),
        ("Am Montag habe ich keine Zeit. Am Montag habe ich keine Zeit.", 5.0, None),
        ("Am Montag habe ich keine Zeit. Am Freitag habe ich keine Zeit.", 2.2, None),
        ("Ja. Ja.", 0.3, None),
        ("", 1.0, None),
    ],
)
def test_a_sentence_that_nobody_had_time_to_say_twice(text: str, seconds: float, once: str | None) -> None:
    assert undouble(text, seconds) == (text if once is None else once)
