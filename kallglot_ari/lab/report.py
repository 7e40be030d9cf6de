"""The demo's report: recordings, a picture of both sides, and one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import statistics
import wave
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kallglot_ari.errors import LabError
from kallglot_ari.lab.conversation import Turn
from kallglot_ari.lab.recording import Recording

STAGES = ("hangover", "recognise", "translate", "speak", "total")
COLOURS = {"customer": "#1f6feb", "agent": "#bf5b04"}


@dataclass
class Result:
    """Everything the report tells."""

    source: str
    target: str
    engine: str
    asterisk: str
    turns: list[Turn]
    said: dict[str, Recording]
    heard: dict[str, Recording]
    transcript: list[dict[str, Any]]
    call: dict[str, Any]
    phone_stats: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    """Mean seconds of the interpreter's stages."""
    setup_seconds: float = 0.0
    """From the agent's answer to the customer's phone being connected."""

    @property
    def passed(self) -> bool:
        """Speech arrived translated on both sides: every turn's was judged to be what it should be."""
        sides = {turn.line.listener for turn in self.turns}
        return sides == {"customer", "agent"} and all(turn.verdict and turn.verdict.arrived for turn in self.turns)

    @property
    def verdict(self) -> str:
        """What the demo showed, in a sentence."""
        if not self.passed:
            return f"Speech did not arrive{'' if self.engine == 'echo' else ' translated'} on both sides."
        if self.engine == "echo":
            return "Speech arrived on both sides. The echo engine translates nothing; the engine offline does."
        return "Speech arrived translated on both sides."

    @property
    def latencies(self) -> list[float]:
        return [turn.latency for turn in self.turns if turn.latency is not None]

    def language(self, party: str) -> str:
        return self.source if party == "customer" else self.target


def timeline(turns: list[Turn], party: str, since: float, seconds: float, rate: int) -> Recording:
    """All that a party said, where it said it."""
    samples = np.zeros(int(seconds * rate), np.int16)
    for turn in turns:
        if turn.line.speaker == party:
            first = max(0, round((turn.said.start - since) * rate))
            part = turn.said.samples[: max(0, len(samples) - first)]
            samples[first : first + len(part)] = part
    return Recording(since, rate, samples)


def picture(result: Result, path: Path) -> Path:
    """Draw what each said and heard over time. :raises LabError: without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise LabError("the picture needs matplotlib: pip install 'kallglot-ari[lab]'") from None
    rows = [("customer", "said"), ("agent", "heard"), ("agent", "said"), ("customer", "heard")]
    figure, axes = pyplot.subplots(4, 1, sharex=True, figsize=(13, 7), layout="constrained")
    start = min(r.start for r in result.heard.values())
    for axis, (party, what) in zip(axes, rows, strict=True):
        recording = (result.said if what == "said" else result.heard)[party]
        times, low, high = _envelope(recording, start)
        axis.fill_between(times, low, high, color=COLOURS[party], alpha=1.0 if what == "said" else 0.6, linewidth=0)
        axis.set_ylim(-1, 1.4 if what == "heard" else 1)  # above what is heard, room for the wait
        axis.set_yticks([])
        axis.set_ylabel(f"{party}\n{what} ({result.language(party)})", rotation=0, ha="right", va="center")
        for turn in result.turns:
            if what == "said" and turn.line.speaker == party:
                axis.axvline(turn.said_to - start, color="black", linestyle=":", linewidth=0.8)
            if what == "heard" and turn.line.listener == party and turn.heard_from is not None:
                if turn.heard_from > turn.said_to:
                    axis.axvspan(
                        turn.said_to - start, turn.heard_from - start, color="#888888", alpha=0.25, linewidth=0
                    )
                axis.text(turn.heard_from - start, 1.2, turn.wait, fontsize=8, va="center")
    axes[-1].set_xlabel("seconds of the call; dotted: end of speech, grey: the wait for its translation")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _envelope(recording: Recording, start: float) -> tuple[Any, Any, Any]:
    block = max(1, recording.rate // 50)
    count = len(recording.samples) // block
    blocks = recording.samples[: count * block].reshape(count, block).astype(np.float64) / 32768
    times = recording.start - start + np.arange(count) * block / recording.rate
    scale = max(0.05, float(np.abs(blocks).max()) if count else 1.0)
    return times, blocks.min(axis=1) / scale, blocks.max(axis=1) / scale


def write_html(result: Result, image: Path, path: Path) -> Path:
    """Write the report; sounds and picture are inside it."""
    picture_data = base64.b64encode(image.read_bytes()).decode()
    sounds = "".join(
        f"<tr><td>{party} {what}</td><td>{_audio(recording)}</td></tr>"
        for what, all_ in (("said", result.said), ("heard", result.heard))
        for party, recording in all_.items()
    )
    path.write_text(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Kallglot demo</title><style>{_STYLE}</style>
<h1>One call through Asterisk, {html.escape(result.source)} ↔ {html.escape(result.target)}</h1>
<p class="{"good" if result.passed else "bad"}">{result.verdict}</p>
<p>Asterisk {html.escape(result.asterisk)}, engine {html.escape(result.engine)}, both connected {result.setup_seconds:.2f} s after the agent's answer. {latency_text(result)}</p>
<h2>What was said and heard</h2><img alt="Waveforms of both sides over time" src="data:image/png;base64,{picture_data}">
<table>{sounds}</table><h2>Turns</h2>{_turns_table(result)}<h2>Transcript</h2>{_transcript_table(result)}
<h2>The call</h2>{_call_table(result)}</html>
""",
        encoding="utf-8",
    )
    return path


