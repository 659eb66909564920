// The course of things: writing and pausing, hiding letters, the buttons and the forms, and how the page opens.
"use strict";

let writers = [], playing = false, settings = null, seedUsed = null, cursor = 0, turn = 0;
let mends = true; // whether hidden letters are filled without a press of the button
const earlier = []; // what Undo brings back: {given, frames, shown, known, settings, seedUsed} of each writer
const UNDOS = 20;

const say = (sentence, problem = false) => {
  if (get("status").textContent !== sentence) get("status").textContent = sentence;
  get("status").classList.toggle("problem", problem);
};
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const atEnd = () => writers.every((writer) => writer.ended);
const watched = () => ({ layer: Number(get("layer").value), head: Number(get("head").value) });

// ---- The settings that a person chose, those left empty missing
function choices() { // throws an Error whose message is a sentence for a person
  for (const input of get("settings").elements)
    if (input.validity && !input.validity.valid) {
      const { min, max } = input, name = input.labels[0].textContent.trim();
      throw new Error(`${name}: give ${input.step === "any" ? "a number" : "a whole number"} from ${min} to ${max}.`);
    }
  const number = (id) => (get(id).value === "" ? null : Number(get(id).value));
  return { steps: number("steps"), revise: number("revise"), order: get("order").value, temperature: number("temp"), seed: number("seed") };
}

// ---- What is on the screen
function refresh() { // the button, the slider, the clock and the panel follow
  const [dllm] = writers, hidden = hiddenIn(dllm.given);
  get("play").textContent = playing || touring ? "Pause" : "Write";
  get("play").disabled = hidden === 0 && !touring;
  const steps = settings && hidden ? Math.min(settings.writing, hidden) + 2 * settings.revise : 1; // of the slider
  get("time").max = Math.max(steps, ...writers.map((writer) => writer.last));
  get("time").value = Math.max(...writers.map((writer) => writer.shown));
  const total = settings ? dllm.total(settings) : 0;
  get("clock").textContent = total ? `pass ${dllm.frame.passes} of ${total}` : "";
  get("time").setAttribute("aria-valuetext", get("clock").textContent || "the beginning");
  get("undo").disabled = earlier.length === 0;
  get("terminal").hidden = !(settings && atEnd() && hidden);
  if (!get("terminal").hidden) showCommand();
  markCursor();
  showPanel(dllm, cursor);
}

const showAll = (number) => writers.forEach((writer) => writer.show(number));
const showCommand = () => {
  get("command").textContent = commandFor(writers[0].given, settings, seedUsed, get("shell").value);
};

function begin(tokens) { // a new canvas, for all
  playing = false;
  settings = null;
  turn++;
  cursor = Math.min(cursor, tokens.length - 1);
  get("arcs").replaceChildren();
  for (const writer of writers) writer.give(tokens);
  refresh();
}

// ---- Undo
function remember() {
  const state = ({ given, frames, shown, known, done }) => ({ given, frames, shown, known: [...known], done, started: false });
  const cut = writers.map(state).map((one) => ({ ...one, frames: one.done ? one.frames : one.frames.slice(0, 1), shown: one.done ? one.shown : 0 }));
  earlier.push({ writers: cut, settings, seedUsed });
  if (earlier.length > UNDOS) earlier.shift();
}

function undo() {
  playing = false;
  mends = false;
  turn++;
  const before = earlier.pop();
  ({ settings, seedUsed } = before);
  before.writers.forEach((state, i) => {
    Object.assign(writers[i], state);
    writers[i].show(state.shown);
  });
  refresh();
  say("It is as it was before.");
}

