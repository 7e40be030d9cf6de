"""Many phones for little CPU: an Asterisk of its own whose channels call, answer and play noise to another one.

Where pjsua phones would take the machine from what is measured, these cost about 0.2 % of a core each. They register nowhere: both
Asterisks know each other by address, so give `Farm.local()` to the one that is called and keep ordinary phones away from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np

from kallglot_ari.audio.codecs.g711 import ulaw_encoder
from kallglot_ari.lab.asterisk import LabAsterisk

NOISE_SECONDS = 60
SAMPLE_RATE = 8000
_PEER = """
[{name}]
type = endpoint
transport = transport-udp
context = {context}
disallow = all
allow = {codec}
direct_media = no
aors = {name}
[{name}]
type = aor
[{name}]
type = identify
endpoint = {name}
match = 127.0.0.1
"""
_DIALPLAN = """
[farm]
exten = customer,1,Playback({folder}/customer)
 same = n,Goto(customer,1)
exten = agent,1,Answer()
 same = n,Playback({folder}/agent)
 same = n,Goto(agent,2)
"""


class Farm:
    """`await farm.start()`, then `call` as often as is wanted.

    :ivar customer: what every caller says, mu-law, from the moment it is answered; `agent` the same of the other side.
    """

    def __init__(self, *, codec: str = "ulaw") -> None:
        peer = _PEER.format(name="called", context="farm", codec=codec)
        self.asterisk = LabAsterisk("22", phones=0, local={"pjsip.conf": peer})
        rng = np.random.default_rng(1)
        self.customer, self.agent = (
            ulaw_encoder().encode(rng.normal(0, 4000, SAMPLE_RATE * NOISE_SECONDS).clip(-32768, 32767).astype(np.int16))
            for _ in range(2)
        )

    @staticmethod
    def local(codec: str = "ulaw") -> Mapping[str, str]:
        """What the Asterisk that is called needs in its `local/` files: `LabAsterisk(local=Farm.local())`."""
        return {"pjsip.conf": _PEER.format(name="farm", context="kallglot-phones", codec=codec)}

    @property
    def agent_endpoint(self) -> str:
        """Dial string of an agent who answers at once, for the Asterisk that is called."""
        return f"PJSIP/farm/sip:agent@127.0.0.1:{self.asterisk.sip_port}"

    async def start(self) -> None:
        """:raises LabError: the Asterisk does not come up, or does not take its dialplan."""
        await self.asterisk.start()
        folder = self.asterisk.folder / "lib"
        (folder / "customer.ulaw").write_bytes(self.customer)
        (folder / "agent.ulaw").write_bytes(self.agent)
        inside = self.asterisk.inside / "lib"
        (self.asterisk.folder / "etc/local/extensions.conf").open("a").write(_DIALPLAN.format(folder=inside))
        await self.asterisk.cli("dialplan reload")

    async def stop(self) -> None:
        await self.asterisk.stop()

    async def __aenter__(self) -> Farm:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def call(self, called: LabAsterisk, number: str, caller: str = "") -> str:
        """Call `number` there, as `caller` if it is given; returns the caller's channel id here."""
        uri = f"sip:{number}@127.0.0.1:{called.sip_port}"
        request = {"endpoint": f"PJSIP/called/{uri}", "context": "farm", "extension": "customer", "priority": 1}
        if caller:
            request["callerId"] = f'"{caller}" <{caller}>'
        channel = await asyncio.to_thread(self.asterisk.ari, "POST", "/channels", body=request)
        return str(channel["id"])

    async def hang_up_all(self) -> None:
        await self.asterisk.reset()
