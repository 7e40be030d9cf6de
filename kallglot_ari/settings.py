"""What can be set. Order: built-in default < TOML file < environment (``KALLGLOT__SECTION__KEY``).

Every section is frozen, and each part of the service receives only its own. Secrets are `SecretStr`: neither `repr` nor an
error shows them. Each `*_file` key names a file whose content is the secret (systemd credentials, docker secrets).
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from kallglot_ari.errors import ConfigError

Port = Annotated[int, Field(ge=0, le=65535)]
Mode = Literal["bidirectional_translation", "assistive_translation", "ai_agent", "help_chat_voice"]
MODES: tuple[str, ...] = ("bidirectional_translation", "assistive_translation", "ai_agent", "help_chat_voice")
LANGUAGE_PATTERN = r"^(auto|[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*)$"
Language = Annotated[str, Field(pattern=LANGUAGE_PATTERN)]
DEFAULT_FILES = (Path("kallglot-ari.toml"), Path("/etc/kallglot-ari/kallglot-ari.toml"))
ENV_PREFIX = "KALLGLOT__"


def _off_or_db(value: Any) -> Any:
    return None if value in ("off", "", None) else value


GainDb = Annotated[Annotated[float, Field(ge=-60, le=6)] | None, BeforeValidator(_off_or_db)]


def _host(value: str) -> str:
    """An IP address, taken without the brackets that IPv6 has in a URL, or a host name."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        # A host name's last label is no number (RFC 3696 §2): 256.1.1.1 is a slip, not a name.
        if not re.fullmatch(r"(?=.{1,253}$)([A-Za-z0-9_-]{1,63}\.)*(?![0-9]+\.?$)[A-Za-z0-9_-]{1,63}\.?", bare):
            raise ValueError("expected an IP address or a host name") from None
    return bare


def _address(value: str) -> str:
    bare = value.strip("[]")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError("expected an IPv4 or IPv6 address") from None
    return bare


Host = Annotated[str, AfterValidator(_host)]
Address = Annotated[str, AfterValidator(_address)]
SrtpSuite = Literal[
    "AES_CM_128_HMAC_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32",
    "AES_192_CM_HMAC_SHA1_80",
    "AES_192_CM_HMAC_SHA1_32",
    "AES_256_CM_HMAC_SHA1_80",
    "AES_256_CM_HMAC_SHA1_32",
    "AEAD_AES_128_GCM",
    "AEAD_AES_256_GCM",
    "F8_128_HMAC_SHA1_80",
]
"""RFC 4568 §6.2, RFC 6188 §4 and RFC 7714 §14.2."""


