"""`kallglot-ari bench`: what a leg costs, how punctual the tick is, what is lost, beside peers in the same run."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from kallglot_ari.arguments import Parser, file_to_write, within
from kallglot_ari.errors import LabError, UsageError
from kallglot_ari.lab import bench_agi, bench_calls, bench_interpreter, wide
from kallglot_ari.lab.bench_serve import SERVERS
from kallglot_ari.lab.conf import make_certificate
from kallglot_ari.media import formats
from kallglot_ari.settings import MediaSettings

_WARM_UP = 3.0
_PACKETS_A_SECOND = 50
FORMATS = ("ulaw", "alaw", "g722", "slin16")
COLUMNS = (
    ("kind", "server", "{}"),
    ("legs", "legs", "{}"),
    ("cpu", "CPU (cores)", "{:.3f}"),
    ("us_per_packet", "µs a packet in and out", "{:.2f}"),
    ("legs_per_core", "legs a core", "{:.0f}"),
    ("lost", "lost", "{}"),
    ("uplink_lost", "lost up", "{}"),
    ("tone_share", "tone right", "{:.4f}"),
    ("lateness_ms_p50", "late p50 ms", "{:.2f}"),
    ("lateness_ms_p99", "late p99 ms", "{:.2f}"),
    ("lateness_ms_max", "late max ms", "{:.1f}"),
    ("uplink_ms_p99", "uplink p99 ms", "{:.1f}"),
    ("downlink_ms_p99", "downlink p99 ms", "{:.1f}"),
    ("way_ms_p50", "way p50 ms", "{:.0f}"),
    ("gap_ms_p99", "gap p99 ms", "{:.1f}"),
    ("kb_per_leg", "kB a leg", "{:.0f}"),
    ("load_late_ms_p99", "load late p99 ms", "{:.1f}"),
)


def _free_port() -> int:
    """A port for the load on every address: below the range that servers' own sockets are given theirs from."""
    for port in range(18000, 20000):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise LabError("bench: expected a free UDP port of 18000 to 19999, found none")


@dataclass(frozen=True, slots=True)
class Run:
    """One server under the load of `legs` legs."""

    kind: str
    legs: int
    seconds: float
    pauses: bool = False
    form: str = "ulaw"
    """`media.format`; peers and the stream's far end know mu-law alone."""
    encoding: str = "mulaw"
    """Of the stream."""
    tls: bool = False
    """Whether the stream is encrypted, as one to Kallglot itself is."""

    def task(self) -> dict[str, Any]:
        """For `bench_load`."""
        codecs = formats.choose(MediaSettings.model_validate({"format": self.form}), self.encoding)
        return {
            "legs": self.legs, "seconds": self.seconds, "warm_up": _WARM_UP, "pauses": self.pauses,
            "says": codecs.receive, "hears": codecs.send,
        }  # fmt: skip


def measure(run: Run) -> dict[str, Any]:
    """The figures of a run. :raises LabError: when the server did not come up or did not end well."""
    with ExitStack() as stack:
        environment = dict(os.environ)
        if run.kind == "stream":
            environment |= _echo(stack, tls=run.tls)
        return _measure(run, environment)


def _echo(stack: ExitStack, *, tls: bool) -> dict[str, str]:
    """Start the Kallglot of `bench stream`; where it is, for the server's environment."""
    keys = []
    if tls:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kallglot-bench-"))
        if not make_certificate(Path(folder)):
            raise LabError("bench: --tls needs the command openssl, to make a certificate")
        keys = [folder]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "kallglot_ari.lab.bench_echo", str(port), *keys], stdout=subprocess.PIPE, text=True
        )
    )
    stack.callback(process.terminate)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise LabError("bench: the far end of the streams did not start")
    if not tls:
        return {"BENCH_ECHO": f"http://127.0.0.1:{port}"}
    return {"BENCH_ECHO": f"https://127.0.0.1:{port}", "BENCH_CA": str(Path(keys[0], "asterisk.crt"))}


