// A writer: a model in its worker, the canvas given to it, the frames that it has made of it, and its letters on the screen.
"use strict";

const get = (id) => document.getElementById(id);

function openWorker(number, source) {
  const worker = new Worker(source), waiting = [];
  const settle = (answer) => {
    const { resolve, reject } = waiting.shift();
    answer.problem ? reject(new Error(answer.problem)) : resolve(answer);
  };
  worker.onmessage = ({ data }) => settle(data);
  worker.onerror = (event) => settle({ problem: event.message });
  const ask = (call, more) => new Promise((resolve, reject) => {
    waiting.push({ resolve, reject });
    worker.postMessage({ call, ...more });
  });
  const weights = get(`weights-${number}`).textContent;
  return { ask, opened: ask("open", { ...models[number], weights, wasm: contents.wasm }) };
}

// ---- How wide a unit is on the screen, in pixels
const brush = document.createElement("canvas").getContext("2d"), widths = new Map();
function widthOf(unit, font) {
  const key = font + unit;
  if (!widths.has(key)) {
    brush.font = font;
    widths.set(key, brush.measureText(unit).width);
  }
  return widths.get(key);
}

class Writer {
  constructor(section, number, source) {
    Object.assign(this, openWorker(number, source), { section, number });
    this.cells = section.querySelector(".cells");
    this.count = section.querySelector(".count");
    this.causal = models[number].config.causal;
    this.wide = units.some((unit) => /\p{M}/u.test(unit)); // an alphabet of letters that differ in width
    this.cells.classList.toggle("wide", this.wide);
    this.heat = false; // whether the letters show when they came
    new ResizeObserver(() => this.frames && this.place()).observe(this.cells);
  }

  give(tokens) { // begins anew with a canvas
    this.given = tokens;
    this.frames = [{ canvas: tokens, passes: 0, milliseconds: 0 }];
    this.done = hiddenIn(tokens) === 0;
    this.started = false;
    if (this.known?.length !== tokens.length) this.known = [...tokens]; // so that a hidden letter can be given back
    this.show(0);
  }

  async advance(settings, seed, watched) { // makes the next frame
    const { given } = this, mine = this.frames;
    if (!this.started) await this.ask("start", { canvas: given, settings, seed, watched: this.causal ? null : watched });
    if (mine !== this.frames) return; // another text has begun
    this.started = true;
    const step = await this.ask("next");
    if (mine !== this.frames) return;
    if (step.done) return (this.done = true);
    const before = mine.at(-1), read = Boolean(step.chosen), { p, attention, ...frame } = step;
    if (p) Object.assign(before, { p, attention, watched: step.watched }); // the pass read the frame before
    mine.push({ ...frame, passes: before.passes + read, milliseconds: before.milliseconds + step.milliseconds });
    this.done = mine.at(-1).passes === this.total(settings);
  }

  total(settings) { // passes in all
    const hidden = hiddenIn(this.given);
    if (this.causal) return hidden && this.given.length - this.given.indexOf(MASK);
    return hidden && Math.min(settings.writing, hidden) + settings.revise;
  }

  async look(frame, watched) { // sees to it that it is known what the model expects in a frame, and looks at
    if (frame.p && frame.watched?.layer === watched.layer && frame.watched?.head === watched.head) return;
    Object.assign(frame, await this.ask("look", { canvas: frame.canvas, watched }));
  }

  get frame() {
    return this.frames[this.shown];
  }

  get last() {
    return this.frames.length - 1;
  }

  get ended() {
    return this.done && this.shown === this.last;
  }

  // The frame in which the letter at a place was drawn, as seen from the one on the screen; none for a given letter
  drawnIn(place) {
    for (let i = this.shown; i > 0; i--) if (this.frames[i].chosen?.[place]) return i;
    return null;
  }

  likeliest(place) { // [token, probability] of a place in the frame on the screen; none where no pass has read it
    if (!this.frame.p) return null;
    const row = this.frame.p.subarray(place * MASK, place * MASK + MASK), best = row.reduce((a, p, i) => (p > row[a] ? i : a), 0);
    return [best, row[best]];
  }

  // [[token, probability]] of a place in the frame on the screen, the likeliest first; none where no pass has read it
  expected(place, number = this.shown, most = 8) {
    const { p } = this.frames[number];
    if (!p) return null;
    const row = [...p.subarray(place * MASK, place * MASK + MASK)].map((share, token) => [token, share]);
    return row.sort(([, a], [, b]) => b - a).slice(0, most);
  }

