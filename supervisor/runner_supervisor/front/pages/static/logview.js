// The log's tail: filtered here, held while it is paused or read further up, bounded in any case.

import { $, make, say } from "./common.js";

const KEPT = 1000;
const LEVELS = { debug: 0, info: 1, warning: 2, error: 3, critical: 3 };
const NEAR_END_PX = 24;

export class LogView {
  #lines = [];
  #waiting = 0;
  #paused = false;
  #mayAct;
  #box = $("log");

  constructor(mayAct) {
    this.#mayAct = mayAct;
    $("log-level").addEventListener("change", () => this.#draw());
    $("log-text").addEventListener("input", () => this.#draw());
    $("log-pause").addEventListener("click", () => this.#pause(!this.#paused));
  }

  /** Lines that came. */
  add(lines) {
    this.#lines.push(...lines);
    this.#lines.splice(0, Math.max(0, this.#lines.length - KEPT));
    const fresh = lines.filter((line) => this.#wanted(line));
    if (this.#paused) this.#waiting += fresh.length;
    else this.#append(fresh);
    this.#foot();
  }

  /** A line of our own. */
  mark(text) {
    this.add([{ at: Date.now() / 1000, source: "page", level: "warning", text }]);
  }

  clear() {
    this.#lines = [];
    this.#draw();
  }

  #wanted(line) {
    const text = $("log-text").value.trim().toLowerCase();
    return LEVELS[line.level] >= Number($("log-level").value) && (!text || `${line.source} ${line.text}`.toLowerCase().includes(text));
  }

  #pause(paused) {
    this.#paused = paused;
    $("log-pause").setAttribute("aria-pressed", String(paused));
    say($("log-pause"), paused ? "Go on" : "Pause");
    if (!paused) this.#draw();
    this.#foot();
  }

  #draw() {
    this.#waiting = 0;
    this.#box.replaceChildren();
    this.#append(this.#lines.filter((line) => this.#wanted(line)), true);
    this.#foot();
  }

  #append(lines, toEnd = false) {
    const box = this.#box;
    const follow = toEnd || box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
    box.append(...lines.map(lineOf));
    while (box.children.length > KEPT) box.firstElementChild.remove();
    if (follow) box.scrollTop = box.scrollHeight;
  }

  #foot() {
    const held = this.#paused ? `Paused; ${this.#waiting} new ${this.#waiting === 1 ? "line" : "lines"}. ` : "";
    const guarded = this.#mayAct() ? "" : "Lines that may quote requests are shown to admin keys alone.";
    say($("log-foot"), held + (this.#lines.length && !this.#box.children.length ? "No line matches the filter. " : "") + guarded);
  }
}

function lineOf(line) {
  const row = make("div", "", { class: "line" });
  row.dataset.level = line.level;
  const at = new Date(line.at * 1000);
  row.append(
    make("time", at.toLocaleTimeString("en-GB"), { datetime: at.toISOString() }),
    make("span", line.source, { class: "source" }),
    make("span", line.text, { class: "text" }),
  );
  return row;
}
