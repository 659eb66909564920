// What a person sees and does: the text as cells, the buttons, the bars. The model runs in a worker (model.js,
// sampler.js), so that the page never freezes; this asks it for one step at a time.
"use strict";

const get = (id) => document.getElementById(id);
const { units, models, wasm, checkpoint } = JSON.parse(get("contents").textContent);
const [config, rival] = [models[0].config, models[1]?.config];
const MASK = config.vocab_size;
const NAMES = { "\n": "line break", " ": "space", "\t": "tab" };
const NAMED = (token) => NAMES[units[token]] ?? units[token];

// ---- Text and tokens, as in lesson 1: where several units fit, the longest wins
const sorted = [...units].sort((a, b) => b.length - a.length).map((unit) => unit.replace(/[\\^$.*+?()[\]{}|\/]/g, "\\$&"));
const unitPattern = new RegExp(sorted.join("|"), "uy");
const idOf = new Map(units.map((unit, i) => [unit, i]));

function encode(text) { // text with _ for hidden letters -> tokens; throws an Error with a sentence for a person
  const tokens = [];
  for (let place = 0; place < text.length; ) {
    unitPattern.lastIndex = place;
    const found = text[place] === "_" ? "_" : unitPattern.exec(text)?.[0];
    if (found === undefined) {
      const letter = String.fromCodePoint(text.codePointAt(place));
      const number = [...text.slice(0, place)].length + 1;
      throw new Error(`The character “${letter}” (number ${number}) is not in this model’s alphabet.`);
    }
    tokens.push(found === "_" ? MASK : idOf.get(found));
    place += found.length;
  }
  return tokens;
}

const asTyped = (tokens) => tokens.map((token) => (token === MASK ? "_" : units[token])).join("");
const masks = (tokens) => tokens.filter((token) => token === MASK).length;

// ---- The workers, one for each model
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
  return { ask, opened: ask("open", { ...models[number], weights, wasm }) };
}

// ---- A writer: a model, the canvas given to it, and the frames that it has made of it
class Writer {
  constructor(section, number, source) {
    Object.assign(this, openWorker(number, source), { section, number });
    this.cells = section.querySelector(".cells");
    this.cells.classList.toggle("wide", units.some((unit) => /\p{M}/u.test(unit)));
    this.count = section.querySelector(".count");
  }

  give(tokens) { // begins anew with a canvas
    this.given = tokens;
    this.frames = [{ canvas: tokens, passes: 0, milliseconds: 0 }];
    this.done = masks(tokens) === 0;
    this.started = false;
    if (this.known?.length !== tokens.length) this.known = [...tokens]; // so that a hidden letter can be given back
    this.show(0);
  }

  async advance(settings, seed) { // makes the next frame
    if (!this.started) await this.ask("start", { canvas: this.given, settings, seed });
    this.started = true;
    const step = await this.ask("next"), before = this.frames.at(-1);
    if (step.done) return (this.done = true);
    if (step.guesses) before.guesses = step.guesses;
    const passes = before.passes + (step.guesses ? 1 : 0), milliseconds = before.milliseconds + step.milliseconds;
    this.frames.push({ ...step, guesses: null, passes, milliseconds });
    this.done = passes === this.total(settings);
  }

  total(settings) { // passes in all
    const hidden = masks(this.given);
    if (models[this.number].config.causal) return hidden && this.given.length - this.given.indexOf(MASK);
    return hidden && Math.min(settings.writing, hidden) + settings.revising;
  }

  // The frame in which the letter at a place was drawn, as seen from the one on the screen; none for a given letter
  drawnIn(place) {
    for (let i = this.shown; i > 0; i--) if (this.frames[i].chosen?.[place]) return i;
    return null;
  }

