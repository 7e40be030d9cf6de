"""The far end of `bench stream`: a Kallglot that says back what it hears, and nothing else. A process of its own."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

import aiohttp
from aiohttp import web

from kallglot_ari.kallglot import assumed
from kallglot_ari.lab.bench_load import stay_on

SILENT = '"payload":"' + "/" * 64
"""How a chunk begins that is silence in mu-law: pauses are not translated."""
HEARD = '"type":"audio.input"'
SAID = f'"type":"{assumed.ROUTING_SPEECH}"'


async def _stream(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(max_msg_size=1 << 20)
    await socket.prepare(request)
    await socket.send_str('{"type":"session.ready"}')
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            break
        if SILENT in message.data:
            continue
        if HEARD in message.data:
            await socket.send_str(message.data.replace(HEARD, SAID, 1))
        elif '"ping"' in message.data:
            await socket.send_str('{"type":"pong"}')
    return socket


def main(port: int, keys: str = "") -> None:
    """Serve; over TLS with the certificate in the folder `keys`, if there is one."""
    stay_on(1)
    app = web.Application()
    app.router.add_get("/{call}", _stream)
    tls = None
    if keys:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(Path(keys, "asterisk.crt"), Path(keys, "asterisk.key"))
    web.run_app(
        app, host="127.0.0.1", port=port, ssl_context=tls, print=lambda *_: print("ready", flush=True), access_log=None
    )


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    main(int(sys.argv[1]), *sys.argv[2:])
