// The status page: follows /admin/events and shows what comes. A supervisor that goes away is waited for.

import { $, Refused, ask, bytes, duration, events, key, make, number, rate as perSecond, say, span, wireKey, wireTheme } from "./common.js";
import { Charts } from "./charts.js";
import { LogView } from "./logview.js";

const RETRY_MS = [500, 1000, 2000, 4000];
const SILENT_MS = 8000; // a snapshot comes every second; so long without one, the connection is as good as gone

const TONES = { ready: "good", starting: "warn", loading: "warn", stopping: "warn", backoff: "bad", failed: "bad", stopped: "idle" };
const STATES = {
  ready: "Ready", starting: "Starting", loading: "Loading the model", stopping: "Stopping",
  backoff: "Restarting after a crash", failed: "Failed", stopped: "Stopped",
};
const CAUSES = {
  crash: "Crash", exit: "Ended by itself", oom: "Out of memory", stall: "Hung", load_timeout: "Load hung",
  config: "Bad configuration", spawn: "Could not start", restart: "Restart", reload: "Reload",
};
const PHASES = { queued: "warn", prefill: "idle", streaming: "good" };
const ASKED = new Set(["restart", "reload"]);

let run = "";
let lastId = "";
let mayAct = false;
let shown = ""; // the state that was announced last
let attempt = 0;
let rekeyed = false;
let current = new AbortController();

const charts = new Charts();
const log = new LogView(() => mayAct);
const keys = wireKey(() => {
  rekeyed = true;
  lastId = ""; // another key may see other lines
  log.clear();
  current.abort();
});
wireTheme(() => charts.recolour());

// Following.

async function follow() {
  for (;;) {
    current = new AbortController();
    try {
      await watch(current);
    } catch (error) {
      if (error instanceof Refused && error.status < 500) await refused(error);
    }
    await pause();
  }
}

async function watch(abort) {
  let timer = setTimeout(() => abort.abort(), SILENT_MS);
  try {
    const headers = lastId ? { "last-event-id": lastId } : {};
    for await (const event of events(await ask("/admin/events", { headers, signal: abort.signal, cache: "no-store" }))) {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(), SILENT_MS);
      lastId = event.id;
      SHOW[event.name]?.(JSON.parse(event.data));
    }
  } finally {
    clearTimeout(timer);
  }
}

async function refused(error) {
  link("bad", "No access");
  show("idle", "Not connected", error.status === 401 ? "this supervisor asks for an API key" : error.message);
  keys.open(error.status === 401 && !key.get() ? "" : error.message);
  await new Promise((resolve) => current.signal.addEventListener("abort", resolve, { once: true }));
}

function pause() {
  if (rekeyed) {
    rekeyed = false;
    return undefined;
  }
  if (run) {
    link("warn", "Reconnecting");
    if (shown !== "gone") announce("The connection to the supervisor is lost. Reconnecting.");
    show("warn", "Reconnecting", "the supervisor does not answer");
    shown = "gone";
    for (const button of [$("reload"), $("restart")]) button.disabled = true;
  }
  const wait = RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)];
  attempt += 1;
  return new Promise((resolve) => setTimeout(resolve, wait));
}

const SHOW = { hello, now, log: (lines) => log.add(lines) };

function hello(greeting) {
  attempt = 0;
  mayAct = greeting.may_act;
  const another = run && run !== greeting.run;
  run = greeting.run;
  charts.begin(greeting.history);
  link("good", "Live");
  say($("version"), `runner-supervisor ${greeting.version}`);
  if (another) {
    log.mark("the supervisor was restarted");
    notice("good", `The supervisor was restarted at ${clock(Date.now() / 1000)}; this page has found it again.`);
    announce("The supervisor was restarted. Connected again.");
  } else {
    $("notice").hidden = true;
  }
}

// What is shown.

