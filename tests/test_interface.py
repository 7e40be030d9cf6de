"""The names that dialplans, configuration files, scripts and monitoring rely on, spelled out: a change here breaks somebody's set-up.

More may be added in the code; what stands here stays. The metrics are in `test_metrics`.
"""

from __future__ import annotations

import argparse
from typing import Any, get_args

import pytest

from kallglot_ari.calls.model import CallState, DialplanStatus, EndReason
from kallglot_ari.cli import build_parser
from kallglot_ari.interpreter.models import run_models
from kallglot_ari.modes.dialplan import READERS, parse
from kallglot_ari.settings import Settings, load
from tests.web.conftest import Site, make_site, site  # noqa: F401 - fixtures

COMMANDS = {
    "serve": {"--config"},
    "demo": {"--source", "--target", "--engine", "--out"},
    "sandbox": {"--host", "--port", "--engine"},
    "doctor": {"--config", "--json"},
    "config": {"PBX", "--config", "--out"},
    "calls": {"--watch", "--json", "--config"},
    "hangup": {"CALL", "--config"},
    "transfer": {"CALL", "TARGET", "--party", "--config"},
    "bench": set(),
    "models": set(),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "service": {"drain_seconds": 30, "max_calls": 0, "on_unavailable": "continue"},
    "ari": {"url": "http://127.0.0.1:8088", "username": "kallglot", "password": "", "app": "kallglot"},
    "kallglot": {
        "url": "embedded",
        "api_key": "",
        "contract": "routing",
        "mode": "bidirectional_translation",
        "source_language": "auto",
        "target_language": "en",
        "chunk_ms": 100,
        "failover_timeout_ms": 3000,
        "ca_file": "",
    },
    "media": {
        "transport": "rtp",
        "bind": "127.0.0.1",
        "advertise": "",
        "port": 0,
        "format": "auto",
        "original_gain_db": "off",
    },
    "trunk": {
        "domain": "sip.kallglot.com",
        "username": "",
        "password": "",
        "transport": "tls",
        "codecs": ["opus", "G722", "PCMU", "PCMA"],
        "tls_verify_certificate": True,
        "tls_min_version": "TLSv1.2",
        "srtp": True,
        "srtp_suites": ["AES_CM_128_HMAC_SHA1_80"],
        "endpoints": [{"uri": "sip.kallglot.com", "priority": 1}],
        "failover_timeout_ms": 3000,
    },
    "agi": {"bind": "127.0.0.1", "port": 4573},
    "ami": {"host": "127.0.0.1", "port": 5038, "username": "", "password": ""},
    "web": {"bind": "127.0.0.1", "port": 8090, "token": "", "allowed_ips": [], "webhook_secret": ""},
    "store": {"url": "sqlite:///kallglot-ari.db"},
    "interpreter": {"engine": "offline"},
    "log": {"level": "info", "format": "auto"},
}
CHOICES = {
    ("service", "on_unavailable"): {"continue", "passthrough", "hangup"},
    ("kallglot", "contract"): {"routing", "provider"},
    ("media", "transport"): {"rtp", "websocket"},
    ("media", "format"): {"auto", "ulaw", "alaw", "g722", "slin16", "opus"},
    ("interpreter", "engine"): {"offline", "echo"},
}
SECRETS = {("ari", "password"), ("kallglot", "api_key"), ("trunk", "password"), ("ami", "password"), ("web", "token"),
           ("web", "webhook_secret")}  # fmt: skip
ROUTES = {
    "GET": {"/healthz", "/readyz", "/metrics", "/", "/api/v1/calls", "/api/v1/calls/{id}",
            "/api/v1/calls/{id}/transcript", "/api/v1/events"},
    "POST": {"/api/v1/calls", "/api/v1/calls/{id}/hangup", "/api/v1/calls/{id}/transfer", "/api/v1/calls/{id}/dtmf",
             "/pbx/incoming", "/pbx/hangup", "/webhooks/kallglot", "/webhooks/sip/refer"},
}  # fmt: skip
DIALPLAN = {"source", "target", "mode", "agent", "timeout", "answer", "join", "speaker"}
CALL = {"id", "session_id", "state", "mode", "source_language", "target_language", "started_at", "answered_at", "ended_at",
        "end_reason", "legs"}  # fmt: skip
LEG = {"speaker", "channel_id", "channel_name", "state", "packets_received", "packets_lost", "jitter_ms", "mos"}


