"""Memory that calls took: one heap for all threads, and what is free goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from kallglot_ari import memory

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")

THREADS = """
import ctypes, sys, threading
from kallglot_ari import memory
if sys.argv[1] == "one":
    memory.one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
go = threading.Barrier(4)
def take():
    libc.malloc(ctypes.c_size_t(50_000))
    go.wait()
threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""
FREED = """
import asyncio, gc, weakref
import psutil
from kallglot_ari import memory
class Thing: pass
gc.disable()
thing = Thing()
thing.itself = thing
seen = weakref.ref(thing)
kept = [[bytes(60_000), bytes(600)] for _ in range(1000)]
for pair in kept:
    pair[0] = None
del thing
resident = psutil.Process().memory_info().rss
asyncio.run(memory.give_back())
assert seen() is None
print(resident - psutil.Process().memory_info().rss)
"""


def run(program: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    ).stdout


@glibc
def test_threads_share_one_heap() -> None:
    assert run(THREADS, "many").count("<heap nr=") > 1
    assert run(THREADS, "one").count("<heap nr=") == 1


@glibc
def test_what_is_free_between_what_is_used_is_given_back() -> None:
    assert int(run(FREED)) > 40_000_000


async def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(name: Any) -> SimpleNamespace:
        return SimpleNamespace()

    monkeypatch.setattr(ctypes, "CDLL", other)
    memory.one_heap()
    await memory.give_back()
