"""Settings: the documented defaults, the order of the sources, one clear line for every error, and no secret in any."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.errors import ConfigError
from kallglot_ari.settings import SECTIONS, load

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
        ("ari = 1\n", "ari"),
        ("[ari\n", "not TOML"),
        ('[ari]\nurl = "ftp://x"\n', "ari.url: expected a URL"),
        ("[service]\nmax_calls = -1\n", "service.max_calls"),
        ("[kallglot]\nchunk_ms = 110\n", "kallglot.chunk_ms: expected a multiple of 20, found 110"),
        ('[kallglot]\nstream_encoding = "mp3"\n', "kallglot.stream_encoding"),
        ('[kallglot]\nurl = "https://api.example.com"\n', "kallglot.api_key: needed"),
        ('[kallglot]\nurl = "http://api.example.com"\napi_key = "k"\n', "https"),
        ('[web]\nbind = "0.0.0.0"\n', "token: needed"),
        ('[media]\nbind = "0.0.0.0"\n', "advertise: needed"),
        ("[ari]\npassword_file = 1\n", "ari.password_file: expected the name of a file"),
        ('[ari]\npassword_file = "none"\n', "ari.password_file: none cannot be read"),
        ('[ari]\npassword = "a"\npassword_file = "b"\n', "set both"),
        ('[log]\nlevel = "loud"\n', "log.level"),
    ],
)
def test_errors_name_the_setting(text: str, words: str) -> None:
    assert words in fails(text)


def test_errors_of_the_environment() -> None:
    assert "unknown section" in fails(environ={"KALLGLOT__NONE__X": "1"})
    assert "unknown key" in fails(environ={"KALLGLOT__ARI__": "1"})
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