// ---- Writing
// Writes from where it stands to the end; a pass is computed while the one before is shown. Ends when another turn begins
async function play(seed = null) {
  if (atEnd()) begin(writers[0].given);
  try {
    if (!settings) {
      const chosen = touring ? {} : choices();
      settings = completeSettings(chosen, hiddenIn(writers[0].given));
      seedUsed = seed ?? chosen.seed ?? Math.floor(Math.random() * 2 ** 31);
    }
  } catch (mistake) {
    return say(mistake.message, true);
  }
  playing = true;
  const mine = ++turn, goesOn = () => playing && mine === turn;
  say(writers[0].given.every((token) => token === MASK || units[token] === "\n") ? "Writing …" : "Filling what is hidden …");
  try {
    await ahead(mine);
    while (goesOn() && !atEnd()) {
      showAll(writers[0].shown + 1 > writers[0].last && writers.length > 1 ? Math.max(...writers.map(({ shown }) => shown)) + 1 : writers[0].shown + 1);
      if (touring) setScene(writers[0].frame.taken || settings.revise && writers[0].frame.passes > settings.writing ? 4 : 3);
      refresh();
      await Promise.all([ahead(mine), wait(Number(get("speed").value))]);
    }
    if (goesOn()) finish();
  } catch (problem) {
    playing = false;
    say(`It stopped: ${problem.message}`, true);
  }
  refresh();
}

// Every writer is one frame further than the screen, so that it is known what a pass expected before it is shown
const ahead = (mine) => Promise.all(writers.map(async (writer) => {
  while (mine === turn && !writer.done && writer.last < writer.shown + 2) await writer.advance(settings, seedUsed, watched());
}));

function pause() {
  playing = false;
  mends = false;
  endTour();
  refresh();
  say(settings ? `Paused at ${get("clock").textContent}.` : "Paused.");
}

function finish() {
  playing = false;
  const [dllm, gpt] = writers, given = dllm.given.flatMap((token, i) => (token !== MASK && i > dllm.given.indexOf(MASK) ? [i] : []));
  const kept = gpt ? given.filter((i) => gpt.frames.at(-1).canvas[i] === dllm.given[i]).length : 0;
  const race = gpt && given.length ? ` Of the ${given.length} letters that were given further on, the dLLM has all, and the GPT ${kept}.` : "";
  say(`Done in ${dllm.frames.at(-1).passes} passes, with seed ${seedUsed}.${race}`);
}

// ---- Hiding letters
// The text on the screen becomes what is given, with these places hidden or given back
function edit(places, hide) {
  remember();
  const [dllm] = writers, canvas = dllm.frame.canvas, changed = [...dllm.letters];
  dllm.letters.forEach((token, i) => { if (token !== MASK) dllm.known[i] = token; });
  canvas.forEach((token, i) => { if (token === MASK && dllm.frame.taken?.[i] !== true) changed[i] = MASK; });
  for (const place of places) changed[place] = hide ? MASK : dllm.known[place];
  begin(changed);
  const hidden = hiddenIn(changed);
  say(hidden ? `${hidden} of ${changed.length} letters are hidden.` : "Nothing is hidden. Click a letter to hide it.");
}

const MENDS_AFTER = 1200; // milliseconds without another change
let mending = 0;
function editByHand(places, hide) { // and has it filled, unless Pause was pressed
  edit(places, hide);
  clearTimeout(mending);
  if (mends && hiddenIn(writers[0].given)) mending = setTimeout(() => !playing && !touring && play(), MENDS_AFTER);
}

const toggle = (place) => editByHand([place], writers[0].letters[place] !== MASK);

function markCursor() {
  const { cells } = writers[0];
  cells.querySelector(".cursor")?.classList.remove("cursor");
  if (document.activeElement === cells || get("look").classList.contains("open")) cells.children[cursor]?.classList.add("cursor");
}

function moveTo(place) {
  const { cells } = writers[0];
  cursor = Math.max(0, Math.min(place, cells.children.length - 1));
  cells.setAttribute("aria-activedescendant", cells.children[cursor].id);
  markCursor();
  showPanel(writers[0], cursor);
  lookHere();
}

// Sees to it that the panel and the arcs have something to show of the frame on the screen
let looking = false;
async function lookHere(always = false) {
  const [dllm] = writers, { frame } = dllm;
  if (!frame.attention && !always && (playing || touring || looking)) return;
  if (!playing) {
    looking = true;
    await dllm.look(frame, watched()).finally(() => (looking = false));
  }
  if (frame !== dllm.frame) return;
  if (hiddenIn(frame.canvas)) dllm.show(dllm.shown); // what is hidden shows its likeliest letters
  markCursor();
  showPanel(dllm, cursor);
  drawArcs(dllm, cursor);
}

