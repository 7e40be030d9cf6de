"""The C library's share of the memory: kept small, and given back when no call needs it. Where it is not glibc, nothing is done."""

from __future__ import annotations

import asyncio
import ctypes
import gc

_ARENA_MAX = -8
"""M_ARENA_MAX of malloc.h."""


def one_heap() -> None:
    """Let all threads to come share the process's heap.

    glibc would give each one of its own, where what is freed serves no other thread. Ours take turns for the interpreter anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)


async def give_back() -> None:
    """Free what is garbage, which takes a few milliseconds, and give free memory back to the system, beside the event loop."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        await asyncio.to_thread(trim, ctypes.c_size_t(0))
