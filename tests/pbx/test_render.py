"""What is written for Asterisk, FreeSWITCH and CUCM: complete, safe in its syntax, secrets for the owner only."""

from __future__ import annotations

import contextlib
import stat
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from kallglot_ari.errors import ConfigError, UsageError
from kallglot_ari.pbx import addresses, asterisk, asterisk_media, cucm, curri, freeswitch
from kallglot_ari.pbx.run import KINDS, run_config
from kallglot_ari.settings import (
    AgiSettings,
    AmiSettings,
    AriSettings,
    Endpoint,
    KallglotSettings,
    Settings,
    TrunkSettings,
    WebSettings,
)

ENDPOINTS = (
    Endpoint(uri="ap.example", priority=3), Endpoint(uri="sip.example", priority=1), Endpoint(uri="eu.example:5071", priority=2),
)  # fmt: skip


def trunk(**options: object) -> TrunkSettings:
    base = {"username": "me", "password": SecretStr("s3;cret&<"), "endpoints": ENDPOINTS}
    return TrunkSettings.model_validate({**base, **options})


def sections(text: str) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for line in text.splitlines():
        if line.startswith("["):
            found.append((line.strip("[]"), {}))
        elif line and not line.startswith(";"):
            key, _, value = line.partition(" = ")
            found[-1][1][key] = value
    return found


def test_pjsip() -> None:
    made = sections(asterisk.pjsip(trunk(external_address="203.0.113.5", local_networks=("10.0.0.0/8",))))
    transport, login, first = made[0][1], made[1][1], made[2]
    assert transport | {} == {
        "type": "transport", "protocol": "tls", "bind": "0.0.0.0:5095", "method": "tlsv1_2", "verify_server": "yes",
        "ca_list_file": asterisk.SYSTEM_CA, "external_signaling_address": "203.0.113.5",
        "external_media_address": "203.0.113.5", "local_net": "10.0.0.0/8",
    }  # fmt: skip
    assert (login["username"], login["password"]) == ("me", "s3\\;cret&<")
    assert first[0] == "kallglot"
    assert first[1]["allow"] == "opus,g722,ulaw,alaw"
    assert (first[1]["media_encryption"], first[1]["media_encryption_optimistic"], first[1]["srtp_tag_32"]) == (
        "sdes",
        "no",
        "no",
    )
    contacts = {name: values["contact"] for name, values in made if values["type"] == "aor"}
    assert contacts == {
        "kallglot": "sip:sip.example:5061\\;transport=tls", "kallglot-2": "sip:eu.example:5071\\;transport=tls",
        "kallglot-3": "sip:ap.example:5061\\;transport=tls",
    }  # fmt: skip


def test_a_port_that_nothing_else_has() -> None:
    """For port 0 Asterisk takes 5061 or 5060, away from the PBX's own phones when it is loaded first."""
    made = dict(sections(asterisk.pjsip(trunk(bind_port=5999, endpoints=(Endpoint(uri="[2001:db8::1]:5071"),)))))
    assert made["kallglot-tls"]["bind"] == "[::]:5999"
    assert made["kallglot"]["contact"] == "sip:[2001:db8::1]:5071\\;transport=tls"


