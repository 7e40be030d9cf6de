from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.calls.model import SessionRequest
from kallglot_ari.kallglot.rest import create_body
from kallglot_ari.sandbox.validate import Problem, parse_create
from kallglot_ari.settings import KallglotSettings, TrunkSettings

MODE = "bidirectional_translation"
SIP: dict[str, Any] = {"type": "sip", "sip": {"from_uri": "sip:a@b", "headers": {}}, "direction": "inbound"}


def routed(**more: Any) -> dict[str, Any]:
    return {"mode": MODE, "routing": SIP} | more


def test_the_shape_decides_the_contract() -> None:
    assert parse_create(routed()).contract == "routing"
    assert parse_create({"mode": MODE, "phone_number": "+49301234"}).contract == "routing"
    assert parse_create({"mode": MODE, "connection_id": "conn_1"}).contract == "routing"
    assert parse_create({"mode": MODE, "provider": {"type": "sip"}}).contract == "provider"
    assert parse_create({"mode": MODE, "conference": {"enabled": True, "max_participants": 7}}).contract == "provider"
    assert parse_create({"mode": MODE}).contract == "routing", "the current one is the default"
    assert parse_create({"mode": MODE, "audio": {"encoding": "mulaw", "sample_rate": 8000}}).contract == "routing"
    for hint in ({"encoding": "pcm_16"}, {"sample_rate": 16000}, {"channels": 2}):
        assert parse_create({"mode": MODE, "audio": hint}).contract == "provider"


