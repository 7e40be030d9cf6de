"""Channels and bridges as the call layer uses them: the generated operations, and what a call needs beyond them."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from kallglot_ari.ari.models import Bridge, Channel
from kallglot_ari.ari.operations import Asterisk, Bridges, Channels
from kallglot_ari.ari.rest import Rest
from kallglot_ari.ari.versions import FEATURES, UNKNOWN, has
from kallglot_ari.errors import AriConflict, AriError, AriNotFound, AriUnsupported

BRIDGE_TYPE = "mixing,proxy_media"
"""Media always goes through the bridge: a plain one may connect two channels directly and starve a third's audio."""

REASONS = {
    1: "unallocated", 16: "normal", 17: "busy", 18: "no_answer", 19: "timeout", 21: "rejected", 26: "answered_elsewhere",
    28: "number_incomplete", 31: "normal_unspecified", 34: "congestion", 38: "failure", 42: "congestion",
    127: "interworking",
}  # fmt: skip
"""Q.850 causes by the words that every Asterisk takes."""


async def gone_is_fine(request: Awaitable[object]) -> bool:
    """Await a request of a teardown: that the object is gone already, or leaving (404, 409, 412, 422), is success too.

    True when Asterisk did it, False when there was nothing left to do. :raises AriError: for anything else.
    """
    try:
        await request
    except (AriNotFound, AriConflict):
        return False
    except AriError as error:
        if error.status != 422:
            raise
        return False
    return True


def rtp_address(channel: Channel) -> tuple[str, int]:
    """Where Asterisk awaits the RTP of an external-media channel: host and port.

    :raises AriError: when the channel's answer does not say.
    """
    variables = channel.channelvars
    host, port = variables.get("UNICASTRTP_LOCAL_ADDRESS"), str(variables.get("UNICASTRTP_LOCAL_PORT", ""))
    if not isinstance(host, str) or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise AriError(
            f"channels.externalMedia: expected UNICASTRTP_LOCAL_ADDRESS and _PORT on channel {channel.id}, "
            f"found {host!r} and {port!r}",
            status=200,
            operation="channels.externalMedia",
        )
    return host, int(port)


class CallChannels(Channels):
    """`/channels`, with a hangup for every version and external media by one call."""

    def __init__(self, rest: Rest, app: str) -> None:
        super().__init__(rest)
        self._rest, self._app = rest, app
        self._has_opus = False

    async def hangup(self, channel_id: str, *, reason_code: str | int | None = None, reason: str | None = None) -> None:
        """`hangup`, with a Q.850 cause (`reason_code`) or a word (`reason`); an Asterisk that knows words only is given one."""
        version = self._rest.version
        if reason_code is not None and version != UNKNOWN and not has(version, FEATURES["hangup_reason_code"]):
            code = int(reason_code) if str(reason_code).isdecimal() else 31
            reason, reason_code = reason or REASONS.get(code, "normal_unspecified"), None
        code_text = None if reason_code is None else str(reason_code)
        await super().hangup(channel_id, reason_code=code_text, reason=reason)

    async def need(self, format: str) -> None:
        """Ask whether this Asterisk can send `format`: Opus without its module is taken, and nothing is ever sent.

        :raises AriUnsupported: it cannot; says what to do.
        """
        if format != "opus" or self._has_opus:
            return
        modules = await Asterisk(self._rest).list_modules()
        self._has_opus = any(one.name.startswith("codec_opus") and one.status == "Running" for one in modules)
        if not self._has_opus:
            version = ".".join(map(str, self._rest.version))
            raise AriUnsupported(
                f"media.format: opus needs Asterisk's module codec_opus, which this one ({version}) does not have loaded;"
                " load it, or set another format"
            )

    async def create_external_media(
        self,
        channel_id: str,
        *,
        external_host: str,
        format: str,
        encapsulation: str = "rtp",
        transport: str = "udp",
        connection_type: str = "client",
        variables: Mapping[str, str] | None = None,
    ) -> Channel:
        """`externalMedia` to `external_host`: over RTP `HOST:PORT`, and `rtp_address` of the answer is where to send.

        Over a websocket (encapsulation `none`) `INCOMING` with connection type `server`, or a name of websocket_client.conf with `client`.
        The channel cannot enter a bridge before its own `StasisStart`. :raises AriUnsupported: as `need`.
        """
        await self.need(format)
        return await self.external_media(
            app=self._app,
            channel_id=channel_id,
            external_host=external_host,
            format=format,
            encapsulation=encapsulation,
            transport=transport,
            connection_type=connection_type,
            direction="both",
            variables=variables,
        )


class CallBridges(Bridges):
    """`/bridges`, with the kind of bridge that translated calls need."""

    async def create_for_media(self, bridge_id: str) -> Bridge:
        """`createWithId` of a bridge that never connects its channels directly; its id is its name too."""
        return await self.create_with_id(bridge_id, type=BRIDGE_TYPE, name=bridge_id)
