// The dashboard: one page over /api/v1, live through server-sent events. The stream is read with fetch, not with
// EventSource, which cannot send the token's header. Everything that comes from outside is set as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const calls = new Map(); // live calls by id, and ended ones once they were asked for
const partials = new Map(); // the newest partial transcript of each speaker of the call that is shown
const TOKEN = "kallglot-token";
const THEME = "kallglot-theme";
let chosen = null;
let tab = "live";
let turns = [];
const notes = new Map(); // what happened beside the words, by call: since this page is open, the newest of each
const NOTES = 40;
const SHOWN = 200; // calls in the list at once
const UNTOLD = new Set(["call.updated", "leg.quality", "leg.ringing", "session.created"]);
const TROUBLE = new Set(["call.degraded", "leg.failed", "transfer.failed", "stream.down", "media.lost"]);
let lastEventId = "";
let stream = null;
const dirty = new Set();

// --- talking to the service ---------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

function headers(extra) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...extra, Authorization: `Bearer ${token}` } : { ...extra };
}

async function ask(path, body) {
  const options = body === undefined
    ? { headers: headers() }
    : { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body) };
  const response = await fetch(path, { ...options, cache: "no-store" });
  if (response.ok) return response.json();
  let message = `status ${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* not our JSON */ }
  if (response.status === 401) signIn(sessionStorage.getItem(TOKEN) ? "The service does not take this token." : "");
  throw new Refused(response.status, message);
}

const callPath = (id, action) => `api/v1/calls/${encodeURIComponent(id)}${action ? `/${action}` : ""}`;

// --- events -------------------------------------------------------------------------------------------------------

async function follow() {
  stop();
  const mine = (stream = new AbortController());
  let wait = 500;
  let again = false;
  while (!mine.signal.aborted) {
    let response = null;
    try {
      response = await fetch("api/v1/events", {
        headers: headers(lastEventId ? { "Last-Event-ID": lastEventId } : {}), signal: mine.signal, cache: "no-store",
      });
      if (response.status === 401) { signIn(""); return; }
      if (!response.ok) throw new Error(`status ${response.status}`);
      link("connected", "good");
      wait = 500;
      await refresh();
      if (again) makeWhole();
      again = true;
      await read(response.body.getReader());
    } catch (error) {
      if (mine.signal.aborted) return;
      // One that nobody reads any more would keep one of the browser's six connections to this host.
      if (response && response.body && !response.body.locked) response.body.cancel().catch(() => {});
    }
    link("reconnecting", "bad");
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 2, 10000);
  }
}

function stop() {
  if (stream) stream.abort();
  stream = null;
}

async function read(reader) {
  const decoder = new TextDecoder();
  let buffer = "";
  // The service sends a heartbeat every 15 s; three missed ones are a dead connection.
  for (;;) {
    const timer = setTimeout(() => reader.cancel(), 45000);
    const { done, value } = await reader.read();
    clearTimeout(timer);
    if (done) return;
    buffer += decoder.decode(value, { stream: true });
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      event(buffer.slice(0, end));
      buffer = buffer.slice(end + 2);
    }
  }
}

function event(block) {
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("id: ")) lastEventId = line.slice(4);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (!data) return;
  const { type, call_id: id, at, data: detail } = JSON.parse(data);
  if (type === "events.lost") { refresh().catch(() => {}); makeWhole(); return; }
  if (!id) return;
  if (id === chosen && type.startsWith("transcript")) heard(type, at, detail);
  else if (!type.startsWith("transcript")) { note(id, type, at, detail); dirty.add(id); }
}

// An event as one line of what happened: its name, who, and why.
function note(id, type, at, detail) {
  if (UNTOLD.has(type)) return;
  const facts = ["speaker", "target", "endpoint", "channel", "digit", "mode", "feature", "reason", "cause", "end_reason"];
  const said = facts.filter((name) => ["string", "number"].includes(typeof detail[name]) && detail[name] !== "").map((name) =>
    `${name === "cause" ? "cause " : ""}${String(detail[name]).replaceAll("_", " ")}`);
  const kept = notes.get(id) || [];
  kept.push({ at, text: [type.replace(/[._]/g, " "), ...said].join(" · "), bad: TROUBLE.has(type) });
  notes.delete(id);
  notes.set(id, kept.slice(-NOTES));
  if (notes.size > 200) notes.delete(notes.keys().next().value);
  if (TROUBLE.has(type)) toast(`${calls.has(id) ? title(calls.get(id)) : id}: ${kept.at(-1).text}`);
  if (id === chosen) drawTranscript();
}

// What keeps calls from being translated now, as the load balancer is told.
async function readiness() {
  if (!stream || document.hidden) return;
  let reasons = [];
  try {
    const response = await fetch("readyz", { headers: headers(), cache: "no-store" });
    if (response.status === 503) reasons = (await response.json()).reasons;
  } catch { return; /* the pill says that the service is away */ }
  $("not-ready").textContent = `New calls cannot be translated: ${reasons.join("; ")}`;
  $("not-ready").hidden = reasons.length === 0;
}

// Figures of quality change without an event: what is live is asked for again every two seconds, what an event named at once.
setInterval(async () => {
  if (!stream || document.hidden) return;
  const ids = [...dirty];
  dirty.clear();
  for (const id of ids.slice(0, 20)) {
    try { keep(await ask(callPath(id))); } catch (error) { if (error.status === 404) calls.delete(id); }
  }
  if (ids.length) draw();
}, 300);
setInterval(() => { if (stream && !document.hidden) refresh().catch(() => {}); }, 2000);
setInterval(drawTimes, 1000);
setInterval(readiness, 5000);

let refreshing = null; // one at a time: a slow network gets no queue of them
function refresh() {
  refreshing = refreshing || look().finally(() => { refreshing = null; });
  return refreshing;
}

async function look() {
  const { calls: found } = await ask("api/v1/calls?active=true&limit=1000");
  const live = new Set(found.map((call) => call.id));
  for (const call of found) keep(call);
  for (const call of [...calls.values()]) {
    if (call.state !== "ended" && !live.has(call.id)) dirty.add(call.id);
  }
  draw();
}

function keep(call) {
  calls.set(call.id, call);
  if (calls.size > 2000) calls.delete(calls.keys().next().value);
}

// --- transcript ---------------------------------------------------------------------------------------------------

function heard(type, at, detail) {
  const turn = detail.turn || detail;
  if (!turn || typeof turn.text !== "string") return;
  const translation = typeof turn.translation === "object" && turn.translation ? turn.translation.text : turn.translation;
  const heardTurn = { ...turn, translation: translation || "", timestamp: turn.timestamp || at };
  if (type === "transcript.partial" || turn.final === false) {
    partials.set(turn.speaker, heardTurn);
  } else {
    partials.delete(turn.speaker);
    const same = turns.findIndex((t) => turn.id && t.id === turn.id && t.speaker === turn.speaker && t.text === turn.text);
    if (same >= 0) turns[same] = heardTurn; else turns.push(heardTurn);
  }
  drawTranscript();
}

// What was said while no event came.
function makeWhole() {
  if (chosen) loadTranscript(chosen).catch(() => {});
}

async function loadTranscript(id) {
  const found = await ask(callPath(id, "transcript"));
  if (id !== chosen) return;
  turns = found.turns.map((turn) => ({ ...turn, translation: turn.translation ? turn.translation.text : "" }));
  drawTranscript();
}

function drawTranscript() {
  const list = $("transcript");
  const panel = $("words");
  const atEnd = panel.scrollHeight - panel.scrollTop - panel.clientHeight < 80;
  const when = (row) => Date.parse(row.timestamp || row.at) || 0;
  const past = [...turns.slice(-500), ...(notes.get(chosen) || [])].sort((a, b) => when(a) - when(b));
  const rows = [...past.map((row) => [row, false]), ...[...partials.values()].map((turn) => [turn, true])];
  list.replaceChildren(...rows.map(([turn, partial]) => {
    if ("at" in turn) return drawNote(turn);
    const item = $("turn-item").content.firstElementChild.cloneNode(true);
    item.classList.toggle("partial", partial);
    if (["customer", "agent"].includes(turn.speaker)) item.classList.add(turn.speaker);
    item.querySelector(".by").textContent = `${turn.speaker}${turn.language ? ` · ${turn.language}` : ""}`;
    item.querySelector(".text").textContent = turn.text;
    item.querySelector(".translation").textContent = turn.translation === turn.text ? "" : turn.translation;
    return item;
  }));
  $("no-words").hidden = rows.length > 0;
  if (atEnd && rows.length) panel.scrollTop = panel.scrollHeight;
}

function drawNote({ at, text, bad }) {
  const item = $("note-item").content.firstElementChild.cloneNode(true);
  item.classList.toggle("bad", bad);
  item.firstElementChild.textContent = `${new Date(at).toLocaleTimeString()} · ${text}`;
  return item;
}

// --- drawing ------------------------------------------------------------------------------------------------------

const mosClass = (mos) => (mos >= 3.9 ? "good" : mos >= 3.1 ? "fair" : "bad");
const heardLegs = (call) => call.legs.filter((leg) => leg.packets_received > 0 && leg.state !== "gone");
const worst = (call) => Math.min(...heardLegs(call).map((leg) => leg.mos), Infinity);

function since(call) {
  const start = Date.parse(call.answered_at || call.started_at);
  const seconds = Math.max(0, Math.floor(((call.ended_at ? Date.parse(call.ended_at) : Date.now()) - start) / 1000));
  const two = (n) => String(n).padStart(2, "0");
  const clock = `${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
  return seconds < 3600 ? clock : `${Math.floor(seconds / 3600)}:${clock}`;
}