def host_port(host: str, port: int) -> str:
    """As URLs and Asterisk take an address: an IPv6 one in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reached_at(bind: str, port: int) -> str:
    """Where this machine reaches a server that listens at `bind`: on the loopback address when that is every address."""
    return host_port({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind), port)  # noqa: S104 - compared, not bound


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_url(value: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(f"expected a URL, found {value!r}") from None
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"expected a URL that begins with {' or '.join(s + '://' for s in schemes)}")
    if parts.username or parts.password:
        raise ValueError("expected no user or password in the URL; they have settings of their own")
    return value.rstrip("/")


class Section(BaseModel):
    """A frozen section; a key it does not know is an error."""

    # Strict: `port = true` and `max_calls = "3"` are slips. What the environment holds as text, `_env_value` gives its type.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str) and any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
            raise ValueError("expected text without line ends and other control characters")
        return value


class ServiceSettings(Section):
    """The service as a whole."""

    drain_seconds: float = Field(30, ge=0, le=86400)
    """After SIGTERM, how long live calls may go on before they are hung up, in seconds."""
    max_calls: int = Field(0, ge=0)
    """Calls at once; beyond it a call goes on in the dialplan with KALLGLOT_STATUS=BUSY. 0 = no limit."""
    on_unavailable: Literal["continue", "passthrough", "hangup"] = "continue"
    """When a call cannot be translated: go on in the dialplan, connect the parties untranslated, or hang up."""
    shed_late_ms: int = Field(60, ge=0, le=1000)
    """While a tenth of the media's ticks come later than this, in milliseconds, new calls go on in the dialplan with KALLGLOT_STATUS=BUSY, so
    that those that are up keep their sound. 0 = never."""
    instance: str = Field("", pattern=r"^[A-Za-z0-9]{0,16}$")
    """Part of every id this service makes. Empty: derived from the host name."""


class AriSettings(Section):
    """Asterisk's REST interface."""

    url: str = "http://127.0.0.1:8088"
    """Base address of Asterisk's HTTP server (its `prefix` included, `/ari` not), http or https."""
    username: str = Field("kallglot", pattern=r"^[^:]{1,128}$")
    """User of Asterisk's `ari.conf`; it may not be read-only."""
    password: SecretStr = SecretStr("")
    """Password of that user."""
    app: str = Field("kallglot", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Name of the Stasis application, as in `Stasis(kallglot,…)`. Two services with one name take each other's events away."""
    ca_file: str = ""
    """PEM file of the CA that signed Asterisk's https certificate; empty: the system's CAs. Certificates are always verified."""

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _check_url(value, ("http", "https"))


class KallglotSettings(Section):
    """The Kallglot API."""

    url: str | tuple[str, ...] = "embedded"
    """`embedded`, or the API's base address, or a list of addresses in failover order."""
    api_key: SecretStr = SecretStr("")
    """Key of the API, `sk_live_…` or `sk_test_…`; needed for any `url` but `embedded`. `KALLGLOT_API_KEY` sets it too."""
    contract: Literal["routing", "provider"] = "routing"
    """Which of Kallglot's two published forms of requests and stream messages is spoken: `routing` is the current one."""
    mode: Mode = "bidirectional_translation"
    """What a session does when the dialplan names no mode."""
    source_language: Language = "auto"
    """The customer's language when the dialplan names none: a BCP 47 tag such as `de` or `pt-BR`; `auto`: detected."""
    target_language: Language = "en"
    """The agent's language when the dialplan names none, as above."""
    chunk_ms: int = Field(100, ge=20, le=1000)
    """Length of a piece of audio sent to Kallglot, in milliseconds, a multiple of 20. Shorter ones arrive sooner and cost more messages."""
    failover_timeout_ms: int = Field(3000, ge=100, le=60000)
    """How long an address may take before the next one is tried, in milliseconds."""
    ca_file: str = ""
    """PEM file of the CA that signed the API's certificate; empty: the system's CAs. Certificates are always verified."""
    stream_encoding: Literal["auto", "mulaw", "pcm_16"] = "auto"
    """Encoding of the stream; `auto`: mu-law with the routing contract, 16-bit PCM with the provider contract."""
    stream_sample_rate: Literal[0, 8000, 16000, 24000, 48000] = 0
    """Sample rate of a PCM stream in Hz; 0 = 16000. mu-law is always 8000."""
    provider_speakers: Literal["field", "channels"] = "field"
    """With the provider contract, how a speaker is told: a `speaker` field, or customer left and agent right of two channels."""
    recording: bool = False
    """Ask Kallglot to record the session (dual channel)."""

    @field_validator("url", mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        if not isinstance(value, str) and not (
            isinstance(value, list | tuple) and value and all(isinstance(url, str) for url in value)
        ):
            raise ValueError('expected "embedded", a URL, or a list of at least one URL')
        return value[0] if len(value) == 1 and not isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _url(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        urls = (value,) if isinstance(value, str) else value
        for url in urls:
            if url == "embedded":
                if len(urls) == 1:
                    continue
                raise ValueError("embedded: it stands alone, not in a list with URLs")
            _check_url(url, ("http", "https"))
            if urlsplit(url).scheme == "http" and not _loopback(urlsplit(url).hostname or ""):
                raise ValueError(
                    f"expected https for anything but loopback (the key would go over the line in clear), found {url}"
                )
        return value

    @field_validator("chunk_ms")
    @classmethod
    def _chunk(cls, value: int) -> int:
        if value % 20:
            raise ValueError(f"expected a multiple of 20, found {value}")
        return value

    @model_validator(mode="after")
    def _stream(self) -> KallglotSettings:
        if self.contract == "routing" and self.stream_encoding == "pcm_16":
            raise ValueError("stream_encoding: the routing contract carries mu-law only, found pcm_16")
        if self.encoding == "mulaw" and self.stream_sample_rate not in (0, 8000):
            raise ValueError(f"stream_sample_rate: mu-law is 8000 Hz, found {self.stream_sample_rate}")
        return self

    @property
    def embedded(self) -> bool:
        return self.url == "embedded"

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def encoding(self) -> Literal["mulaw", "pcm_16"]:
        if self.stream_encoding != "auto":
            return self.stream_encoding
        return "mulaw" if self.contract == "routing" else "pcm_16"

    @property
    def sample_rate(self) -> int:
        return 8000 if self.encoding == "mulaw" else self.stream_sample_rate or 16000


class MediaSettings(Section):
    """The audio between Asterisk and us."""

    transport: Literal["rtp", "websocket"] = "rtp"
    """How audio goes between Asterisk and us; `websocket` needs Asterisk 20.16 or 22.6 and carries PCM and Opus both ways."""
    websocket_client: str = Field("", pattern=r"^[A-Za-z0-9_.-]{0,64}$")
    """With `websocket`: name of a connection in Asterisk's websocket_client.conf, which connects to `bind` and `port`. Empty: we connect to Asterisk."""
    websocket_username: str = ""
    """User that `websocket_client` connects as; empty: anyone may, so `bind` must be an address that only Asterisk reaches."""
    websocket_password: SecretStr = SecretStr("")
    """Password of that user."""
    websocket_certificate: str = ""
    """PEM file of our certificate, for `wss:` from Asterisk; empty: without TLS."""
    websocket_key: str = ""
    """PEM file of its key, if it is not in the same file."""
    bind: Address = "127.0.0.1"
    """Address of our socket (UDP; TCP with `websocket_client`): one that Asterisk can reach."""
    advertise: Annotated[str, AfterValidator(lambda value: value and _host(value))] = ""
    """Address Asterisk is told to send to; empty: `bind`."""
    port: Port = 0
    """The one UDP port of all calls; 0 = any free one."""
    format: Literal["auto", "ulaw", "alaw", "g722", "slin16", "opus"] = "auto"
    """What Asterisk sends; `auto`: ulaw for a mu-law stream, slin16 for PCM. Over RTP, slin16 and opus are answered with G.722."""
    original_gain_db: GainDb = None
    """The speaker's own voice under the translation, in dB, 0 being as loud as spoken; `off`: only the translation is heard."""
    jitter_min_ms: int = Field(20, ge=20, le=200)
    """Least delay of the adaptive jitter buffer, in milliseconds; more of it loses fewer late packets on an unsteady network."""
    jitter_max_ms: int = Field(200, ge=40, le=1000)
    """Most delay of the adaptive jitter buffer, in milliseconds; a packet later than that counts as lost."""
    backlog_max_ms: int = Field(30000, ge=1000, le=600000)
    """Translated speech waiting to be played, in milliseconds; beyond it the oldest is dropped."""

    @model_validator(mode="after")
    def _bounds(self) -> MediaSettings:
        if self.jitter_min_ms > self.jitter_max_ms:
            raise ValueError(
                f"jitter_min_ms: expected at most jitter_max_ms ({self.jitter_max_ms}), found {self.jitter_min_ms}"
            )
        if self.bind in ("0.0.0.0", "::") and not self.advertise:  # noqa: S104 - compared, not bound
            raise ValueError(
                f"advertise: needed when bind is {self.bind} (Asterisk must be told one address to send to)"
            )
        return self


class Endpoint(Section):
    """A SIP endpoint of Kallglot; the lowest priority is tried first."""

    uri: str = Field(pattern=r"^[A-Za-z0-9.\-:\[\]]{1,255}$")
    """Host, or host:port."""
    priority: int = Field(1, ge=0, le=1000)
    """Its place in the failover order."""


class TrunkSettings(Section):
    """Trunk mode: the dialplan dials Kallglot's own SIP endpoint."""

    domain: str = Field("sip.kallglot.com", pattern=r"^[A-Za-z0-9.\-]{1,253}$")
    """SIP domain of the sessions: the PBX dials `sip:SESSION@domain`."""
    username: str = ""
    """User of the SIP account at Kallglot; empty: the PBX is known by its address."""
    password: SecretStr = SecretStr("")
    """Password of that account."""
    transport: Literal["tls", "tcp", "udp"] = "tls"
    """Transport of the signalling: `tls` is port 5061, the others 5060. Anything but `tls` shows numbers and keys to the network."""
    codecs: tuple[Literal["opus", "G722", "PCMU", "PCMA"], ...] = Field(("opus", "G722", "PCMU", "PCMA"), min_length=1)
    """Codecs offered, the preferred first."""
    tls_verify_certificate: bool = True
    """Whether the PBX verifies Kallglot's certificate; off, anybody in between can listen."""
    tls_min_version: Literal["TLSv1.2", "TLSv1.3"] = "TLSv1.2"
    """Oldest TLS version that is accepted."""
    ca_file: str = ""
    """PEM file of the CA that signed the certificate of the SIP endpoints, as a path on the PBX; empty: the PBX's CAs."""
    srtp: bool = True
    """Whether the audio is encrypted (SDES)."""
    srtp_suites: tuple[SrtpSuite, ...] = Field(("AES_CM_128_HMAC_SHA1_80",), min_length=1)
    """SRTP crypto suites (RFC 4568 names), the preferred first."""
    endpoints: tuple[Endpoint, ...] = Field((Endpoint(uri="sip.kallglot.com", priority=1),), min_length=1)
    """Kallglot's SIP endpoints, each `{uri, priority}`: host or host:port, and its place in the failover order, the lowest first."""
    failover_timeout_ms: int = Field(3000, ge=500, le=60000)
    """How long an endpoint may take to answer before the next one is tried, in milliseconds."""
    refer_notify_url: str = ""
    """Where Kallglot may post REFER notifications (our /webhooks/sip/refer as seen from outside); empty: REFER off."""
    sip_trace: bool = False
    """Write each trunk call's SIP messages to `debug.dir`, without secrets (needs `kallglot-hep.conf` of `config asterisk`), and
    ask Kallglot to keep its side too (provider contract)."""
    sip_trace_port: Port = 9060
    """UDP port, on `agi.bind`, that Asterisk's res_hep sends copies of SIP messages to when `sip_trace` is on; 0 = any free one."""
    external_address: str = Field("", pattern=r"^[A-Za-z0-9.\-:]{0,253}$")
    """Public address of the PBX when it is behind NAT, for `config`; empty: no NAT."""
    local_networks: tuple[str, ...] = ()
    """Networks on the inside of that NAT, as 10.0.0.0/8."""

    @field_validator("local_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return WebSettings._networks(value)


class AgiSettings(Section):
    """The FastAGI server."""

    bind: Host = "127.0.0.1"
    """Address to listen on. FastAGI knows no password: bind only where nothing but the PBX can connect."""
    port: Port = 4573
    """TCP port; 0 = any free one."""
    allowed_ips: tuple[str, ...] = ()
    """Addresses or networks of the PBX; needed to bind anything but loopback, where empty means any."""

    @field_validator("allowed_ips")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return WebSettings._networks(value)

    @model_validator(mode="after")
    def _known(self) -> AgiSettings:
        if not _loopback(self.bind) and not self.allowed_ips:
            raise ValueError(f"allowed_ips: needed to bind {self.bind} (FastAGI knows no password)")
        return self


class AmiSettings(Section):
    """Asterisk's manager interface; used when a user name is set."""

    host: Host = "127.0.0.1"
    """Address of Asterisk's manager interface; it is not encrypted."""
    port: int = Field(5038, ge=1, le=65535)
    """TCP port of Asterisk's manager interface."""
    username: str = ""
    """User of `manager.conf`; empty: AMI is not used, and a trunk call ends only when its AGI script or channel does."""
    password: SecretStr = SecretStr("")
    """Password of that user."""


class WebSettings(Section):
    """Our web server."""

    bind: Host = "127.0.0.1"
    """Address to listen on; anything but loopback needs a `token`."""
    port: Port = 8090
    """TCP port; 0 = any free one. Plain HTTP unless `tls_certificate` is set."""
    tls_certificate: str = ""
    """PEM file of the server's certificate and whatever it takes to its root; empty: plain HTTP, for which a TLS proxy has to stand in front
    outside a trusted network."""
    tls_key: str = ""
    """PEM file of the certificate's key; empty: it is in `tls_certificate`."""
    token: SecretStr = SecretStr("")
    """Bearer token of /api and /pbx; needed to bind anything but loopback."""
    supervisor_token: SecretStr = SecretStr("")
    """Bearer token of /api/v1/calls/{id}/supervise alone, which nothing else opens; empty: nobody may listen in."""
    allowed_ips: tuple[str, ...] = ()
    """Addresses or networks that may connect; empty: any."""
    webhook_secret: SecretStr = SecretStr("")
    """Secret that Kallglot signs its webhooks with; empty: webhooks are refused (the embedded Kallglot is given one by itself)."""

    @field_validator("allowed_ips")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            try:
                ipaddress.ip_network(item, strict=False)
            except ValueError:
                raise ValueError(f"expected IP addresses or networks, found {item!r}") from None
        return value

    @model_validator(mode="after")
    def _tls(self) -> WebSettings:
        if self.tls_key and not self.tls_certificate:
            raise ValueError("tls_certificate: needed with tls_key")
        return self

    @model_validator(mode="after")
    def _token(self) -> WebSettings:
        if not _loopback(self.bind) and not self.token.get_secret_value():
            raise ValueError(f"token: needed to bind {self.bind} (without one only loopback is allowed)")
        return self


class StoreSettings(Section):
    """Where calls and the sessions still to end are kept."""

    url: str = Field("sqlite:///kallglot-ari.db", repr=False)
    """`sqlite:///FILE` or `postgresql://…`; a password in it is a secret."""
    retention_days: float = Field(90, ge=0, le=36500)
    """Ended calls and their transcripts are deleted this many days after their start; 0 keeps them for ever."""

    @field_validator("url")
    @classmethod
    def _scheme(cls, value: str) -> str:
        if not value.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("expected sqlite:///FILE or postgresql://…")
        return value


class ConferenceSettings(Section):
    """Calls of more than two parties in media mode."""

    max_participants: int = Field(5, ge=2, le=50)
    """Parties of one call at most; whoever would be one more is refused: KALLGLOT_STATUS=BUSY, or an error over the API."""


FEATURE_CODE = r"^$|^\*[0-9#]{1,3}$"


class FeatureSettings(Section):
    """Codes that a party dials in the middle of a call (DTMF). A code is not passed on to the others; other digits are."""

    repeat: str = Field("", pattern=FEATURE_CODE)
    """Says the last translation again to who dials it, as `*1`; empty: no such code."""
    original: str = Field("", pattern=FEATURE_CODE)
    """Switches the others' own voices under the translation on or off, for who dials it, as `*2`; empty: no such code."""
    human: str = Field("", pattern=FEATURE_CODE)
    """Asks for a person: `human_endpoint` is dialled into the call, as `*9`; empty: no such code."""
    human_endpoint: str = ""
    """Whom `human` dials: a dial string such as `PJSIP/1001`; empty: nobody, but the event `human.asked` is told."""

    @model_validator(mode="after")
    def _apart(self) -> FeatureSettings:
        codes = [code for code in (self.repeat, self.original, self.human) if code]
        for code in codes:
            if sum(other.startswith(code) for other in codes) > 1:
                raise ValueError(f"expected codes of which none begins another, found {code} twice")
        return self

    @property
    def codes(self) -> tuple[tuple[str, str], ...]:
        """(code, what it does)."""
        return tuple((getattr(self, name), name) for name in ("repeat", "original", "human") if getattr(self, name))


class InterpreterSettings(Section):
    """The embedded Kallglot's engine."""

    engine: Literal["offline", "echo"] = "offline"
    """`offline` translates on this machine; `echo` says back what it heard, for tests."""
    recogniser: str = "base"
    """faster-whisper model: a name of the lock file, or a folder."""
    translator: Literal["auto", "llm", "apertium", "opus-mt", "openai"] = "auto"
    """`auto`: an endpoint if one is set, else a local model, else Apertium."""
    translator_url: str = ""
    """Base address of an OpenAI-compatible endpoint."""
    translator_model: str = ""
    """Model name at that endpoint, or a GGUF file or OPUS-MT folder."""
    translator_api_key: SecretStr = SecretStr("")
    """Key of that endpoint; empty: none is sent."""
    voice: Literal["auto", "espeak-ng", "piper"] = "auto"
    """Speech synthesis; `auto`: Piper where there is a voice for the language, else eSpeak NG."""
    models_dir: str = ""
    """Folder of the models; empty: the user's cache folder."""
    workers: int = Field(1, ge=1, le=64)
    """Recognitions at once; each takes a process with a model of its own, and shares the processor with the media."""


class LogSettings(Section):
    """Logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is written, to stderr."""
    format: Literal["auto", "json", "console"] = "auto"
    """`json`: one object a line; `console`: for people; `auto`: console on a terminal, JSON otherwise."""


class DebugSettings(Section):
    """Diagnosis."""

    pcap: bool = False
    """Write every call's RTP to a pcap file: what was said can be heard from it. One call: `POST /api/v1/calls/{id}/pcap`."""
    record: Literal["off", "wav", "opus"] = "off"
    """Write a file for each leg, left what was said, right what was heard; `opus` needs `pip install 'kallglot-ari[recording]'`."""
    dir: str = "kallglot-ari-debug"
    """Folder of captures, recordings and traces, made with access for the service's user alone."""


class Settings(Section):
    """All sections."""

    service: ServiceSettings = ServiceSettings()
    ari: AriSettings = AriSettings()
    kallglot: KallglotSettings = KallglotSettings()
    media: MediaSettings = MediaSettings()
    conference: ConferenceSettings = ConferenceSettings()
    features: FeatureSettings = FeatureSettings()
    trunk: TrunkSettings = TrunkSettings()
    agi: AgiSettings = AgiSettings()
    ami: AmiSettings = AmiSettings()
    web: WebSettings = WebSettings()
    store: StoreSettings = StoreSettings()
    interpreter: InterpreterSettings = InterpreterSettings()
    log: LogSettings = LogSettings()
    debug: DebugSettings = DebugSettings()

    @model_validator(mode="after")
    def _key(self) -> Settings:
        if not self.kallglot.embedded and not self.kallglot.api_key.get_secret_value():
            raise ValueError(
                'kallglot.api_key: needed for any url but "embedded" (KALLGLOT_API_KEY sets it too), found none'
            )
        return self

    def secrets(self) -> list[str]:
        """Every secret's text, for the log's redaction."""
        found = []
        for name in type(self).model_fields:
            section = getattr(self, name)
            found += [
                v.get_secret_value()
                for v in vars(section).values()
                if isinstance(v, SecretStr) and v.get_secret_value()
            ]
        password = urlsplit(self.store.url).password
        return [*found, password] if password else found


SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def load(path: str | None = None, environ: Mapping[str, str] | None = None, *, only: Collection[str] = ()) -> Settings:
    """Read the configuration.

    :param path: the file named on the command line, if any.
    :param only: sections to look at; the others have their defaults, whatever is set. Empty: all.
    :raises ConfigError: one line that names the setting, what was expected and what was found.
    """
    environ = os.environ if environ is None else environ
    file = find_file(path, environ)
    data = read_file(file) if file else {}
    origin = {(s, k): str(file) for s, keys in data.items() if isinstance(keys, dict) for k in keys}
    for name, raw in environ.items():
        if name.startswith(ENV_PREFIX):
            section, key = _env_target(name)
            data.setdefault(section, {})
            if not isinstance(data[section], dict):
                raise ConfigError(f"{file}: {section}: expected a section [{section}]")
            # A secret and the file it is in are one setting: what the environment says of it replaces either.
            other = key.removesuffix("_file") if key not in SECTIONS[section].model_fields else f"{key}_file"
            if (section, other) in origin and not origin[section, other].startswith(ENV_PREFIX):
                data[section].pop(other, None)
            data[section][key] = _env_value(section, key, raw, name)
            origin[section, key] = name
    if environ.get("KALLGLOT_API_KEY") and not any(
        origin.get(("kallglot", key), "").startswith(ENV_PREFIX) for key in ("api_key", "api_key_file")
    ):
        if not isinstance(data.setdefault("kallglot", {}), dict):
            raise ConfigError(f"{file}: kallglot: expected a section [kallglot]")
        data["kallglot"].pop("api_key_file", None)
        data["kallglot"]["api_key"] = environ["KALLGLOT_API_KEY"]
        origin["kallglot", "api_key"] = "KALLGLOT_API_KEY"
    if only:
        data = {name: values for name, values in data.items() if name in only}
    _read_secret_files(data)
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, data, origin, file)) from None


def find_file(path: str | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file that counts: named ones must be there, the usual places may be empty."""
    if path == "":
        raise ConfigError("--config: expected the name of a file, found ''")
    named = path or environ.get("KALLGLOT_CONFIG")
    if named:
        return Path(named)
    return next((file for file in DEFAULT_FILES if file.exists()), None)


def read_file(file: Path) -> dict[str, Any]:
    """Parse a TOML file; every way it can fail is one clear line."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {file}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"configuration file {file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"configuration file {file}: expected UTF-8, found byte 0x{error.object[error.start]:02x} at {error.start}"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration file {file}: not TOML: {error}") from None


def _env_target(name: str) -> tuple[str, str]:
    section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
    if section not in SECTIONS:
        raise ConfigError(
            f"environment variable {name}: unknown section {section!r}; expected one of {', '.join(SECTIONS)}"
        )
    known = SECTIONS[section].model_fields
    if key.removesuffix("_file") in known and key not in known and _secret(known[key.removesuffix("_file")]):
        return section, key
    if key not in known:
        raise ConfigError(f"environment variable {name}: unknown key {key!r}; [{section}] has {', '.join(known)}")
    return section, key


def _env_value(section: str, key: str, raw: str, name: str) -> Any:
    """The text of a variable as the type its key has. Lists and tables are JSON, plain lists also text with commas.

    What cannot be one stays text, for the error that names it.
    """
    field = SECTIONS[section].model_fields.get(key)
    if field is None:
        return raw
    types = _types(field.annotation)
    if tuple in types:
        if raw.lstrip().startswith(("[", "{")):
            try:
                return orjson.loads(raw)
            except orjson.JSONDecodeError as error:
                raise ConfigError(f"environment variable {name}: expected JSON: {error}") from None
        parts = [part.strip() for part in raw.split(",") if part.strip()]
        return parts[0] if "str |" in str(field.annotation) and len(parts) == 1 else parts
    text = raw.strip()
    if bool in types:
        return {
            "true": True,
            "1": True,
            "yes": True,
            "on": True,
            "false": False,
            "0": False,
            "no": False,
            "off": False,
        }.get(text.lower(), raw)
    if int in types and re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if float in types and re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{0,18})?", text):
        return float(text)
    return raw


def _types(annotation: Any) -> set[Any]:
    """The plain types in an annotation; of a `Literal` those of its values."""
    origin = get_origin(annotation)
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if origin is tuple:
        return {tuple}
    if origin is None:
        return {annotation}
    return {found for part in get_args(annotation) for found in _types(part)}


def _secret(field: FieldInfo) -> bool:
    """Whether a setting is a secret, or may hold one."""
    return isinstance(field.default, SecretStr) or field.repr is False


def _read_secret_files(data: dict[str, Any]) -> None:
    for section, model in SECTIONS.items():
        values = data.get(section)
        if not isinstance(values, dict):
            continue
        for key, field in model.model_fields.items():
            file = values.pop(f"{key}_file", None) if _secret(field) else None
            if file is None:
                continue
            if not isinstance(file, str) or not file:
                raise ConfigError(f"{section}.{key}_file: expected the name of a file, found {file!r}")
            if values.get(key):
                raise ConfigError(f"{section}.{key}: set both here and by {key}_file; expected one of them")
            try:
                values[key] = Path(file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{section}.{key}_file: {file} cannot be read: {error}") from None


_WORDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a table",
    "missing": "a value",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} in the list",
    "string_pattern_mismatch": "{words}",
}
"""What was expected, by the kind of error of pydantic and its context."""
PATTERNS = {
    LANGUAGE_PATTERN: "a BCP 47 language tag such as de or pt-BR, or auto",
    r"^[A-Za-z0-9]{0,16}$": "up to 16 letters and digits",
    r"^[^:]{1,128}$": "a user name of 1 to 128 characters, without a colon",
    r"^[A-Za-z0-9_.-]{0,64}$": "up to 64 letters, digits, _, . and -",
    r"^[A-Za-z0-9_.-]{1,64}$": "1 to 64 letters, digits, _, . and -",
    r"^[A-Za-z0-9.\-]{1,253}$": "a host name",
    r"^[A-Za-z0-9.\-:]{0,253}$": "a host name or address",
    r"^[A-Za-z0-9.\-:\[\]]{1,255}$": "a host, or host:port",
    r"^$|^\*[0-9#]{1,3}$": "`*` and 1 to 3 digits, or nothing",
}
"""What the patterns of the settings say, in words."""


def _expected(error: Mapping[str, Any]) -> str:
    words = _WORDS.get(error["type"])
    if words is None:
        return str(error["msg"]).removeprefix("Value error, ")
    if error["loc"][:2] == ("media", "original_gain_db") and error["type"] == "float_type":
        words = '"off" or a number'
    context = error.get("ctx", {})
    return "expected " + words.format_map({**context, "words": PATTERNS.get(context.get("pattern", ""))})


def _explain(
    error: ValidationError, data: Mapping[str, Any], origin: Mapping[tuple[str, str], str], file: Path | None
) -> str:
    first = error.errors(include_url=False)[0]
    loc: list[str | int] = [
        part
        for part in first["loc"]
        if part not in ("str", "float") and not str(part).startswith(("function-", "tuple[", "constrained-"))
    ]
    message = _expected(dict(first))
    # A section as a whole names the key at fault itself.
    if len(loc) == 1 and loc[0] in SECTIONS:
        key, colon, rest = message.partition(": ")
        if colon and key in SECTIONS[str(loc[0])].model_fields:
            loc, message = [loc[0], key], rest
    where = ".".join(map(str, loc))
    source = origin.get((str(loc[0]), str(loc[1])), "") if len(loc) > 1 else str(file or "") if loc else ""
    source = f" (from {source})" if source else ""
    if first["type"] == "extra_forbidden":
        if len(loc) == 1:
            return f"unknown section [{where}]{source}; expected one of {', '.join(SECTIONS)}"
        known = Endpoint if len(loc) > 2 else SECTIONS[str(loc[0])]
        return f"unknown key {where}{source}; expected one of {', '.join(known.model_fields)}"
    found: Any = data
    for part in loc:
        try:
            found = found[part]
        except (LookupError, TypeError):
            found = None
    secret = len(loc) > 1 and isinstance(SECTIONS[str(loc[0])].model_fields[str(loc[1])].default, SecretStr)
    if found is None and loc:
        shown = ", found none"
    elif secret:
        shown = "" if isinstance(found, str) else f", found {_KINDS.get(type(found), 'something else')}"
    else:
        shown = f", found {_shown(found)}" if loc and "found" not in message else ""
    return _without_credentials(f"{where + ': ' if where else ''}{message}{shown}{source}")


_KINDS: dict[type, str] = {int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "a table"}


def _shown(value: Any) -> str:
    """A value as the file has it, short. A table's content stays out: it may hold a secret."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list) and any(isinstance(one, Mapping | list) for one in value):
        return "a list of tables"
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 100 else text[:99] + "…"


def _without_credentials(text: str) -> str:
    return re.sub(r"://[^/\s'\"]*@", "://[hidden]@", text)
