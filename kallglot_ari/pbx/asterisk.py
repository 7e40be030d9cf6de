"""The files of `config asterisk`; here those of trunk mode, for chan_pjsip and (Asterisk 16) chan_sip. Pure."""

from __future__ import annotations

import ipaddress
import re
from importlib.resources import files

from kallglot_ari.errors import ConfigError
from kallglot_ari.pbx import asterisk_media
from kallglot_ari.pbx.addresses import ordered, section_name, split_port
from kallglot_ari.pbx.files import RenderedFile, plain
from kallglot_ari.settings import Settings, TrunkSettings, host_port, reached_at

CODECS = {"opus": "opus", "G722": "g722", "PCMU": "ulaw", "PCMA": "alaw"}
SUITES = ("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")
"""What Asterisk can offer for SDES (RFC 4568); the 80-bit tag, or the 32-bit one."""
_USER_MARKS = "-._~%!$&'()*+,=:"
_USER = re.compile(rf"[A-Za-z0-9{re.escape(_USER_MARKS)}]*")
TLS_METHODS = {"TLSv1.2": "tlsv1_2", "TLSv1.3": "tlsv1_3"}
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
_DEFAULT_AGI = "agi://127.0.0.1:4573"
_DEFAULT_TRANSPORT = "kallglot-tls"


def render(settings: Settings) -> list[RenderedFile]:
    """The files of `config asterisk`.

    :raises ConfigError: a setting that Asterisk cannot do, or text that its files cannot hold.
    """
    return [
        RenderedFile("kallglot-ari.conf", asterisk_media.ari(settings.ari), secret=True),
        RenderedFile("kallglot-http.conf", asterisk_media.http(settings.ari)),
        RenderedFile("kallglot-calls.conf", asterisk_media.calls(settings.ari.app, settings.kallglot)),
        RenderedFile("kallglot-pjsip.conf", pjsip(settings.trunk), secret=True),
        RenderedFile("kallglot-sip.conf", chan_sip(settings.trunk), secret=True),
        RenderedFile("kallglot-extensions.conf", extensions(settings)),
        RenderedFile("kallglot-manager.conf", manager(settings), secret=True),
        *([RenderedFile("kallglot-hep.conf", hep(settings))] if settings.trunk.sip_trace else []),
        RenderedFile("README.txt", README),
    ]


def check(trunk: TrunkSettings) -> None:
    """:raises ConfigError: what Asterisk cannot do, or would do otherwise than said."""
    if trunk.srtp and (unknown := [suite for suite in trunk.srtp_suites if suite not in SUITES]):
        raise ConfigError(f"trunk.srtp_suites: Asterisk offers {' or '.join(SUITES)}, found {unknown[0]!r}")
    if trunk.srtp and len(trunk.srtp_suites) != 1:
        raise ConfigError(f"trunk.srtp_suites: Asterisk offers one suite, found {len(trunk.srtp_suites)}")
    if len({endpoint.uri.startswith("[") for endpoint in trunk.endpoints}) > 1:
        raise ConfigError(
            "trunk.endpoints: an Asterisk transport has one IP version, found IPv6 addresses beside others: expected only one kind"
        )
    if trunk.external_address and _version(trunk.external_address) not in (0, 6 if _ipv6(trunk) else 4):
        raise ConfigError(
            f"trunk.external_address: expected the IP version of trunk.endpoints, found {trunk.external_address}"
        )


def _version(host: str) -> int:
    """4 or 6; 0 for a name."""
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return 0


def _ipv6(trunk: TrunkSettings) -> bool:
    return trunk.endpoints[0].uri.startswith("[")


def _safe(trunk: TrunkSettings) -> tuple[str, str]:
    user = plain("trunk.username", trunk.username, forbidden=' ;@"<>')
    if not _USER.fullmatch(user):
        raise ConfigError(
            f"trunk.username: expected letters, digits and {_USER_MARKS}, which is what Asterisk takes in from_user, found {user!r}"
        )
    password = trunk.password.get_secret_value()
    # in Asterisk's files ; begins a comment unless escaped, and a value's edges are trimmed
    if password != password.strip():
        raise ConfigError("trunk.password: expected no blank at either end: Asterisk would cut it off")
    return user, password.replace(";", "\\;")


