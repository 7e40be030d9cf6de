"""The sections and their keys. A key's docstring stands in docs/configuration.md as it is here."""

from __future__ import annotations

from itertools import permutations
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from kallglot_ari.settings.kinds import (
    Address,
    DialString,
    GainDb,
    Host,
    Language,
    Mode,
    Port,
    Section,
    ip_version,
    is_loopback,
    reached_at,
    valid_host,
    valid_networks,
    valid_url,
)
from kallglot_ari.settings.trunk import TrunkSettings


class ServiceSettings(Section):
    """The service as a whole."""

    drain_seconds: float = Field(30, ge=0, le=86400)
    """After SIGTERM, how long live calls may go on before they are hung up, in seconds. Who then still waits for an agent goes on in the dialplan."""
    max_calls: int = Field(0, ge=0)
    """Calls at once, of all kinds; beyond it a call goes on in the dialplan with KALLGLOT_STATUS=BUSY. 0 = no limit."""
    on_unavailable: Literal["continue", "passthrough", "hangup"] = "continue"
    """When a call cannot be translated: go on in the dialplan, connect the parties untranslated, or hang up."""
    shed_late_ms: int = Field(60, ge=0, le=1000)
    """While a tenth of the media's ticks come later than this, in milliseconds, or the event loop is as far behind, new calls go on in the
    dialplan with KALLGLOT_STATUS=BUSY, so that those that are up keep their sound. 0 = never."""
    instance: str = Field("", pattern=r"^[A-Za-z0-9]{0,16}$")
    """Part of every id this service makes; no other service on the same Asterisk or database may have it. Empty: made of the host name and
    `ari.app`."""


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
        url = valid_url(value, ("http", "https"))
        if url.endswith("/ari"):
            raise ValueError(f"expected the address without /ari, {url.removesuffix('/ari')}, found {url}")
        return url


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
            valid_url(url, ("http", "https"))
            if urlsplit(url).scheme == "http" and not is_loopback(urlsplit(url).hostname or ""):
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
    advertise: Annotated[str, AfterValidator(lambda value: value and valid_host(value))] = ""
    """Address Asterisk is told to send to; empty: `bind`. An IPv4 or IPv6 address as that is; with `bind = "::"` either."""
    port: Port = 0
    """The one UDP port of all calls; 0 = any free one."""
    format: Literal["auto", "ulaw", "alaw", "g722", "slin16", "opus"] = "auto"
    """What Asterisk sends; `auto`: ulaw for a mu-law stream, slin16 for PCM. Over RTP, slin16 and opus are answered with G.722."""
    opus_complexity: int = Field(5, ge=0, le=10)
    """How hard the encoder of `format = "opus"` tries, over a websocket, where we send Opus: 0 is cheapest; 10 costs eight times as much as 5, 0 half of it."""
    original_gain_db: GainDb = None
    """The speaker's own voice under the translation, in dB, 0 being as loud as spoken; `off`: only the translation is heard."""
    original_duck_db: float = Field(6.0, ge=0, le=60)
    """By how much that voice is lowered while the translation speaks, in dB; 0: it is not."""
    jitter_min_ms: int = Field(20, ge=20, le=200)
    """Least delay of the adaptive jitter buffer, in milliseconds; more of it loses fewer late packets on an unsteady network."""
    jitter_max_ms: int = Field(200, ge=40, le=1000)
    """Most delay of the adaptive jitter buffer, in milliseconds; a packet later than that counts as lost."""
    backlog_max_ms: int = Field(30000, ge=1000, le=600000)
    """Translated speech waiting to be played, in milliseconds; beyond it the oldest is dropped."""
    lag_max_ms: int = Field(2000, ge=200, le=600000)
    """How far translated speech may fall behind its arrival, in milliseconds: from half of it on pauses are shortened, then speech is up to 1.15 times faster."""

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
        told, ours = ip_version(self.advertise), ip_version(self.bind)
        if self.transport == "rtp" and self.bind != "::" and told not in (None, ours):
            raise ValueError(
                f"advertise: expected an IPv{ours} address as bind is one, found {self.advertise}; "
                'bind = "::" takes both kinds'
            )
        return self


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
        return valid_networks(value)

    @model_validator(mode="after")
    def _known(self) -> AgiSettings:
        if not is_loopback(self.bind) and not self.allowed_ips:
            raise ValueError(f"allowed_ips: needed to bind {self.bind} (FastAGI knows no password)")
        return self