function title(call) {
  if (call.caller) return call.caller;
  const first = call.legs.find((leg) => leg.speaker === "customer") || call.legs[0];
  return (first && (first.channel_name || first.channel_id)) || call.id;
}

const named = (call, text) => [title(call), call.id, call.session_id, ...call.legs.map((leg) => leg.channel_name)]
  .some((name) => String(name || "").toLowerCase().includes(text));

function draw() {
  const all = [...calls.values()].sort((a, b) => b.started_at.localeCompare(a.started_at));
  const live = all.filter((call) => call.state !== "ended");
  const mos = Math.min(...live.map(worst), Infinity);
  $("live-count").textContent = live.length;
  $("worst-mos").textContent = mos === Infinity ? "–" : mos.toFixed(2);
  $("worst-mos").className = mos === Infinity ? "" : `${mosClass(mos)}-text`;
  $("degraded-count").textContent = live.filter((call) => call.degraded).length;
  const sought = $("find").value.trim().toLowerCase();
  const found = (tab === "live" ? live : all.filter((call) => call.state === "ended")).filter((call) => named(call, sought));
  const shown = found.slice(0, SHOWN);
  drawList(shown);
  $("no-calls").hidden = shown.length > 0;
  $("no-calls").textContent = `No ${tab} calls${sought ? " of this number, phone or id" : ""}.`;
  $("more-calls").hidden = found.length <= SHOWN;
  $("more-calls").textContent = `${found.length - SHOWN} more: find them above.`;
  drawCall();
}