def pjsip(trunk: TrunkSettings) -> str:
    """For pjsip.conf: one transport, one digest log-in, and an endpoint with its qualified address for each of Kallglot's."""
    check(trunk)
    user, password = _safe(trunk)
    transport = transport_name(trunk)
    parts = [
        "; Written by kallglot-ari config asterisk. It holds a password: keep it readable for Asterisk only.\n",
        _transport(trunk, transport),
    ]
    if user:
        parts.append(f"[kallglot-login]\ntype = auth\nauth_type = userpass\nusername = {user}\npassword = {password}\n")
    for index, endpoint in enumerate(ordered(trunk)):
        host, port = split_port(endpoint.uri, trunk.transport)
        parts.append(_endpoint(trunk, section_name(index), transport, user))
        suffix = "" if trunk.transport == "udp" else f"\\;transport={trunk.transport}"
        parts.append(
            f"[{section_name(index)}]\ntype = aor\ncontact = sip:{host}:{port}{suffix}\n"
            f"qualify_frequency = 60\nqualify_timeout = {trunk.failover_timeout_ms / 1000:.1f}\n"
        )
    return "\n".join(parts)


def transport_name(trunk: TrunkSettings) -> str:
    """Name of the transport's section in pjsip.conf."""
    return f"kallglot-{trunk.transport}"


def _transport(trunk: TrunkSettings, name: str) -> str:
    lines = [
        f"[{name}]", "type = transport", f"protocol = {trunk.transport}",
        "; Nobody calls in here, but Asterisk listens on every transport's port (and takes 5060 or 5061 for 0), so it must be free.",
        f"bind = {host_port('::' if _ipv6(trunk) else '0.0.0.0', trunk.bind_port)}",  # noqa: S104 - Kallglot may be on any network
    ]  # fmt: skip
    if trunk.transport == "tls":
        ca = plain("trunk.ca_file", trunk.ca_file or SYSTEM_CA, forbidden=";")
        lines += [
            f"method = {TLS_METHODS[trunk.tls_min_version]}",
            f"verify_server = {_yes(trunk.tls_verify_certificate)}",
            f"ca_list_file = {ca}",
        ]
    if trunk.external_address:
        lines += [
            f"external_signaling_address = {trunk.external_address}",
            f"external_media_address = {trunk.external_address}",
            *(f"local_net = {network}" for network in trunk.local_networks),
        ]
    return "\n".join(lines) + "\n"


