"""`kallglot-ari sandbox`, the embedded Kallglot on its own; and the engine that settings name."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable

from kallglot_ari.clock import Clock, SystemClock
from kallglot_ari.metrics import Metrics
from kallglot_ari.sandbox.echo import Echo
from kallglot_ari.sandbox.engine import Engine, EngineFactory
from kallglot_ari.sandbox.server import Sandbox
from kallglot_ari.settings import InterpreterSettings


def make_engine(settings: InterpreterSettings, metrics: Metrics, clock: Clock) -> Engine:
    """The engine that the settings name."""
    if settings.engine == "echo":
        return Echo()
    from kallglot_ari.interpreter.engine import OfflineEngine

    return OfflineEngine(settings, metrics, clock)


async def run_sandbox(
    host: str,
    port: int,
    interpreter: InterpreterSettings,
    api_key: str | None,
    *,
    webhook_url: str = "",
    webhook_secret: str = "",
) -> int:
    """Until SIGINT or SIGTERM; parameters as of `serve`."""
    engine = make_engine(interpreter, Metrics(), SystemClock())
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await engine.warm()
        await serve(host, port, engine, api_key, until=stop, webhook_url=webhook_url, webhook_secret=webhook_secret)
    finally:
        await engine.close()
    return 0


def _say(line: str) -> None:
    """At once: a pipe or a file holds a line back until the end."""
    print(line, flush=True)  # noqa: T201 - the command's output


async def serve(
    host: str,
    port: int,
    engine: EngineFactory,
    api_key: str | None = None,
    *,
    until: asyncio.Event | None = None,
    announce: Callable[[str], None] = _say,
    webhook_url: str = "",
    webhook_secret: str = "",
) -> None:
    """Serve until cancelled, or `until` is set; `announce` is told the URL and the key, a line each, and what webhooks are signed with.

    :param webhook_url: where events are posted; empty: nowhere. :param webhook_secret: empty: one is made.
    :raises ListenError: when the address cannot be bound.
    """
    if webhook_url and not webhook_secret:
        webhook_secret = f"whsec_{secrets.token_urlsafe(24)}"
    sandbox = Sandbox(
        engine, host=host, port=port, api_key=api_key, webhook_url=webhook_url, webhook_secret=webhook_secret
    )
    await sandbox.start()
    try:
        announce(f"Kallglot sandbox: {sandbox.url}")
        announce(f"API key:          {sandbox.api_key}")
        if webhook_url:
            announce(f"Webhook secret:   {webhook_secret}")
        await (until or asyncio.Event()).wait()
    finally:
        await sandbox.stop()
