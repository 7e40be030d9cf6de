"""`python -m kallglot_ari.interpreter.evaluate`: how well the installed engines recognise and translate the fixture sentences.

Each sentence is spoken by a machine voice, sent through 8 kHz mu-law, and recognised; each is then translated from its text. The
tables go to the terminal, or with `--write FILE` between the marks in a document.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import soxr

from kallglot_ari import settings as settings_module
from kallglot_ari.audio.codecs.registry import pcm_to_stream, stream_to_pcm
from kallglot_ari.audio.frame import silence
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import ConfigError, InterpreterError
from kallglot_ari.interpreter.engine import OfflineEngine
from kallglot_ari.interpreter.protocols import Sound
from kallglot_ari.interpreter.recognise_sound import recognise_sound
from kallglot_ari.interpreter.score import chrf, word_error_rate
from kallglot_ari.metrics import Metrics

BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One sentence in one direction; recognition rows have no target."""

    source: str
    target: str
    said: str
    result: str
    score: float
    seconds: float
    engine: str


def sentences() -> dict[str, list[str]]:
    """The fixture sentences by language."""
    text = resources.files(__package__).joinpath("evaluation.toml").read_text("utf-8")
    return {language: list(lines) for language, lines in tomllib.loads(text).items()}


def over_the_telephone(sound: Sound) -> Sound:
    """8 kHz, mu-law, half a second of silence around."""
    pcm = np.asarray(soxr.resample(sound.pcm, sound.sample_rate, 8000), dtype=np.int16)
    whole = np.concatenate([silence(4800), pcm, silence(8000)])
    return Sound(stream_to_pcm("mulaw", pcm_to_stream("mulaw", whole)), 8000)


async def recognition(engine: OfflineEngine, language: str, lines: list[str]) -> list[Row]:
    rows = []
    for line in lines:
        sound = over_the_telephone(await engine.voice.speak(line, language))
        began = time.monotonic()
        text = await recognise_sound(sound, language, engine.recogniser)
        seconds = time.monotonic() - began
        name = engine.voice.voice_of(language)
        rows.append(Row(language, "", line, text, word_error_rate(line, text), seconds, name))
    return rows


async def translation(engine: OfflineEngine, source: str, target: str, lines: dict[str, list[str]]) -> list[Row]:
    await engine.chain.prepare(source, target)
    name = engine.chain.candidates(source, target)[0].name
    rows = []
    for said, expected in zip(lines[source], lines[target], strict=True):
        began = time.monotonic()
        try:
            result = await engine.chain.sentence(said, source, target)
        except InterpreterError as error:
            result = f"({error})"
        rows.append(Row(source, target, said, result, chrf(expected, result), time.monotonic() - began, name))
    return rows


def document(heard: list[Row], translated: list[Row]) -> str:
    """The tables in Markdown."""
    out = ["| language | voice | word error rate | median recognition |", "|---|---|---|---|"]
    for language in dict.fromkeys(row.source for row in heard):
        rows = [row for row in heard if row.source == language]
        rate = sum(row.score for row in rows) / len(rows)
        out.append(f"| {language} | {rows[0].engine} | {rate:.0%} | {_median(rows):.2f} s |")
    out += ["", "| said | recognised | WER |", "|---|---|---|"]
    out += [f"| {_cell(row.said)} | {_cell(row.result)} | {row.score:.0%} |" for row in heard]
    out += ["", "| direction | engine | chrF | median time |", "|---|---|---|---|"]
    directions = list(dict.fromkeys((row.source, row.target) for row in translated))
    for direction in directions:
        rows = [row for row in translated if (row.source, row.target) == direction]
        score = sum(row.score for row in rows) / len(rows)
        out.append(f"| {' → '.join(direction)} | {rows[0].engine} | {score:.0f} | {_median(rows):.2f} s |")
    for source, target in directions:
        out += ["", f"| {source} | {target} |", "|---|---|"]
        rows = [row for row in translated if (row.source, row.target) == (source, target)]
        out += [f"| {_cell(row.said)} | {_cell(row.result)} |" for row in rows]
    return "\n".join(out) + "\n"


def _median(rows: list[Row]) -> float:
    return sorted(row.seconds for row in rows)[len(rows) // 2]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ") or "(nothing)"


def write(file: Path, text: str) -> None:
    """Put `text` between the marks of `file`. :raises InterpreterError: when it has none."""
    try:
        old = file.read_text(encoding="utf-8")
        before, rest = old.split(BEGIN, 1)
        _, after = rest.split(END, 1)
    except OSError as error:
        raise InterpreterError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise InterpreterError(f"{file}: expected the marks {BEGIN} and {END}") from None
    file.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


async def evaluate(settings: settings_module.InterpreterSettings, wanted: list[str]) -> str:
    """Both tables for these languages. :raises InterpreterError:"""
    lines = sentences()
    for language in wanted:
        if language not in lines:
            raise InterpreterError(f"no fixture sentences for {language!r}: expected {', '.join(lines)}")
    engine = OfflineEngine(settings, Metrics(), SystemClock())
    try:
        heard: list[Row] = []
        translated: list[Row] = []
        for source in wanted:
            heard += await recognition(engine, source, lines[source])
            for target in wanted:
                if source != target:
                    translated += await translation(engine, source, target, lines)
        return document(heard, translated)
    finally:
        await engine.close()


def run_evaluate(argv: list[str]) -> int:
    """Exit status 0, 1 for failure, 2 for usage."""
    parser = argparse.ArgumentParser(prog="python -m kallglot_ari.interpreter.evaluate", description=__doc__)
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help="default: all that have sentences")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a document with the marks")
    parser.add_argument("--config", metavar="FILE")
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    try:
        settings = settings_module.load(args.config).interpreter
        text = asyncio.run(evaluate(settings, args.languages or list(sentences())))
        if args.write:
            write(args.write, text)
        else:
            sys.stdout.write(text)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except InterpreterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_evaluate(sys.argv[1:]))
