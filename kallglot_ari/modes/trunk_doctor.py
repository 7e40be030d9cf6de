"""Doctor's look at trunk mode: the PBX's side over its interfaces, the clocks, and a test call with sound."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime

import aiohttp

from kallglot_ari.ami.client import AmiClient
from kallglot_ari.ari.client import AriClient
from kallglot_ari.ari.models import ChannelDestroyed, StasisStart
from kallglot_ari.ari.resources import gone_is_fine
from kallglot_ari.calls.interfaces import Translator
from kallglot_ari.calls.model import EndReason, SessionRequest
from kallglot_ari.clock import Clock
from kallglot_ari.errors import AriError, SipProbeError
from kallglot_ari.kallglot.http import tls_context
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.trunk_loaded import check_endpoint
from kallglot_ari.pbx.addresses import dial_strings, ordered, section_name
from kallglot_ari.pbx.asterisk import CODECS, transport_name
from kallglot_ari.settings import AmiSettings, AriSettings, KallglotSettings, TrunkSettings

CONNECT_SECONDS = 4.0
SKEW_SECONDS = 30.0
"""Signatures of webhooks may be 300 s off, certificates and logs suffer earlier."""
LISTEN_SECONDS = 1.5
OPUS_MODULES = frozenset({"codec_opus.so", "codec_opus_open_source.so"})
_WHY = {
    1: (
        "it does not know the session",
        "trunk.endpoints and kallglot.url must belong to the same Kallglot account and region",
    ),
    21: ("it refuses the call", "check trunk.username and trunk.password, and Kallglot's Allowed IPs"),
    58: ("it takes nothing of what is offered", "check trunk.codecs, trunk.srtp and trunk.srtp_suites"),
}
_UNREACHABLE = ("it is not reached", "look at what is said of the SIP endpoints")


async def pbx_side(settings: AmiSettings, trunk: TrunkSettings) -> str:
    """Has Asterisk loaded what `config asterisk` wrote? :raises SipProbeError:"""
    client = AmiClient(settings, Metrics(), on_event=lambda _: None, on_connected=_nothing)
    await client.start()
    try:
        if not await client.wait_connected(CONNECT_SECONDS):
            raise SipProbeError(client.problem, "check [ami] against manager.conf")
        for index in range(len(ordered(trunk))):
            await check_endpoint(client, section_name(index), trunk)
    finally:
        await client.stop()
    return f"Asterisk has {len(trunk.endpoints)} endpoint(s) and the transport {transport_name(trunk)}"


async def _nothing(_: object) -> None:
    return


async def codecs(ari: AriClient, trunk: TrunkSettings) -> str:
    """Can Asterisk translate what it offers? :raises SipProbeError:"""
    if "opus" not in trunk.codecs:
        return f"{', '.join(trunk.codecs)} need nothing beside Asterisk"
    modules = {module.name for module in await ari.asterisk.list_modules() if module.status == "Running"}
    if not modules & OPUS_MODULES:
        raise SipProbeError(
            "Opus is offered, but this Asterisk cannot translate it: a phone without Opus would hear nothing",
            "install codec_opus, or take opus out of trunk.codecs and write the files again",
        )
    return f"Asterisk can translate {', '.join(trunk.codecs)}"


async def clock_skew(urls: Sequence[str], clock: Clock, ca_file: str = "") -> str:
    """Our clock beside that of the first of `urls` that answers. :raises SipProbeError: they differ, or none does."""
    date = await _date(urls, tls_context(ca_file))
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return "the API does not say what time it is"
    skew = (clock.wall() - theirs).total_seconds()
    if abs(skew) > SKEW_SECONDS:
        raise SipProbeError(
            f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API's",
            "start a time service (chrony, systemd-timesyncd): webhooks are refused beyond 300 s, and certificates look unripe or stale",
        )
    return f"within {max(abs(skew), 1):.0f} s of the API's"


async def _date(urls: Sequence[str], context: ssl.SSLContext) -> str:
    said = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CONNECT_SECONDS / len(urls))) as http:
        for url in urls:
            try:
                async with http.head(url, allow_redirects=False, ssl=context) as answer:
                    return answer.headers.get("Date", "")
            except (aiohttp.ClientError, TimeoutError) as error:
                said.append(f"{url}: {str(error) or 'no answer'}")
    raise SipProbeError("; ".join(said), "look at what is said of the Kallglot API")


async def test_call(
    ari_settings: AriSettings, translator: Translator, kallglot: KallglotSettings, trunk: TrunkSettings, clock: Clock
) -> str:
    """A session, a call to it from the PBX, and sound both ways; the session is ended. :raises SipProbeError:"""
    request = SessionRequest(
        kallglot.mode, kallglot.source_language, kallglot.target_language, {"purpose": "doctor"}, trunk=True
    )
    session = await translator.create_session(request, idempotency_key=f"doctor-{secrets.token_hex(16)}")
    try:
        return await _call(ari_settings, session.id, trunk, clock)
    finally:
        await translator.end_session(session.id, EndReason.COMPLETED, base_url=session.base_url)


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise SipProbeError(f"{uri}: the call was not answered", "look at what is said of the SIP endpoints") from None
    except AriError as error:
        raise SipProbeError(
            f"{uri}: Asterisk does not dial it: {error}", "look at what is said of the PBX's side"
        ) from None


async def _call(settings: AriSettings, session_id: str, trunk: TrunkSettings, clock: Clock) -> str:
    channel_id = f"kg-doctor-{secrets.token_hex(6)}"
    answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def told(event: object) -> None:
        """0 when the far side answers, else the cause of its end."""
        if isinstance(event, StasisStart | ChannelDestroyed) and event.channel.id == channel_id and not answered.done():
            answered.set_result(event.cause if isinstance(event, ChannelDestroyed) else 0)

    uri = dial_strings(session_id, trunk)[0]
    ari = AriClient(settings.model_copy(update={"app": f"{settings.app[:50]}-doctor"}), Metrics(), clock)
    try:
        with _explained(uri):
            await ari.start(told)
            await ari.wait_connected(CONNECT_SECONDS)
            await ari.channels.originate_with_id(
                channel_id, endpoint=uri, app=f"{settings.app[:50]}-doctor", timeout=10
            )
            async with asyncio.timeout(trunk.failover_timeout_ms / 1000 + 1):
                cause = await answered
            if cause:
                why, advice = _WHY.get(cause, _UNREACHABLE)
                raise SipProbeError(f"{uri}: {why} (Q.850 cause {cause})", advice)
            await ari.channels.start_silence(channel_id)
            await asyncio.sleep(LISTEN_SECONDS)
            statistics = await ari.channels.rtp_statistics(channel_id)
            native = (await ari.channels.get_channel_var(channel_id, variable="CHANNEL(audionativeformat)")).value
        if not statistics.rxcount:
            raise SipProbeError(
                f"{uri}: answered, {statistics.txcount} RTP packets sent, none came back",
                "behind NAT: set trunk.external_address and trunk.local_networks and write the files again; in the firewall open "
                "the UDP ports of rtp.conf both ways",
            )
        preferred = CODECS[trunk.codecs[0]]
        note = "" if preferred in native else f"; {preferred} is preferred, and Kallglot did not choose it"
        return f"{uri}: answered with {native}, {statistics.rxcount} RTP packets came back{note}"
    finally:
        with contextlib.suppress(AriError):
            await gone_is_fine(ari.channels.hangup(channel_id))
        await ari.close()
