"""The one UDP socket of all calls, a block of datagrams at a time.

On Linux a whole block goes through recvmmsg(2) and sendmmsg(2), called by ctypes without giving up the interpreter lock (the socket does not
block), with the kernel's own time of arrival for each datagram. Elsewhere plain calls fill the same block.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import math
import mmap
import socket
import struct
import sys
import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.errors import ConfigError, ListenError, cannot_listen, listening_setting
from kallglot_ari.media.native import Native

log = logging.getLogger(__name__)

BLOCK = 1024
"""Datagrams of one block: the most that one recvmmsg takes (UIO_MAXIOV)."""
STRIDE = 1536
"""Bytes kept of a datagram; a longer one is no RTP of ours and is dropped as truncated."""
NAME_BYTES = 28
"""A sockaddr_in6; a sockaddr_in is 16 of them."""
IPV4_BYTES = 16
EVERY_IPV6 = "::"
"""A socket bound there has IPv4 as well."""
BURST = 64
"""Rows that are filled only after a standstill, unless there are hundreds of calls."""
_CALM_SECONDS = 1.0
_CONTROL_BYTES = 64
_AT_ONCE = 20e-6
"""Seconds in which two clocks are read together."""
_SO_TIMESTAMPNS = 35
_SO_RXQ_OVFL = 40
_SO_RCVBUFFORCE = 33
_SO_SNDBUFFORCE = 32
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_WANTED_BUFFER = 16 * 1024 * 1024
_TIMESTAMP_LEN = 32

MMSGHDR = np.dtype(
    [
        ("name", "u8"),
        ("name_len", "u4"),
        ("pad1", "u4"),
        ("iov", "u8"),
        ("iov_len", "u8"),
        ("control", "u8"),
        ("control_len", "u8"),
        ("flags", "i4"),
        ("pad2", "u4"),
        ("length", "u4"),
        ("pad3", "u4"),
    ]
)
"""struct mmsghdr on 64-bit Linux (bits/socket.h)."""
IOVEC = np.dtype([("base", "u8"), ("length", "u8")])
MSG_TRUNC = 0x20


class Block:
    """Datagrams as they came: row i of `data` holds `length[i]` bytes from the address in `name[i]`, at `arrival[i]`."""

    def __init__(self, rows: int = BLOCK) -> None:
        self._memory = mmap.mmap(-1, rows * STRIDE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.data: NDArray[np.uint8] = np.frombuffer(self._memory, dtype=np.uint8).reshape(rows, STRIDE)
        self.name: NDArray[np.uint8] = np.zeros((rows, NAME_BYTES), dtype=np.uint8)
        self.length: NDArray[np.int64] = np.zeros(rows, dtype=np.int64)
        """0 where the datagram was longer than a row."""
        self.arrival: NDArray[np.float64] = np.zeros(rows, dtype=np.float64)
        """Seconds on the monotonic clock."""
        self.pointers = tuple(array.ctypes.data for array in (self.data, self.name, self.length, self.arrival))

    def forget(self) -> None:
        """Give the memory of all rows back to the system, as far as it takes it; a row takes some again when it is filled."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)


