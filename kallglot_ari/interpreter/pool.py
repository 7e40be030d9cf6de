"""Worker processes as the service sees them: started when needed, restarted when they die, never more work than fits."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import sys
from collections import deque
from typing import Any

from kallglot_ari import log
from kallglot_ari.clock import Clock
from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter import wire
from kallglot_ari.metrics import Metrics
from kallglot_ari.tasks import Tasks

START_SECONDS = 120.0
REQUEST_SECONDS = 30.0
RESTART_SECONDS = 5.0
"""After a failed start, how long every request fails at once instead of trying again."""
_log = log.get(__name__)


class Overloaded(InterpreterError):
    """There was more work than the workers can do; this piece was the oldest that waited."""


class Worker:
    """One process. Requests may overlap; answers find their requests by number."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.name = name
        self._config = config
        self._tasks = Tasks(f"interpreter.{name}")
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._words: deque[str] = deque(maxlen=5)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start and wait until the model is loaded. :raises InterpreterError: in the engine's own words."""
        await self.close()
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kallglot_ari.interpreter.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            limit=wire.MAX_HEADER,
        )  # fmt: skip
        ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[0] = ready
        self._tasks.spawn(self._answers(process), name="answers")
        self._tasks.spawn(self._stderr(process), name="stderr")
        assert process.stdin is not None
        process.stdin.write(wire.pack(self._config))
        try:
            answer = await asyncio.wait_for(ready, START_SECONDS)
        except TimeoutError:
            await self.close()
            raise InterpreterError(f"{self.name}: did not start within {START_SECONDS:.0f} s") from None
        except BaseException:
            await self.close()
            raise
        if "error" in answer:
            await self.close()
            raise InterpreterError(answer["error"])

    async def request(self, header: dict[str, Any], blob: bytes = b"") -> dict[str, Any]:
        """Ask; a caller that is cancelled takes the request back. :raises InterpreterError:"""
        process = self._process
        if process is None or process.stdin is None or not self.alive:
            raise InterpreterError(f"{self.name}: the worker process is not running")
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            process.stdin.write(wire.pack({**header, "id": number}, blob))
            answer = await asyncio.wait_for(future, REQUEST_SECONDS)
        except TimeoutError:
            self._cancel(number)
            raise InterpreterError(f"{self.name}: no answer within {REQUEST_SECONDS:.0f} s") from None
        except asyncio.CancelledError:
            self._cancel(number)
            raise
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise InterpreterError(f"{self.name}: {answer['error']}")
        return answer

    def _cancel(self, number: int) -> None:
        if self.alive and self._process and self._process.stdin:
            self._process.stdin.write(wire.pack({"id": number, "cancel": True}))

    async def _answers(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        try:
            while True:
                header, blob = wire.lengths(await process.stdout.readexactly(wire.LENGTHS.size))
                answer = wire.unpack_header(await process.stdout.readexactly(header))
                answer["blob"] = await process.stdout.readexactly(blob)
                future = self._waiting.get(int(answer.get("id", -1)))
                if future and not future.done():
                    future.set_result(answer)
        except (asyncio.IncompleteReadError, ValueError, ConnectionError) as error:
            if isinstance(error, ValueError):
                process.kill()
            code = await process.wait()
            said = f": {self._words[-1]}" if self._words else ""
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(InterpreterError(f"{self.name}: the worker process ended ({code}){said}"))
                    future.exception()  # somebody may have stopped waiting

    async def _stderr(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            if text := line.decode("utf-8", "replace").strip():
                self._words.append(text[:300])
                _log.debug("worker_says", worker=self.name, text=text[:300])

    async def close(self) -> None:
        """Stop the process: closing its input lets it go, and it is killed if it does not."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            if process.stdin:
                process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 0.5)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        await self._tasks.close()


class WorkerPool:
    """A bounded number of workers and a bounded line of requests before them; when it is full the oldest goes, counted."""

    def __init__(
        self, name: str, config: dict[str, Any], *, size: int, lanes: int, limit: int, metrics: Metrics, clock: Clock
    ) -> None:
        """:param lanes: requests at once for each worker. :param limit: requests that may wait."""
        self._workers = [Worker(f"{name}-{i + 1}" if size > 1 else name, config) for i in range(size)]
        self._locks = {worker: asyncio.Lock() for worker in self._workers}
        self._failed: dict[Worker, tuple[float, str]] = {}
        self._free = [worker for worker in self._workers for _ in range(lanes)]
        self._line: list[tuple[int, asyncio.Future[Worker]]] = []
        self._numbers = itertools.count()
        self._limit = limit
        self._metrics = metrics
        self._clock = clock
        self.name = name

    @property
    def idle(self) -> bool:
        """A request would begin at once."""
        return bool(self._free) and not self._line

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers if worker.pid is not None and worker.alive]

    async def warm(self) -> None:
        """Start every worker. :raises InterpreterError:"""
        for worker in self._workers:
            await self._ensure(worker)

    async def run(self, header: dict[str, Any], blob: bytes = b"") -> dict[str, Any]:
        """Wait for a worker, then for its answer; what it is made of, besides `blob`, is the engine's. :raises Overloaded: :raises InterpreterError:"""
        worker = await self._take()
        try:
            await self._ensure(worker)
            return await worker.request(header, blob)
        finally:
            self._give(worker)

    async def _ensure(self, worker: Worker) -> None:
        async with self._locks[worker]:
            if worker.alive:
                return
            at, reason = self._failed.get(worker, (0.0, ""))
            if reason and self._clock.now() - at < RESTART_SECONDS:
                raise InterpreterError(reason)
            try:
                await worker.start()
            except (InterpreterError, OSError) as error:
                self._failed[worker] = (self._clock.now(), str(error))
                self._metrics.interpreter_dropped.labels("worker_start").inc()
                raise InterpreterError(str(error)) from None
            self._failed.pop(worker, None)

    async def _take(self) -> Worker:
        if self._free and not self._line:
            return self._free.pop()
        if len(self._line) >= self._limit:
            _, oldest = heapq.heappop(self._line)
            if not oldest.done():
                oldest.set_exception(
                    Overloaded(f"{self.name}: more speech than this machine can do; a turn was left out")
                )
        future: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._line, (next(self._numbers), future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give(future.result())
            self._line = [entry for entry in self._line if entry[1] is not future]
            heapq.heapify(self._line)
            raise

    def _give(self, worker: Worker) -> None:
        while self._line:
            _, future = heapq.heappop(self._line)
            if not future.done():
                future.set_result(worker)
                return
        self._free.append(worker)

    async def close(self) -> None:
        """Stop every worker; whoever waits is told."""
        line, self._line = self._line, []
        for _, future in line:
            if not future.done():
                future.set_exception(InterpreterError(f"{self.name}: the interpreter is closed"))
        await asyncio.gather(*(worker.close() for worker in self._workers))