// The elements stay: one that were another at each look would take no click that is down while it is replaced.
function drawList(shown) {
  const list = $("calls");
  const there = new Map([...list.children].map((item) => [item.firstElementChild.dataset.call, item]));
  const items = shown.map((call) => drawItem(call, there.get(call.id) || newItem(call.id)));
  const wanted = new Set(items);
  for (const item of there.values()) if (!wanted.has(item)) item.remove();
  items.forEach((item, place) => { if (list.children[place] !== item) list.insertBefore(item, list.children[place] || null); });
}

function newItem(id) {
  const item = $("call-item").content.firstElementChild.cloneNode(true);
  item.firstElementChild.dataset.call = id;
  item.firstElementChild.addEventListener("click", () => choose(id));
  return item;
}

function drawItem(call, item) {
  item.firstElementChild.setAttribute("aria-current", String(call.id === chosen));
  const mos = worst(call);
  item.querySelector(".dot").className = `dot ${call.degraded ? "bad" : mos === Infinity ? "" : mosClass(mos)}`;
  item.querySelector(".who").textContent = title(call);
  item.querySelector(".languages").textContent = `${call.source_language} → ${call.target_language}`;
  item.querySelector(".since").textContent = since(call);
  item.querySelector(".state").textContent = call.state === "ended" ? call.end_reason || "ended" : call.state;
  return item;
}

function drawTimes() {
  for (const button of $("calls").querySelectorAll("button")) {
    const call = calls.get(button.dataset.call);
    if (call) button.querySelector(".since").textContent = since(call);
  }
  if (chosen && calls.get(chosen)) subtitle(calls.get(chosen));
}

