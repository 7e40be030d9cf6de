"""Settings: the documented defaults, the order of the sources, one clear line for every error, and no secret in any."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kallglot_ari.calls import names
from kallglot_ari.errors import ConfigError
from kallglot_ari.settings import SECTIONS, Endpoint, FeatureSettings, load, reached_at
from kallglot_ari.settings.kinds import DIAL_STRING_PATTERN

DEFAULTS = """
[service]
drain_seconds = 30
max_calls = 0
on_unavailable = "continue"
[ari]
url = "http://127.0.0.1:8088"
username = "kallglot"
password = ""
app = "kallglot"
[kallglot]
url = "embedded"
api_key = ""
contract = "routing"
mode = "bidirectional_translation"
source_language = "auto"
target_language = "en"
chunk_ms = 100
failover_timeout_ms = 3000
ca_file = ""
[media]
transport = "rtp"
bind = "127.0.0.1"
advertise = ""
port = 0
format = "auto"
original_gain_db = "off"
[trunk]
domain = "sip.kallglot.com"
username = ""
password = ""
transport = "tls"
codecs = ["opus", "G722", "PCMU", "PCMA"]
tls_verify_certificate = true
tls_min_version = "TLSv1.2"
srtp = true
srtp_suites = ["AES_CM_128_HMAC_SHA1_80"]
endpoints = [{uri = "sip.kallglot.com", priority = 1}]
failover_timeout_ms = 3000
[agi]
bind = "127.0.0.1"
port = 4573
[ami]
host = "127.0.0.1"
port = 5038
username = ""
password = ""
[web]
bind = "127.0.0.1"
port = 8090
token = ""
allowed_ips = []
webhook_secret = ""
[store]
url = "sqlite:///kallglot-ari.db"
[interpreter]
engine = "offline"
[log]
level = "info"
format = "auto"
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str) -> str:
    Path("c.toml").write_text(text, encoding="utf-8")
    return "c.toml"


def fails(text: str = "", environ: dict[str, str] | None = None) -> str:
    """The one line that loading fails with."""
    with pytest.raises(ConfigError) as error:
        load(write(text), environ or {})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_documented_key_has_its_documented_default() -> None:
    assert load(write(DEFAULTS), {}) == load(write(""), {})