  // What stands at a place: "taken" back, "hidden", "new" in this frame, "missed" (a GPT wrote another letter than the given
  // one), "own" (written by the model) or "given"
  kindOf(place) {
    const { canvas, chosen, taken } = this.frame;
    if (taken?.[place]) return "taken";
    if (canvas[place] === MASK) return "hidden";
    if (this.given[place] !== MASK) return canvas[place] === this.given[place] ? "given" : "missed";
    return chosen?.[place] && !this.ended ? "new" : "own";
  }

  show(number) {
    this.shown = Math.min(number, this.last);
    const { canvas, passes, milliseconds } = this.frame, { cells } = this;
    while (cells.children.length > canvas.length) cells.lastChild.remove();
    while (cells.children.length < canvas.length) {
      const cell = document.createElement("span");
      cell.id = `${this.section.id}-${cells.children.length}`;
      if (this.number === 0) cell.setAttribute("role", "option");
      cells.append(cell);
    }
    // a letter that was taken back is still seen, struck out
    this.letters = canvas.map((token, i) => (this.kindOf(i) === "taken" ? this.frames[this.shown - 1].canvas[i] : token));
    this.place();
    this.letters.forEach((token, i) => this.draw(cells.children[i], i, token));
    this.section.classList.toggle("marked", this.given.some((token) => token !== MASK && units[token] !== "\n"));
    cells.classList.toggle("heat", this.heat);
    if (this.number > 0) cells.setAttribute("aria-label", `The GPT’s text: ${asTyped(canvas.filter((token) => token !== MASK))}`);
    const time = milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
    this.count.textContent = `${passes} ${passes === 1 ? "pass" : "passes"}${passes ? `, ${time}` : ""}`;
  }

  draw(cell, place, token) { // one letter
    const kind = this.kindOf(place), hidden = kind === "hidden", unit = hidden ? "" : units[token];
    const shown = unit !== "\n" ? unit : this.edge[place] || kind === "taken" || kind === "new" ? "↵" : "";
    if (cell.textContent !== shown) cell.textContent = shown;
    const name = kind + (this.edge[place] ? " edge" : "");
    if (cell.className.replace(/ (cursor|picked)/g, "") !== name) cell.className = name;
    const [guess, p] = (hidden && this.likeliest(place)) || [null, 0]; // shown as light
    cell.dataset.guess = guess === null ? "" : units[guess].replace("\n", "↵");
    cell.style.setProperty("--light", p.toFixed(2));
    const drawn = this.heat ? this.drawnIn(place) : null;
    cell.style.setProperty("--heat", drawn === null ? 0 : (drawn / Math.max(1, this.last)).toFixed(3));
    cell.classList.toggle("dated", drawn !== null);
    if (this.number > 0) return;
    cell.setAttribute("aria-selected", hidden);
    cell.setAttribute("aria-label", hidden ? `hidden, ${place + 1}` : nameOf(token));
  }

  // Moves all letters to where they stand. Line breaks at both ends that were given take no line of their own
  place() {
    const style = getComputedStyle(this.cells), font = `${style.fontSize} ${style.fontFamily}`;
    const em = parseFloat(style.fontSize), mask = this.wide ? 1.6 * em : widthOf("0", font);
    const breaks = this.letters.map((token, i) => units[token] === "\n" && this.given[i] === token);
    const [first, last] = [breaks.indexOf(false), breaks.lastIndexOf(false)];
    this.edge = breaks.map((yes, i) => yes && (i < first || i > last));
    const sizes = this.letters.map((token, i) => {
      if (token === MASK) return { width: mask, kind: "hidden" };
      const kind = this.edge[i] ? "edge" : { "\n": "break", " ": "space" }[units[token]] ?? "letter";
      return { width: units[token] === "\n" ? widthOf("↵", font) : widthOf(units[token], font), kind };
    });
    const [paddingLeft, paddingTop] = [parseFloat(style.paddingLeft), parseFloat(style.paddingTop)];
    const width = this.cells.clientWidth - 2 * paddingLeft;
    const { places, lines } = layOut(sizes, width - 2 * mask, 2 * mask), height = parseFloat(style.lineHeight);
    const placed = ({ x, line }, i) => ({ x: paddingLeft + x, y: paddingTop + line * height, width: sizes[i].width, height });
    this.places = places.map(placed);
    this.places.forEach((place, i) => {
      const cell = this.cells.children[i];
      cell.style.transform = `translate(${place.x.toFixed(2)}px, ${place.y.toFixed(2)}px)`;
      cell.style.width = `${place.width.toFixed(2)}px`;
    });
    // lines that it may come to have
    const usual = Math.max(Math.ceil((places.length * mask) / width) + 4, Math.ceil(places.length / 20));
    this.cells.style.height = `${(Math.max(lines, usual, 4) * height + 2 * paddingTop).toFixed(0)}px`;
  }
}