def test_codecs_keep_their_order_and_tls_its_version() -> None:
    text = asterisk.pjsip(
        trunk(codecs=("PCMA", "opus"), tls_min_version="TLSv1.3", tls_verify_certificate=False, ca_file="/ca.pem")
    )
    for line in ("allow = alaw,opus", "method = tlsv1_3", "verify_server = no", "ca_list_file = /ca.pem"):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"srtp_suites": ("AES_256_CM_HMAC_SHA1_80",)},
            "trunk.srtp_suites: Asterisk offers AES_CM_128_HMAC_SHA1_80 or",
        ),
        (
            {"srtp_suites": ("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")},
            "Asterisk offers one suite, found 2",
        ),
        ({"username": "a;b"}, "trunk.username: expected text that a configuration file can hold, found ';'"),
        ({"username": "a#b"}, "trunk.username: expected letters, digits and .* takes in from_user, found 'a#b'"),
        ({"username": "jürgen"}, "trunk.username: expected letters, digits and "),
        ({"password": SecretStr(" a")}, "trunk.password: expected no blank at either end"),
        (
            {"endpoints": (Endpoint(uri="sip.example"), Endpoint(uri="[2001:db8::1]"))},
            "trunk.endpoints: an Asterisk transport has one IP version",
        ),
        ({"external_address": "2001:db8::5"}, "trunk.external_address: expected the IP version of trunk.endpoints"),
    ],
)
def test_what_asterisk_cannot_do_is_refused(options: dict[str, object], message: str) -> None:
    for form in (asterisk.pjsip, asterisk.chan_sip):
        with pytest.raises(ConfigError, match=message):
            form(trunk(**options))


def test_chan_sip() -> None:
    made = dict(sections(asterisk.chan_sip(trunk())))
    assert list(made) == ["general](+)", "kallglot", "kallglot-2", "kallglot-3"]
    assert made["kallglot-2"] | {"host": "eu.example", "port": "5071", "encryption": "yes"} == made["kallglot-2"]


def test_the_shipped_dialplan_is_the_one_we_write() -> None:
    shipped = Path(__file__).parents[2] / "asterisk-conf/kallglot/trunk-extensions.conf"
    template = files("kallglot_ari.pbx").joinpath("templates/trunk-extensions.conf").read_text()
    assert shipped.read_text() == template
    assert "agi://[::1]:99" in asterisk.extensions(Settings(agi=AgiSettings(bind="::1", port=99)))
    assert "agi://10.1.2.3:99" in asterisk.extensions(
        Settings(agi=AgiSettings(bind="10.1.2.3", port=99, allowed_ips=("10.1.2.0/24",)))
    )


def test_media_mode() -> None:
    shipped = Path(__file__).parents[2] / "asterisk-conf/kallglot/extensions.conf"
    template = files("kallglot_ari.pbx").joinpath("templates/extensions.conf").read_text()
    assert shipped.read_text() == template
    text = asterisk_media.calls("other", KallglotSettings(source_language="pt-BR"))
    assert "Stasis(other,source=${KALLGLOT_SOURCE}" in text
    assert "Stasis(kallglot" not in "".join(line for line in text.splitlines() if not line.startswith(";"))
    assert "KALLGLOT_SOURCE = pt-BR" in text
    assert "#include" not in text
    made = dict(sections(asterisk_media.ari(AriSettings(username="me", password=SecretStr("s3;c")))))
    assert made == {"me": {"type": "user", "read_only": "no", "password_format": "plain", "password": "s3\\;c"}}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8088", {"bindaddr": "127.0.0.1", "bindport": "8088"}),
        ("http://[::1]:8088/ast", {"bindaddr": "::1", "bindport": "8088", "prefix": "ast"}),
        ("http://localhost", {"bindaddr": "127.0.0.1", "bindport": "80"}),
        ("https://pbx.example:8089", {"tlsenable": "yes", "tlsbindaddr": "0.0.0.0:8089"}),
    ],
)
def test_the_http_server_is_where_the_service_looks_for_it(url: str, expected: dict[str, str]) -> None:
    ((name, made),) = sections(asterisk_media.http(AriSettings(url=url)))
    assert name == "general](+)"
    assert made.items() >= {"enabled": "yes", **expected}.items()
    assert ("bindport" in made) is ("tlsenable" not in made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"username": "a]"}, "ari.username: .* found ']'"),
        ({"username": "general"}, "ari.username: expected a name other than general"),
        ({"password": SecretStr(" a")}, "ari.password: expected no blank at either end"),
        ({"url": "http://h/a;b"}, "ari.url: .* found ';'"),
    ],
)
def test_what_ari_conf_cannot_hold_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asterisk.render(Settings(ari=AriSettings.model_validate(options)))