def test_the_order_is_default_file_environment() -> None:
    path = write('[ari]\nusername = "a"\napp = "file"\n')
    ari = load(path, {"KALLGLOT__ARI__USERNAME": "b"}).ari
    assert (ari.username, ari.app, ari.url) == ("b", "file", "http://127.0.0.1:8088")


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("SERVICE__DRAIN_SECONDS", "1.5", 1.5),
        ("SERVICE__MAX_CALLS", "7", 7),
        ("TRUNK__SRTP", "false", False),
        ("MEDIA__ORIGINAL_GAIN_DB", "-20", -20.0),
        ("MEDIA__ORIGINAL_GAIN_DB", "off", None),
        ("KALLGLOT__STREAM_SAMPLE_RATE", "0", 0),
        ("KALLGLOT__CONTRACT", "provider", "provider"),
        ("WEB__ALLOWED_IPS", "10.0.0.0/8, ::1", ("10.0.0.0/8", "::1")),
        ("TRUNK__CODECS", '["opus"]', ("opus",)),
    ],
)
def test_environment_of_every_type(name: str, raw: str, expected: object) -> None:
    section, key = name.lower().split("__")
    assert getattr(getattr(load(None, {f"KALLGLOT__{name}": raw}), section), key) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[arri]\n", "unknown section [arri]"),
        ("[ari]\nuser = 1\n", "unknown key ari.user"),
        ("ari = 1\n", "ari: expected a table, found 1"),
        ("[ari\n", "not TOML"),
        (
            '[ari]\nurl = "a"\n\npassword = "s3cret"\npassword = "s3"\n',
            "c.toml: ari.password: expected once, found in lines 4 and 5",
        ),
        ("[ari]\n[web]\nport = 1\nport = 2", "web.port: expected once, found in lines 3 and 4"),
        ("[ari]\n[web]  # x\n[ari] # y\n", "c.toml: [ari]: expected once, found in lines 1 and 3"),
        ('[[trunk.endpoints]]\nuri = "a"\nuri = "b"\n', "trunk.endpoints.uri: expected once, found in lines 2 and 3"),
        ('[ari]\napp = "a"\n\'app\' = "b"\n', "not TOML: Cannot overwrite a value"),
        ('[ari]\napp = "a"\napp = """\nb"""\n', "not TOML: Cannot overwrite a value"),
        ('ari.app = "a"\n[ari]\n', "not TOML: Cannot declare"),
        ("[ari]\npassword = s3cret\n", "(at line 2, column 12); text stands between straight quotes"),
        ("[ari]\npassword = “s3cret”\n", "(at line 2, column 12); text stands between straight quotes"),
        ('password = "s3cret"\n', "password (from c.toml) stands before the first section; expected it below one of"),
        ('[ari]\nurl = "ftp://x"\n', "ari.url: expected a URL"),
        ("[service]\nmax_calls = -1\n", "service.max_calls"),
        ("[kallglot]\nchunk_ms = 110\n", "kallglot.chunk_ms: expected a multiple of 20, found 110"),
        ('[kallglot]\nstream_encoding = "mp3"\n', "kallglot.stream_encoding"),
        ('[kallglot]\nurl = "https://api.example.com"\n', "kallglot.api_key: needed"),
        ('[kallglot]\nurl = "http://api.example.com"\napi_key = "k"\n', "https"),
        ('[web]\nbind = "0.0.0.0"\n', "token: needed"),
        ('[web]\ntls_key = "key.pem"\n', "tls_certificate: needed with tls_key"),
        ('[agi]\nbind = "0.0.0.0"\n', "allowed_ips: needed to bind 0.0.0.0"),
        ('[agi]\nallowed_ips = ["pbx"]\n', "expected IP addresses or networks"),
        ('[store]\nurl_file = "none"\n', "store.url_file: none cannot be read"),
        ('[media]\nbind = "0.0.0.0"\n', "advertise: needed"),
        (
            '[media]\nbind = "0.0.0.0"\nadvertise = "2001:db8::1"\n',
            "advertise: expected an IPv4 address as bind is one",
        ),
        ('[media]\nbind = "2001:db8::1"\nadvertise = "192.0.2.1"\n', "advertise: expected an IPv6 address"),
        ("[ari]\npassword_file = 1\n", "ari.password_file: expected the name of a file"),
        ('[ari]\npassword_file = "none"\n', "ari.password_file: none cannot be read: No such file or directory"),
        ('[ari]\npassword = "a"\npassword_file = "b"\n', "set both"),
        ('[log]\nlevel = "loud"\n', "log.level"),
        ('[store]\nurl = "postgresql://[::1"\n', "store.url: expected a host name or address after postgresql://"),
        ('[ari]\npassword_file = "\\u0000x"\n', "ari.password_file: expected the name of a file, found '\\x00x'"),
        (f"[web]\nport = {'9' * 5000}\n", "configuration file c.toml: expected numbers of a few digits"),
        (f"[web]\nport = 0x{'f' * 5000}\n", "web.port: expected at most 65535, found a number of thousands of digits"),
        (f"[service]\ndrain_seconds = 0x{'f' * 5000}\n", "service.drain_seconds: expected"),
        (f"[trunk]\ncodecs = [0x{'f' * 5000}]\n", "trunk.codecs.0: expected"),
        (f"[web]\nallowed_ips = [0x{'f' * 5000}]\n", "web.allowed_ips.0: expected"),
        (f"[kallglot]\nurl = [0x{'f' * 5000}]\n", "kallglot.url: expected"),
        (f"x = 0x{'f' * 5000}\n", "x (from c.toml) stands before the first section"),
    ],
)
def test_errors_name_the_setting(text: str, words: str) -> None:
    assert words in fails(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[agi]\nport = "4573"\n', "agi.port: expected a whole number, found '4573' (from c.toml)"),
        ("[agi]\nport = -1\n", "agi.port: expected at least 0, found -1 (from c.toml)"),
        ("[media]\noriginal_gain_db = -61\n", "media.original_gain_db: expected at least -60, found -61 (from c.toml)"),
        ("[media]\noriginal_gain_db = 7\n", "media.original_gain_db: expected at most 6, found 7 (from c.toml)"),
        ("[trunk]\nbind_port = 65536\n", "trunk.bind_port: expected at most 65535, found 65536 (from c.toml)"),
        ("[trunk]\nfailover_timeout_ms = 100\n", "trunk.failover_timeout_ms: expected at least 500, found 100 (from c.toml)"),
        ('[trunk]\nendpoints = [{uri = "a:0"}]\n', "trunk.endpoints.0.uri: expected host or host:port (IPv6 in brackets), found 'a:0' (from c.toml)"),
        ('[trunk]\nendpoints = [{uri = "a:"}]\n', "trunk.endpoints.0.uri: expected host or host:port (IPv6 in brackets), found 'a:' (from c.toml)"),
        ('[kallglot]\nurl = "https://h/v1#x"\n', "kallglot.url: expected a URL without a query (?…) or a fragment (#…), found 'https://h/v1#x' (from c.toml)"),
        ('[kallglot]\nurl = "https://h/v1?"\n', "kallglot.url: expected a URL without a query (?…) or a fragment (#…), found 'https://h/v1?' (from c.toml)"),
        ('[ari]\npassword = "a\\u007fb"\n', "ari.password: expected text without line ends and other control characters (from c.toml)"),
        ("[agi]\nport = true\n", "agi.port: expected a whole number, found true (from c.toml)"),
        ("[service]\nmax_calls = 2.0\n", "service.max_calls: expected a whole number, found 2.0 (from c.toml)"),
        ("[service]\ndrain_seconds = -1\n", "service.drain_seconds: expected at least 0, found -1 (from c.toml)"),
        ('[service]\ndrain_seconds = "30"\n', "service.drain_seconds: expected a number, found '30' (from c.toml)"),
        ('[trunk]\nsrtp = "yes"\n', "trunk.srtp: expected true or false, found 'yes' (from c.toml)"),
        ("[trunk]\ncodecs = []\n", "trunk.codecs: expected at least 1 in the list, found [] (from c.toml)"),
        ("[trunk]\nendpoints = []\n", "trunk.endpoints: expected at least 1 in the list, found [] (from c.toml)"),
        ("[trunk]\nsrtp_suites = []\n", "trunk.srtp_suites: expected at least 1 in the list, found [] (from c.toml)"),
        ('[trunk]\ncodecs = "opus"\n', "trunk.codecs: expected a list, found 'opus' (from c.toml)"),
        ('[trunk]\ncodecs = ["g722"]\n', "trunk.codecs.0: expected 'opus', 'G722', 'PCMU' or 'PCMA', found 'g722' (from c.toml)"),
        ("[trunk]\nendpoints = [{priority = 1}]\n", "trunk.endpoints.0.uri: expected a value, found none (from c.toml)"),
        ('[trunk]\nendpoints = [{uri = "a", x = 1}]\n', "unknown key trunk.endpoints.0.x (from c.toml); expected one of uri, priority"),
        ('[trunk]\nendpoints = [{uri = "a:99999"}]\n', "trunk.endpoints.0.uri: expected host or host:port (IPv6 in brackets), found 'a:99999' (from c.toml)"),
        ('[trunk]\nendpoints = [{uri = "::1"}]\n', "trunk.endpoints.0.uri: expected host or host:port (IPv6 in brackets), found '::1' (from c.toml)"),
        ('[trunk]\nrefer_notify_url = "nonsense"\n', "trunk.refer_notify_url: expected a URL that begins with http:// or https://, found 'nonsense' (from c.toml)"),
        ('[trunk]\nexternal_address = "192.0.2.1:5061"\n', "trunk.external_address: expected an IP address or a host name, found '192.0.2.1:5061' (from c.toml)"),
        ('[trunk]\nendpoints = [{uri = "sip:a.example"}]\n', "trunk.endpoints.0.uri: expected host or host:port without sip:, found 'sip:a.example' (from c.toml)"),
        ('[trunk]\ntransport = "udp"\n', "trunk.transport: expected \"tls\" with srtp (SDES keys would go over udp in clear), or srtp = false, found 'udp' (from c.toml)"),
        ('[trunk]\nendpoints = [{uri = "sip:u@a.example"}]\n', "trunk.endpoints.0.uri: expected a host, or host:port, without sip:, found 'sip:u@a.example' (from c.toml)"),
        ('[ari]\nurl = "http://h:8088/ari/"\n', "ari.url: expected the address without /ari, http://h:8088, found http://h:8088/ari (from c.toml)"),
        ('[features]\nrepeat = "*1"\noriginal = "*12"\n', "features.repeat: expected codes of which none begins another, found *1, with which original = *12 begins (from c.toml)"),
        ('[features]\nrepeat = "*1"\noriginal = "*1"\n', "features.repeat: expected codes of which none begins another, found *1 twice (from c.toml)"),
        ('[features]\nhuman_endpoint = "PJSIP/1001 , x"\n', "features.human_endpoint: expected one dial string such as PJSIP/1001, found 'PJSIP/1001 , x' (from c.toml)"),
        ('[interpreter]\ntranslator_url = "ftp://x"\n', "interpreter.translator_url: expected a URL that begins with http:// or https://, found 'ftp://x' (from c.toml)"),
        ('[interpreter]\ntranslator = "openai"\n', 'interpreter.translator_url: needed with translator = "openai", found none'),
        ('[kallglot]\nurl = "https://h/v1?x=1"\n', "kallglot.url: expected a URL without a query (?…) or a fragment (#…), found 'https://h/v1?x=1' (from c.toml)"),
        ('[agi]\nbind = ""\n', "agi.bind: expected an IP address or a host name, found '' (from c.toml)"),
        ('[ami]\nhost = "a b"\n', "ami.host: expected an IP address or a host name, found 'a b' (from c.toml)"),
        ('[ami]\nhost = "256.1.1.1"\n', "ami.host: expected an IP address or a host name, found '256.1.1.1' (from c.toml)"),
        ("[ami]\nport = 0\n", "ami.port: expected at least 1, found 0 (from c.toml)"),
        ('[media]\nbind = "localhost"\n', "media.bind: expected an IPv4 or IPv6 address, found 'localhost' (from c.toml)"),
        ('[media]\noriginal_gain_db = "loud"\n', "media.original_gain_db: expected \"off\" or a number, found 'loud' (from c.toml)"),
        ('[web]\nbind = "::"\n', "web.token: needed to bind :: (without one only loopback is allowed), found none"),
        ("[web]\ntoken = 5\n", "web.token: expected text, found a number (from c.toml)"),
        ('[ari]\npassword = "a\\nb"\n', "ari.password: expected text without line ends and other control characters (from c.toml)"),
        ('[ari]\nusername = "a:b"\n', "ari.username: expected a user name of 1 to 128 characters, without a colon, found 'a:b' (from c.toml)"),
        ("[kallglot]\nurl = []\n", 'kallglot.url: expected "embedded", a URL, or a list of at least one URL, found [] (from c.toml)'),
        ('[kallglot]\nsource_language = "german"\n', "kallglot.source_language: expected a BCP 47 language tag such as de or pt-BR, or auto, found 'german' (from c.toml)"),
        ("[[service]]\nmax_calls = 1\n", "service: expected a table, found a list of tables (from c.toml)"),
    ],
)  # fmt: skip
def test_an_error_says_what_was_expected_and_what_was_found(text: str, line: str) -> None:
    assert fails(text) == line


