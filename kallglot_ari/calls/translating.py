"""Which sessions a call needs: one for each pair of languages that are spoken; and what happens while there is none."""

from __future__ import annotations

from itertools import combinations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.call import Call
from kallglot_ari.calls.ending import READY_TIMER, finish
from kallglot_ari.calls.legs import Leg, Role
from kallglot_ari.calls.link import Link, LinkState
from kallglot_ari.calls.model import AUTO, CallState, DialplanStatus, EndReason

READY_SECONDS = 5.0
"""How long parties that are up may wait for Kallglot before they are connected directly."""
ALONE = ("ai_agent", "help_chat_voice")
"""Modes for a caller who is alone with Kallglot."""
DONE = frozenset({EndReason.COMPLETED, EndReason.CUSTOMER_HANGUP, EndReason.AGENT_HANGUP, "explicit_end", "ended", ""})
"""Why Kallglot may say that a session is over when nothing went wrong; `ended` and nothing: it gives no reason."""
TOGETHER = "bidirectional_translation"


def base(language: str) -> str:
    """The language without region or script (BCP 47)."""
    return language.partition("-")[0].casefold()


def agree(call: Call, one: Leg, other: Leg) -> bool:
    """They speak the same language, and the call was not asked for to translate it into itself."""
    a, b = base(one.language), base(other.language)
    request = call.plan.request
    return a == b != AUTO and not a == base(request.source_language) == base(request.target_language)


def link_for(call: Call, one: Leg, other: Leg | None) -> Link | None:
    """The link that translates between two parties, or serves one alone; None when there is none (yet)."""
    if other is None:
        return next((link for link in _open(call) if not link.name), None)
    pair = sorted((base(one.language), base(other.language)))
    mode = _mode(call)
    return next(
        (link for link in _open(call) if link.mode == mode and sorted((base(link.source), base(link.target))) == pair),
        None,
    )


def is_alone(call: Call) -> bool:
    """One party talks with Kallglot itself, and can go on doing so."""
    up = call.parties
    link = link_for(call, up[0], None) if len(up) == 1 and call.plan.request.mode in ALONE else None
    return link is not None and link.mode in ALONE


def has_done_its_part(call: Call, ended: str | None) -> bool:
    """Kallglot, with whom the caller is alone, has come to the end of the conversation. After any other end (a fault, or a word that
    is not known) the caller goes on with a new session."""
    return ended in DONE and not call.candidates and is_alone(call)


def of_source(link: Link, leg: Leg) -> bool:
    """Whether this leg is on the link's source side; both being one language, the customer is."""
    if base(link.source) == base(link.target):
        return leg.id == "customer"
    return base(leg.language) == base(link.source)


def _open(call: Call) -> list[Link]:
    return [link for link in call.links if link.state is not LinkState.CLOSED]


def _mode(call: Call) -> str:
    """How two parties are translated: a caller who was alone with Kallglot no longer is."""
    mode = call.plan.request.mode
    return TOGETHER if mode in ALONE and not call.plan.agents else mode


def reconcile(call: Call) -> list[c.Command]:
    """Begin the sessions that are missing; end those no longer needed, once those that are needed are there or cannot be had."""
    commands: list[c.Command] = []
    people = [leg for leg in call.legs.values() if leg.role is Role.PARTY]
    coming = [
        leg.speaking(cand.language)
        for cand in call.candidates.values()
        if (leg := call.legs.get(cand.leg)) and leg.role is Role.PARTY
    ]
    needed: list[Link] = []
    for one, other in combinations([*people, *(leg for leg in coming if leg.language)], 2):
        if agree(call, one, other) or (one.id == other.id):
            continue
        link = link_for(call, one, other)
        if link is None:
            link = Link(call.plan.call_id, call.next_name("l"), one.language, other.language, _mode(call))
            call.links.append(link)
            commands += link.start()
        needed.append(link)
    if len(people) == 1 and (alone := link_for(call, people[0], None)) is not None:
        needed.append(alone)
    settled = len(call.parties) == len(people) and not coming and (needed or len(people) > 1)
    if settled and all(link.state in (LinkState.OPEN, LinkState.DOWN) for link in needed):
        for link in _open(call):
            if link not in needed:
                commands += link.close(EndReason.COMPLETED)
    return commands


