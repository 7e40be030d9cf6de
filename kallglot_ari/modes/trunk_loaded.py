"""Has Asterisk loaded trunk mode's endpoints and their transport as `config asterisk` wrote them? Asked over AMI."""

from __future__ import annotations

from kallglot_ari.ami.client import AmiClient
from kallglot_ari.errors import AmiError, SipProbeError
from kallglot_ari.pbx.asterisk import transport_name
from kallglot_ari.settings import TrunkSettings


class NotLoaded(SipProbeError):
    """Asterisk knows nothing of the endpoint: trunk mode is not in use there, or a file is not included."""


async def check_endpoint(client: AmiClient, name: str, trunk: TrunkSettings) -> str:
    """What qualify says of it: ``Reachable``, ``Unreachable``, or something else while it is not known.

    :raises NotLoaded: Asterisk has no such endpoint. :raises SipProbeError: it has, but would dial it otherwise than told.
    """
    try:
        details = await client.action("PJSIPShowEndpoint", Endpoint=name)
    except AmiError as error:
        if client.connected and await _chan_sip(client, name):
            return ""
        raise NotLoaded(
            f"Asterisk has no endpoint {name}: {error}",
            "include kallglot-pjsip.conf (kallglot-ari config asterisk writes it) in pjsip.conf, then: asterisk -rx 'core reload'",
        ) from None
    transports = [d for d in details if d.get("event", "").lower() == "transportdetail"]
    if not transports:
        raise SipProbeError(
            f"Asterisk has no transport {transport_name(trunk)}: it would dial Kallglot over any other, with that one's rules",
            f"its log says why, mostly that it cannot read ca_list_file, or that another transport has port {trunk.bind_port}"
            " (trunk.bind_port): mend that, then: asterisk -rx 'core restart when convenient' (a reload does not bring transports back)",
        )
    if (
        trunk.transport == "tls"
        and trunk.tls_verify_certificate
        and transports[0].get("verifyserver", "").lower() != "yes"
    ):
        raise SipProbeError(
            f"Asterisk's transport {transport_name(trunk)} does not verify certificates",
            "write the files again with kallglot-ari config asterisk, and restart Asterisk",
        )
    contacts = [d for d in details if d.get("event", "").lower() == "contactstatusdetail"]
    return contacts[0].get("status", "") if contacts else ""


async def _chan_sip(client: AmiClient, name: str) -> bool:
    try:
        await client.action("SIPshowpeer", Peer=name)
    except AmiError:
        return False
    return True