@pytest.mark.parametrize(
    ("text", "encoding", "rate"),
    [
        ("", "mulaw", 8000),
        ("stream_sample_rate = 8000\n", "mulaw", 8000),
        ('contract = "provider"\n', "pcm_16", 16000),
        ('contract = "provider"\nstream_sample_rate = 24000\n', "pcm_16", 24000),
        ('contract = "provider"\nstream_encoding = "mulaw"\n', "mulaw", 8000),
    ],
)
def test_the_form_of_the_stream(text: str, encoding: str, rate: int) -> None:
    kallglot = load(write("[kallglot]\n" + text), {}).kallglot
    assert (kallglot.encoding, kallglot.sample_rate) == (encoding, rate)
    assert kallglot.urls == ("embedded",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('stream_encoding = "pcm_16"\n', "stream_encoding: the routing contract carries mu-law only, found pcm_16"),
        ("stream_sample_rate = 16000\n", "stream_sample_rate: mu-law is 8000 Hz, found 16000"),
        ('contract = "provider"\nstream_encoding = "mulaw"\nstream_sample_rate = 16000\n', "mu-law is 8000 Hz, found 16000"),
        ("url = [1]\n", 'url: expected "embedded", a URL, or a list of at least one URL'),
        ("url = 1\n", 'url: expected "embedded", a URL, or a list of at least one URL'),
    ],
)  # fmt: skip
def test_a_stream_that_the_contract_does_not_have_is_refused_at_once(text: str, words: str) -> None:
    """Kallglot would refuse it in the middle of the first call."""
    assert words in fails("[kallglot]\n" + text)


