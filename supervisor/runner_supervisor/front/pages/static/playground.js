// A chat with the model that is served: streams /v1/chat/completions and says how fast it was.

import { $, Refused, ask, duration, events, key, make, number, rate as perSecond, say, wireKey, wireTheme } from "./common.js";

const LOOK_MS = 1500;
const WAIT_MS = 1000;
const WAITS = { starting: "The engine is starting.", loading: "The model is loading.", backoff: "The engine is being restarted.", stopping: "The engine is stopping.", failed: "The engine has failed; the dashboard says why.", stopped: "The engine is stopped." };

let history = [];
let writing = null; // the AbortController of the answer that streams
let ready = false;
let model = "";

const keys = wireKey(() => {
  model = "";
  look();
});
wireTheme();

// Is there a model to talk to?

async function look() {
  try {
    const answer = await (await fetch("/health", { cache: "no-store" })).json();
    ready = answer.status === "ok";
    const text = ready ? "Ready" : answer.status === "draining" ? "Draining" : WAITS[answer.engine] ?? "Not ready";
    link(ready ? "good" : answer.engine === "failed" ? "bad" : "warn", ready ? "Ready" : text.replace(/[.;].*/, ""));
    if (!model) say($("welcome-model"), ready ? "Say something" : text);
    if (ready && !model) await learnModel();
  } catch {
    ready = false;
    link("warn", "Reconnecting");
  }
  $("send").disabled = !ready;
}

async function learnModel() {
  try {
    const answer = await (await ask("/v1/models")).json();
    model = answer.data[0].id.replace(/^.*\//, "");
    say($("welcome-model"), model);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401 && !$("key-dialog").open) keys.open(key.get() ? error.message : "");
    model = " "; // asked for once; a new key asks again
  }
}

function link(tone, text) {
  $("link").dataset.tone = tone;
  say($("link-text"), text);
}

// Talking.

async function send(text) {
  history.push({ role: "user", content: text });
  $("welcome").hidden = true;
  turn("mine").textContent = text;
  const view = answerView();
  const figures = { asked: performance.now(), first: 0, last: 0, count: 0, timings: null };
  writing = new AbortController();
  busy(true);
  const waiting = setInterval(() => showWait(view, figures), WAIT_MS);
  let failure = "";
  try {
    const body = { messages: history, stream: true, stream_options: { include_usage: true }, ...knobs() };
    const response = await ask("/v1/chat/completions", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: writing.signal,
    });
    for await (const { data } of events(response)) if (data !== "[DONE]") take(JSON.parse(data), view, figures);
  } catch (error) {
    failure = failureOf(error);
  }
  clearInterval(waiting);
  finish(view, figures, failure);
}

function take(event, view, figures) {
  if (event.error) throw new Refused(0, event.error.code, event.error.message);
  figures.timings = event.timings ?? figures.timings;
  figures.usage = event.usage ?? figures.usage;
  const delta = event.choices?.[0]?.delta ?? {};
  const [said, thought] = [delta.content ?? "", delta.reasoning_content ?? ""];
  if (!said && !thought) return;
  figures.last = performance.now();
  figures.first ||= figures.last;
  figures.count += 1;
  view.coming.said += said;
  view.coming.thought += thought;
  view.frame ||= requestAnimationFrame(() => show(view, figures));
}

// Tokens may come by the thousand a second: the page is laid out once a frame, not once a token.
function show(view, figures) {
  cancelAnimationFrame(view.frame);
  const follow = nearEnd();
  view.said.append(view.coming.said);
  view.thought.append(view.coming.thought);
  Object.assign(view, { coming: { said: "", thought: "" }, frame: 0 });
  showSpeed(view, figures);
  if (follow) toEnd();
}

function failureOf(error) {
  if (error.name === "AbortError") return "stopped";
  if (error instanceof Refused && error.status === 401) keys.open(error.message);
  return error instanceof Refused ? error.message : "The connection broke before the answer was complete.";
}

function finish(view, figures, failure) {
  show(view, figures);
  const said = view.said.textContent;
  if (said) history.push({ role: "assistant", content: said });
  else history.pop();
  view.turn.classList.remove("writing");
  view.turn.setAttribute("aria-busy", "false");
  if (failure) view.stats.append(make("span", failure, { class: failure === "stopped" ? "" : "bad" }));
  say($("announcer"), failure || `Answer: ${said}`);
  writing = null;
  busy(false);
  if (nearEnd()) toEnd();
}

function showWait(view, { asked, first }) {
  if (!first) view.stats.replaceChildren(make("span", `waiting for the first token, ${duration(performance.now() - asked)} so far`));
}

function showSpeed(view, { asked, first, last, count, timings, usage }) {
  if (!first) {
    view.stats.replaceChildren();
    return;
  }
  const tokens = timings?.predicted_n ?? usage?.completion_tokens ?? count;
  const seconds = (last - first) / 1000;
  const rate = timings?.predicted_per_second ?? (seconds > 0 && count > 1 ? (count - 1) / seconds : null);
  const facts = [`${number(tokens)} ${tokens === 1 ? "token" : "tokens"}`, rate === null ? "" : `${perSecond(rate)} tokens/s`, `first after ${duration(first - asked)}`];
  view.stats.replaceChildren(...facts.filter(Boolean).map((fact) => make("span", fact)));
}

function knobs() {
  const given = { temperature: $("temperature").valueAsNumber, max_tokens: $("max-tokens").valueAsNumber };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => Number.isFinite(value)));
}

function turn(whose) {
  const element = make("div", "", { class: `turn ${whose}` });
  $("talk").append(element);
  toEnd();
  return element;
}

function answerView() {
  const element = turn("theirs writing");
  element.setAttribute("aria-busy", "true");
  const view = { turn: element, thought: make("div", "", { class: "thought" }), said: make("div", "", { class: "said" }), stats: make("div", "", { class: "stats" }), coming: { said: "", thought: "" }, frame: 0 };
  element.append(view.thought, view.said, view.stats);
  return view;
}

const nearEnd = () => $("talk").scrollHeight - $("talk").scrollTop - $("talk").clientHeight < 60;

const toEnd = () => {
  $("talk").scrollTop = $("talk").scrollHeight;
};

function busy(now) {
  const focused = document.activeElement === $("stop") || document.activeElement === $("send");
  $("send").hidden = now;
  $("stop").hidden = !now;
  $("clear").disabled = now || !history.length;
  if (focused) (now ? $("stop") : $("message")).focus();
}

function grow() {
  const field = $("message");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value.trim();
  if (!text || writing || !ready) return;
  $("message").value = "";
  grow();
  send(text);
});
$("message").addEventListener("input", grow);
$("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
$("stop").addEventListener("click", () => writing?.abort());
$("clear").addEventListener("click", () => {
  history = [];
  for (const element of document.querySelectorAll(".turn")) element.remove();
  $("welcome").hidden = false;
  $("clear").disabled = true;
  $("message").focus();
});
$("starters").addEventListener("click", ({ target }) => {
  if (target.tagName !== "BUTTON" || !ready) return;
  $("message").value = target.textContent;
  $("composer").requestSubmit();
});

look();
setInterval(look, LOOK_MS);
$("message").focus();