@pytest.mark.parametrize(
    ("uri", "transport", "expected"),
    [
        ("sip.example", "tls", "sip:s@sip.example;transport=tls"),
        ("sip.example:5061", "tls", "sip:s@sip.example;transport=tls"),
        ("sip.example:5070", "tcp", "sip:s@sip.example:5070;transport=tcp"),
        ("sip.example", "udp", "sip:s@sip.example"),
        ("[2001:db8::1]:5070", "tls", "sip:s@[2001:db8::1]:5070;transport=tls"),
        ("[2001:db8::1]", "tls", "sip:s@[2001:db8::1];transport=tls"),
    ],
)
def test_addresses(uri: str, transport: str, expected: str) -> None:
    assert addresses.sip_uri("s", Endpoint(uri=uri), transport) == expected


@pytest.mark.parametrize("uri", ["[2001:db8::1]", "host", "[::1]", "10.0.0.1"])
def test_an_address_without_a_port_has_the_transports_own(uri: str) -> None:
    assert addresses.split_port(uri, "tls") == (uri, 5061)
    assert addresses.split_port(f"{uri}:5070", "tls") == (uri, 5070)


def test_what_the_dialplan_dials_is_in_failover_order_for_either_channel_driver() -> None:
    """`KALLGLOT_URIS`; the sections are those of the generated configuration, which has them in the same order."""
    endpoints = (Endpoint(uri="b.example", priority=2), Endpoint(uri="a.example:5071", priority=1))
    trunk = TrunkSettings(endpoints=endpoints)
    assert addresses.dial_strings("sess_1", trunk) == [
        "PJSIP/kallglot/sip:sess_1@a.example:5071;transport=tls",
        "PJSIP/kallglot-2/sip:sess_1@b.example;transport=tls",
    ]
    assert addresses.dial_strings("sess_1", trunk, "SIP") == ["SIP/kallglot/sess_1", "SIP/kallglot-2/sess_1"]


def test_freeswitch_is_xml_with_every_secret_escaped() -> None:
    gateways = ElementTree.fromstring(freeswitch.gateways(trunk()))
    assert [gateway.get("name") for gateway in gateways] == ["kallglot", "kallglot-2", "kallglot-3"]
    params = {p.get("name"): p.get("value") for p in gateways[1]}
    assert (params["password"], params["proxy"], params["register"]) == ("s3;cret&<", "eu.example:5071", "false")
    for file in freeswitch.render(Settings(trunk=trunk())):
        if file.name.endswith(".xml"):
            ElementTree.fromstring(file.text)
    assert freeswitch.hangup_hook(Settings().web, "a b") == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(web=WebSettings(token=SecretStr("it's"))), r"web\.token: .*, found \"'\" in it"),
        (Settings(web=WebSettings(token=SecretStr("a${b}"))), r"web\.token: .*, found '\$' in it"),
        (Settings(trunk=trunk(password=SecretStr("a$${b}"))), r"trunk\.password: expected text without "),
    ],
)
def test_what_freeswitch_would_read_otherwise_is_refused(settings: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeswitch.render(settings)


def test_cucm_holds_no_secret() -> None:
    made = cucm.render(Settings(trunk=trunk()))
    text = "".join(file.text for file in made)
    assert "s3;cret" not in text
    for expected in ("sip.example", "5071", "Encrypted", "TLS", "SRTP Allowed", "Route Pattern"):
        assert expected in text
    six = cucm.values(Settings(trunk=trunk(endpoints=(Endpoint(uri="[2001:db8::1]:5071"),))))[
        "Device > Trunk (SIP Trunk)"
    ]
    assert (six["Destination Address IPv6 1"], six["Destination Port 1"]) == ("2001:db8::1", "5071")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_secrets_are_for_the_owner_only(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert run_config(kind, Settings(trunk=trunk()), tmp_path / "deep" / kind) == 0
    written = list((tmp_path / "deep" / kind).iterdir())
    assert written
    for path in written:
        text = path.read_text()
        if "s3" in text and "cret" in text:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert "cret" not in capsys.readouterr().out.replace("secret", "")


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("asterisk", Settings(), ["trunk.username", "ari.password"]),
        ("asterisk", Settings(trunk=trunk(password=SecretStr(""))), ["trunk.password", "ari.password"]),
        (
            "asterisk",
            Settings(trunk=trunk(), ami=AmiSettings(username="me"), agi=AgiSettings(port=0)),
            ["ari.password", "ami.password", "agi.port"],
        ),
        ("freeswitch", Settings(web=WebSettings(port=0)), ["trunk.username", "web.port"]),
        ("cucm", Settings(), []),
    ],
)
def test_what_is_still_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, settings: Settings, named: list[str]
) -> None:
    assert run_config(kind, settings, tmp_path) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("note: ").partition(" is ")[0] for line in said] == named