def test_what_is_no_section_is_told_though_the_environment_sets_a_key_of_it() -> None:
    assert fails("ari = 1\n", {"KALLGLOT__ARI__USERNAME": "x"}) == "c.toml: ari: expected a section [ari]"
    assert fails("kallglot = 1\n", {"KALLGLOT_API_KEY": "k"}) == "c.toml: kallglot: expected a section [kallglot]"


@pytest.mark.parametrize(
    ("text", "section", "key", "expected"),
    [
        ('[ami]\nhost = "pbx.example.com"\n', "ami", "host", "pbx.example.com"),
        ('[ami]\nhost = "asterisk_1"\n', "ami", "host", "asterisk_1"),
        ('[ami]\nhost = "[::1]"\n', "ami", "host", "::1"),
        ('[features]\nhuman_endpoint = "PJSIP/1001@trunk"\n', "features", "human_endpoint", "PJSIP/1001@trunk"),
        ('[web]\nbind = "localhost"\n', "web", "bind", "localhost"),
        ('[trunk]\nrefer_notify_url = "https://h/x?token=1"\n', "trunk", "refer_notify_url", "https://h/x?token=1"),
        ('[trunk]\nendpoints = [{uri = "[2001:db8::1]:5061"}]\n', "trunk", "endpoints", (Endpoint(uri="[2001:db8::1]:5061"),)),
        ('[agi]\nbind = "127.0.0.1"\nallowed_ips = ["10.1.2.3/24"]\n', "agi", "allowed_ips", ("10.1.2.3/24",)),
        ("[media]\noriginal_gain_db = 0\n", "media", "original_gain_db", 0.0),
    ],
)  # fmt: skip
def test_what_people_write_is_taken(text: str, section: str, key: str, expected: object) -> None:
    assert getattr(getattr(load(write(text), {}), section), key) == expected


