"""Media mode's own book of channels."""

from __future__ import annotations

from typing import cast

import orjson

from kallglot_ari.ari.decode import read_one
from kallglot_ari.ari.models import AsteriskInfo, Channel
from kallglot_ari.ari.snapshot import Connected, Snapshot
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.stasis import StasisMode
from kallglot_ari.settings import Settings
from tests.ari.fake import channel
from tests.modes.test_registry import Bench


async def test_channels_that_went_while_nobody_listened_are_forgotten() -> None:
    bench, s = Bench(), Settings()
    load = Load(bench.plant.metrics)
    mode = StasisMode(
        bench.plant, s.service, s.kallglot, s.media, s.conference, s.features, "kg-t", bench.journal, load
    )
    mode._contexts.update({"1.1": "phones", "1.2": "phones"})
    still = read_one(Channel, orjson.dumps(channel("1.2")))
    mode.on_event(Connected(Snapshot((22, 0, 0), cast(AsteriskInfo, None), None, (still,), ()), again=True))
    assert mode._contexts == {"1.2": "phones"}
    await mode.close()
