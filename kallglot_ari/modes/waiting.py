"""How long what a call asks for waits for an Asterisk that does not answer."""

from __future__ import annotations

from kallglot_ari.calls import commands as c

ASTERISK_AWAY = 15.0
"""Longer than it takes to notice that a connection is dead (10 s between pings, and half of that for the answer)."""
AGAIN, LATER = 0.2, 2.0
"""Seconds until a command is asked again, and after `ASTERISK_AWAY`: an Asterisk that has too much to do gets no more of it."""
LASTING = (
    c.AddToBridge,
    c.CreateBridge,
    c.DestroyBridge,
    c.CreateMedia,
    c.RemoveMedia,
    c.Dial,
    c.Answer,
    c.Ring,
    c.Hangup,
    c.ContinueInDialplan,
    c.SetVariable,
    c.MusicOnHold,
)
"""Commands that are as right a few seconds later."""
TO_THE_LAST = (
    c.AddToBridge,
    c.CreateBridge,
    c.Answer,
    c.MusicOnHold,
    c.Hangup,
    c.ContinueInDialplan,
    c.RemoveMedia,
    c.DestroyBridge,
)
"""Those that nobody asks for again while their call goes on: a party would stay in silence, or hear music for ever."""