  show(number) {
    this.shown = Math.min(number, this.frames.length - 1);
    const { canvas, chosen, taken, passes, milliseconds } = this.frames[this.shown], { cells } = this;
    while (cells.children.length > canvas.length) cells.lastChild.remove();
    while (cells.children.length < canvas.length) {
      const cell = document.createElement("span");
      cell.id = `${this.section.id}-${cells.children.length}`;
      if (this.number === 0) cell.setAttribute("role", "option");
      cells.append(cell);
    }
    const some = masks(this.given) < this.given.length, blank = cells.classList.contains("wide") ? "\u2003" : "_";
    canvas.forEach((token, i) => {
      const cell = cells.children[i], hidden = token === MASK;
      const kind = taken?.[i] ? "taken" : hidden ? "mask" : chosen?.[i] ? "new" : some && this.given[i] === MASK ? "own" : "";
      const letter = kind === "taken" ? units[this.frames[this.shown - 1].canvas[i]] : hidden ? blank : units[token];
      const shown = letter !== "\n" ? letter : { taken: "↵", new: "↵\n" }[kind] ?? "\n"; // a line break is seen where it counts
      if (cell.textContent !== shown) cell.textContent = shown;
      if (cell.className !== kind) cell.className = kind;
      if (this.number > 0) return;
      cell.setAttribute("aria-selected", hidden);
      cell.setAttribute("aria-label", hidden ? `hidden, ${i + 1}` : NAMED(token));
    });
    cells.classList.toggle("done", masks(canvas) === 0);
    if (this.number > 0) cells.setAttribute("aria-label", `The GPT’s text: ${asTyped(canvas.filter((token) => token !== MASK))}`);
    const time = milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
    this.count.textContent = `${passes} ${passes === 1 ? "pass" : "passes"}${passes ? `, ${time} of computing` : ""}`;
  }
}

// ---- The settings
const WHY = {
  "": "Certainty where every letter has a pass of its own, random where several share one.",
  certainty: "First the places where the likeliest letter is likeliest.",
  margin: "First the places where the likeliest letter is farthest ahead of the second.",
  confidence: "First the places where the letter drawn is likeliest; it repeats itself.",
  random: "Any place, as chance has it.",
  "left to right": "As a GPT does; still seeing both sides.",
};
let seedUsed = null;

function settingsFor(hidden) { // throws an Error with a sentence for a person
  for (const input of get("settings").elements)
    if (!input.validity.valid) {
      const { min, max } = input, name = get("settings").querySelector(`[for=${input.id}]`).firstChild.textContent.trim();
      throw new Error(`${name}: give ${input.step === "any" ? "a number" : "a whole number"} from ${min} to ${max}.`);
    }
  const number = (id) => (get(id).value === "" ? null : Number(get(id).value));
  const order = get("order").value, revises = number("revise") === null && !order;
  const steps = number("steps") ?? Math.max(1, revises ? Math.ceil(hidden / 2) : hidden);
  const quarter = Math.floor(Math.min(steps, hidden) / 4), eighth = Math.floor(hidden / 8);
  const revising = number("revise") ?? (order ? 0 : Math.max(0, steps - Math.max(1, quarter, eighth)));
  const writing = steps - revising;
  if (writing < 1) throw new Error(`${revising} correction passes leave none of the ${steps} passes to write; give less, or more passes.`);
  const temperature = number("temp") ?? 0.8;
  return { steps, revising, writing, order: order || (writing >= hidden ? "certainty" : "random"), temperature };
}

// ---- The course of things: `playing` while frames are shown one after the other
let writers = [], playing = false, settings = null, cursor = 0, turn = 0;
const say = (sentence, problem = false) => {
  if (get("status").textContent !== sentence) get("status").textContent = sentence;
  get("status").classList.toggle("problem", problem);
};
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const last = (writer) => writer.frames.length - 1;
const atEnd = () => writers.every((writer) => writer.done && writer.shown === last(writer));

function refresh() { // buttons, slider, clock and bars follow what is on the screen
  const [dllm] = writers, hidden = masks(dllm.given);
  const begun = writers.some((writer) => writer.shown > 0);
  const start = hidden === dllm.given.length ? "Write" : "Fill";
  get("play").textContent = playing ? "Pause" : atEnd() && hidden ? "Once more" : begun ? "Go on" : start;
  get("play").disabled = hidden === 0;
  const steps = settings && hidden ? Math.min(settings.writing, hidden) + 2 * settings.revising : 1; // of the slider
  get("time").max = Math.max(steps, ...writers.map(last));
  get("time").value = Math.max(...writers.map((writer) => writer.shown));
  const total = settings ? dllm.total(settings) : 0;
  get("clock").textContent = total ? `pass ${dllm.frames[dllm.shown].passes} of ${total}` : "";
  get("time").setAttribute("aria-valuetext", get("clock").textContent || "the beginning");
  showGuesses();
}

