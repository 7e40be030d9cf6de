"""The command line: one function a command, each returns its exit status."""

from __future__ import annotations

import argparse
import asyncio
import gc
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from kallglot_ari import __version__, log, memory, settings
from kallglot_ari.arguments import Parser, address, folder, port, ring_seconds, url
from kallglot_ari.errors import ConfigError, KallglotAriError, UsageError

USAGE_ERROR = 2
FAILURE = 1


def _run(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:  # pragma: no cover - platforms without uvloop
        return asyncio.run(main)
    return int(uvloop.run(main))


def _serve(args: argparse.Namespace) -> int:
    memory.one_heap()
    gc.disable()  # calls of a run that was killed wait for the end of the imports; what they bring is never garbage
    from kallglot_ari.serve import serve

    gc.freeze()
    gc.enable()
    config = settings.load(args.config)
    log.configure(config.log.level, config.log.format)
    return _run(serve(config, take_over=args.take_over))


def _demo(args: argparse.Namespace) -> int:
    from kallglot_ari.lab.demo import run_demo

    return _run(run_demo(source=args.source, target=args.target, engine=args.engine, out=args.out))


def _sandbox(args: argparse.Namespace) -> int:
    from kallglot_ari.sandbox.run import run_sandbox

    config = settings.load(args.config, only=("interpreter", "log"))
    log.configure(config.log.level, config.log.format)
    interpreter = config.interpreter.model_copy(update={"engine": args.engine or config.interpreter.engine})
    url, secret = args.webhook_url or "", args.webhook_secret
    return _run(
        run_sandbox(args.host, args.port, interpreter, args.api_key or None, webhook_url=url, webhook_secret=secret)
    )


def _doctor(args: argparse.Namespace) -> int:
    from kallglot_ari.doctor import run_doctor

    log.configure("error", "auto")
    return _run(run_doctor(args.config, as_json=args.json, call=args.call))


def _config(args: argparse.Namespace) -> int:
    from kallglot_ari.pbx.run import run_config

    return run_config(args.kind, settings.load(args.config), args.out)


def _client(args: argparse.Namespace) -> settings.Settings:
    """What the service is reached by: who looks at calls need not have its keys, nor a configuration that is right in all."""
    return settings.load(args.config, only=("web",))


def _calls(args: argparse.Namespace) -> int:
    from kallglot_ari.web.client import run_calls

    return run_calls(_client(args), watch=args.watch, as_json=args.json)


def _hangup(args: argparse.Namespace) -> int:
    from kallglot_ari.web.client import run_hangup

    return run_hangup(_client(args), args.call)


def _transfer(args: argparse.Namespace) -> int:
    from kallglot_ari.web.client import run_transfer

    return run_transfer(_client(args), args.call, args.target, args.party, warm=args.warm, language=args.language)


def _call(args: argparse.Namespace) -> int:
    from kallglot_ari.web.client import run_call

    return run_call(
        _client(args),
        args.customer,
        args.agent,
        source=args.source,
        target=args.target,
        caller_id=args.caller_id,
        timeout=args.timeout,
        only_humans=args.only_humans,
    )


def _bench(args: argparse.Namespace) -> int:
    from kallglot_ari.lab.bench import run_bench

    return run_bench(args.rest)


def _models(args: argparse.Namespace) -> int:
    from kallglot_ari.interpreter.models import run_models

    return run_models(args.rest)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    parser = Parser(prog="kallglot-ari", description="Connects Asterisk to Kallglot: calls translated live.")
    parser.add_argument("--version", action="version", version=f"kallglot-ari {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], int], about: str, *, config: bool = False
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(run=run)
        if config:
            sub.add_argument("--config", metavar="FILE", help="configuration file (TOML)")
        return sub

    serve = add("serve", _serve, "run the service", config=True)
    serve.add_argument("--take-over", action="store_true", help="take the calls of the run that is up over, and end it")
    demo = add("demo", _demo, "one translated conversation on this machine: a real Asterisk, two real phones")
    demo.add_argument("--source", default="de", help="the customer's language (de)")
    demo.add_argument("--target", default="en", help="the agent's language (en)")
    demo.add_argument("--engine", choices=("offline", "echo"), default="offline", help="the embedded Kallglot's engine")
    demo.add_argument(
        "--out", type=folder, default="demo-out", metavar="DIR", help="folder for recordings and report (demo-out)"
    )
    sandbox = add("sandbox", _sandbox, "the embedded Kallglot-compatible server on its own", config=True)
    sandbox.add_argument("--host", type=address, default="127.0.0.1", help="address to listen on (127.0.0.1)")
    sandbox.add_argument("--port", type=port, default=8095, help="0: any free one (8095)")
    sandbox.add_argument("--engine", choices=("offline", "echo"), help="what translates (interpreter.engine: offline)")
    sandbox.add_argument("--api-key", default="", help="its API key; otherwise one is made and printed")
    sandbox.add_argument("--webhook-url", type=url, metavar="URL", help="where it posts webhooks (nowhere)")
    sandbox.add_argument("--webhook-secret", default="", help="what signs them; otherwise one is made and printed")
    doctor = add("doctor", _doctor, "check everything a call needs", config=True)
    doctor.add_argument("--json", action="store_true", help="the result as JSON")
    doctor.add_argument(
        "--call", action="store_true", help="also a test call over the trunk: a session of a few seconds"
    )
    config = add("config", _config, "write the PBX side for this configuration", config=True)
    config.add_argument(
        "kind", metavar="PBX", choices=("asterisk", "freeswitch", "cucm"), help="asterisk, freeswitch or cucm"
    )
    config.add_argument("--out", metavar="DIR", help="folder to write to (kallglot-PBX)")
    calls = add("calls", _calls, "the calls of the running service", config=True)
    calls.add_argument("--watch", action="store_true", help="go on showing what changes")
    calls.add_argument("--json", action="store_true", help="as JSON; with --watch every event as a line of it")
    hangup = add("hangup", _hangup, "end a call of the running service", config=True)
    hangup.add_argument("call", metavar="CALL", type=_call_id, help="the call's id, as `calls` shows it")
    transfer = add("transfer", _transfer, "transfer a party of a call", config=True)
    transfer.add_argument("call", metavar="CALL", type=_call_id, help="the call's id, as `calls` shows it")
    transfer.add_argument(
        "target", metavar="TARGET", help="an extension, a dial string, or context,extension,priority of the dialplan"
    )
    transfer.add_argument("--party", default="agent", help="customer, agent (the default), or another party's label")
    transfer.add_argument("--warm", action="store_true", help="the two talk first; it is done when the party hangs up")
    transfer.add_argument("--language", default="", help="the new party's language; otherwise as the party's before")
    call = add("call", _call, "dial a customer and an agent and translate", config=True)
    call.add_argument("customer", metavar="CUSTOMER", help="a dial string such as PJSIP/+4930123@carrier")
    call.add_argument("agent", metavar="AGENT", help="a dial string, or several joined with &")
    call.add_argument("--source", default="", help="the customer's language")
    call.add_argument("--target", default="", help="the agent's language")
    call.add_argument("--caller-id", default="", help="what both see as the caller")
    call.add_argument("--timeout", type=ring_seconds, default=30.0, metavar="SECONDS", help="for each to answer (30)")
    call.add_argument("--only-humans", action="store_true", help="let go of an answering machine")
    for name, run, about in (
        ("bench", _bench, "load benchmarks"),
        ("models", _models, "the offline interpreter's models"),
    ):
        add(name, run, about).add_argument("rest", nargs=argparse.REMAINDER)
    return parser


def _call_id(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,128}", text):
        raise argparse.ArgumentTypeError(f"expected the id of a call, found {text!r}")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Bad input is one line on stderr: exit status 2 for usage, 1 for failure."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv[:1] in (["bench"], ["models"]):
            # Their own parsers read the rest, options included.
            args = argparse.Namespace(run=_bench if argv[0] == "bench" else _models, rest=argv[1:])
        else:
            if argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help", "--version"):
                raise UsageError(f"expected a COMMAND first, found {argv[0]!r} (kallglot-ari --help has all of them)")
            args = build_parser().parse_args(argv)
        return int(args.run(args))
    except (UsageError, ConfigError) as error:
        print(f"kallglot-ari: {log.redact(str(error))}", file=sys.stderr)
        return USAGE_ERROR
    except KallglotAriError as error:
        print(f"kallglot-ari: {log.redact(str(error))}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return FAILURE
    except OSError as error:
        print(f"kallglot-ari: {log.redact(str(error))}", file=sys.stderr)
        return FAILURE


if __name__ == "__main__":
    sys.exit(main())
