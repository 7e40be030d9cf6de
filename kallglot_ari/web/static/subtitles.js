// Subtitles for an agent's desktop: what the other parties of one call say, translated, as it comes.
// ?call=ID shows that call; ?phone=PJSIP/1001 always the call that this phone is in; nothing: the newest one.
// The stream is read with fetch, since EventSource cannot send the token. Text is set as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const TOKEN = "kallglot-token";
const KEPT = 50; // lines
const query = new URLSearchParams(location.search);
const wanted = query.get("call");
const phone = query.get("phone");
const own = query.get("speaker") || "agent"; // whose own words need no subtitles
let call = null;
let lastEventId = "";

function headers(extra) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...extra, Authorization: `Bearer ${token}` } : { ...extra };
}

const ours = (channel) => channel === phone || String(channel || "").startsWith(`${phone}-`);
const has = (one) => one.legs.some((leg) => ours(leg.channel_name));

// Whether an event may change which call is shown. The list of all calls is long: hundreds of desktops must not ask for it at each event.
function concerns(event) {
  if (!event.type.startsWith("call.") && !event.type.startsWith("leg.")) return false;
  if (event.call_id === (wanted || call)) return true;
  if (wanted) return false;
  return phone ? ours(event.data.channel) : event.type === "call.created";
}

// A phone that calls by itself is named by no event: an idle page looks at each call that begins.
async function looksAt(event) {
  if (call || wanted || !phone || event.type !== "call.active") return false;
  const response = await fetch(`api/v1/calls/${encodeURIComponent(event.call_id)}`, { headers: headers(), cache: "no-store" });
  return response.ok && has(await response.json());
}

async function choose() {
  const response = await fetch("api/v1/calls?active=true&limit=1000", { headers: headers(), cache: "no-store" });
  if (!response.ok) throw response.status;
  const calls = (await response.json()).calls;
  const found = calls.find((one) => (wanted ? one.id === wanted : phone ? has(one) : true));
  const id = found ? found.id : null;
  if (id === call) return;
  call = id;
  $("lines").replaceChildren();
  $("nothing").hidden = false;
  $("who").textContent = found ? `${found.caller || found.id} (${found.source_language} → ${found.target_language})` : "No call";
  if (found) await earlier(id);
}

async function earlier(id) {
  const response = await fetch(`api/v1/calls/${encodeURIComponent(id)}/transcript`, { headers: headers(), cache: "no-store" });
  if (response.ok) for (const turn of (await response.json()).turns) show({ ...turn, id: `t${turn.sequence}` }, true);
}

function show(turn, final) {
  if (turn.speaker === own) return;
  $("nothing").hidden = true;
  const key = `turn-${turn.speaker}-${turn.id}`;
  let line = $(key);
  if (!line) {
    line = document.createElement("p");
    line.id = key;
    $("lines").append(line);
  }
  line.className = final ? "" : "partial";
  const speaker = document.createElement("span");
  speaker.className = "speaker";
  speaker.textContent = turn.speaker;
  line.replaceChildren(speaker, turn.translation ? turn.translation.text : turn.text);
  if (turn.translation && turn.translation.text !== turn.text) {
    const original = document.createElement("span");
    original.className = "original";
    original.textContent = turn.text;
    line.append(original);
  }
  while ($("lines").children.length > KEPT) $("lines").firstElementChild.remove();
  line.scrollIntoView({ block: "end" });
}

async function take(text) {
  const line = (name) => (text.split("\n").find((one) => one.startsWith(`${name}: `)) || "").slice(name.length + 2);
  if (line("id")) lastEventId = line("id");
  if (!line("data")) return;
  const event = JSON.parse(line("data"));
  if (event.type.startsWith("transcript.") && event.call_id === call) show(event.data, event.type === "transcript.final");
  if (concerns(event) || await looksAt(event)) await choose();
}

async function read(reader) {
  const decoder = new TextDecoder();
  let buffer = "";
  for (;;) {
    const timer = setTimeout(() => reader.cancel(), 45000); // three missed heartbeats
    const { done, value } = await reader.read();
    clearTimeout(timer);
    if (done) return;
    buffer += decoder.decode(value, { stream: true });
    for (let end; (end = buffer.indexOf("\n\n")) >= 0; buffer = buffer.slice(end + 2)) await take(buffer.slice(0, end));
  }
}

async function follow() {
  for (let wait = 500; ; wait = Math.min(wait * 2, 10000)) {
    try {
      await choose();
      const more = lastEventId ? { "Last-Event-ID": lastEventId } : {};
      const response = await fetch("api/v1/events", { headers: headers(more), cache: "no-store" });
      if (!response.ok) throw response.status;
      $("link").textContent = "live";
      $("link").className = "";
      wait = 500;
      await read(response.body.getReader());
    } catch (error) {
      if (error === 401) {
        if (sessionStorage.getItem(TOKEN)) $("token").placeholder = "the service does not take this token";
        $("login").hidden = false;
        $("nothing").hidden = true;
        $("link").textContent = "signed out";
        $("token").focus();
        return;
      }
    }
    $("link").textContent = "reconnecting";
    $("link").className = "bad";
    await new Promise((done) => setTimeout(done, wait));
  }
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value);
  $("login").hidden = true;
  follow();
});
follow();