function begin(tokens) { // a new canvas, for all
  playing = false;
  settings = null;
  turn++;
  get("terminal").hidden = true;
  for (const writer of writers) writer.give(tokens);
  refresh();
}

async function play() {
  if (playing) {
    playing = false;
    return refresh();
  }
  if (atEnd()) begin(writers[0].given);
  try {
    if (!settings) {
      settings = settingsFor(masks(writers[0].given));
      seedUsed = get("seed").value === "" ? Math.floor(Math.random() * 2 ** 31) : Number(get("seed").value);
    }
  } catch (mistake) {
    return say(mistake.message, true);
  }
  playing = true;
  say(masks(writers[0].given) === writers[0].given.length ? "Writing …" : "Filling …");
  refresh();
  const mine = ++turn; // another beginning ends this one
  try {
    while (playing && mine === turn && !atEnd()) {
      await Promise.all(writers.map(async (writer) => {
        if (writer.shown === last(writer) && !writer.done) await writer.advance(settings, seedUsed);
        if (mine === turn) writer.show(writer.shown + 1);
      }));
      if (mine !== turn) return;
      refresh();
      await wait(Number(get("speed").value));
    }
    if (mine === turn && atEnd()) finish();
  } catch (problem) {
    say(`It stopped: ${problem.message}`, true);
    playing = false;
  }
  refresh();
}

