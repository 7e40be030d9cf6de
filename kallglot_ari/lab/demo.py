"""`kallglot-ari demo`: a real Asterisk, two real phones, one translated conversation, and proof that it was one."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from kallglot_ari import log
from kallglot_ari.errors import LabError, UsageError
from kallglot_ari.lab import report, speech, verify
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.conversation import Turn, converse
from kallglot_ari.lab.dialogue import DIALOGUE, Line, check_languages
from kallglot_ari.lab.phone_python import python_with_pjsua2
from kallglot_ari.lab.phones import Phone
from kallglot_ari.lab.roots import Version
from kallglot_ari.settings import (
    AgiSettings,
    AriSettings,
    InterpreterSettings,
    KallglotSettings,
    MediaSettings,
    Settings,
    StoreSettings,
    WebSettings,
)
from kallglot_ari.tasks import Tasks

EngineName = Literal["offline", "echo"]
READY_SECONDS = 300.0
ANSWER_AFTER_SECONDS = 1.0
NUMBER = "900"


class DemoHub(Protocol):
    """Where the demo hears what happens."""

    def subscribe(self) -> AsyncIterator[dict[str, Any]]: ...


class DemoService(Protocol):
    """What the demo needs of the service."""

    @property
    def hub(self) -> DemoHub: ...

    @property
    def web_url(self) -> str: ...

    async def start(self) -> None: ...

    async def stop(self, *, drain: bool = True) -> None: ...

    async def ready(self) -> list[str]: ...


ServiceFactory = Callable[[Settings], DemoService]


def _the_service(settings: Settings) -> DemoService:
    """`kallglot_ari.app.Service`, by name: the application stands above the lab, which must not import it."""
    made: DemoService = importlib.import_module("kallglot_ari.app").Service(settings)
    return made


class Screen:
    """What the person at the terminal sees: progress, then the live transcript."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.transcript: list[dict[str, Any]] = []
        self.call: dict[str, Any] = {}
        self.ended = asyncio.Event()
        self._finals: dict[str, float] = {}

    def finished(self, speaker: str, since: float) -> float | None:
        """When the last turn of `speaker` was translated, if that was after `since`; its last speech had been sent then."""
        at = self._finals.get(speaker, 0.0)
        return at if at > since else None

    def step(self, text: str) -> None:
        self.console.print(f"[dim]…[/dim] {escape(text)}")

    async def follow(self, events: AsyncIterator[dict[str, Any]]) -> None:
        """Show what the service publishes, and keep it."""
        async for event in events:
            kind, data = event["type"], event["data"]
            if kind == "transcript.final":
                self.transcript.append(data)
                self._finals[data["speaker"]] = time.monotonic()
                said = f"[bold]{data['speaker']:>8}[/bold] [{data.get('language', '')}] {escape(str(data.get('text', '')))}"
                self.console.print(said)
                if translated := report.translation_of(data):
                    self.console.print(f"         [green]→ {escape(translated)}[/green]")
            elif kind.startswith("call."):
                self.call.update(data)
                self.call.setdefault("id", event["call_id"])
                if kind == "call.ended":
                    self.ended.set()
            elif kind == "stream.problem":
                self.console.print(f"[red]{escape(str(data))}[/red]")

    def turn(self, turn: Turn) -> None:
        self.console.print(f"         [dim]{turn.line.listener} heard it {turn.wait}[/dim]")