def latency_text(result: Result) -> str:
    """The waits at the phones, and where the interpreter spent them."""
    found = result.latencies
    if not found:
        return "No translation was heard."
    if result.engine == "echo":
        delays = [turn.heard_from - turn.said_from for turn in result.turns if turn.heard_from is not None]
        return (
            f"From the first sound said to the first sound heard: median {statistics.median(delays):.2f} s, "
            f"longest {max(delays):.2f} s over {len(delays)} turns, measured at the phones."
        )
    parts = ", ".join(f"{name} {result.stages[name]:.2f} s" for name in STAGES if name in result.stages)
    inside = f" In the interpreter, on average: {parts}." if parts else ""
    return (
        f"From the end of speech to the first sound of its translation (below 0: during the speech): median {statistics.median(found):.2f} s, "
        f"longest {max(found):.2f} s over {len(found)} turns, measured at the phones."
        f"{inside}"
    )


def _turns_table(result: Result) -> str:
    rows = []
    for turn in result.turns:
        spoken = turn.line.text[result.language(turn.line.speaker)]
        verdict = turn.verdict
        good = verdict is not None and verdict.arrived
        rows.append(
            f"<tr><td>{turn.number + 1}</td><td>{turn.line.speaker}</td><td>{html.escape(spoken)}</td>"
            f"<td>{_audio(turn.heard)}</td><td>{turn.wait}</td>"
            f'<td class="{"good" if good else "bad"}">{html.escape(verdict.evidence if verdict else "not judged")}</td></tr>'
        )
    head = "<tr><th></th><th>speaker</th><th>said</th><th>the other heard</th><th>translation heard</th><th>check</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _transcript_table(result: Result) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(str(t.get('speaker', '')))}</td><td>{html.escape(str(t.get('text', '')))}</td>"
        f"<td>{html.escape(translation_of(t))}</td></tr>"
        for t in result.transcript
    )
    return f"<table><tr><th>speaker</th><th>text</th><th>translation</th></tr>{rows}</table>"


def translation_of(turn: dict[str, Any]) -> str:
    """The translated text of a transcript event, or nothing."""
    found = turn.get("translation")
    return str(found.get("text", "")) if isinstance(found, dict) else str(found or "")


def _call_table(result: Result) -> str:
    facts = {k: v for k, v in result.call.items() if not isinstance(v, list | dict)}
    rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
    for party, stats in result.phone_stats.items():
        text = ", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in stats.items())
        rows += f"<tr><td>{party}'s phone</td><td>{html.escape(text)}</td></tr>"
    return f"<table>{rows}</table>"


def _audio(recording: Recording) -> str:
    """A player with the sound inside it."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(recording.rate)
        file.writeframes(recording.samples.astype("<i2").tobytes())
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<audio controls preload="none" src="data:audio/wav;base64,{data}"></audio>'


_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
img{width:100%;border-radius:.5rem}table{display:block;overflow-x:auto;border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
td,th{border-bottom:1px solid #8885;padding:.4rem .6rem;text-align:left;vertical-align:middle}
audio{height:2.2rem;max-width:18rem}.good{color:#1a7f37;font-weight:600}.bad{color:#d1242f;font-weight:600}
"""