function subtitle(call) {
  const parts = [call.state, since(call), `${call.source_language} → ${call.target_language}`, call.mode.replaceAll("_", " ")];
  if (call.end_reason) parts.push(call.end_reason.replaceAll("_", " "));
  $("call-subtitle").textContent = `${parts.join(" · ")} · ${call.id}`;
}

function drawCall() {
  const call = calls.get(chosen);
  $("call").hidden = !call;
  $("nothing").hidden = Boolean(call);
  $("board").classList.toggle("one-call", Boolean(call));
  if (!call) return;
  const over = call.state === "ended";
  $("call-title").textContent = title(call);
  subtitle(call);
  $("hangup").disabled = over || call.state === "ending";
  $("call-degraded").hidden = !call.degraded;
  $("call-degraded").textContent = call.degraded ? `Not translated at the moment: ${call.degraded}` : "";
  $("legs").replaceChildren(...call.legs.map(drawLeg));
  $("controls").hidden = over;
  const speakers = call.legs.filter((leg) => leg.state !== "gone").map((leg) => leg.speaker);
  for (const id of ["transfer-party", "dtmf-party"]) {
    const select = $(id);
    if ([...select.options].map((o) => o.value).join() === speakers.join()) continue;
    const before = select.value;
    select.replaceChildren(...speakers.map((speaker) => new Option(speaker, speaker)));
    const usual = id === "transfer-party" ? "agent" : "customer";
    for (const speaker of [usual, before]) if (speakers.includes(speaker)) select.value = speaker;
  }
}

function drawLeg(leg) {
  const item = $("leg-item").content.firstElementChild.cloneNode(true);
  item.classList.toggle("gone", leg.state === "gone");
  item.querySelector(".speaker").textContent = leg.language ? `${leg.speaker} · ${leg.language}` : leg.speaker;
  const state = item.querySelector(".leg-state");
  state.textContent = leg.held ? "held" : leg.state;
  state.classList.add(leg.held ? "fair" : leg.state === "up" ? "good" : "quiet");
  const channel = item.querySelector(".channel");
  channel.textContent = channel.title = leg.channel_name || leg.channel_id || "–";
  // -60 dBFS and below is silence, 0 is full scale.
  item.querySelector(".meter span").style.width = `${Math.max(0, Math.min(100, (leg.level_dbfs + 60) / 0.6))}%`;
  // A packet that came too late is as lost to the ear as one that never came.
  const missed = leg.packets_lost + leg.packets_late;
  const total = leg.packets_received + leg.packets_lost;
  const loss = total ? (100 * missed) / total : 0;
  const known = leg.packets_received > 0;
  const figures = [
    ["MOS", known ? leg.mos.toFixed(2) : "–", known ? mosClass(leg.mos) : ""],
    ["lost, late", known ? `${loss.toFixed(1)} %` : "–", !known || loss < 1 ? "" : loss < 3 ? "fair" : "bad"],
    ["jitter", known ? `${leg.jitter_ms.toFixed(1)} ms` : "–", known && leg.jitter_ms > 40 ? "bad" : ""],
    ["backlog", `${(leg.backlog_ms / 1000).toFixed(1)} s`, leg.backlog_ms > 5000 ? "fair" : ""],
  ];
  item.querySelector(".quality").replaceChildren(...figures.map(([name, value, mark]) => {
    const box = document.createElement("div");
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    if (mark) text.className = `${mark}-text`;
    box.append(term, text);
    return box;
  }));
  return item;
}

async function choose(id) {
  chosen = id;
  history.replaceState(null, "", id ? `#${encodeURIComponent(id)}` : location.pathname);
  turns = [];
  partials.clear();
  drawTranscript();
  draw();
  if (!id) return;
  try {
    if (!calls.has(id)) { keep(await ask(callPath(id))); draw(); }
    await loadTranscript(id);
    $("words").scrollTop = $("words").scrollHeight;
  } catch (error) { toast(error.message); }
}

// --- what people do -----------------------------------------------------------------------------------------------

async function act(work) {
  try { const call = await work(); if (call && call.id) { keep(call); draw(); } return call; } catch (error) { toast(error.message); return null; }
}

