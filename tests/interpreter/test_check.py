from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.interpreter.check import append_numbers, check, digits, numbers
from kallglot_ari.interpreter.languages import shipped

DE, EN, ES = shipped()["de"], shipped()["en"], shipped()["es"]


@pytest.mark.parametrize(
    ("said", "translation"),
    [
        ("Meine Nummer ist 4711.", "My number is 4711."),
        ("Meine Nummer ist 47 11.", "My number is 4711."),
        ("Es kostet 1.000,50 Euro.", "It costs 1,000.50 euros."),
        ("Der Termin ist um 15:30.", "The appointment is at 3:30 pm."),
        ("Rufen Sie um 15 Uhr an.", "Call at 3 pm."),
        ("Ich habe drei Fragen.", "I have 3 questions."),
        ("Am 3. Mai um 10 Uhr.", "On May 3rd at 10 o'clock."),
        ("Guten Tag.", "Good afternoon."),
    ],
)
def test_good_translations_pass_untouched(said: str, translation: str) -> None:
    assert check(said, translation, DE, EN).text == translation
    assert check(said, translation, DE, EN).reason == ""


@pytest.mark.parametrize(
    ("said", "translation", "repaired"),
    [
        ("Meine Nummer ist 4711.", "My number is 4712.", "My number is 4711."),
        ("Zimmer 12, Gebäude 5.", "Room 12, building 6.", "Room 12, building 5."),
        ("Es sind 1.000,50 Euro.", "It is 100.50 euros.", "It is 1.000,50 euros."),
    ],
)
def test_wrong_numbers_are_put_right(said: str, translation: str, repaired: str) -> None:
    verdict = check(said, translation, DE, EN)
    assert (verdict.text, verdict.reason) == (repaired, "")


@pytest.mark.parametrize(
    ("said", "translation", "reason"),
    [
        ("Meine Nummer ist 4711.", "My number.", "a number that is missing: 4711"),
        ("Ich komme heute nicht.", "I am not coming today at 17.", "a number that nobody said"),
        ("Hier ist Frau Schneider am Apparat.", "This is Mrs Taylor speaking.", "a name that is missing: Schneider"),
        ("Guten Tag.", "…", "nothing came back"),
        ("Hallo.", "x" * 200, "far longer"),
        ("Wie geht es Ihnen denn heute?", "Wie geht es Ihnen denn heute?", "not translated"),
        ("Guten Tag.", '{"English": "Hi"}', "no sentence"),
        ("Guten Tag.", "See https://x.example", "no sentence"),
    ],
)
def test_what_cannot_be_spoken(said: str, translation: str, reason: str) -> None:
    assert reason in check(said, translation, DE, EN).reason


def test_names_are_looked_for_in_other_languages_too() -> None:
    assert "Blanco" in check("Soy el señor Blanco.", "I am Mr White.", ES, EN).reason


def test_what_is_missing_is_said_afterwards() -> None:
    assert append_numbers("Meine Nummer ist 4711 und 12.", "My number is 12.") == "My number is 12. 4711."
    assert append_numbers("Ja.", "Yes.") == "Yes."


@given(st.text("0123456789.,: abc", max_size=60))
def test_a_text_always_agrees_with_itself(text: str) -> None:
    assert "".join(numbers(text)) == digits(text)
    assert append_numbers(text, text) == text


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_after_the_check_the_number_that_was_said_is_there(right: int, wrong: int) -> None:
    verdict = check(f"Die Nummer ist {right}.", f"The number is {wrong}.", DE, EN)
    assert verdict.reason or str(right) in verdict.text