function now(snapshot) {
  const { engine } = snapshot;
  showState(snapshot);
  say($("model"), engine.model);
  say($("backend"), `${engine.backend} · llama.cpp ${engine.commit.slice(0, 9)}`);
  say($("uptime"), `up ${span(snapshot.uptime_s)}`);
  showSlots(snapshot);
  showMemory(engine);
  say($("restarts"), String(engine.restarts));
  const [latest] = snapshot.happenings.filter(({ cause }) => !ASKED.has(cause));
  say($("restarts-text"), latest ? `last: ${CAUSES[latest.cause].toLowerCase()}, ${span(snapshot.sample[0] - latest.at)} ago` : "no crash since the start");
  charts.add(snapshot.sample);
  showRequests(snapshot);
  showHappenings(snapshot.happenings);
  const settled = engine.state === "ready" || engine.state === "failed" || engine.state === "backoff";
  for (const button of [$("reload"), $("restart")]) {
    button.disabled = !mayAct || snapshot.draining || !settled;
  }
  $("act-hint").hidden = mayAct;
}

function showState({ engine, draining }) {
  const name = draining ? "Draining" : STATES[engine.state];
  const retry = engine.retry_in_s === null ? "" : `, next start in ${span(engine.retry_in_s)}`;
  const since = draining ? "requests in flight may finish" : `for ${span(engine.age_s)}${retry}`;
  show(draining ? "warn" : TONES[engine.state], name, since);
  document.title = `${name} · runner-supervisor`;
  if (name !== shown) {
    announce(`Engine: ${name}`);
    shown = name;
  }
}

function showSlots({ slots, slots_busy: busy, sample }) {
  say($("slots-busy"), String(busy));
  say($("slots-of"), `of ${slots} busy`);
  const meter = $("slots-meter");
  const cells = Math.min(Math.max(slots, 1), 32);
  while (meter.children.length < cells) meter.append(make("span"));
  while (meter.children.length > cells) meter.lastChild.remove();
  const lit = slots ? Math.ceil((busy / Math.max(slots, 1)) * cells) : 0;
  [...meter.children].forEach((cell, index) => cell.classList.toggle("on", index < lit));
  const [, , , , , queued] = sample;
  say($("queue-text"), queued ? `${queued} waiting in the queue` : "nobody waits");
}

function showMemory({ memory_bytes: used, needed_bytes: estimate, lowered }) {
  say($("memory"), bytes(used));
  say($("memory-of"), `of ${bytes(estimate)} estimated`);
  const share = estimate ? used / estimate : 0;
  $("memory-meter").firstElementChild.style.width = `${Math.min(100, share * 100)}%`;
  $("memory-meter").dataset.tone = share > 1.1 ? "warn" : "good";
  const text = lowered.length ? `with less: ${lowered.at(-1)}` : estimate && used ? `${Math.round(share * 100)} % of the estimate` : "no process";
  say($("memory-text"), text);
}

function showRequests({ requests, more, sample }) {
  const body = $("requests-body");
  const ids = named(requests);
  for (const row of [...body.children]) {
    if (ids.includes(row.dataset.id)) continue;
    if (row.contains(document.activeElement)) $("main").focus({ preventScroll: true });
    row.remove(); // before others are placed: a row that moves would lose the focus
  }
  const rows = new Map([...body.children].map((row) => [row.dataset.id, row]));
  requests.forEach((request, index) => {
    const row = rows.get(ids[index]) ?? requestRow(request, ids[index]);
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
    fillRow(row, request);
  });
  $("requests").hidden = requests.length === 0;
  $("requests-none").hidden = requests.length > 0;
  const [, , , , flying, queued] = sample;
  const waiting = queued ? `, ${queued} of them waiting` : "";
  say($("requests-count"), requests.length ? `${flying} in flight${waiting}${more ? `; the oldest ${requests.length} are shown` : ""}` : "");
}

/** A name for each request, told apart where clients, who choose ids, chose the same. */
function named(requests) {
  const times = new Map();
  return requests.map(({ id }) => {
    times.set(id, (times.get(id) ?? 0) + 1);
    return `${id}/${times.get(id)}`;
  });
}

