"""A SIP edge for the lab: files for an Asterisk that plays sip.kallglot.com. It demands TLS, SDES-SRTP and digest."""

from __future__ import annotations

USER = "kallglot-edge"
PASSWORD = "right;word"
ECHO = """
[edge]
exten = _sess.,1,Set(GLOBAL(CODEC)=${CHANNEL(audionativeformat)})
 same = n,Set(GLOBAL(SIGNALLING)=${CHANNEL(pjsip,secure)})
 same = n,Answer()
 same = n,Set(GLOBAL(MEDIA)=${CHANNEL(rtp,secure)})
 same = n,Echo()
"""
"""Dialplan of an edge that says back what it hears."""
MEDIA_MODE = """
[edge]
exten = _sess.,1,Set(GLOBAL(CODEC)=${CHANNEL(audionativeformat)})
 same = n,Set(GLOBAL(SIGNALLING)=${CHANNEL(pjsip,secure)})
 same = n,Stasis(kallglot,source=de,target=en,mode=ai_agent,metadata.trunk_session=${EXTEN})
exten = h,1,Set(GLOBAL(MEDIA)=${CHANNEL(rtp,secure)})
"""
"""Dialplan of an edge whose calls run through our own media mode."""


def pjsip(codecs: str = "opus,g722,ulaw,alaw", *, allowed: str = "", transport: str = "tls") -> str:
    """For `local/pjsip.conf`.

    :param allowed: the one network that may connect, as 192.0.2.0/255.255.255.0; empty: all.
    :param transport: `tls`; with `tcp` or `udp` the audio is not encrypted either.
    """
    encryption = "sdes" if transport == "tls" else "no"
    acl = f"[allowed]\ntype = acl\ndeny = 0.0.0.0/0.0.0.0\npermit = {allowed}\n" if allowed else ""
    return f"""\
[{USER}]
type = endpoint
transport = transport-{transport}
context = edge
disallow = all
allow = {codecs}
auth = {USER}
aors = {USER}
media_encryption = {encryption}
rewrite_contact = yes
rtp_symmetric = yes
direct_media = no
[{USER}]
type = auth
auth_type = userpass
username = {USER}
password = {PASSWORD.replace(";", chr(92) + ";")}
[{USER}]
type = aor
max_contacts = 1
{acl}"""
