"""Asterisk's side of media mode: the user and the HTTP server that the service connects to, and the dialplan before `Stasis()`. Pure."""

from __future__ import annotations

import ipaddress
from importlib.resources import files
from urllib.parse import urlsplit

from kallglot_ari.errors import ConfigError
from kallglot_ari.pbx.files import plain
from kallglot_ari.settings import AriSettings, KallglotSettings, host_port

HEAD = "; Written by kallglot-ari config asterisk."
UNCHANGED = "change-me"
"""What stands for a password that is not set."""


def ari(settings: AriSettings) -> str:
    """For ari.conf: the user that the service logs in as."""
    user = plain("ari.username", settings.username, forbidden=";[]()")
    if user == "general":
        raise ConfigError("ari.username: expected a name other than general, which is a section of ari.conf")
    password = settings.password.get_secret_value() or UNCHANGED
    # In Asterisk's files ; begins a comment unless escaped, and a value's edges are trimmed.
    if password != password.strip():
        raise ConfigError("ari.password: expected no blank at either end: Asterisk would cut it off")
    password = password.replace(";", "\\;")
    return (
        f"{HEAD} It holds a password: keep it readable for Asterisk only.\n"
        f"[{user}]\ntype = user\nread_only = no\npassword_format = plain\npassword = {password}\n"
    )


def http(settings: AriSettings) -> str:
    """For http.conf: the server under ARI, where `ari.url` looks for it."""
    url = urlsplit(settings.url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        host = "127.0.0.1" if host == "localhost" else "0.0.0.0"  # noqa: S104 - a name says nothing of the interface
    lines = [HEAD, "[general](+)", "enabled = yes", "sessionlimit = 100", "session_keep_alive = 60000"]
    if prefix := url.path.strip("/"):
        lines.append(f"prefix = {plain('ari.url', prefix, forbidden=';[]')}")
    if url.scheme == "https":
        lines += [
            "tlsenable = yes",
            f"tlsbindaddr = {host_port(host, port)}",
            "; Name your certificate and its key:",
            ";tlscertfile = /etc/asterisk/keys/asterisk.crt",
            ";tlsprivatekey = /etc/asterisk/keys/asterisk.key",
        ]
    else:
        lines += [f"bindaddr = {host}", f"bindport = {port}"]
    return "\n".join(lines) + "\n"


def calls(app: str, kallglot: KallglotSettings) -> str:
    """For extensions.conf: kallglot-inbound, what happens for each KALLGLOT_STATUS, and the fallback."""
    text = files("kallglot_ari.pbx").joinpath("templates/extensions.conf").read_text(encoding="utf-8")
    text = text.replace("Stasis(kallglot,", f"Stasis({app},").partition("#include ")[0]
    return (
        f"{HEAD}\n[globals](+)\n"
        "; Who answers translated calls: PJSIP/1001, or several joined with & (the first to answer gets the call).\n"
        "KALLGLOT_AGENT = PJSIP/agent\n"
        "; The caller's language and the agent's.\n"
        f"KALLGLOT_SOURCE = {kallglot.source_language}\nKALLGLOT_TARGET = {kallglot.target_language}\n"
        "; Where calls go that could not be translated; empty: the agent is called untranslated.\n"
        f"KALLGLOT_FALLBACK =\n\n{text.rstrip()}\n"
    )