def serving(call: Call) -> list[Link | None]:
    """The links that those who are there need now; None: one that is needed is not there."""
    up = call.parties
    if len(up) < 2:
        return [link_for(call, up[0], None) or call.link] if up else [call.link]
    return [link_for(call, one, other) for one, other in combinations(up, 2) if not agree(call, one, other)]


def judge(call: Call) -> list[c.Command]:
    """Decide between translation and a direct connection."""
    links = serving(call)
    down = next((link for link in links if link is not None and _given_up(call, link)), None)
    lost_media = any(leg.lacks_media for leg in call.parties)
    if is_open(links) and not lost_media:
        if call.direct:
            call.direct = call.direct_told = False
            call.problem = ""
            return [c.Publish("call.restored", {}), c.Publish("ladder", {"step": "restored"})]
        return []
    if call.direct:
        return _told_why(call, down)
    if not (down or lost_media):
        return []
    call.problem = down.problem if down else "no media channel"
    if call.plan.on_unavailable == "hangup":
        return finish(call, EndReason.ERROR, DialplanStatus.UNAVAILABLE, hang_up=True)
    together = len(call.parties) + call.waits_for_transfer >= 2
    if together or (call.waits_for_agent and _may_wait_untranslated(call)):
        return connect_directly(call, call.problem)
    return finish(call, EndReason.ERROR, DialplanStatus.UNAVAILABLE)


def _told_why(call: Call, down: Link | None) -> list[c.Command]:
    """Why it is not translated may be known only after the parties were connected."""
    if down is None or down.problem == call.problem:
        return []
    call.problem = down.problem
    return [c.Publish("call.degraded", {"reason": call.problem})]


def _may_wait_untranslated(call: Call) -> bool:
    """Who came from the dialplan can go on there instead; a customer whom we called and who has answered can only be hung up."""
    return call.plan.on_unavailable == "passthrough" or any(leg.ours for leg in call.parties if leg.id == "customer")


def _given_up(call: Call, link: Link) -> bool:
    """Whether a link is not waited for any more. While somebody rings, and where a call is hung up, its stream is tried to the last."""
    if link.state is LinkState.DOWN:
        return True
    return link.failing and call.first_are_there and call.plan.on_unavailable != "hangup"


def is_open(links: list[Link | None]) -> bool:
    """Everybody who is there is translated to everybody."""
    return all(link is not None and link.state is LinkState.OPEN for link in links)


def not_ready(call: Call) -> list[c.Command]:
    """Kallglot takes too long: connect the parties now, if they may talk untranslated; translation comes in when it is there.
    Else they hear music instead of nothing until it is, or is given up.
    """
    if call.state is CallState.ACTIVE or is_open(serving(call)) or call.direct or len(call.parties) < 2:
        return []
    if call.plan.on_unavailable == "hangup":
        call.unready = True
        return []
    return connect_directly(call, "translation is not ready yet")


def connect_directly(call: Call, problem: str) -> list[c.Command]:
    """The parties hear each other from now on; `tell_direct` says so when they are together."""
    call.direct = True
    call.problem = problem
    return [
        c.Publish("call.degraded", {"reason": problem}),
        c.Publish("ladder", {"step": "direct", "reason": problem}),
    ]


def tell_direct(call: Call) -> list[c.Command]:
    """A short tone, once all who talk are in one bridge: what they hear now is not translated."""
    up = call.talking
    if not call.direct or call.direct_told or len(up) < 2 or any(leg.in_bridge_done != up[0].bridge_id for leg in up):
        return []
    call.direct_told = True
    return [c.Tone(up[0].id)]


def tell_session(call: Call) -> list[c.Command]:
    """Parties that came from the dialplan find the session's id in a variable."""
    session = call.link.session
    if session is None:
        return []
    commands: list[c.Command] = []
    for leg in call.parties:
        mark = f"{leg.channel_id}={session.id}"
        if not leg.ours and mark not in call.session_told:
            call.session_told.add(mark)
            commands.append(c.SetVariable(leg.channel_id, "KALLGLOT_SESSION_ID", session.id))
    return commands


def wait_for_kallglot(call: Call) -> list[c.Command]:
    """The parties are there; give Kallglot some time if it is not."""
    return [] if is_open(serving(call)) else [c.SetTimer(READY_TIMER, READY_SECONDS)]