async def run_demo(
    *,
    source: str = "de",
    target: str = "en",
    engine: EngineName = "offline",
    out: Path = Path("demo-out"),
    version: Version | None = None,
    lines: int | None = None,
    make_service: ServiceFactory = _the_service,
    console: Console | None = None,
) -> int:
    """Run it; 0 only if speech arrived translated on both sides.

    :param version: of Asterisk; None: the machine's own, else 22. :param lines: only so many turns.
    :raises LabError: it cannot run here; says what to install. :raises UsageError: languages.
    """
    check_languages(source, target)
    if console is None:
        log.configure("error", "console")
    screen = Screen(console or Console(highlight=False))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: expected a folder that can be written, found: {error.strerror}") from None
    if engine == "offline":
        await asyncio.to_thread(verify.need_models, source, target, screen.step)
    await asyncio.to_thread(python_with_pjsua2, screen.step)
    with tempfile.TemporaryDirectory(prefix="kallglot-demo-") as scratch:
        spoken = await asyncio.to_thread(_speak, source, target, DIALOGUE[:lines], Path(scratch), screen)
        screen.step("starting Asterisk")
        async with LabAsterisk(version, phones=0, progress=screen.step) as asterisk:
            screen.step(f"Asterisk {asterisk.version} is up")
            result = await _call(asterisk, spoken, source, target, engine, Path(scratch), screen, make_service)
    screen.step("checking what each phone heard")
    await asyncio.to_thread(_judge, result)
    await asyncio.to_thread(_write, result, out)
    _conclude(result, out, screen)
    return 0 if result.passed else 1


def _speak(
    source: str, target: str, dialogue: tuple[Line, ...], folder: Path, screen: Screen
) -> list[tuple[Line, Path]]:
    espeak = speech.have_espeak(screen.step)
    spoken = []
    for number, line in enumerate(dialogue):
        language = source if line.speaker == "customer" else target
        spoken.append((line, speech.line(line.text[language], language, number, folder, espeak)))
    return spoken


def settings_for(asterisk: LabAsterisk, engine: EngineName, scratch: Path, source: str, target: str) -> Settings:
    """The service's settings: this Asterisk, the embedded Kallglot, loopback and free ports only.

    With the languages in them both directions are ready when the service is, and the first turn does not wait for a model.
    """
    return Settings(
        ari=AriSettings(url=asterisk.ari_url, username=asterisk.ari_user, password=SecretStr(asterisk.ari_password)),
        kallglot=KallglotSettings(url="embedded", source_language=source, target_language=target, chunk_ms=40),
        media=MediaSettings(bind="127.0.0.1"),
        web=WebSettings(port=0),
        agi=AgiSettings(port=0),
        store=StoreSettings(url=f"sqlite:///{scratch / 'demo.db'}"),
        interpreter=InterpreterSettings(engine=engine),
    )


async def _call(
    asterisk: LabAsterisk,
    spoken: list[tuple[Line, Path]],
    source: str,
    target: str,
    engine: EngineName,
    scratch: Path,
    screen: Screen,
    make_service: ServiceFactory,
) -> report.Result:
    service = make_service(settings_for(asterisk, engine, scratch, source, target))
    tasks = Tasks("demo")
    screen.step("starting the service" + (" and its models" if engine == "offline" else ""))
    await service.start()
    try:
        tasks.spawn(screen.follow(service.hub.subscribe()), name="screen")
        await _until_ready(service, screen)
        screen.step(f"the service is ready; its dashboard while the demo runs: {service.web_url}")
        await asterisk.extension(
            NUMBER, f"Stasis(kallglot,source={source},target={target},agent=PJSIP/agent)", "Hangup()"
        )
        registrar = f"127.0.0.1:{asterisk.sip_port}"
        async with contextlib.AsyncExitStack() as stack:
            phones: dict[str, Phone] = {}
            for name in ("customer", "agent"):
                phone = await Phone.start(name, registrar, asterisk.phone_password, on_call=ANSWER_AFTER_SECONDS)
                phones[name] = await stack.enter_async_context(phone)
            result = await _talk(asterisk, phones, spoken, (source, target, engine), screen)
            result.stages = stages(await _metrics(service.web_url))
            return result
    finally:
        await service.stop(drain=False)
        await tasks.close()


