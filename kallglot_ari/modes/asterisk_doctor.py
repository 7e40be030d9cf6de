"""Doctor's look at what Asterisk has loaded of what a call needs."""

from __future__ import annotations

from kallglot_ari.ari.client import AriClient
from kallglot_ari.errors import AriError, AriNotFound, SipProbeError

NEEDED = {
    "app_stasis.so": "Stasis() in the dialplan",
    "res_stasis.so": "ARI",
    "res_http_websocket.so": "ARI's events",
    "res_ari.so": "ARI",
    "res_ari_applications.so": "ARI",
    "res_ari_asterisk.so": "ARI",
    "res_ari_bridges.so": "ARI",
    "res_ari_channels.so": "ARI",
    "res_ari_events.so": "ARI's events",
    "res_stasis_answer.so": "res_ari_channels.so",
    "res_stasis_playback.so": "res_ari_channels.so",
    "res_stasis_recording.so": "res_ari_channels.so",
    "res_stasis_snoop.so": "res_ari_channels.so",
    "bridge_simple.so": "bridges",
    "bridge_softmix.so": "bridges",
}
OF_TRANSPORT = {
    "rtp": {"chan_rtp.so": "the sound to us", "res_rtp_asterisk.so": "the sound to us"},
    "websocket": {"chan_websocket.so": "the sound to us"},
}
OF_FORMAT = {
    "ulaw": {"codec_ulaw.so": "media.format"},
    "alaw": {"codec_alaw.so": "media.format"},
    "g722": {"codec_g722.so": "media.format"},
    "slin16": {"codec_g722.so": "the answer to slin16", "codec_resample.so": "media.format"},
}
USEFUL = {
    "res_musiconhold.so": "silence on hold",
    "func_pjsip_endpoint.so": "phones' transfers are declined",
}
"""What a call does without, and what it lacks then."""


async def modules(ari: AriClient, transport: str, format: str) -> str:
    """Is all loaded that a call needs? `format` as Asterisk names it.

    :raises SipProbeError: names what is not. :raises AriError: nobody answers, or not to this user.
    """
    try:
        running = {module.name for module in await ari.asterisk.list_modules() if module.status == "Running"}
    except AriError as error:
        if not of_modules(error):
            raise
        raise SipProbeError(f"res_ari_asterisk.so is not loaded ({error})", _advice(["res_ari_asterisk.so"])) from None
    needed = NEEDED | OF_TRANSPORT[transport] | OF_FORMAT.get(format, {})
    missing = [name for name in needed if name not in running]
    if missing:
        raise SipProbeError(
            "not loaded: " + ", ".join(f"{name} ({needed[name]})" for name in missing), _advice(missing)
        )
    without = "; ".join(f"without {name}: {lack}" for name, lack in USEFUL.items() if name not in running)
    return "all that a call needs is loaded" + (f"; {without}" if without else "")


def _advice(missing: list[str]) -> str:
    lines = ", ".join(f"load = {name}" for name in missing)
    return f"in modules.conf: {lines} (and no noload of it); Debian has them in asterisk-modules. Then restart Asterisk"


def of_modules(error: AriError) -> bool:
    """ARI is there and takes the user, but not all of it."""
    return isinstance(error, AriNotFound) and "there is no ARI" not in str(error)