def _endpoint(trunk: TrunkSettings, name: str, transport: str, user: str) -> str:
    lines = [
        f"[{name}]", "type = endpoint", f"transport = {transport}", "; Nobody calls us through this trunk.",
        "context = kallglot-nobody", "disallow = all",
        f"allow = {','.join(CODECS[codec] for codec in trunk.codecs)}",
        f"aors = {name}", f"from_domain = {trunk.domain}",
    ]  # fmt: skip
    if user:
        lines += ["outbound_auth = kallglot-login", f"from_user = {user}"]
    if trunk.srtp:
        tag_32 = trunk.srtp_suites[0].endswith("_32")
        lines += ["media_encryption = sdes", "media_encryption_optimistic = no", f"srtp_tag_32 = {_yes(tag_32)}"]
    lines += [
        "dtmf_mode = rfc4733", "direct_media = no", "rtp_symmetric = yes", "force_rport = yes",
        "rtp_timeout = 60", "rtp_timeout_hold = 1800", "timers = yes",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def chan_sip(trunk: TrunkSettings) -> str:
    """For sip.conf, where chan_pjsip is not used (chan_sip is gone since Asterisk 21)."""
    check(trunk)
    user, password = _safe(trunk)
    lines = [
        "; Written by kallglot-ari config asterisk, for chan_sip. It holds a password: keep it readable for Asterisk only.",
        "[general](+)",
    ]
    if trunk.transport == "tls":
        lines += [
            "; With TLS on, chan_sip listens for it too, and wants a certificate of its own for that (certificate and key in",
            "; one PEM file). Where your sip.conf names none yet:",
            ";tlscertfile = /etc/asterisk/keys/asterisk.pem",
            "tlsenable = yes",
            f"tlsdontverifyserver = {_yes(not trunk.tls_verify_certificate)}",
            f"tlscafile = {plain('trunk.ca_file', trunk.ca_file or SYSTEM_CA, forbidden=';')}",
            "tlsdisablev1 = yes",
            "tlsdisablev11 = yes",
            *(["tlsdisablev12 = yes"] if trunk.tls_min_version == "TLSv1.3" else []),
        ]
    if trunk.external_address:
        lines += [f"externaddr = {trunk.external_address}", *(f"localnet = {n}" for n in trunk.local_networks)]
    for index, endpoint in enumerate(ordered(trunk)):
        host, port = split_port(endpoint.uri, trunk.transport)
        lines += ["", f"[{section_name(index)}]", "type = peer", f"host = {host}", f"port = {port}"]
        lines += [f"transport = {trunk.transport}"]
        if user:
            lines += [f"defaultuser = {user}", f"remotesecret = {password}", f"fromuser = {user}"]
        lines += [
            f"fromdomain = {trunk.domain}", "qualify = yes", "insecure = invite", "context = kallglot-nobody",
            f"encryption = {_yes(trunk.srtp)}", "directmedia = no",
            "dtmfmode = rfc2833", "disallow = all", *(f"allow = {CODECS[codec]}" for codec in trunk.codecs),
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def extensions(settings: Settings) -> str:
    """For extensions.conf: the dialplan of trunk mode with this service's FastAGI address."""
    text = files("kallglot_ari.pbx").joinpath("templates/trunk-extensions.conf").read_text(encoding="utf-8")
    text = text.replace(_DEFAULT_AGI, f"agi://{reached_at(settings.agi.bind, settings.agi.port)}")
    return text.replace(_DEFAULT_TRANSPORT, transport_name(settings.trunk))


def manager(settings: Settings) -> str:
    """For manager.conf: the user that trunk mode follows its calls with."""
    user = plain("ami.username", settings.ami.username or "kallglot", forbidden=" ;[]")
    if user == "general":
        raise ConfigError("ami.username: expected a name other than general, which is a section of manager.conf")
    secret = settings.ami.password.get_secret_value() or asterisk_media.UNCHANGED
    if secret != secret.strip():
        raise ConfigError("ami.password: expected no blank at either end: Asterisk would cut it off")
    return (
        "; Written by kallglot-ari config asterisk. It holds a password: keep it readable for Asterisk only.\n"
        f"[{user}]\nsecret = {secret.replace(';', chr(92) + ';')}\n"
        "; Addresses that may log in; add the service's, if it runs on another machine. Whoever has the secret can run programs on\n"
        "; the PBX: system (which asking about an endpoint needs) together with originate allows it.\n"
        "deny = 0.0.0.0/0.0.0.0\npermit = 127.0.0.1/255.255.255.255\n"
        "read = system,call,dtmf,reporting\nwrite = system,call,originate,reporting\n"
    )


def hep(settings: Settings) -> str:
    """For hep.conf: copies of all SIP messages to this service, which keeps those of its calls."""
    return (
        "; Written by kallglot-ari config asterisk: SIP messages for trunk.sip_trace. They go over UDP in clear: keep them on\n"
        "; this machine.\n"
        "[general](+)\nenabled = yes\n"
        f"capture_address = {reached_at(settings.agi.bind, settings.trunk.sip_trace_port)}\n"
        "capture_id = 1\nuuid_type = call-id\n"
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


README = """\
Put these files into /etc/asterisk, owned by the user that Asterisk runs as (chown asterisk:), and add one line to each of yours:
  ari.conf          #include kallglot-ari.conf            (and enabled = yes in [general])
  http.conf         #include kallglot-http.conf           (after [general])
  extensions.conf   #include kallglot-calls.conf          (after [globals]; name your agent in it: KALLGLOT_AGENT)
Then: asterisk -rx "core reload", and asterisk -rx "core restart now" if the HTTP server was off. Send calls to
Goto(kallglot-inbound,s,1).

For trunk mode also:
  pjsip.conf        #include kallglot-pjsip.conf
  extensions.conf   #include kallglot-extensions.conf     (after [globals])
  manager.conf      #include kallglot-manager.conf
With trunk.sip_trace also, in hep.conf: [general] and #include kallglot-hep.conf; it needs res_hep.so and res_hep_pjsip.so.
Send calls to Goto(kallglot-trunk,s,1).
kallglot-sip.conf is for sip.conf of an Asterisk 16 that has chan_sip instead; set KALLGLOT_TECH = SIP then. chan_sip wants a
certificate of its own (tlscertfile), and compares Kallglot's with the endpoint's name, so endpoints must be names there.
An Asterisk without codec_opus passes Opus through but cannot translate it: take "opus" out of trunk.codecs.
"""
