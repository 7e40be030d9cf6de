"""The dashboard's script, run by node where there is one: what an operator does while a hundred calls come and go."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import kallglot_ari.web.server as server

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="NOT TESTED: no node")
CALL = """
const call = (id, minute) => ({id, started_at: `2026-11-28T03:${minute}:00Z`, state: "active", mode: "m", source_language: "de",
  target_language: "en", legs: [], caller: id, degraded: ""});
const shown = () => [...$("calls").children].map((item) => [item.firstElementChild.dataset.call, item.made]);
"""


def run(scenario: str, folder: Path, page: str = "dashboard", search: str = "") -> Any:
    (folder / "scenario.js").write_text((CALL if page == "dashboard" else "") + scenario)
    done = subprocess.run(
        ["node", Path(__file__).with_name("page.mjs"), server.STATIC / f"{page}.js", folder / "scenario.js", search],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_buttons_of_calls_stay_the_same_while_others_come_and_go(tmp_path: Path) -> None:
    """A button that were made anew at each look would take no click: mouse down on one, mouse up on another."""
    before, after, gone = run(
        """
        for (const [id, minute] of [["a", "01"], ["b", "02"], ["c", "03"]]) keep(call(id, minute));
        draw(); const before = shown();
        keep(call("d", "04")); calls.delete("b"); draw(); const after = shown();
        calls.clear(); draw();
        return [before, after, shown()];
        """,
        tmp_path,
    )
    assert [name for name, _ in before] == ["c", "b", "a"]
    assert [name for name, _ in after] == ["d", "c", "a"]
    assert dict(before)["c"] == dict(after)["c"]
    assert dict(before)["a"] == dict(after)["a"]
    assert gone == []


def test_of_hundreds_of_calls_every_one_can_be_found(tmp_path: Path) -> None:
    """The list showed the newest 200, and did not say that there were more."""
    first, more, found, none = run(
        """
        for (let number = 100; number < 350; number += 1) keep({...call(`kg-${number}`, "01"), legs: [{speaker: "customer",
          channel_name: `PJSIP/carrier-${number}`, packets_received: 0, mos: 4.4}]});
        draw();
        const first = [shown().length, $("more-calls").hidden], more = $("more-calls").textContent;
        $("find").value = " PJSIP/Carrier-101 "; draw();
        const found = [shown().map(([name]) => name), $("more-calls").hidden];
        $("find").value = "nobody"; draw();
        return [first, more, found, [shown().length, $("no-calls").hidden, $("no-calls").textContent]];
        """,
        tmp_path,
    )
    assert (first, more) == ([200, False], "50 more: find them above.")
    assert found == [["kg-101"], True]
    assert none == [0, False, "No live calls of this number, phone or id."]


def test_signing_out_leaves_nothing_of_what_was_said(tmp_path: Path) -> None:
    left = run(
        """
        keep(call("a", "01")); chosen = "a";
        heard("transcript.final", "2026-11-28T03:02:00Z", {speaker: "customer", text: "Meine Kontonummer", id: "1", translation: null});
        const before = $("transcript").children.length;
        signIn("");
        return [before, $("transcript").children.length, turns.length, notes.size, $("calls").children.length];
        """,
        tmp_path,
    )
    assert left == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("fragment", "chosen"), [("#kg-1", "kg-1"), ("#a%2Fb+c", "a/b+c"), ("#100%", "100%"), ("", None)]
)
def test_any_fragment_of_the_address_is_read(fragment: str, chosen: str | None, tmp_path: Path) -> None:
    assert run(f"location.hash = {json.dumps(fragment)}; return linked();", tmp_path) == chosen


@pytest.mark.parametrize(
    ("search", "asks"),
    [
        ("?phone=PJSIP/1001", ["mine left", "mine joins another"]),
        ("?call=kg-2", ["others begin", "others end"]),
        ("", ["mine left", "others begin"]),
    ],
)
def test_subtitles_ask_for_all_calls_only_when_theirs_may_be_another(
    search: str, asks: list[str], tmp_path: Path
) -> None:
    """Hundreds of desktops that asked for the list of hundreds of calls at each event kept the service from its calls."""
    found = run(
        """
        call = wanted || "kg-1";
        const events = {
          "mine left": {type: "leg.left", call_id: "kg-1", data: {speaker: "agent"}},
          "mine joins another": {type: "leg.joined", call_id: "kg-3", data: {channel: "PJSIP/1001-00000007"}},
          "another phone joins": {type: "leg.joined", call_id: "kg-3", data: {channel: "PJSIP/10011-00000008"}},
          "others begin": {type: "call.created", call_id: "kg-2", data: {}},
          "others end": {type: "call.ended", call_id: "kg-2", data: {}},
          "others speak": {type: "transcript.final", call_id: "kg-2", data: {}},
        };
        return Object.keys(events).filter((name) => concerns(events[name]));
        """,
        tmp_path, "subtitles", search,
    )  # fmt: skip
    assert found == asks