class Outbox:
    """Packets ready to go: row i of `data` is packet i's place, its destination is in `name[i]`, for good."""

    def __init__(self, rows: int, row_bytes: int) -> None:
        self.data: NDArray[np.uint8] = np.zeros((rows, row_bytes), dtype=np.uint8)
        begin = np.dtype({"names": ["first"], "formats": [">i8"], "itemsize": row_bytes})
        self.first: NDArray[np.int64] = self.data.reshape(-1).view(begin)["first"]
        """The first 8 bytes of each row as a number, in network order."""
        self.name: NDArray[np.uint8] = np.zeros((rows, NAME_BYTES), dtype=np.uint8)
        self.name_len: NDArray[np.uint32] = np.zeros(rows, dtype=np.uint32)
        self._iov = np.zeros(rows, dtype=IOVEC)
        self.headers = np.zeros(rows, dtype=MMSGHDR)
        self.envelopes = self.headers.view(f"V{MMSGHDR.itemsize}")
        """The same, each as one piece, which is copied in a twentieth of the time."""
        self.pointer = self.headers.ctypes.data
        at = np.arange(rows, dtype=np.uint64)
        self._iov["base"] = self.data.ctypes.data + at * row_bytes
        self._iov["length"] = row_bytes
        self.headers["name"] = self.name.ctypes.data + at * NAME_BYTES
        self.headers["iov"] = self._iov.ctypes.data + at * IOVEC.itemsize
        self.headers["iov_len"] = 1

    def address(self, row: int, name: bytes) -> None:
        """Where packets of `row` go from now on; `name` is a packed sockaddr."""
        self.name[row] = 0
        self.name[row, : len(name)] = np.frombuffer(name, dtype=np.uint8)
        self.name_len[row] = self.headers["name_len"][row] = len(name)


class Socket(Protocol):
    """A bound datagram socket that never blocks."""

    @property
    def port(self) -> int: ...

    @property
    def dropped(self) -> int:
        """Datagrams the kernel dropped because we did not fetch them in time, as far as it tells."""
        ...

    def receive(self, block: Block, now: float) -> int:
        """Fill `block` with what has come; the number of rows filled."""
        ...

    def send(self, outbox: Outbox, rows: NDArray[np.int64]) -> int:
        """Send these rows; the number the kernel took. What it does not take now is dropped: late sound is no use."""
        ...

    def close(self) -> None: ...


def pack_address(family: int, host: str, port: int) -> bytes:
    """A sockaddr_in or sockaddr_in6 as the kernel lays it out. :raises ConfigError: for what is no address of `family`."""
    try:
        raw = socket.inet_pton(family, host)
    except OSError:
        kind = "IPv6" if family == socket.AF_INET6 else "IPv4"
        raise ConfigError(f"media address: expected an {kind} address, found {host!r}") from None
    if not 1 <= port <= 65535:
        raise ConfigError(f"media address: expected a port of 1 to 65535, found {port}")
    if family == socket.AF_INET6:
        return struct.pack("=H", family) + struct.pack("!HI", port, 0) + raw + struct.pack("=I", 0)
    return struct.pack("=H", family) + struct.pack("!H", port) + raw + bytes(8)


def unpack_address(name: bytes) -> tuple[str, int]:
    """The opposite of `pack_address`."""
    family = struct.unpack_from("=H", name)[0]
    raw = name[8:24] if family == socket.AF_INET6 else name[4:8]
    return socket.inet_ntop(family, raw), struct.unpack_from("!H", name, 2)[0]


def is_ipv4(host: str) -> bool:
    """Whether it is an IPv4 address, as a number."""
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return False
    return True


def family_of(host: str) -> int:
    """The address family of a numeric address. :raises ConfigError: when it is none."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return int(family)
    raise ConfigError(f"media.bind: expected an IPv4 or IPv6 address, found {host!r}")


def bind(host: str, port: int) -> socket.socket:
    """A bound, non-blocking UDP socket with as large a receive buffer as the system gives.

    :raises ListenError: when the address cannot be had; says which and why.
    """
    family = family_of(host)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            _enlarge(sock, force, plain)
        if sys.platform == "linux" and family == socket.AF_INET:
            # our packets fit every path: no identification for fragments, which the kernel hands out one by one from a shared counter
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        if host == EVERY_IPV6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        setting = listening_setting("media", error)
        raise ListenError(f"{setting}: cannot use UDP {host} port {port}: {cannot_listen(error)}") from None
    return sock


def _enlarge(sock: socket.socket, force: int, plain: int) -> None:
    if sys.platform == "linux":
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, _WANTED_BUFFER)  # beyond net.core.rmem_max, where we may
            return
        except PermissionError:
            pass
    sock.setsockopt(socket.SOL_SOCKET, plain, _WANTED_BUFFER)
    got = sock.getsockopt(socket.SOL_SOCKET, plain)
    if plain == socket.SO_RCVBUF and got < _WANTED_BUFFER // 4:
        log.warning("udp_buffer_small", extra={"bytes": got, "remedy": "raise net.core.rmem_max"})


def _ahead() -> float:
    """What the clock of the kernel's stamps says more than the monotonic one. Asked for each block: the time a beat began at is some milliseconds old by then."""
    ahead, within = 0.0, math.inf
    for _ in range(3):  # another thread may have its turn between two clocks
        before, wall, after = time.monotonic(), time.time(), time.monotonic()
        if after - before < within:
            ahead, within = wall - (before + after) / 2, after - before
        if within < _AT_ONCE:
            break
    return ahead


