// What both pages share: the theme, the API key, requests with it, and events read from an answer's body.

const KEY = "api-key";

export const $ = (id) => document.getElementById(id);

/** An element: its tag, text, and attributes. Text is always text, never markup. */
export function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Set text only where it differs: screen readers hear what changes. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** fetch with the key; an answer that is no success is thrown as Refused, with the server's own words. */
export async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("authorization", `Bearer ${key.get()}`);
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Refused(response.status, body.error?.code ?? "", body.error?.message ?? `The server answered ${response.status}.`);
}

/** The server-sent events of an answer, as {name, id, data}. EventSource cannot send a key, so they are read by hand. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = { name: "message", id: "", data: "" };
        for (const line of block.split("\n")) {
          const colon = line.indexOf(": ");
          const [field, text] = [line.slice(0, colon), line.slice(colon + 2)];
          if (field === "event") event.name = text;
          else if (field === "id") event.id = text;
          else if (field === "data") event.data += text;
        }
        if (event.data) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The theme's button. `changed` is called when colours have. */
export function wireTheme(changed = () => {}) {
  const root = document.documentElement;
  const button = $("theme");
  const show = (theme) => {
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
    changed();
  };
  button.addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", theme);
    show(theme);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) => {
    if (!localStorage.getItem("theme")) show(matches ? "dark" : "light");
  });
  button.setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
}

/** The dialog that takes the key. `changed` is called with a new one; `open(why)` asks for one. */
export function wireKey(changed) {
  const dialog = $("key-dialog");
  const field = $("key-field");
  const open = (why = "") => {
    $("key-why").textContent = why;
    $("key-why").hidden = !why;
    field.value = key.get() ?? "";
    $("key-forget").hidden = !key.get();
    if (!dialog.open) dialog.showModal();
    field.focus();
  };
  const close = (value) => {
    key.set(value);
    dialog.close();
    changed();
  };
  $("key-button").addEventListener("click", () => open());
  $("key-cancel").addEventListener("click", () => dialog.close());
  $("key-forget").addEventListener("click", () => close(""));
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    close(field.value.trim());
  });
  return { open };
}

/** 3725 -> "1 h 2 min"; the two units that matter. */
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => whole >= size);
  if (first < 0) return "0 s";
  const [[unit, size], next] = [units[first], units[first + 1]];
  const left = next ? Math.floor((whole % size) / next[1]) : 0;
  return `${Math.floor(whole / size)} ${unit}${left ? ` ${left} ${next[0]}` : ""}`;
}

const round = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });

/** Tokens per second, with as many digits always, so that columns stand still. */
export const rate = (value) => (value < 100 ? value.toFixed(1) : round(value, 0));

export const number = (value) => round(value, value < 100 ? 1 : 0);

export const duration = (ms) => (ms < 1000 ? `${round(ms, ms < 10 ? 1 : 0)} ms` : `${round(ms / 1000, ms < 10000 ? 2 : 1)} s`);

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  let size = value;
  for (; size >= 1024 && step < units.length - 1; step += 1) size /= 1024;
  return `${round(size, size < 10 ? 1 : 0)} ${units[step]}`;
}
