// Three charts of the last quarter of an hour. uPlot draws; a seconds' gap in the data is a gap in the line.

import { $, duration, make, number, rate } from "./common.js";

const { uPlot } = window;
const SPAN_S = 15 * 60;
const LEAST_SPAN_S = 2 * 60; // a young supervisor's charts are not all margin
const GAP_S = 3;
const COLUMNS = 6; // at, tokens/s, ttft p50, ttft p95, in flight, queued: see Sample in history.py

const KINDS = [
  { id: "chart-tokens", name: "Tokens per second", columns: [1], labels: [""], show: rate, axis: number, least: 10 },
  { id: "chart-ttft", name: "Time to first token", columns: [2, 3], labels: ["p50", "p95"], show: duration, axis: duration, least: 100 },
  { id: "chart-flight", name: "Requests in flight", columns: [4, 5], labels: ["all", "queued"], show: number, axis: number, least: 4 },
];

export class Charts {
  #data = Array.from({ length: COLUMNS }, () => []);
  #drawn = KINDS.map((kind) => new Chart(kind));

  /** A (new) supervisor's past; what was seen of one before it stays, with a gap between them. */
  begin(history) {
    const [from] = history[0].length ? history[0] : [Infinity];
    const kept = this.#data[0].filter((at) => at !== null && at < from - 0.5).length;
    this.#data = this.#data.map((column, index) => column.slice(0, kept).concat(history[index]));
    this.#draw();
  }

  /** One more second. */
  add(sample) {
    const last = this.#data[0].at(-1) ?? -Infinity;
    if (sample[0] <= last) return;
    const oldest = sample[0] - SPAN_S;
    const drop = Math.max(0, this.#data[0].findIndex((at) => at >= oldest));
    this.#data = this.#data.map((column, index) => [...column.slice(drop), sample[index]]);
    this.#draw();
  }

  /** In words, for those who do not see them. */
  describe() {
    for (const chart of this.#drawn) chart.describe(this.#data);
  }

  /** The theme has changed. */
  recolour() {
    for (const chart of this.#drawn) chart.make();
    this.#draw();
  }

  #draw() {
    const data = withGaps(this.#data);
    for (const chart of this.#drawn) chart.draw(data);
  }
}

/** Where seconds are missing, a point without values, so that no line is drawn across. */
function withGaps(data) {
  const gaps = [];
  data[0].forEach((at, index) => {
    if (index && at - data[0][index - 1] > GAP_S) gaps.push(index);
  });
  return data.map((column, which) => {
    const whole = [...column];
    for (const index of gaps.toReversed()) whole.splice(index, 0, which ? null : data[0][index - 1] + 0.5);
    return whole;
  });
}

class Chart {
  #kind;
  #place;
  #values;
  #plot;

  constructor(kind) {
    this.#kind = kind;
    this.#place = $(kind.id).querySelector(".plot");
    this.#values = $(kind.id).querySelector(".now");
    for (const label of kind.labels) this.#values.append(reading(label));
    this.#place.setAttribute("aria-label", `${kind.name}, the last 15 minutes`);
    this.make();
    new ResizeObserver(() => this.#plot.setSize(this.#size())).observe(this.#place);
  }

  make() {
    this.#plot?.destroy();
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const font = `11px ${colour("--sans")}`;
    const grid = { stroke: colour("--line"), width: 1 };
    const axis = { font, stroke: colour("--ink-2"), grid, ticks: { show: false } };
    const { columns, labels, axis: tick, least } = this.#kind;
    this.#plot = new uPlot({
      ...this.#size(),
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
      padding: [8, 4, 0, 0],
      scales: { x: { time: true, range: () => this.#range() }, y: { range: (_, _low, high) => [0, nice(Math.max(least, high ?? 0))] } },
      series: [{}, ...columns.map((_, index) => this.#series(index, colour, labels))],
      axes: [
        { ...axis, grid: { show: false }, space: 70, size: 24, incrs: [60, 120, 300], values: (plot, splits) => splits.map((at) => timeAt(at, plot.scales.x)) },
        { ...axis, size: 52, gap: 6, space: 36, values: (_, splits) => splits.map((value) => tick(value)) },
      ],
      hooks: { setCursor: [(plot) => this.#read(plot.cursor.idx)] },
    }, [[], ...columns.map(() => [])], this.#place);
  }

  draw(data) {
    this.#plot.setData([data[0], ...this.#kind.columns.map((column) => data[column])]);
    if (this.#plot.cursor.idx === null || this.#plot.cursor.left < 0) this.#read(data[0].length - 1);
  }

  describe(data) {
    const { name, columns, labels, show } = this.#kind;
    const said = columns.map((column, index) => {
      const seen = data[column].filter((value) => value !== null);
      return seen.length ? `${labels[index]} now ${show(seen.at(-1))}, at most ${show(Math.max(...seen))}`.trim() : `${labels[index]} nothing yet`.trim();
    });
    this.#place.setAttribute("aria-label", `${name}, the last 15 minutes: ${said.join("; ")}`);
  }

  #series(index, colour, labels) {
    const stroke = colour(index ? "--chart-2" : "--accent");
    return { label: labels[index], stroke, width: 1.75, fill: index ? undefined : `${stroke}1f`, points: { show: false }, spanGaps: false };
  }

  #read(index) {
    const { show } = this.#kind;
    [...this.#values.children].forEach((place, which) => {
      const value = this.#plot.data[which + 1]?.[index];
      place.lastElementChild.textContent = value === null || value === undefined ? "–" : show(value);
    });
  }

  #range() {
    const times = this.#plot?.data[0] ?? [];
    const until = times.at(-1) ?? Date.now() / 1000;
    const passed = until - (times[0] ?? until);
    return [until - Math.min(SPAN_S, Math.max(LEAST_SPAN_S, passed)), until];
  }

  #size() {
    return { width: Math.max(160, this.#place.clientWidth), height: Math.max(100, this.#place.clientHeight) };
  }
}

/** The place of a value, with its name and colour where there are several. */
function reading(label) {
  const place = make("span");
  if (label) place.append(make("span", "", { class: "swatch", "aria-hidden": "true" }), make("span", label, { class: "name" }));
  place.append(make("span", "–"));
  return place;
}

/** A time on the axis, unless it is so near an end that it would be cut or lie on other text. */
function timeAt(at, { min, max }) {
  const edge = (max - min) * 0.05;
  return at < min + edge || at > max - edge ? "" : new Date(at * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

/** The next number that reads well as the top of an axis: 1, 2, 2.5, 5 or 10 times a power of ten. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 2.5, 5, 10].find((step) => step * power >= value);
}