def batched_available() -> bool:
    """Whether this system has recvmmsg with the layout we know."""
    return sys.platform == "linux" and sys.maxsize > 2**32 and hasattr(ctypes.PyDLL(None), "recvmmsg")


class BatchedSocket:
    """recvmmsg and sendmmsg on preallocated blocks, by `library` where it is given."""

    def __init__(self, sock: socket.socket, library: Native | None = None) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._library = library
        libc = ctypes.PyDLL(None, use_errno=True)
        self._recvmmsg, self._sendmmsg = libc.recvmmsg, libc.sendmmsg
        self._recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
        self._sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]
        for option in (_SO_TIMESTAMPNS, _SO_RXQ_OVFL):
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        self._inboxes: dict[int, _Inbox] = {}
        self._batch = np.zeros(BLOCK, dtype=MMSGHDR)
        self._batch_at = self._batch.ctypes.data
        self._overflown = ctypes.c_int64(0)
        self._overflown_at = ctypes.addressof(self._overflown)

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    @property
    def dropped(self) -> int:
        return self._overflown.value

    def receive(self, block: Block, now: float) -> int:
        inbox = self._inboxes.get(id(block))
        if inbox is None:
            inbox = self._inboxes[id(block)] = _Inbox(block)
        rows, filled = len(block.length), inbox.filled
        if inbox.burst_at and now > inbox.burst_at + _CALM_SECONDS:
            block.forget()
            inbox.burst_at = 0.0
        if self._library is not None:
            _, _, length, arrival = block.pointers
            got = self._library.receive(
                self._fd, inbox.pointer, rows, filled, NAME_BYTES, _CONTROL_BYTES, now, _ahead(),
                length, arrival, self._overflown_at,
            )  # fmt: skip
            inbox.filled = max(got, 0)
            if got > BURST:
                inbox.burst_at = now
            return inbox.filled
        headers = inbox.headers
        headers["name_len"][:filled] = NAME_BYTES
        headers["control_len"][:filled] = _CONTROL_BYTES
        got = int(self._recvmmsg(self._fd, headers.ctypes.data, rows, socket.MSG_DONTWAIT, None))
        inbox.filled = max(got, 0)
        if got > BURST:
            inbox.burst_at = now
        if got <= 0:
            return 0
        block.length[:got] = headers["length"][:got]
        truncated = headers["flags"][:got] & MSG_TRUNC
        if truncated.any():
            block.length[:got][truncated != 0] = 0
        self._times(block, inbox.control, got, now)
        return got

    def _times(self, block: Block, control: NDArray[np.uint8], got: int, now: float) -> None:
        words = control[:got].view(np.int64)
        stamped = (words[:, 0] == _TIMESTAMP_LEN) & (control[:got].view(np.int32)[:, 3] == _SO_TIMESTAMPNS)
        arrival = words[:, 2] + words[:, 3] * 1e-9 - _ahead()
        # a clock set meanwhile must not make packets come from the future or from long ago
        sane = stamped & (arrival <= now) & (arrival > now - 1.0)
        block.arrival[:got] = np.where(sane, arrival, now)
        last = control[got - 1].view(np.int32)
        if last[8] == 20 and last[11] == _SO_RXQ_OVFL:
            self._overflown.value = int(last[12]) & 0xFFFFFFFF

    def send(self, outbox: Outbox, rows: NDArray[np.int64]) -> int:
        if self._library is not None:
            return self._library.send(self._fd, outbox.pointer, rows.ctypes.data, rows.size, self._batch_at, BLOCK)
        batch = outbox.envelopes.take(rows)
        total, position, sent = len(rows), 0, 0
        while position < total:
            count = min(BLOCK, total - position)
            done = int(
                self._sendmmsg(self._fd, batch.ctypes.data + position * MMSGHDR.itemsize, count, socket.MSG_DONTWAIT)
            )
            if done > 0:
                sent += done
                position += done
            elif ctypes.get_errno() in (errno.EAGAIN, errno.ENOBUFS):
                break
            elif ctypes.get_errno() != errno.EINTR:
                position += 1  # this destination only: unreachable, refused
        return sent

    def close(self) -> None:
        self._sock.close()