function placeAt({ clientX, clientY }) { // the place under the pointer, where its letter stands or glides to; -1: none
  const { cells, places } = writers[0], box = cells.getBoundingClientRect();
  const [x, y] = [clientX - box.left - cells.clientLeft, clientY - box.top - cells.clientTop];
  return places.findIndex((place) => x >= place.x && x < place.x + place.width && y >= place.y && y < place.y + place.height);
}

function listenToPointer(cells) {
  let from = -1, to = -1, before = -1;
  const pick = () => [...cells.children].forEach((cell, i) =>
    cell.classList.toggle("picked", from >= 0 && from !== to && i >= Math.min(from, to) && i <= Math.max(from, to)));
  const selects = () => get("select").getAttribute("aria-pressed") === "true";
  cells.addEventListener("pointerdown", (event) => {
    from = to = selects() || event.button !== 0 ? -1 : placeAt(event);
    before = get("look").classList.contains("open") ? cursor : -1; // what the panel was at
    if (from >= 0) cells.setPointerCapture(event.pointerId);
  });
  cells.addEventListener("pointermove", (event) => {
    const place = placeAt(event);
    if (place < 0 || (from < 0 && event.pointerType !== "mouse")) return;
    if (from >= 0) [to] = [place, pick()];
    if (place !== cursor) moveTo(place);
    pick();
  });
  cells.addEventListener("pointercancel", () => pick((from = -1)));
  cells.addEventListener("pointerleave", () => from < 0 && document.activeElement !== cells && get("arcs").replaceChildren());
  cells.addEventListener("pointerup", (event) => {
    if (from < 0) return;
    const [low, high] = [Math.min(from, to), Math.max(from, to)], looked = before === from;
    const hide = writers[0].letters[from] !== MASK, touch = event.pointerType !== "mouse";
    const places = Array.from({ length: high - low + 1 }, (_, i) => low + i);
    from = -1;
    pick();
    if (low < high || !touch || looked) editByHand(places, hide); // a first tap only looks
    get("look").classList.toggle("open", touch && low === high && !looked);
    moveTo(to);
    const hiddenBy = cells.children[to].getBoundingClientRect().bottom + 12 - get("look").getBoundingClientRect().top;
    if (get("look").classList.contains("open") && touch && hiddenBy > 0) scrollBy({ top: hiddenBy }); // under the panel
  });
}

function listenToKeys(cells) {
  const line = (direction) => { // how far it is to the place above or below
    const { places } = writers[0], here = places[cursor];
    const beyond = places.map((place, i) => [place, i]).filter(([place]) => direction * (place.y - here.y) > 1);
    beyond.sort(([a], [b]) => direction * (a.y - b.y) || Math.abs(a.x - here.x) - Math.abs(b.x - here.x));
    return beyond.length ? beyond[0][1] - cursor : 0;
  };
  cells.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowRight: () => 1, ArrowLeft: () => -1, Home: () => -cursor, End: () => cells.children.length, ArrowUp: () => line(-1), ArrowDown: () => line(1) };
    const was = cursor;
    if (event.key === " " || event.key === "Enter") toggle(cursor);
    else if (event.key in steps) {
      moveTo(cursor + steps[event.key]());
      if (event.shiftKey && cursor !== was) editByHand([was, cursor], true);
    } else return;
    event.preventDefault();
    moveTo(cursor);
  });
  cells.addEventListener("focus", () => moveTo(cursor));
  cells.addEventListener("blur", markCursor);
  cells.addEventListener("copy", (event) => {
    event.clipboardData.setData("text/plain", selectedText(writers[0]));
    event.preventDefault();
  });
}

// ---- Forms
function startWith(tokens) { // a canvas that a person made, which is written at once
  if (tokens.length === 0) throw new Error("Type some text, with _ for every hidden letter.");
  const most = Number(get("len").max);
  endTour();
  if (tokens.length > most) throw new Error(`That is ${tokens.length} letters. This model sees ${most} at once, so leave some out.`);
  remember();
  writers[0].known = null;
  begin(tokens);
  moveTo(Math.max(0, tokens.indexOf(MASK)));
  mends = true;
  if (hiddenIn(tokens)) play();
  else say("Nothing is hidden. Click a letter to hide it.");
}