def arguments(command: str) -> set[str]:
    (commands,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    actions = commands.choices[command]._actions
    return {option for action in actions for option in action.option_strings} | {str(a.metavar) for a in actions}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line(command: str) -> None:
    assert COMMANDS[command] <= arguments(command)


def test_the_kinds_of_commands_that_have_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser()
    for kind in ("asterisk", "freeswitch", "cucm"):
        assert parser.parse_args(["config", kind]).kind == kind
    for engine in ("offline", "echo"):
        assert parser.parse_args(["demo", "--engine", engine]).engine == engine
        assert parser.parse_args(["sandbox", "--engine", engine]).engine == engine
    demo = parser.parse_args(["demo"])
    assert (demo.source, demo.target, demo.engine) == ("de", "en", "offline")
    assert parser.parse_args(["transfer", "c-1", "102"]).party == "agent"
    for what in ("list", "fetch"):
        with pytest.raises(SystemExit):
            run_models([what, "--help"])
        assert f"models {what}" in capsys.readouterr().out


@pytest.mark.parametrize("section", SETTINGS)
def test_the_settings_and_their_defaults(section: str) -> None:
    written = Settings.model_validate({section: SETTINGS[section]})
    assert getattr(written, section) == getattr(Settings(), section), "what is written here is the default"


@pytest.mark.parametrize(("section", "key"), CHOICES)
def test_what_a_setting_may_be(section: str, key: str) -> None:
    annotation = type(getattr(Settings(), section)).model_fields[key].annotation
    assert set(get_args(annotation)) >= CHOICES[section, key]


@pytest.mark.parametrize(("section", "key"), sorted(SECRETS))
def test_secrets_are_shown_nowhere(section: str, key: str) -> None:
    settings = load(environ={f"KALLGLOT__{section.upper()}__{key.upper()}": "sk_live_hush-hush-hush"})
    assert getattr(getattr(settings, section), key).get_secret_value() == "sk_live_hush-hush-hush"
    assert "hush" not in repr(settings) + str(settings)


def test_the_key_has_a_variable_of_its_own_and_urls_may_be_a_list() -> None:
    urls = ["https://a.example/v1", "https://b.example/v1"]
    settings = load(environ={"KALLGLOT_API_KEY": "sk_test_1", "KALLGLOT__KALLGLOT__URL": ",".join(urls)})
    assert settings.kallglot.api_key.get_secret_value() == "sk_test_1"
    assert list(settings.kallglot.urls) == urls


def test_the_arguments_of_the_dialplan() -> None:
    assert set(READERS) >= DIALPLAN
    given = parse(
        ("source=de", "target=en", "agent=PJSIP/1001&PJSIP/1002", "timeout=20", "answer=now", "metadata.queue=a")
    )
    assert (given.source, given.target, given.agents) == ("de", "en", ("PJSIP/1001", "PJSIP/1002"))
    assert (given.timeout, given.answer, given.metadata) == (20, "now", {"queue": "a"})
    joined = parse(("join=sess_1", "speaker=expert", "mode=ai_agent"))
    assert (joined.join, joined.speaker, joined.mode) == ("sess_1", "expert", "ai_agent")


def test_what_the_dialplan_and_the_api_are_told() -> None:
    assert [s.value for s in CallState] == ["setup", "ringing", "active", "ending", "ended"]
    assert {s.value for s in DialplanStatus} == {"COMPLETED", "NOANSWER", "AGENTBUSY", "UNAVAILABLE", "BUSY", "FAILED"}
    assert {r.value for r in EndReason} == {"completed", "customer_hangup", "agent_hangup", "error", "timeout"}


async def test_the_routes(site: Site) -> None:  # noqa: F811
    there = {(route.method, route.path) for route in site.server.routes()}
    assert {(method, path) for method, paths in ROUTES.items() for path in paths} <= there


async def test_a_call_as_the_api_tells_it(site: Site) -> None:  # noqa: F811
    _, call, _ = await site.ask("GET", "/api/v1/calls/c1")
    assert set(call) >= CALL
    assert set(call["legs"][0]) >= LEG
    _, calls, _ = await site.ask("GET", "/api/v1/calls")
    assert isinstance(calls["calls"], list)
    status, refused, _ = await site.ask("POST", "/api/v1/calls", json={"customer": "PJSIP/1", "agent": "a b"})
    assert (status, set(refused["error"]), refused["error"]["param"]) == (400, {"code", "message", "param"}, "agent")