class _Inbox:
    """What the kernel is given to fill a block."""

    def __init__(self, block: Block) -> None:
        rows = len(block.length)
        at = np.arange(rows, dtype=np.uint64)
        self.control: NDArray[np.uint8] = np.zeros((rows, _CONTROL_BYTES), dtype=np.uint8)
        self._iov = np.zeros(rows, dtype=IOVEC)
        self._iov["base"] = block.data.ctypes.data + at * STRIDE
        self._iov["length"] = STRIDE
        self.headers = np.zeros(rows, dtype=MMSGHDR)
        self.headers["name"] = block.name.ctypes.data + at * NAME_BYTES
        self.headers["iov"] = self._iov.ctypes.data + at * IOVEC.itemsize
        self.headers["iov_len"] = 1
        self.headers["control"] = self.control.ctypes.data + at * _CONTROL_BYTES
        self.pointer = self.headers.ctypes.data
        self.filled = rows
        """Rows whose lengths the kernel has changed since they were set."""
        self.burst_at = 0.0
        """When more than `BURST` rows were filled; 0: not since the block was forgotten last."""


class PlainSocket:
    """One call for each datagram: where there is no recvmmsg (macOS)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._family = sock.family
        self.dropped = 0
        self._addresses: dict[bytes, tuple[str, int]] = {}

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    def receive(self, block: Block, now: float) -> int:
        for row in range(len(block.length)):
            try:
                data, address = self._sock.recvfrom(STRIDE + 1)
            except (BlockingIOError, InterruptedError):
                return row
            except OSError:  # an ICMP error of something sent earlier
                block.length[row] = 0
                block.name[row] = 0
                block.arrival[row] = now
                continue
            name = pack_address(self._family, address[0], address[1])
            block.name[row] = 0
            block.name[row, : len(name)] = np.frombuffer(name, dtype=np.uint8)
            fits = len(data) <= STRIDE
            block.length[row] = len(data) if fits else 0
            if fits:
                block.data[row, : len(data)] = np.frombuffer(data, dtype=np.uint8)
            block.arrival[row] = now
        return len(block.length)

    def send(self, outbox: Outbox, rows: NDArray[np.int64]) -> int:
        sent = 0
        for row in rows.tolist():
            name = outbox.name[row, : int(outbox.name_len[row])].tobytes()
            address = self._addresses.get(name)
            if address is None:
                address = unpack_address(name)
                if len(self._addresses) > 65536:
                    self._addresses.clear()
                self._addresses[name] = address
            try:
                self._sock.sendto(outbox.data[row].tobytes(), address)
            except OSError:
                continue
            sent += 1
        return sent

    def close(self) -> None:
        self._sock.close()


def open_socket(host: str, port: int, *, batched: bool | None = None, library: Native | None = None) -> Socket:
    """The best socket this system has; `batched` forces one kind. :raises ListenError: when the address cannot be had."""
    sock = bind(host, port)
    if batched if batched is not None else batched_available():
        return BatchedSocket(sock, library)
    return PlainSocket(sock)