function finish() {
  playing = false;
  const [dllm] = writers;
  say(`Done in ${dllm.frames.at(-1).passes} passes, with seed ${seedUsed}. Hide some letters to have them filled anew.`);
  const quote = (text) => (/^[\w.-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`), hidden = dllm.given.indexOf(MASK);
  const fromThere = dllm.given.slice(hidden).every((token) => token === MASK), text = asTyped(dllm.given);
  const prompt = ` --prompt ${quote(hidden ? text.slice(0, text.indexOf("_")) : "")} --ending ''`; // no blank lines
  const what = fromThere
    ? `python 06_generate.py${prompt} --len ${dllm.given.length}`
    : `python 11_fill_blanks.py ${quote(text.replace(/[{}]/g, "\\$&"))}`;
  const how = ` --order ${quote(settings.order)} --steps ${settings.steps} --revise ${settings.revising} --temp ${settings.temperature} --seed ${seedUsed}`;
  get("terminal").querySelector("code").textContent = `${what} --checkpoint ${checkpoint}${how}`;
  get("terminal").hidden = false;
}

// ---- Hiding letters
function edit(places, hide) { // the text on the screen becomes what is given, with these places hidden or given back
  const [dllm] = writers, canvas = dllm.frames[dllm.shown].canvas, changed = [...canvas];
  canvas.forEach((token, i) => { if (token !== MASK) dllm.known[i] = token; });
  for (const place of places) changed[place] = hide ? MASK : dllm.known[place];
  begin(changed);
  const hidden = masks(changed);
  say(hidden ? `${hidden} of ${changed.length} letters are hidden.` : "Nothing is hidden; click a letter to hide it.");
}

const toggle = (place) => edit([place], writers[0].frames[writers[0].shown].canvas[place] !== MASK);

function moveTo(place) {
  const { cells } = writers[0];
  cells.children[cursor]?.classList.remove("cursor");
  cursor = Math.max(0, Math.min(place, cells.children.length - 1));
  if (document.activeElement === cells) cells.children[cursor].classList.add("cursor");
  cells.setAttribute("aria-activedescendant", cells.children[cursor].id);
  showGuesses();
}

function placeAt(event) {
  const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest("#dllm .cells > span");
  return cell ? [...writers[0].cells.children].indexOf(cell) : -1;
}

function listenToCells(cells) {
  let from = -1, to = -1;
  cells.addEventListener("pointerdown", (event) => {
    from = to = placeAt(event);
    if (from >= 0 && event.button === 0) cells.setPointerCapture(event.pointerId);
    else from = -1;
  });
  cells.addEventListener("pointermove", (event) => {
    const place = placeAt(event);
    if (place < 0) return;
    if (from >= 0) to = place;
    else if (event.pointerType !== "mouse") return;
    if (place !== cursor) moveTo(place);
  });
  cells.addEventListener("pointercancel", () => (from = -1));
  cells.addEventListener("pointerup", (event) => {
    if (from < 0) return;
    const [low, high] = [Math.min(from, to), Math.max(from, to)], looked = cursor === from;
    const hide = writers[0].frames[writers[0].shown].canvas[from] !== MASK;
    const places = Array.from({ length: high - low + 1 }, (_, i) => low + i);
    if (low < high || event.pointerType === "mouse" || looked) edit(places, hide); // a first tap only looks
    from = -1;
    moveTo(to);
  });
  cells.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -cursor, End: cells.children.length };
    const line = (direction) => { // to the place above or below
      const here = cells.children[cursor].getBoundingClientRect();
      const hits = [...cells.children].map((cell, i) => [cell.getBoundingClientRect(), i]);
      const beyond = hits.filter(([box]) => direction * (box.top - here.top) > here.height / 2);
      beyond.sort(([a], [b]) => direction * (a.top - b.top) || Math.abs(a.left - here.left) - Math.abs(b.left - here.left));
      return beyond.length ? beyond[0][1] - cursor : 0;
    };
    if (event.key === " " || event.key === "Enter") toggle(cursor);
    else if (event.key in steps) {
      const was = cursor;
      moveTo(cursor + steps[event.key]);
      if (event.shiftKey) edit([was, cursor], true);
    } else if (event.key === "ArrowUp" || event.key === "ArrowDown") moveTo(cursor + line(event.key === "ArrowUp" ? -1 : 1));
    else return;
    event.preventDefault();
    moveTo(cursor);
  });
  for (const name of ["focus", "blur"]) cells.addEventListener(name, () => moveTo(cursor));
}

// ---- What the model expects at a place
function showGuesses() {
  const [dllm] = writers, frame = dllm.frames[dllm.shown], token = frame.canvas[cursor], drawn = dllm.drawnIn(cursor);
  let guesses = null, sentence = `Letter ${cursor + 1}, “${NAMED(token)}”, was given. Hide it to see what the model would put there.`;
  if (token === MASK) {
    guesses = frame.guesses?.[cursor];
    sentence = `Letter ${cursor + 1} is hidden. The likeliest letters, now:`;
    if (!guesses && !playing && !frame.asked) {
      frame.asked = true;
      dllm.ask("look", { canvas: frame.canvas }).then((answer) => {
        frame.guesses ??= answer.guesses;
        showGuesses();
      });
    }
  } else if (drawn !== null) {
    guesses = dllm.frames[drawn - 1].guesses?.[cursor];
    sentence = `Letter ${cursor + 1}, “${NAMED(token)}”, was drawn in pass ${dllm.frames[drawn].passes}. The likeliest letters were:`;
  }
  get("where").textContent = sentence;
  get("toggle").disabled = false;
  get("toggle").textContent = token === MASK ? "Give this letter back" : "Hide this letter";
  if (token === MASK && dllm.known[cursor] === MASK) get("toggle").disabled = true;
  get("bars").replaceChildren(...(guesses ?? []).map(([guess, p]) => {
    const [row, letter, bar, share] = ["li", "span", "span", "span"].map((tag) => document.createElement(tag));
    const column = document.createElement("span");
    [letter.className, bar.className, share.className] = ["letter", "bar", "share"];
    row.classList.toggle("drawn", guess === token);
    letter.textContent = NAMED(guess);
    bar.style.display = "block";
    bar.style.width = `${100 * p}%`;
    share.textContent = p < 0.001 ? "<0.1%" : `${(100 * p).toFixed(1)}%`;
    column.append(bar);
    row.append(letter, column, share);
    return row;
  }));
}

// ---- Buttons and forms
function blank() { // a canvas of masks, as long as --len says
  if (!get("len").validity.valid || get("len").value === "")
    return say(`Letters: give a whole number from 1 to ${get("len").max}; this model sees no more at once.`, true);
  writers[0].known = null;
  begin(Array(Number(get("len").value)).fill(MASK));
  moveTo(0);
  say("All letters are hidden. Press Write.");
}

function openEditor(open) {
  get("editor").hidden = !open;
  get("type").setAttribute("aria-expanded", open);
  if (!open) return get("type").focus();
  get("text").value = asTyped(writers[0].frames[writers[0].shown].canvas);
  get("mistake").textContent = "";
  get("text").focus();
}

function useText() {
  try {
    const tokens = encode(get("text").value.normalize("NFC").replace(/\r\n?/g, "\n"));
    if (tokens.length === 0) throw new Error("Type some text, with _ for every hidden letter.");
    const most = Number(get("len").max);
    if (tokens.length > most) throw new Error(`That is ${tokens.length} letters; this model sees ${most} at once, so leave some out.`);
    writers[0].known = null;
    begin(tokens);
    moveTo(Math.max(0, tokens.indexOf(MASK)));
    openEditor(false);
    const hidden = `${masks(tokens)} of ${tokens.length} letters are hidden. Press ${get("play").textContent}.`;
    say(masks(tokens) ? hidden : "Nothing is hidden; click a letter to hide it.");
  } catch (mistake) {
    get("mistake").textContent = mistake.message;
  }
}

function listen() {
  listenToCells(writers[0].cells);
  get("play").onclick = play;
  get("rewind").onclick = () => { begin(writers[0].given); say("At the beginning again."); };
  get("clear").onclick = blank;
  get("type").onclick = () => openEditor(get("editor").hidden);
  get("cancel").onclick = () => openEditor(false);
  get("toggle").onclick = () => toggle(cursor);
  get("editor").onsubmit = (event) => { event.preventDefault(); useText(); };
  get("editor").onkeydown = (event) => { if (event.key === "Escape") openEditor(false); };
  get("time").oninput = () => {
    playing = false;
    for (const writer of writers) writer.show(Number(get("time").value)); // as far as they have come
    refresh();
  };
  get("settings").onsubmit = (event) => event.preventDefault();
  get("settings").onchange = ({ target }) => {
    get("order-why").textContent = WHY[get("order").value];
    if (target.id === "len") return blank();
    if (!atEnd() && settings) begin(writers[0].given); // an unfinished text begins anew, with the new settings
    try {
      settingsFor(masks(writers[0].given));
      say("The next text is written so.");
    } catch (mistake) {
      say(mistake.message, true);
    }
  };
}

// ---- Opening
async function open() {
  const lacking = { Workers: window.Worker, "unpacking (DecompressionStream)": window.DecompressionStream };
  for (const name in lacking) if (!lacking[name]) return say(`This browser is too old for this page: ${name} is missing.`, true);
  const sizes = models.map((_, i) => get(`weights-${i}`).textContent.length);
  const megabytes = `${(sizes.reduce((a, b) => a + b) / 1e6).toFixed(1)} MB`;
  get("facts").textContent = `· ${models[0].name} · ${models[0].parameters.toLocaleString("en")} parameters`;
  const source = URL.createObjectURL(new Blob([get("worker").textContent], { type: "text/javascript" }));
  const sections = [get("dllm"), get("gpt")].slice(0, models.length);
  writers = sections.map((section, i) => new Writer(section, i, source));
  if (rival) get("gpt").hidden = false;
  document.body.classList.toggle("race", Boolean(rival));
  get("len").max = Math.min(config.context, rival?.context ?? Infinity);
  get("len").value = Math.min(128, get("len").max);
  get("order-why").textContent = WHY[""];
  blank();
  listen();
  say(`Unpacking ${megabytes} of model …`);
  try {
    const opened = await Promise.all(writers.map((writer) => writer.opened));
    const slow = opened.some(({ fast }) => !fast);
    if (!playing) say(`Ready. ${slow ? "This browser has no WebAssembly SIMD, so it computes more slowly. " : ""}Press Write.`);
  } catch (problem) {
    say(`The model could not be unpacked: ${problem.message}`, true);
  }
}

open();