class AmiSettings(Section):
    """Asterisk's manager interface; used when a user name is set."""

    host: Host = "127.0.0.1"
    """Address of Asterisk's manager interface; it is not encrypted."""
    port: int = Field(5038, ge=1, le=65535)
    """TCP port of Asterisk's manager interface."""
    username: str = ""
    """User of `manager.conf`; empty: AMI is not used. ARI then tells when the channels of a trunk call are gone; `agent=`, and digits, hold and
    quality of trunk calls, need AMI."""
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
    """Bearer token of /api/v1/calls/{id}/supervise alone, which nothing else opens; empty: nobody may supervise. Who has `token` can hear calls
    too: by a capture, or as one more party."""
    allowed_ips: tuple[str, ...] = ()
    """Addresses or networks that may connect; empty: any."""
    webhook_secret: SecretStr = SecretStr("")
    """Secret that Kallglot signs its webhooks with; empty: webhooks are refused (the embedded Kallglot is given one by itself)."""

    def url(self, port: int | None = None) -> str:
        """Where this machine reaches it. :param port: the one that it has got, where `port` is 0."""
        scheme = "https" if self.tls_certificate else "http"
        return f"{scheme}://{reached_at(self.bind, self.port if port is None else port)}"

    @field_validator("allowed_ips")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return valid_networks(value)

    @model_validator(mode="after")
    def _tls(self) -> WebSettings:
        if self.tls_key and not self.tls_certificate:
            raise ValueError("tls_certificate: needed with tls_key")
        return self

    @model_validator(mode="after")
    def _token(self) -> WebSettings:
        if not is_loopback(self.bind) and not self.token.get_secret_value():
            raise ValueError(f"token: needed to bind {self.bind} (without one only loopback is allowed)")
        return self


class StoreSettings(Section):
    """Where calls and the sessions still to end are kept."""

    url: str = Field("sqlite:///kallglot-ari.db", repr=False)
    """`sqlite:///FILE`, or `postgresql://…`, which needs `pip install 'kallglot-ari[postgresql]'`. A secret, for a password in it is one."""
    retention_days: float = Field(90, ge=0, le=36500)
    """Ended calls and their transcripts are deleted this many days after their start; 0 keeps them for ever."""

    @field_validator("url")
    @classmethod
    def _scheme(cls, value: str) -> str:
        if not value.startswith(("sqlite:///", "postgresql://")):
            scheme, found, _ = value.partition("://")
            raise ValueError(
                "expected sqlite:///FILE or postgresql://…" + (f", found {scheme[:32]}://…" if found else "")
            )
        try:
            urlsplit(value)
        except ValueError:
            raise ValueError("expected a host name or address after postgresql:// (IPv6 in brackets)") from None
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
    human_endpoint: DialString = ""
    """Whom `human` dials: a dial string such as `PJSIP/1001`; empty: nobody, but the event `human.asked` is told."""

    @model_validator(mode="after")
    def _apart(self) -> FeatureSettings:
        for (code, name), (other, longer) in permutations(self.codes, 2):
            if other.startswith(code):
                said = f"found {code} twice" if other == code else f"found {code}, with which {longer} = {other} begins"
                raise ValueError(f"{name}: expected codes of which none begins another, {said}")
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
    voice: Literal["auto", "espeak-ng", "pico", "piper"] = "auto"
    """Speech synthesis; `auto`: Piper where there is a voice for the language, else Pico, else eSpeak NG."""
    models_dir: str = ""
    """Folder of the models; empty: the user's cache folder."""
    workers: int = Field(1, ge=1, le=64)
    """Recognitions at once; each takes a process with a model of its own, and shares the processor with the media."""

    @field_validator("translator_url")
    @classmethod
    def _url(cls, value: str) -> str:
        return valid_url(value, ("http", "https")) if value else value

    @model_validator(mode="after")
    def _endpoint(self) -> InterpreterSettings:
        if self.translator == "openai" and not self.translator_url:
            raise ValueError('translator_url: needed with translator = "openai"')
        return self


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