function requestRow(request, id) {
  const row = make("tr");
  row.dataset.id = id;
  const phase = make("span", "", { class: "phase" });
  phase.append(make("span", "", { class: "dot", "aria-hidden": "true" }), make("span"));
  const cells = [
    make("td", request.id, { class: "id mono", title: request.id }), make("td", request.key),
    make("td", request.route, { class: "mono" }), make("td"),
    make("td", "", { class: "right" }), make("td", "", { class: "right", "data-name": "tokens" }),
    make("td", "", { class: "right", "data-name": "tokens/s" }), make("td"),
  ];
  cells[3].append(phase);
  const button = make("button", "Cancel", { type: "button", class: "button small danger", "aria-label": `Cancel request ${request.id}` });
  button.addEventListener("click", () => act(`/admin/requests/${encodeURIComponent(request.id)}/cancel`, button));
  cells[7].append(button);
  row.append(...cells);
  return row;
}

function fillRow(row, request) {
  const [, , , phase, elapsed, tokens, rate, actions] = row.children;
  const mark = phase.firstElementChild;
  mark.dataset.tone = PHASES[request.phase];
  say(mark.lastElementChild, request.phase);
  say(elapsed, span(request.elapsed_s));
  say(tokens, request.tokens ? number(request.tokens) : "–");
  say(rate, request.tokens_per_s === null ? "–" : perSecond(request.tokens_per_s));
  actions.firstElementChild.hidden = !mayAct;
}

let happeningsShown = "";

function showHappenings(happenings) {
  const as = JSON.stringify(happenings);
  if (as === happeningsShown) return;
  happeningsShown = as;
  $("happenings-none").hidden = happenings.length > 0;
  $("happenings").replaceChildren(...happenings.map((each) => {
    const item = make("li");
    const cause = make("span", "", { class: "cause" });
    cause.dataset.tone = ASKED.has(each.cause) ? "idle" : "bad";
    cause.append(make("span", "", { class: "dot", "aria-hidden": "true" }), make("span", CAUSES[each.cause] ?? each.cause));
    const back = each.back_after_s === null ? "" : `; serving again after ${number(each.back_after_s)} s`;
    item.append(make("time", clock(each.at), { datetime: new Date(each.at * 1000).toISOString() }), cause, make("p", each.detail + back));
    return item;
  }));
}

function show(tone, name, since) {
  $("hero").dataset.tone = tone;
  say($("engine-state"), name);
  say($("engine-since"), since);
}

function link(tone, text) {
  $("link").dataset.tone = tone;
  say($("link-text"), text);
}

function notice(tone, text) {
  $("notice").dataset.tone = tone;
  say($("notice"), text);
  $("notice").hidden = false;
}

const announce = (text) => say($("announcer"), text);

const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

// Acting.

const CONFIRM = {
  reload: ["Reload the settings?", "The settings are read again. If they ask for another llama-server, it takes over once it is ready; requests in flight may finish.", "Reload"],
  restart: ["Restart the engine?", "A fresh llama-server takes over once it is ready. Requests in flight may finish on the old one within the drain time.", "Restart"],
};

function confirm(what) {
  const [title, text, yes] = CONFIRM[what];
  say($("confirm-title"), title);
  say($("confirm-text"), text);
  say($("confirm-yes"), yes);
  $("confirm-yes").onclick = () => {
    $("confirm").close();
    act(`/admin/${what}`, $(what));
  };
  $("confirm").showModal();
}

async function act(path, button) {
  button.disabled = true;
  try {
    await ask(path, { method: "POST" });
  } catch (error) {
    if (error instanceof Refused && error.code === "no_such_request") return;
    notice("bad", error instanceof Refused ? error.message : "The supervisor does not answer.");
    button.disabled = false;
  }
}

$("reload").addEventListener("click", () => confirm("reload"));
$("restart").addEventListener("click", () => confirm("restart"));
$("confirm-no").addEventListener("click", () => $("confirm").close());
setInterval(() => charts.describe(), 10000);

follow();
