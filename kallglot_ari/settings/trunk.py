"""The section `[trunk]`. A key's docstring stands in docs/configuration.md as it is here."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from kallglot_ari.settings.kinds import Port, Section, SrtpSuite, valid_host, valid_networks, valid_url


class Endpoint(Section):
    """A SIP endpoint of Kallglot; the lowest priority is tried first."""

    uri: str = Field(pattern=r"^[A-Za-z0-9.\-:\[\]]{1,255}$")
    """Host, or host:port."""
    priority: int = Field(1, ge=0, le=1000)
    """Its place in the failover order."""

    @field_validator("uri")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        try:
            parts = urlsplit(f"sip://{value}")
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), 0
        if not parts.hostname or port == 0 or value.endswith(":"):
            kind = "without sip:" if value.lower().startswith(("sip:", "sips:")) else "(IPv6 in brackets)"
            raise ValueError(f"expected host or host:port {kind}, found {value!r}")
        return value


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
    """Whether the audio is encrypted (SDES). Its keys stand in the signalling, so it needs `transport = "tls"`; off for any other."""
    srtp_suites: tuple[SrtpSuite, ...] = Field(("AES_CM_128_HMAC_SHA1_80",), min_length=1)
    """SRTP crypto suites (RFC 4568 names), the preferred first; for Asterisk one, `AES_CM_128_HMAC_SHA1_80` or `…_32`."""
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
    """UDP port, on `agi.bind` and for `agi.allowed_ips`, that Asterisk's res_hep sends copies of SIP messages to when `sip_trace` is on; 0 = any free one."""
    bind_port: int = Field(5095, ge=1, le=65535)
    """Port that Asterisk's own transport for these calls listens on, for `config asterisk`: one that nothing else on the PBX has."""
    external_address: Annotated[str, AfterValidator(lambda value: value and valid_host(value))] = Field(
        "", pattern=r"^[A-Za-z0-9.\-:]{0,253}$"
    )
    """Public address of the PBX when it is behind NAT, for `config`; empty: no NAT."""
    local_networks: tuple[str, ...] = ()
    """Networks on the inside of that NAT, as 10.0.0.0/8."""
    freeswitch_contexts: tuple[str, ...] = ()
    """Dialplan contexts whose calls mod_xml_curl gets a session for; of others FreeSWITCH uses its own files. Empty: every call."""

    @field_validator("refer_notify_url")
    @classmethod
    def _url(cls, value: str) -> str:
        return valid_url(value, ("http", "https"), base=False) if value else value

    @field_validator("local_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return valid_networks(value)

    @model_validator(mode="after")
    def _keys(self) -> TrunkSettings:
        if self.srtp and self.transport != "tls":
            raise ValueError(
                f'transport: expected "tls" with srtp (SDES keys would go over {self.transport} in clear), or srtp = false'
            )
        return self