$("hangup").addEventListener("click", () => {
  const call = calls.get(chosen);
  if (call && confirm(`Hang up the call of ${title(call)}?`)) act(() => ask(callPath(chosen, "hangup"), {}));
});
$("transfer-form").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const body = { party: $("transfer-party").value, target: $("transfer-target").value.trim() };
  if (await act(() => ask(callPath(chosen, "transfer"), body))) { toast(`${body.party} is transferred to ${body.target}`); $("transfer-target").value = ""; }
});
$("dtmf-form").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const body = { party: $("dtmf-party").value, digits: $("dtmf-digits").value.trim() };
  if (await act(() => ask(callPath(chosen, "dtmf"), body))) { toast(`${body.digits} sent to ${body.party}`); $("dtmf-digits").value = ""; }
});
$("new-call").addEventListener("click", () => { $("new-call-error").textContent = ""; $("new-call-dialog").showModal(); });
$("new-call-cancel").addEventListener("click", () => $("new-call-dialog").close());
$("new-call-form").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const body = Object.fromEntries([...new FormData(submitted.target)].filter(([, value]) => value.trim()).map(([k, v]) => [k, v.trim()]));
  try {
    const call = await ask("api/v1/calls", body);
    keep(call);
    $("new-call-dialog").close();
    choose(call.id);
  } catch (error) { $("new-call-error").textContent = error.message; }
});
for (const name of ["live", "ended"]) {
  $(`tab-${name}`).addEventListener("click", async () => {
    tab = name;
    $("tab-live").setAttribute("aria-selected", String(name === "live"));
    $("tab-ended").setAttribute("aria-selected", String(name === "ended"));
    $("tab-live").tabIndex = name === "live" ? 0 : -1;
    $("tab-ended").tabIndex = name === "ended" ? 0 : -1;
    draw();
    if (name === "ended") await act(async () => { for (const call of (await ask("api/v1/calls?active=false&limit=200")).calls) keep(call); draw(); });
  });
}

$("find").addEventListener("input", draw);
$("back").addEventListener("click", () => choose(null));
document.addEventListener("keydown", (key) => {
  const other = { ArrowLeft: "live", ArrowRight: "ended" }[key.key];
  if (other && key.target.role === "tab") { $(`tab-${other}`).focus(); $(`tab-${other}`).click(); }
  const step = { ArrowUp: -1, ArrowDown: 1 }[key.key];
  if (step && key.target.dataset.call) {
    const all = [...$("calls").querySelectorAll("button")];
    all[all.indexOf(key.target) + step]?.focus();
    key.preventDefault();
  }
  if (key.key === "Escape" && chosen && !$("new-call-dialog").open) choose(null);
});

// --- signing in ---------------------------------------------------------------------------------------------------

function signIn(message) {
  stop();
  sessionStorage.removeItem(TOKEN);
  link("signed out", "");
  calls.clear();
  notes.clear();
  partials.clear();
  turns = [];
  chosen = null;
  lastEventId = "";
  drawTranscript();
  draw();
  $("board").hidden = $("not-ready").hidden = true;
  $("sign-out").hidden = true;
  $("login").hidden = false;
  $("login-error").textContent = message;
  $("token").focus();
}

// The call that the address names; no % in it can make it unreadable.
function linked() {
  return new URLSearchParams(`call=${location.hash.slice(1).replaceAll("+", "%2B")}`).get("call") || null;
}

async function enter() {
  await ask("api/v1/calls?active=true&limit=1");
  $("login").hidden = true;
  $("board").hidden = false;
  $("sign-out").hidden = !sessionStorage.getItem(TOKEN);
  follow();
  readiness();
  if (linked()) choose(linked());
}

$("login-form").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value);
  $("token").value = "";
  try { await enter(); } catch (error) { if (error.status !== 401) $("login-error").textContent = error.message; }
});
$("sign-out").addEventListener("click", () => signIn(""));

function link(text, mark) {
  $("link").textContent = text;
  $("link").className = `pill ${mark}`;
}

let toastTimer = 0;
function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, 5000);
}

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem(THEME, root.dataset.theme);
});
if (["light", "dark"].includes(localStorage.getItem(THEME))) document.documentElement.dataset.theme = localStorage.getItem(THEME);

enter().catch((error) => { if (error.status !== 401) { link("unreachable", "bad"); toast(error.message); setTimeout(() => location.reload(), 5000); } });
