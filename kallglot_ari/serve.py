"""`kallglot-ari serve`: the service from its start to its end, as signals, systemd and another run of it say."""

from __future__ import annotations

import asyncio
import resource
import signal
from typing import Any

from kallglot_ari import log
from kallglot_ari.app import Service
from kallglot_ari.notify import Notify
from kallglot_ari.settings import Settings
from kallglot_ari.tasks import Tasks

STATUS_EVERY = 10.0
DESCRIPTORS, FEW_DESCRIPTORS = 65536, 4096
"""How many files and connections we ask to be allowed, and of how many fewer we warn: every stream, web client and FastAGI channel is one."""

_log = log.get(__name__)


async def serve(settings: Settings, *, take_over: bool = False) -> int:
    """Run until SIGTERM or SIGINT; the first drains, a second hangs up what is still up and stops.

    SIGUSR1, or another run with `take_over`, stops at once and leaves the calls up for the next run to go on with, while we drain
    too. SIGHUP, which a closed terminal or a rotation of logs sends, ends no call.
    """
    more_descriptors()
    service = Service(settings, take_over=take_over)
    notify = Notify()
    drain, at_once, leave = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        (at_once if drain.is_set() else drain).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    loop.add_signal_handler(signal.SIGUSR1, leave.set)
    loop.add_signal_handler(signal.SIGHUP, _log.warning, "sighup_does_nothing")
    tasks = Tasks("serve")
    await service.start()
    try:
        notify.ready(_status(service))
        tasks.spawn(_keep_told(service, notify), name="notify")
        await _first(tasks, drain, leave, service.replaced)
        notify.stopping()
        if not (leave.is_set() or service.replaced.is_set()):
            notify.extend(settings.service.drain_seconds + 60)
            draining = tasks.spawn(service.stop(), name="drain")
            await _first(tasks, at_once, leave, service.replaced, or_done=draining)
            if draining.done():
                return 0
            draining.cancel()
        if leave.is_set() or service.replaced.is_set():
            _log.warning("leaving_calls_to_the_next_run", calls=len(service.calls()))
            await service.hand_over()
        else:
            _log.warning("stopping_at_once")
            await service.stop(seconds=0)
    finally:
        await tasks.close()
    return 0


def more_descriptors() -> None:
    """As many as the system lets us have: a shell's own limit is often 1,024, where a thousand calls would end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < FEW_DESCRIPTORS:
        _log.warning("few_descriptors", limit=wanted, remedy="raise ulimit -Hn (systemd: LimitNOFILE)")


async def _first(tasks: Tasks, *events: asyncio.Event, or_done: asyncio.Task[None] | None = None) -> None:
    waiting: set[asyncio.Task[Any]] = {tasks.spawn(event.wait(), name="signal") for event in events}
    await asyncio.wait(waiting | ({or_done} if or_done else set()), return_when=asyncio.FIRST_COMPLETED)


async def _keep_told(service: Service, notify: Notify) -> None:
    """A watchdog that is not told because the event loop or the media stand still restarts us; the calls go on."""
    every = min(notify.watchdog / 3 or STATUS_EVERY, STATUS_EVERY)
    while True:
        reasons = await service.live()
        if not reasons:
            notify.alive()
        notify.status("; ".join(reasons) or _status(service))
        await asyncio.sleep(every)


def _status(service: Service) -> str:
    return f"{len(service.calls())} calls, Asterisk {'connected' if service.ari.connected else 'not connected'}"