// What was typed as beginning, middle and ending, with masks between them
function aroundMasks() {
  const [first, middle, last] = ["first", "middle", "ending"].map((id) => encode(get(id).value));
  if (!first.length) first.push(...defaults.first); // where nothing is given a blank line stands, as in lesson 6
  if (!last.length) last.push(...defaults.last);
  const given = first.length + middle.length + last.length, most = Number(get("len").max);
  const free = Math.min(most, Math.max(Number(get("len").value), given + 24)) - given;
  if (free < 2) throw new Error(`This leaves no room to write. The text may have ${most} letters in all.`);
  const half = middle.length ? Math.floor(free / 2) : 0, masks = (count) => Array(count).fill(MASK);
  return [...first, ...masks(half), ...middle, ...masks(free - half), ...last];
}

const attempt = (form, make) => (event) => {
  event.preventDefault();
  const mistake = form.querySelector(".problem");
  mistake.textContent = "";
  try {
    startWith(make());
  } catch (problem) {
    mistake.textContent = problem.message;
  }
};

function newText() {
  endTour();
  if (!get("len").validity.valid || get("len").value === "")
    return say(`Letters: give a whole number from 1 to ${get("len").max}. This model sees no more at once.`, true);
  remember();
  writers[0].known = null;
  begin(defaultCanvas(Number(get("len").value)));
  moveTo(0);
  mends = true;
  play();
}

const press = (button, on) => button.setAttribute("aria-pressed", on);
const pressed = (button) => button.getAttribute("aria-pressed") === "true";
const tell = async (what, done) => say((await done) ? `${what} is copied.` : `${what} could not be copied.`);

function listenToTools() {
  get("undo").onclick = undo;
  get("new").onclick = newText;
  get("heat").onclick = () => {
    press(get("heat"), !pressed(get("heat")));
    get("legend").hidden = !pressed(get("heat"));
    for (const writer of writers) writer.heat = pressed(get("heat"));
    for (const writer of writers) writer.show(writer.shown);
  };
  get("select").onclick = () => {
    press(get("select"), !pressed(get("select")));
    document.body.classList.toggle("selects", pressed(get("select")));
    say(pressed(get("select")) ? "Drag over letters to select them, as in any text." : "Drag over letters to hide them.");
  };
  get("copy-text").onclick = () => tell("The text", copy(asTyped(writers[0].letters).replace(/^\n+|\n+$/g, "")));
  get("copy-command").onclick = () => tell("The command", copy(get("command").textContent));
  get("copy-link").onclick = () => {
    location.replace(linkFor(writers[0].given, { ...choices(), seed: seedUsed ?? choices().seed }));
    tell("A link to this text", copy(location.href));
  };
  get("picture").onclick = () => savePicture(writers[0], `written by a diffusion language model, tiny-dllm ${models[0].name}, seed ${seedUsed}`, "tiny-dllm.png");
  get("shell").onchange = showCommand;
  get("settings-button").onclick = () => {
    get("settings").hidden = !get("settings").hidden;
    get("settings-button").setAttribute("aria-expanded", !get("settings").hidden);
  };
}