def test_embedded_in_a_list_is_embedded_when_it_stands_alone() -> None:
    assert load(write('[kallglot]\nurl = ["embedded"]\n'), {}).kallglot.embedded
    assert "stands alone" in fails('[kallglot]\nurl = ["embedded", "https://a.example"]\napi_key = "k"\n')


def test_ipv6_addresses_may_have_their_brackets() -> None:
    settings = load(write('[web]\nbind = "[::1]"\n[media]\nbind = "[::1]"\n[agi]\nbind = "::1"\n'), {})
    assert (settings.web.bind, settings.media.bind, settings.agi.bind) == ("::1", "::1", "::1")


def test_a_server_on_every_address_is_reached_on_loopback() -> None:
    binds = ("0.0.0.0", "::", "::1", "10.0.0.1", "pbx.example")
    assert [reached_at(bind, 80) for bind in binds] == [
        "127.0.0.1:80", "[::1]:80", "[::1]:80", "10.0.0.1:80", "pbx.example:80",
    ]  # fmt: skip


def test_the_environment_replaces_a_secret_in_whichever_form_the_file_has_it() -> None:
    Path("s").write_text("from the file of the environment", encoding="utf-8")
    in_file = write('[ari]\npassword_file = "gone"\n[kallglot]\napi_key_file = "gone"\n[ami]\npassword = "old"\n')
    settings = load(
        in_file, {"KALLGLOT__ARI__PASSWORD": "new", "KALLGLOT_API_KEY": "key", "KALLGLOT__AMI__PASSWORD_FILE": "s"}
    )
    assert settings.ari.password.get_secret_value() == "new"
    assert settings.kallglot.api_key.get_secret_value() == "key"
    assert settings.ami.password.get_secret_value() == "from the file of the environment"
    assert "set both" in fails(environ={"KALLGLOT__ARI__PASSWORD": "a", "KALLGLOT__ARI__PASSWORD_FILE": "s"})


def test_an_empty_file_of_the_environment_leaves_what_the_configuration_says() -> None:
    """As the systemd unit has it, whose credentials are empty where there is no such file."""
    Path("empty").write_text("\n", encoding="utf-8")
    Path("s").write_text("from a file", encoding="utf-8")
    environ = {f"KALLGLOT__{name}_FILE": "empty" for name in ("ARI__PASSWORD", "WEB__TOKEN", "AMI__PASSWORD")}
    settings = load(write('[ari]\npassword = "told"\n[web]\ntoken_file = "s"\n'), environ)
    assert settings.ari.password.get_secret_value() == "told"
    assert settings.web.token.get_secret_value() == "from a file"
    assert settings.ami.password.get_secret_value() == ""


def test_a_folder_that_may_not_be_looked_at_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, **_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(
        ConfigError, match=r"configuration file /.*/kallglot-ari\.toml: cannot be looked for: Permission"
    ):
        load(None, {})


def test_only_some_sections() -> None:
    path = write('[kallglot]\nurl = "https://a.example"\n[log]\nlevel = "debug"\n[web]\nport = "no"\n')
    settings = load(path, {"KALLGLOT__INTERPRETER__ENGINE": "echo"}, only=("log", "interpreter"))
    assert (settings.log.level, settings.interpreter.engine, settings.kallglot.embedded) == ("debug", "echo", True)
    with pytest.raises(ConfigError, match=r"web\.port"):
        load(path, {}, only=("web",))