def _measure(run: Run, environment: dict[str, str]) -> dict[str, Any]:
    port, kind, legs, seconds = _free_port(), run.kind, run.legs, run.seconds
    form = [run.form, run.encoding] if kind == "ours" else []
    server = subprocess.Popen(
        [sys.executable, "-m", "kallglot_ari.lab.bench_serve", kind, str(legs), str(port), *form],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        if not line:
            raise LabError(f"bench: the {kind} server did not start with {legs} legs")
        task = json.loads(line) | run.task() | {"host": "127.0.0.1", "port": port}
        with subprocess.Popen(
            [sys.executable, "-m", "kallglot_ari.lab.bench_load"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as load:  # fmt: skip
            assert load.stdin is not None
            assert load.stdout is not None
            load.stdin.write(json.dumps(task) + "\n")
            load.stdin.flush()
            try:
                load.wait(_WARM_UP)
            except subprocess.TimeoutExpired:
                server.stdin.write("\n")
                server.stdin.flush()
            answer = load.stdout.readline()
        if not answer:
            raise LabError(f"bench: the load for {kind} with {legs} legs ended without figures")
        server.stdin.write("\n")
        server.stdin.flush()
        own = server.stdout.readline()
        if not own:
            raise LabError(f"bench: the {kind} server with {legs} legs gave no figures")
        result: dict[str, Any] = asdict(run) | json.loads(answer) | json.loads(own)
        carried = (
            min(result["sent"], result["received"]) / seconds
        )  # what a server that is full let fall is no work done
        result["us_per_packet"] = result["cpu"] / carried * 1e6 if carried else 0.0
        result["legs_per_core"] = carried / _PACKETS_A_SECOND / result["cpu"] if result["cpu"] else 0.0
        return result
    finally:
        server.stdin.close()
        server.stdout.close()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _rows(results: list[dict[str, Any]]) -> list[list[str]]:
    return [[form.format(r[key]) if r.get(key) is not None else "–" for key, _, form in COLUMNS] for r in results]


def markdown(results: list[dict[str, Any]], command: str) -> str:
    """The table as docs/performance.md has it."""
    head = [title for _, title, _ in COLUMNS]
    lines = [
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(results)]
    return "\n".join(lines) + "\n"


def _numbers(text: str) -> list[int]:
    try:
        legs = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers joined by commas, found {text!r}") from None
    if not all(2 <= n <= 16000 and n % 2 == 0 for n in legs):
        raise argparse.ArgumentTypeError(f"expected even numbers of 2 to 16000, found {text!r}")
    return legs


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    unknown = [kind for kind in kinds if kind not in SERVERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(SERVERS)}, found {unknown[0]!r}")
    return kinds


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="kallglot-ari bench", description=__doc__)
    parser.add_argument(
        "what",
        choices=["media", "stream", "calls", "agi", "interpreter"],
        help="media: RTP in and out, all legs talking; stream: the same, over a WebSocket for each call; "
        "calls: SIP calls through Asterisk; agi: trunk calls; interpreter: waits for translations by the offline engine",
    )
    parser.add_argument(
        "--legs", type=_numbers, default=[10, 100, 500, 1000, 2000], metavar="N,N", help="legs, two a call"
    )
    parser.add_argument("--servers", type=_kinds, metavar="A,B", help=f"{', '.join(SERVERS)}; media: all but stream")
    parser.add_argument(
        "--pauses", action="store_true", help="every leg pauses for 1 s of 4: shows the downlink's delay"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="ulaw",
        help="media.format of our own server, for which others are left out",
    )
    parser.add_argument(
        "--encoding",
        choices=("mulaw", "pcm_16"),
        default="mulaw",
        help="of the stream, PCM at 16 kHz; not with `stream`",
    )
    parser.add_argument("--tls", action="store_true", help="encrypt the stream, as one to Kallglot itself is")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measurement, after 3 s of warming up")
    parser.add_argument(
        "--json",
        type=file_to_write,
        help="write the figures there (bench-out/media.json, or as the benchmark is called)",
    )
    parser.add_argument("--markdown", type=file_to_write, help="write the table there")
    return parser


def _servers(args: argparse.Namespace) -> list[str]:
    """Which to measure. :raises UsageError: when they cannot do what is asked."""
    usual = args.format == "ulaw" and args.encoding == "mulaw"
    if args.what == "stream":
        servers = args.servers or ["stream"]
    elif usual:
        servers = args.servers or [kind for kind in SERVERS if kind != "stream"]
    else:
        servers = args.servers or ["ours"]
    if args.tls and (args.what != "stream" or servers != ["stream"]):
        raise UsageError(f"--tls: expected `bench stream`, found `bench {args.what} --servers {','.join(servers)}`")
    if not usual and servers != ["ours"]:
        raise UsageError(
            f"--format, --encoding: only `ours` knows more than mu-law, found --servers {','.join(servers)}"
        )
    if not usual and args.pauses:
        raise UsageError("--pauses: expected --format ulaw and --encoding mulaw with it")
    return list(servers)


def run_bench(argv: list[str]) -> int:
    """`bench` with its arguments; 0 when every run of our own engine lost nothing and gave every tone back, else 1."""
    if argv[:1] == ["agi"]:
        return bench_agi.run(argv[1:])
    if argv[:1] == ["calls"]:
        return bench_calls.run(argv[1:])
    if argv[:1] == ["interpreter"]:
        return bench_interpreter.run(argv[1:])
    args = _parser().parse_args(argv)
    within("--seconds", args.seconds, 1, 3600)
    servers = _servers(args)
    console = wide.console()
    results: list[dict[str, Any]] = []
    for legs in args.legs:
        for kind in servers:
            if kind == "aiortp" and importlib.util.find_spec("aiortp") is None:
                console.print("aiortp is not installed (pip install aiortp): left out")
                continue
            try:
                results.append(
                    measure(Run(kind, legs, args.seconds, args.pauses, args.format, args.encoding, args.tls))
                )
            except LabError as error:
                console.print(f"[red]{error}[/red]")
                continue
            last = results[-1]
            console.print(f"{kind} {legs}: {last['cpu']:.3f} cores, lost {last['lost']}, tone {last['tone_share']:.4f}")
    table = Table(*(title for _, title, _ in COLUMNS))
    for row in _rows(results):
        table.add_row(*row)
    console.print(table)
    file = args.json or Path("bench-out") / f"{args.what}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(markdown(results, "kallglot-ari bench " + " ".join(argv)), encoding="utf-8")
    ours = [r for r in results if r["kind"] in ("ours", "stream")]
    return 0 if all(r["lost"] == 0 and r["silent_legs"] == 0 and r["tone_share"] > 0.99 for r in ours) else 1


if __name__ == "__main__":
    sys.exit(run_bench(sys.argv[1:]))