@pytest.mark.parametrize("contract", ["routing", "provider"])
@pytest.mark.parametrize("trunk", [False, True])
@pytest.mark.parametrize("speakers", ["field", "channels"])
def test_everything_our_client_asks_for_is_valid(contract: Any, trunk: bool, speakers: Any) -> None:
    settings = KallglotSettings(contract=contract, provider_speakers=speakers, recording=True)
    request = SessionRequest(
        trunk=trunk, participants=5, metadata={"a": "b"}, source_language="de", from_uri="tel:+4930"
    )
    wanted = parse_create(create_body(request, settings, TrunkSettings(refer_notify_url="https://x/y")))
    assert (wanted.contract, wanted.recording, wanted.metadata) == (contract, True, {"a": "b"})
    assert (wanted.source_language, wanted.target_language) == ("de", "en")
    assert wanted.max_participants == (5 if contract == "provider" else 2)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 400, "missing_parameter", "mode"),
        ({"mode": "dub"}, 422, "invalid_mode", "mode"),
        ({"mode": []}, 422, "invalid_mode", "mode"),
        (routed(source_language="german"), 422, "invalid_language_code", "source_language"),
        (routed(source_language="qq"), 422, "invalid_language_code", "source_language"),
        (routed(target_language=5), 422, "invalid_language_code", "target_language"),
        (routed(target_language=""), 422, "invalid_language_code", "target_language"),
        (routed(provider={"type": "sip"}), 422, "invalid_provider", "provider"),
        (routed(provider="sip"), 422, "invalid_provider", "provider"),
        (routed(phone_number="+49"), 400, "invalid_routing", "phone_number"),
        ({"mode": MODE, "phone_number": 5}, 400, "invalid_parameter", "phone_number"),
        ({"mode": MODE, "connection_id": ""}, 400, "invalid_parameter", "connection_id"),
        ({"mode": MODE, "routing": "sip"}, 422, "invalid_routing", "routing"),
        ({"mode": MODE, "routing": {"type": "pstn"}}, 422, "invalid_routing", "routing.type"),
        ({"mode": MODE, "routing": SIP | {"direction": "up"}}, 422, "invalid_routing", "routing.direction"),
        ({"mode": MODE, "routing": SIP | {"sip": None}}, 422, "invalid_routing", "routing.sip"),
        ({"mode": MODE, "routing": SIP | {"sip": {}}}, 422, "invalid_routing", "routing.sip.from_uri"),
        ({"mode": MODE, "routing": SIP | {"sip": {"from_uri": "a b"}}}, 422, "invalid_routing", "routing.sip.from_uri"),
        (
            {"mode": MODE, "routing": SIP | {"sip": {"from_uri": "sip:a\r\nX"}}},
            422,
            "invalid_routing",
            "routing.sip.from_uri",
        ),
        (
            {"mode": MODE, "routing": SIP | {"sip": SIP["sip"] | {"headers": {"a": 1}}}},
            422,
            "invalid_routing",
            "routing.sip.headers",
        ),
        (routed(audio={"encoding": "pcm_16"}), 422, "invalid_audio_format", "audio.encoding"),
        (routed(audio={"sample_rate": 16000}), 422, "invalid_audio_format", "audio.sample_rate"),
        (routed(audio={"channels": 2}), 422, "invalid_audio_format", "audio.channels"),
        (routed(audio=[]), 422, "invalid_parameter", "audio"),
        (routed(conference={"enabled": True}), 422, "invalid_parameter", "conference"),
        (routed(recording={"enabled": 1}), 422, "invalid_parameter", "recording.enabled"),
        (routed(recording={"channels": "five"}), 422, "invalid_parameter", "recording.channels"),
        (routed(metadata={str(n): "" for n in range(51)}), 422, "invalid_parameter", "metadata"),
        ({"mode": MODE, "provider": "sip"}, 422, "invalid_provider", "provider"),
        ({"mode": MODE, "provider": {}}, 422, "invalid_provider", "provider.type"),
        (
            {"mode": MODE, "provider": {"type": "sip", "transport": "sctp"}},
            422,
            "invalid_provider",
            "provider.transport",
        ),
        ({"mode": MODE, "provider": {"type": "sip", "codecs": ["GSM"]}}, 422, "invalid_provider", "provider.codecs"),
        ({"mode": MODE, "provider": {"type": "sip", "codecs": []}}, 422, "invalid_provider", "provider.codecs"),
        (
            {"mode": MODE, "provider": {"type": "sip", "tls": {"min_version": "SSLv3"}}},
            422,
            "invalid_provider",
            "provider.tls.min_version",
        ),
        ({"mode": MODE, "provider": {"type": "sip", "tls": 1}}, 422, "invalid_provider", "provider.tls"),
        (
            {"mode": MODE, "provider": {"type": "sip", "srtp": {"enabled": "yes"}}},
            422,
            "invalid_provider",
            "provider.srtp.enabled",
        ),
        (
            {"mode": MODE, "provider": {"type": "sip", "refer": {"enabled": True}}},
            422,
            "invalid_provider",
            "provider.refer.notify_url",
        ),
        ({"mode": MODE, "provider": {"type": "sip", "endpoints": [{}]}}, 422, "invalid_provider", "provider.endpoints"),
        (
            {"mode": MODE, "provider": {"type": "sip", "failover": {"timeout": 0}}},
            422,
            "invalid_provider",
            "provider.failover.timeout",
        ),
        (
            {"mode": MODE, "conference": {"max_participants": 1}},
            422,
            "invalid_parameter",
            "conference.max_participants",
        ),
        ({"mode": MODE, "audio": {"encoding": "mp3"}}, 422, "invalid_audio_format", "audio.encoding"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], status: int, code: str, param: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_create(body)
    assert (caught.value.status, caught.value.code, caught.value.param) == (status, code, param)


@pytest.mark.parametrize("language", ["de", "de-CH", "gsw", "zh-Hant-TW", "auto", None])
def test_languages(language: str | None) -> None:
    assert parse_create(routed(source_language=language)).source_language == (language or "auto")


KEYS = ["mode", "routing", "provider", "sip", "type", "from_uri", "headers", "audio", "codecs", "tls", "srtp", "refer", "endpoints",
        "failover", "timeout", "metadata", "recording", "enabled", "conference", "source_language", "phone_number"]  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(KEYS),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.text(max_size=6)
            | st.sampled_from([MODE, "sip", "tls", "sip:a@b", "opus"]),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
            max_leaves=10,
        ),
    ),
    st.booleans(),
)
def test_no_body_breaks_it(body: dict[str, Any], valid_mode: bool) -> None:
    with contextlib.suppress(Problem):
        assert parse_create(body | ({"mode": MODE} if valid_mode else {})).mode == MODE or not valid_mode
