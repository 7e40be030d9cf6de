"""Ports, configuration, dialogue, and the judgement of what was heard: without an Asterisk."""

from __future__ import annotations

import asyncio
import json
import wave
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import numpy as np
import pytest

from kallglot_ari.errors import LabError, UsageError
from kallglot_ari.lab import conf, dialogue, report, slots, speech, verify
from kallglot_ari.lab.conversation import Turn
from kallglot_ari.lab.phone_python import python_with_pjsua2
from kallglot_ari.lab.phones import Phone
from kallglot_ari.lab.recording import Recording, at_rate
from tests.asterisk.conftest import missing

VALUES = conf.Values(
    inside="/var/tmp/x",
    modules="/usr/lib/asterisk/modules",
    http=1,
    sip=2,
    sip_tls=3,
    manager=4,
    rtp=(10, 20),
    ari_password="ari-secret",
    manager_password="manager-secret",
    phone_password="phone-secret",
    phones=2,
)


def noise(seconds: float, seed: int, rate: int = 16000, level: float = 3000) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Something like speech: noise in bursts of a fifth of a second."""
    generator = np.random.default_rng(seed)
    samples = generator.normal(0, level, int(seconds * rate))
    bursts = np.repeat(generator.random(len(samples) // (rate // 5) + 1) > 0.4, rate // 5)[: len(samples)]
    return (samples * bursts).clip(-32767, 32767).astype(np.int16)


def test_two_slots_share_no_port() -> None:
    first, second = slots.take(), slots.take()
    try:
        assert first.number != second.number
        assert len({first.http, first.sip, first.sip_tls, first.manager, second.http, second.sip}) == 6
        assert first.rtp[1] < second.rtp[0] or second.rtp[1] < first.rtp[0]
    finally:
        first.free()
        second.free()


def test_a_freed_slot_is_taken_again() -> None:
    first = slots.take()
    first.free()
    second = slots.take()
    second.free()
    assert first.number == second.number


def test_the_lab_runs_the_very_files_that_are_shipped(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "chan_websocket.so").write_text("")
    conf.write(tmp_path / "run", VALUES, modules, {"extensions.conf": "[mine]\n"})
    for file in conf.shipped().rglob("*.conf"):
        assert (tmp_path / "run/etc" / file.relative_to(conf.shipped())).read_bytes() == file.read_bytes()
    local = tmp_path / "run/etc/local"
    assert "password = ari-secret" in (local / "ari.conf").read_text()
    assert (local / "extensions.conf").read_text().endswith("[mine]\n")
    assert "chan_websocket" in (local / "modules.conf").read_text()
    assert "codec_opus" not in (local / "modules.conf").read_text()
    assert "noload = res_websocket_client.so" in (local / "modules.conf").read_text()
    assert "[phone02](kallglot-phone)" in (local / "pjsip.conf").read_text()
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0


def test_as_shipped_nothing_listens_beyond_loopback_and_no_real_password_is_there() -> None:
    text = "\n".join(
        line
        for file in conf.shipped().rglob("*.conf")
        for line in file.read_text().splitlines()
        if not line.startswith(";")
    )
    binds = [line for line in text.splitlines() if line.startswith(("bind", "tlsbind"))]
    assert binds
    assert all("127.0.0.1" in line for line in binds if "port" not in line.split("=")[0]), binds
    secrets = [line for line in text.splitlines() if line.startswith(("password =", "secret ="))]
    assert secrets
    assert all(line.endswith("change-me") for line in secrets)


def test_every_line_of_the_dialogue_passes_its_own_check() -> None:
    for line in dialogue.DIALOGUE:
        for language in dialogue.LANGUAGES:
            assert verify.has_words(line.text[language], line.words[language]), line.text[language]


def test_three_turns_each() -> None:
    speakers = [line.speaker for line in dialogue.DIALOGUE]
    assert len(speakers) == 6
    assert speakers.count("customer") == 3


@pytest.mark.parametrize(
    ("source", "target", "complaint"),
    [
        ("xx", "en", "--source: expected one of"),
        ("de", "english", "--target: expected one of"),
        ("de", "de", "the same"),
    ],
)
def test_languages_are_checked(source: str, target: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        dialogue.check_languages(source, target)


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("I have not received the Invoice yet", (("invoice",),), True),
        ("invoices", (("invoice",),), True),
        ("Numero", (("número",),), True),
        ("no voice", (("invoice",),), False),
        ("", (("help",),), False),
        ("whelp", (("help",),), False),
        ("The engineer comes on Monday", (("technician", "engineer"), ("monday",)), True),
        ("The engineer comes on Sunday", (("technician", "engineer"), ("monday",)), False),
    ],
)
def test_of_each_group_a_word_is_found_at_its_beginning(
    text: str, words: tuple[tuple[str, ...], ...], found: bool
) -> None:
    assert verify.has_words(text, words) is found


def test_a_turn_that_was_misheard_is_listened_to_again_but_other_words_never_become_the_right_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = Recording(5.0, 16000, np.concatenate([np.zeros(16000, np.int16), noise(1, 4), np.zeros(8000, np.int16)]))
    lengths: list[int] = []

    def understand(answers: list[str]) -> verify.Verdict:
        said = iter(answers)

        def text(_: verify.Understanding, recording: Recording, language: str) -> str:
            lengths.append(len(recording.samples))
            return next(said)

        monkeypatch.setattr(verify.Understanding, "text", text)
        return object.__new__(verify.Understanding).verdict(heard, "de", (("techniker",), ("montag",)))

    assert understand(["Wie Tick Niger am Montag", "Der Techniker kommt am Montag."]).arrived
    assert lengths == [pytest.approx(40000), pytest.approx(25600, abs=700)]
    wrong = understand(["Er kommt am Montag.", "Der Techniker.", "", "Am Montag."])
    assert not wrong.arrived
    assert wrong.evidence == "understood: Er kommt am Montag.; expected techniker and montag"


def test_models_that_cannot_be_had_are_one_line_that_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked: list[list[str]] = []

    def nothing_to_be_had(argv: list[str]) -> int:
        asked.append(argv)
        return 1

    monkeypatch.setattr("kallglot_ari.interpreter.models.run_models", nothing_to_be_had)
    told: list[str] = []
    with pytest.raises(LabError) as caught:
        verify.need_models("de", "en", told.append)
    assert asked[0][:2] == ["fetch", "whisper-base"]
    assert told[0].startswith("fetching models, 1.3 GB in all")
    assert "\n" not in str(caught.value)
    assert "kallglot-ari models fetch whisper-base" in str(caught.value)
    assert "make demo ENGINE=echo" in str(caught.value)


def test_speech_is_found_between_silences() -> None:
    silence = np.zeros(16000, np.int16)
    tone = (8000 * np.sin(np.arange(8000) / 3)).astype(np.int16)
    parts = verify.speech(Recording(100.0, 16000, np.concatenate([silence, tone, silence, tone, silence])))
    assert parts == [pytest.approx((101.0, 101.5), abs=0.03), pytest.approx((102.5, 103.0), abs=0.03)]
    assert verify.speech(Recording(0, 16000, silence)) == []
    assert verify.speech(Recording(0, 16000, silence[:0])) == []


def test_the_same_speech_is_told_from_other_speech() -> None:
    said = Recording(0, 16000, noise(2, 1))
    late = np.concatenate([np.zeros(9000, np.int16), said.samples // 2, np.zeros(4000, np.int16)])
    assert verify.same_speech(said, Recording(5, 16000, late)).arrived
    assert verify.likeness(said, Recording(0, 16000, noise(3, 2))) < 0.3
    assert not verify.same_speech(said, Recording(0, 16000, noise(3, 2))).arrived
    slipped = np.concatenate([late[:25000], np.zeros(3000, np.int16), late[25000:]])
    assert verify.likeness(said, Recording(0, 16000, slipped)) > 0.9, "a jitter buffer made a pause longer"
    silence = Recording(0, 16000, np.zeros(16000, np.int16))
    assert not verify.same_speech(said, silence).arrived
    assert verify.likeness(said, Recording(0, 16000, silence.samples[:0])) == 0
    with pytest.raises(LabError, match="one rate"):
        verify.likeness(said, Recording(0, 8000, said.samples))


def test_the_telephones_band_makes_no_difference() -> None:
    said = noise(2, 3)
    narrow = at_rate(at_rate(said, 16000, 8000), 8000, 16000)
    assert verify.likeness(Recording(0, 16000, said), Recording(0, 16000, narrow)) > 0.9


def test_a_part_of_a_recording() -> None:
    recording = Recording(10.0, 1000, np.arange(1000, dtype=np.int16))
    part = recording.since(10.25, 10.5)
    assert part.samples[0] == 250
    assert len(part.samples) == 250
    assert part.start == pytest.approx(10.25)
    assert recording.since(9.0).seconds == 1.0
    assert recording.since(12.0).seconds == 0
    assert recording.since(10.5, 10.2).seconds == 0


def test_a_wav_file_is_read_at_another_rate(tmp_path: Path) -> None:
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)).astype(np.int16)
    path = Recording(0, 8000, tone).save(tmp_path / "tone.wav")
    assert len(at_rate(path, 16000, 16000)) == 16000
    with wave.open(str(tmp_path / "bytes.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(bytes(80))
    with pytest.raises(LabError, match="expected 16-bit samples, found 8-bit"):
        at_rate(tmp_path / "bytes.wav", 0, 8000)
    for bad in (b"", b"not a wav file"):
        (tmp_path / "bad.wav").write_bytes(bad)
        with pytest.raises(LabError, match="expected a WAV file"):
            at_rate(tmp_path / "bad.wav", 0, 8000)


def test_the_shipped_lines_can_be_said_without_any_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "have_pico", lambda: False)
    for number, line in enumerate(dialogue.DIALOGUE):
        language = {"customer": "de", "agent": "en"}[line.speaker]
        path = speech.line(line.text[language], language, number, tmp_path, espeak=False)
        parts = verify.speech(Recording(0, 16000, at_rate(path, 16000, 16000)))
        assert parts[0][0] == pytest.approx(speech.PAUSE_SECONDS, abs=0.15)
    with pytest.raises(LabError, match="install espeak-ng"):
        speech.line("hola", "es", 0, tmp_path, espeak=False)


@pytest.fixture
def phones_can_be_had() -> None:
    try:
        python_with_pjsua2()
    except LabError as error:
        missing(str(error))


@pytest.mark.phones
@pytest.mark.usefixtures("phones_can_be_had")
@pytest.mark.parametrize("registrar", ["nowhere", "127.0.0.1:port", "no.such.host.invalid:5060"])
async def test_a_registrar_that_is_no_address(registrar: str) -> None:
    with pytest.raises(LabError, match="registrar: expected host:port"):
        await Phone.start("x", registrar, "y")


@pytest.mark.phones
@pytest.mark.usefixtures("phones_can_be_had")
async def test_a_phone_whose_process_ended_says_how() -> None:
    phone = await Phone.start("x", "127.0.0.1:9", "y", register=False)
    await phone.kill()
    with pytest.raises(LabError, match=r"phone x is gone: its process ended \(-9\)"):
        await phone.wait_spoken("nothing", 5)
    with pytest.raises(LabError, match=r"phone x is gone: its process ended \(-9\)"):
        await phone.hush()
    await phone.stop()


def result(verdicts: list[bool]) -> report.Result:
    """A conversation of as many turns."""
    turns = []
    for number, good in enumerate(verdicts):
        said = Recording(100.0 + number, 16000, noise(0.5, number))
        turns.append(
            Turn(
                number,
                dialogue.DIALOGUE[number],
                said.start,
                said.start + 0.5,
                said,
                said,
                said.start + 0.8,
                said.start + 1,
            )
        )
        turns[-1].verdict = verify.Verdict(good, "<evidence>")
    heard = {name: Recording(100.0, 16000, noise(4, 9)) for name in ("customer", "agent")}
    spoken = {name: report.timeline(turns, name, 100.0, 4.0, 16000) for name in heard}
    words = {"speaker": "customer", "text": "<b>Guten Tag</b>", "translation": {"text": "Hello"}}
    return report.Result("de", "en", "echo", "22.10", turns, spoken, heard, [words], {"id": "c1", "legs": []})


def test_it_passes_only_when_every_turn_arrived_on_both_sides() -> None:
    assert result([True, True]).passed
    assert not result([True, False]).passed
    assert not result([True]).passed
    assert not result([]).passed


def test_the_report_needs_nothing_else_and_escapes_what_was_said(tmp_path: Path) -> None:
    made = result([True, False])
    image = report.picture(made, tmp_path / "picture.png")
    text = report.write_html(made, image, tmp_path / "report.html").read_text()
    assert "Speech did not arrive on both sides." in text
    assert "<b>Guten" not in text
    assert "&lt;evidence&gt;" in text
    assert 'src="http' not in text
    assert text.count("data:audio/wav") == 6
    assert "0.30 s after its end" in text


@pytest.mark.parametrize(
    ("engine", "good", "said"),
    [
        ("offline", True, "Speech arrived translated on both sides."),
        ("offline", False, "Speech did not arrive translated on both sides."),
        ("echo", True, "The echo engine translates nothing"),
    ],
)
def test_an_echo_is_not_called_a_translation(engine: str, good: bool, said: str) -> None:
    made = result([good, True])
    made.engine = engine
    assert said in made.verdict
    assert ("translation" in report.latency_text(made)) is (engine != "echo")


def test_what_each_said_is_where_it_was_said() -> None:
    made = result([True, True])
    agent = verify.speech(made.said["agent"])
    customer = verify.speech(made.said["customer"])
    assert agent[0][0] == pytest.approx(100.0, abs=0.25)
    assert customer[0][0] == pytest.approx(101.0, abs=0.25)


async def test_a_call_that_is_over_before_its_caller_looks_is_that_call(tmp_path: Path) -> None:
    """The id is free again by then; a call that is refused at once was taken for another, which never came to anything."""
    out = asyncio.StreamReader()

    class Process:
        stdout = out
        returncode = 0
        wait = AsyncMock()

        class stdin:  # noqa: N801
            is_closing = staticmethod(lambda: False)

            @staticmethod
            def write(_: bytes) -> None:
                state = {"event": "state", "call": 0, "reason": "", "remote": "", "at": 1.0}
                for message in (
                    state | {"state": "CALLING", "code": 0},
                    {"id": 1, "ok": {"call": 0}},
                    state | {"state": "DISCONNECTED", "code": 404},
                ):
                    out.feed_data(json.dumps(message).encode() + b"\n")
                out.feed_eof()

    phone = Phone("x", 8000, tmp_path, Process())  # type: ignore[arg-type]
    call, _ = await asyncio.gather(phone.call("nobody"), phone._read())
    assert (call.ended, call.code, len(phone.calls)) == (True, 404, 1)