async def _until_ready(service: DemoService, screen: Screen) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_SECONDS
    told = ""
    while reasons := await service.ready():
        if (text := "; ".join(reasons)) != told:
            screen.step(f"waiting: {text}")
            told = text
        if loop.time() > deadline:
            raise LabError(f"the service is not ready after {READY_SECONDS:.0f} s: {text}")
        await asyncio.sleep(0.1)


async def _metrics(web_url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"{web_url}/metrics") as answer:
        return await answer.text()


def stages(metrics: str) -> dict[str, float]:
    """Mean seconds of each stage of the interpreter, and of the whole (`total`), from the service's metrics; empty without turns."""
    found = {
        (family.name, sample.labels.get("component", ""), sample.name.rpartition("_")[2]): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
    }
    means = {}
    for name, component in dict.fromkeys((name, component) for name, component, _ in found):
        count = found.get((name, component, "count"), 0.0)
        if count and name == "kallglot_interpreter_stage_seconds":
            means[component] = found[name, component, "sum"] / count
    return means


async def _talk(
    asterisk: LabAsterisk,
    phones: dict[str, Phone],
    spoken: list[tuple[Line, Path]],
    about: tuple[str, str, EngineName],
    screen: Screen,
) -> report.Result:
    customer, agent = phones["customer"], phones["agent"]
    screen.step(f"the customer dials {NUMBER}")
    dialled = await customer.call(NUMBER)
    answered = await agent.wait_state("CONFIRMED", 30)
    await customer.wait_state("CONFIRMED", 15, dialled)
    screen.step("the agent has answered")
    await asyncio.sleep(0.5)
    source, target, engine = about
    finished = screen.finished if engine == "offline" else None
    turns = await converse(phones, spoken, screen.turn, finished=finished)
    stats = {name: await phone.stats() for name, phone in phones.items()}
    await customer.hangup()
    await agent.wait_state("DISCONNECTED", 15, answered)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(screen.ended.wait(), 10)
    begins = dialled.states["CONFIRMED"]
    heard = {name: phone.recording.since(begins) for name, phone in phones.items()}
    return report.Result(
        source=source,
        target=target,
        engine=engine,
        asterisk=asterisk.version,
        turns=turns,
        said={name: report.timeline(turns, name, begins, heard[name].seconds, heard[name].rate) for name in phones},
        heard=heard,
        transcript=screen.transcript,
        call=screen.call,
        phone_stats=stats,
        setup_seconds=max(0.0, begins - answered.states["CONFIRMED"]),
    )


def _judge(result: report.Result) -> None:
    """Say of every turn whether it arrived."""
    understanding = verify.Understanding() if result.engine == "offline" else None
    for turn in result.turns:
        if turn.heard_from is None:
            turn.verdict = verify.Verdict(False, "nothing was heard")
        elif understanding is None:
            turn.verdict = verify.same_speech(turn.said, turn.heard)
        else:
            language = result.language(turn.line.listener)
            turn.verdict = understanding.verdict(turn.heard, language, turn.line.words[language])


def _write(result: report.Result, out: Path) -> None:
    for what, recordings in (("said", result.said), ("heard", result.heard)):
        for name, recording in recordings.items():
            recording.save(out / f"{name}-{what}.wav")
    image = report.picture(result, out / "timeline.png")
    report.write_html(result, image, out / "report.html")


def _conclude(result: report.Result, out: Path, screen: Screen) -> None:
    for turn in result.turns:
        verdict = turn.verdict
        mark = "[green]✓[/green]" if verdict and verdict.arrived else "[red]✗[/red]"
        evidence = escape(verdict.evidence if verdict else "not judged")
        screen.console.print(
            f"{mark} turn {turn.number + 1}, {turn.line.speaker} → {turn.line.listener}, {turn.wait}; {evidence}"
        )
    screen.console.print(report.latency_text(result))
    screen.console.print(f"Report: {out / 'report.html'}")
    screen.console.print(result.verdict, style="bold green" if result.passed else "bold red")
