"""The lab's configuration of Asterisk: the files of asterisk-conf/ as they stand, and `local/` with ports and passwords."""

from __future__ import annotations

import shutil
import subprocess
import sys
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kallglot_ari.errors import LabError

NEWER_MODULES = (
    "codec_opus.so",
    "codec_opus_open_source.so",
    "chan_websocket.so",
    "app_stasis_broadcast.so",
    "res_stasis_broadcast.so",
)
"""Modules that only some Asterisks have; loaded where they are."""
UNLESS_OLD = "res_websocket_client.so"
"""The one module of the shipped modules.conf that an older Asterisk does not have, and would complain of."""


@dataclass(frozen=True, slots=True)
class Values:
    """What differs between one lab Asterisk and the next."""

    inside: str
    """Its private folder as Asterisk sees it."""
    modules: str
    http: int
    sip: int
    sip_tls: int
    manager: int
    rtp: tuple[int, int]
    ari_password: str
    manager_password: str
    phone_password: str
    phones: int


def shipped() -> Path:
    """The folder asterisk-conf. :raises LabError: when it was not installed."""
    beside = Path(__file__).resolve().parents[2] / "asterisk-conf"
    installed = Path(sys.prefix) / "share/kallglot-ari/asterisk-conf"
    for folder in (beside, installed):
        if (folder / "kallglot/extensions.conf").is_file():
            return folder
    raise LabError(f"asterisk-conf: expected in {beside} or {installed}, found in neither: install kallglot-ari again")


def write(folder: Path, values: Values, modules: Path, more: Mapping[str, str]) -> None:
    """Make `folder` with etc (ready to run), log, spool, run, lib and cache in it.

    :param modules: where Asterisk's modules are, to load only those it has.
    :param more: text to add to files of `local/`.
    """
    for name in ("log", "spool", "run", "lib", "cache", "lib/keys"):
        (folder / name).mkdir(parents=True)
    for name in ("recording", "monitor", "tmp", "outgoing"):
        (folder / "spool" / name).mkdir()
    shutil.copytree(shipped(), folder / "etc")
    folder.chmod(0o700)
    _music(folder / "moh/quiet.wav")
    local = folder / "etc/local"
    local.mkdir(exist_ok=True)
    (folder / "etc/asterisk.conf").write_text(_asterisk(values))
    tls = make_certificate(folder / "etc/keys")
    (folder / "etc/logger.conf").write_text(_LOGGER)
    for name in _EMPTY:
        if not (folder / "etc" / name).exists():
            (folder / "etc" / name).write_text(_EMPTY[name])
    lines = [f"load = {name}" for name in NEWER_MODULES if (modules / name).exists()]
    files = _local(values, tls, lines if (modules / UNLESS_OLD).exists() else [*lines, f"noload = {UNLESS_OLD}"])
    for name in sorted({*files, *more}):
        (local / name).write_text(files.get(name, "") + "\n" + more.get(name, ""))


def _music(path: Path) -> None:
    """Something to play on hold, which Debian has in a package of its own: Asterisk warns of a class without files."""
    path.parent.mkdir()
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))


def _asterisk(v: Values) -> str:
    return f"""\
[directories]
astetcdir = {v.inside}/etc
astmoddir = {v.modules}
astvarlibdir = {v.inside}/lib
astdbdir = {v.inside}/lib
astkeydir = {v.inside}/lib
astdatadir = /usr/share/asterisk
astagidir = /usr/share/asterisk/agi-bin
astspooldir = {v.inside}/spool
astrundir = {v.inside}/run
astlogdir = {v.inside}/log
astcachedir = {v.inside}/cache

[options]
documentation_language = en_US
systemname = lab
"""


_LOGGER = """\
[general]
dateformat = %F %T.%3q

[logfiles]
messages.log = notice,warning,error,verbose
"""

_EMPTY = {
    "stasis.conf": "[threadpool]\n",
    "features.conf": "[general]\n",
    "cdr.conf": "[general]\nenable = no\n",
    "cel.conf": "[general]\nenable = no\n",
    "acl.conf": "",
    "udptl.conf": "[general]\n",
    "ccss.conf": "[general]\n",
    "dnsmgr.conf": "[general]\nenable = no\n",
    "pjproject.conf": "",
    "sorcery.conf": "",
    "codecs.conf": "",
    "cli.conf": "",
    "indications.conf": "[general]\ncountry = us\n[us]\ndescription = United States\nringcadence = 2000,4000\n"
    "dial = 350+440\nbusy = 480+620/500,0/500\nring = 440+480/2000,0/4000\ncongestion = 480+620/250,0/250\n",
    "websocket_client.conf": "",
    "chan_websocket.conf": "",
    "queues.conf": "[general]\n",
    "pjsip_notify.conf": "",
    "sip.conf": "[general]\n#tryinclude local/sip.conf\n",
    "hep.conf": "[general]\nenabled = no\n#tryinclude local/hep.conf\n",
}
"""Files that Asterisk looks for and would warn about."""


def _local(v: Values, tls: bool, modules: list[str]) -> dict[str, str]:
    lowest, highest = v.rtp
    phones = "".join(_phone(name, v.phone_password) for name in ("agent2", "agent3", *phone_names(v.phones)))
    return {
        "ari.conf": f"[kallglot](+)\npassword = {v.ari_password}\n",
        "http.conf": f"[general](+)\nbindport = {v.http}\n",
        "manager.conf": f"[general](+)\nport = {v.manager}\n[kallglot](+)\nsecret = {v.manager_password}\n",
        "rtp.conf": f"[general](+)\nrtpstart = {lowest}\nrtpend = {highest}\n",
        "modules.conf": "[modules](+)\n" + "".join(f"{line}\n" for line in modules),
        "pjsip.conf": f"[transport-udp](+)\nbind = 127.0.0.1:{v.sip}\n[transport-tcp](+)\nbind = 127.0.0.1:{v.sip}\n"
        + "".join(f"[{name}-auth](+)\npassword = {v.phone_password}\n" for name in ("customer", "agent"))
        + (_TLS.format(v=v) if tls else "")
        + phones,
        "extensions.conf": _NUMBERS,
        "musiconhold.conf": f"[default](+)\ndirectory = {v.inside}/moh\n",
    }


def phone_names(count: int) -> list[str]:
    """`phone01`, `phone02`, …"""
    return [f"phone{n:02}" for n in range(1, count + 1)]


def _phone(name: str, password: str) -> str:
    return f"""\
[{name}](kallglot-phone)
auth = {name}-auth
aors = {name}
callerid = "{name.title()}" <{name}>
[{name}-auth](kallglot-phone-auth)
username = {name}
password = {password}
[{name}](kallglot-phone-aor)
"""


def make_certificate(folder: Path) -> bool:
    """Make `asterisk.crt` (for 127.0.0.1 and localhost, signed by itself) and `asterisk.key`; False without openssl."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-days", "3650", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(folder / "asterisk.key"), "-out", str(folder / "asterisk.crt")]
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


_TLS = """\
[transport-tls]
type = transport
protocol = tls
bind = 127.0.0.1:{v.sip_tls}
cert_file = {v.inside}/etc/keys/asterisk.crt
priv_key_file = {v.inside}/etc/keys/asterisk.key
method = tlsv1_2
"""

_NUMBERS = """\
; A bare n would be a pattern: any digit from 2 to 9.
[kallglot-phones](+)
exten = _age[n]tX,1,Dial(PJSIP/${EXTEN},30)
exten = _pho[n]eXX,1,Dial(PJSIP/${EXTEN},30)
"""