@pytest.mark.parametrize(("username", "password"), [("general", "x"), ("me", "x ")])
def test_what_manager_conf_cannot_hold_is_refused(username: str, password: str) -> None:
    with pytest.raises(ConfigError, match=r"ami\.(username|password): expected"):
        asterisk.render(Settings(ami=AmiSettings(username=username, password=SecretStr(password))))


def test_config_problems(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="config: expected asterisk, freeswitch, cucm, found 'avaya'"):
        run_config("avaya", Settings())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*: cannot be written"):
        run_config("cucm", Settings(), tmp_path / "file" / "x")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "expected XML"), (b"<a", "expected XML"), (b"<Response/>", "expected a XACML Request, found 'response'"),
        (b"<Request/>", "expected urn:Cisco:uc:1.0:callednumber, found none"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><Request>&x;</Request>', "expected no document type"),
        ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><Request/>'.encode("utf-16"), "expected no document type"),
        (b"<Request>" + b"x" * 70000 + b"</Request>", "expected at most 65536 octets"),
        (b'<?xml version="1.0" encoding="nonsense"?><Request/>', "expected XML"),
    ],
)  # fmt: skip
def test_what_is_no_curri_request(body: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=f"CURRI request: {message}"):
        curri.parse(body)


def test_a_curri_request_in_the_letters_of_either_of_ciscos_examples() -> None:
    """Element names with a prefix or without, text in pieces, and values that belong to no attribute."""
    body = (
        '<x:Request xmlns:x="urn:oasis"><AttributeValue>stray</AttributeValue>'
        '<x:Attribute AttributeID="urn:Cisco:uc:1.0:callingnumber"><x:AttributeValue> +49&#51;0<![CDATA[1]]> </x:AttributeValue></x:Attribute>'
        '<attribute attributeId="urn:Cisco:uc:1.0:callednumber">ignored<attributevalue>8 00</attributevalue>'
        "<attributevalue>second</attributevalue></attribute><AttributeValue>stray</AttributeValue>"
        '<Attribute AttributeId="urn:Cisco:uc:1.0:transformedcdpn"><AttributeValue/></Attribute>'
        '<Attribute AttributeId="urn:other:callid"><AttributeValue>no</AttributeValue></Attribute>'
        '<Attribute AttributeId="urn:Cisco:uc:1.0:callid"><AttributeValue>77</AttributeValue></Attribute></x:Request>'
    )
    expected = curri.CurriRequest("+4930" + "1", "8 00", call_id="77")
    assert curri.parse(body) == curri.parse(body.encode()) == expected


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(body: bytes) -> None:
    with contextlib.suppress(UsageError):
        assert curri.parse(body).called or curri.parse(body).transformed_called


@given(
    st.text(alphabet=st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=60).map(
        lambda t: t.replace("\x7f", "")
    )
)
def test_a_diversion_holds_any_destination(destination: str) -> None:
    destination = "".join(c for c in destination if c.isprintable())
    inner = ElementTree.fromstring(curri.divert(destination)).findtext(".//AttributeValue") or ""
    assert (ElementTree.fromstring(inner).findtext("divert/destination") or "") == destination