def test_no_section_is_shown_whole() -> None:
    """An error of the configuration as a whole has all of it at hand, secrets too."""
    assert "hush" not in fails('[kallglot]\nurl = "https://a.example"\n[ari]\npassword = "hush"\n')
    assert "hush" not in fails('[[ari]]\npassword = "hush"\n')


def test_errors_of_the_environment() -> None:
    assert "unknown section" in fails(environ={"KALLGLOT__NONE__X": "1"})
    assert "expected KALLGLOT__ARI__KEY; [ari] has url, username" in fails(environ={"KALLGLOT__ARI__": "1"})
    assert "expected JSON" in fails(environ={"KALLGLOT__TRUNK__CODECS": "[x"})
    assert "expected a section" in fails("kallglot = 1\n", {"KALLGLOT_API_KEY": "k"})
    assert "KALLGLOT__AGI__PORT" in fails(environ={"KALLGLOT__AGI__PORT": "x"})


def test_secrets_from_files_and_the_short_name() -> None:
    Path("s").write_text("hush-hush\n", encoding="utf-8")
    settings = load(None, {"KALLGLOT__ARI__PASSWORD_FILE": "s", "KALLGLOT_API_KEY": "sk_test_1"})
    assert settings.ari.password.get_secret_value() == "hush-hush"
    assert settings.kallglot.api_key.get_secret_value() == "sk_test_1"


def test_secrets_never_show() -> None:
    secrets = {"ari.password", "kallglot.api_key", "trunk.password", "ami.password", "web.token", "web.webhook_secret"}
    environ = {f"KALLGLOT__{name.replace('.', '__').upper()}": f"hush-{name}" for name in secrets}
    environ["KALLGLOT__STORE__URL"] = "postgresql://u:hush-store@h/d"
    settings = load(None, environ)
    assert "hush" not in repr(settings) + str(settings)
    assert set(settings.secrets()) == {f"hush-{name}" for name in secrets} | {"hush-store"}
    assert "hush" not in fails('[store]\nurl = "postgres://u:hush@h/d"\n')
    assert "hush" not in fails('[ari]\nurl = "http://u:hush@h"\n')
    assert "hush" not in fails('[ari]\npassword = ["hush"]\n')


@pytest.mark.parametrize("password", ["pa/hush", "8088/hush", "pa hush", "pa'hush", "pa@hush", "x" * 100 + "hush"])
@pytest.mark.parametrize(
    "text",
    [
        '[store]\nurl = "mysql://u:{}@h/db"\n',
        '[store]\nurl = ["mysql://u:{}@h/db"]\n',
        '[ari]\nurl = "http://u:{}@h:8088"\n',
        '[ari]\nurl = "ftp://u:{}@h:8088"\n',
        '[kallglot]\nurl = "https://u:{}@h:8088"\n',
        '[kallglot]\nurl = ["https://u:{}@h:8088", "embedded"]\n',
        '[kallglot]\nmode = "https://u:{}@h:8088"\n',
    ],
)
def test_a_password_in_a_url_never_shows(text: str, password: str) -> None:
    line = fails(text.format(password))
    assert "hush" not in line
    assert "xxxx" not in line
    assert ".url: expected" in line or ".mode: expected" in line


@given(st.sampled_from(sorted(SECTIONS)), st.data())
def test_any_value_in_any_place_is_taken_or_one_line(section: str, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(SECTIONS[section].model_fields)))
    raw = data.draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
    try:
        load(None, {f"KALLGLOT__{section}__{key}".upper(): raw})
    except ConfigError as error:
        assert re.search(  # noqa: PT017 - both outcomes are right
            r"\b(expected|Input|needed|String|unknown)\b", str(error), re.IGNORECASE
        ), error


def test_feature_codes_must_be_told_apart() -> None:
    assert FeatureSettings(repeat="*1", human="*9").codes == (("*1", "repeat"), ("*9", "human"))
    for wrong in ({"repeat": "1"}, {"repeat": "*1", "original": "*1"}, {"repeat": "*1", "original": "*12"}):
        with pytest.raises(ValidationError):
            FeatureSettings(**wrong)


def test_there_is_one_rule_for_dial_strings() -> None:
    assert names.DIAL_STRING.pattern == DIAL_STRING_PATTERN