function listen() {
  const { cells } = writers[0];
  listenToPointer(cells);
  listenToKeys(cells);
  listenToTools();
  get("play").onclick = () => {
    if (playing || touring) return pause();
    mends = true;
    if (!atEnd() || pressedSame()) play();
    else newText();
  };
  get("toggle").onclick = () => toggle(cursor);
  get("close").onclick = () => { get("look").classList.remove("open"); markCursor(); };
  get("backwards").onsubmit = attempt(get("backwards"), aroundMasks);
  get("editor").onsubmit = attempt(get("editor"), () => encode(get("text").value));
  get("time").oninput = () => {
    playing = false;
    showAll(Number(get("time").value)); // as far as they have come
    refresh();
  };
  get("settings").onsubmit = (event) => event.preventDefault();
  get("settings").onchange = ({ target }) => {
    get("order-why").textContent = WHY[get("order").value];
    if (target.id === "len") return newText();
    if (["layer", "head"].includes(target.id)) return lookHere();
    if (target.id === "speed") return;
    if (!atEnd() && settings) begin(writers[0].given); // an unfinished text begins anew, with the new settings
    try {
      completeSettings(choices(), hiddenIn(writers[0].given));
      say("The next text is written so.");
    } catch (mistake) {
      say(mistake.message, true);
    }
  };
  const touched = (event) => {
    if (!touring || event.key === "Tab" || event.target.id === "play") return;
    endTour();
    refresh();
  };
  for (const name of ["pointerdown", "keydown"]) document.addEventListener(name, touched, true);
  window.addEventListener("hashchange", openLink);
}

// A text given in part is filled again; one written from nothing makes room for a new one
const pressedSame = () => String(writers[0].given) !== String(defaultCanvas(writers[0].given.length));

const WHY = {
  "": "Certainty where every letter has a pass of its own, random where several share one.",
  certainty: "First the places where the likeliest letter is likeliest.",
  margin: "First the places where the likeliest letter is farthest ahead of the second.",
  confidence: "First the places where the letter drawn is likeliest. It repeats itself.",
  random: "Any place, as chance has it.",
  "left to right": "As a GPT does, but seeing both sides.",
};

// ---- Opening
function openLink() { // whether there is a link's text to write
  try {
    const link = readLink(location.hash);
    if (!link) return false;
    for (const [name, value] of Object.entries(link.choices)) get({ temperature: "temp" }[name] ?? name).value = value;
    startWith(link.canvas);
    return true;
  } catch (mistake) {
    say(`The link cannot be followed. ${mistake.message}`, true);
    return true;
  }
}

function prepare() {
  const { config } = models[0], rival = models[1]?.config;
  get("facts").textContent = `· ${models[0].name} · ${models[0].parameters.toLocaleString("en")} numbers`;
  const source = URL.createObjectURL(new Blob([get("worker").textContent], { type: "text/javascript" }));
  writers = [get("dllm"), get("gpt")].slice(0, models.length).map((section, i) => new Writer(section, i, source));
  get("gpt").hidden = !rival;
  document.body.classList.toggle("race", Boolean(rival));
  get("len").max = Math.min(config.context, rival?.context ?? Infinity);
  get("len").value = contents.opening.text.length;
  for (const [id, count] of [["layer", config.n_layers], ["head", config.n_heads]])
    get(id).replaceChildren(new Option("all", -1), ...Array.from({ length: count }, (_, i) => new Option(i + 1, i)));
  get("shell").replaceChildren(...Object.keys(QUOTES).map((name) => new Option(name)));
  if (/Win/.test(navigator.platform)) get("shell").value = "PowerShell";
  get("temp").placeholder = contents.defaults.temperature;
  get("order-why").textContent = WHY[""];
  const lines = asTyped(contents.opening.text).trim().split("\n");
  get("ending").value = get("ending").defaultValue = `\n${lines.at(-1)}`.trim().split(" ").slice(-4).join(" ");
}

async function open() {
  const lacking = { Workers: window.Worker, "unpacking (DecompressionStream)": window.DecompressionStream };
  for (const name in lacking) if (!lacking[name]) return say(`This browser is too old for this page: ${name} is missing.`, true);
  prepare();
  begin(contents.opening.text);
  seedUsed = contents.opening.seeds[0];
  listen();
  say("The model is being unpacked …");
  const linked = openLink();
  if (!linked && !still()) startTour();
  mends = !still();
  refresh();
  try {
    const opened = await Promise.all(writers.map((writer) => writer.opened));
    const slow = opened.some(({ fast }) => !fast) ? "This browser has no WebAssembly SIMD, so it computes more slowly. " : "";
    if (!playing) say(`Ready. ${slow}${touring ? "Touch anything, and it is yours." : "Press Write."}`);
  } catch (problem) {
    endTour();
    say(`The model could not be unpacked: ${problem.message}`, true);
  }
}

open();
