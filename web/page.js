// The course of things: writing, pausing, undoing, and how the page opens.
"use strict";

let writers = [], playing = false, settings = null, seedUsed = null, cursor = 0, turn = 0;
let mends = true; // whether hidden letters are filled without a press of the button
const earlier = []; // what Undo brings back: {given, frames, shown, known, settings, seedUsed} of each writer
const UNDOS = 8;

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
  const [steps, revise, temperature, seed] = ["steps", "revise", "temp", "seed"].map(number);
  return { steps, revise, order: get("order").value, temperature, seed };
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
  showArcs();
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
  const state = ({ given, frames, shown, known, done }) => ({ given, known: [...known], done, started: false,
    ...(done ? { frames, shown } : { frames: frames.slice(0, 1), shown: 0 }) }); // what is unfinished begins anew
  earlier.push({ writers: writers.map(state), settings, seedUsed });
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
  say(atEnd() ? "It is as it was before." : "It is as it was at its beginning. Write goes on with the same seed.");
}

// ---- Writing
// Writes from where it stands to the end; a pass is computed while the one before is shown. Ends when another turn begins
async function play(seed = null) {
  if (atEnd()) begin(writers[0].given);
  try {
    if (!settings) {
      const chosen = touring ? {} : choices();
      settings = completeSettings(chosen, hiddenIn(writers[0].given), fillsGaps(writers[0].given));
      seedUsed = seed ?? chosen.seed ?? Math.floor(Math.random() * 2 ** 31);
    }
  } catch (mistake) {
    return say(mistake.message, true);
  }
  playing = true;
  const mine = ++turn, goesOn = () => playing && mine === turn;
  const isNew = writers[0].given.every((token) => token === MASK || units[token] === "\n");
  say(isNew ? "Writing …" : "Filling what is hidden …");
  try {
    await ahead(mine);
    while (goesOn() && !atEnd()) {
      showAll(1 + Math.max(...writers.map((writer) => writer.shown)));
      if (touring && !isScene(5)) setScene(writers[0].frame.passes > settings.writing || writers[0].frame.taken ? 4 : 3);
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

// Every writer is two frames further than the screen: what a pass expects in a frame is known once the next one is made
const ahead = (mine) => Promise.all(writers.map(async (writer) => {
  while (mine === turn && !writer.done && writer.last < writer.shown + 2)
    await writer.advance(settings, seedUsed, watched());
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
  const [dllm, gpt] = writers, first = dllm.given.indexOf(MASK);
  const given = [...dllm.given.keys()].filter((i) => i > first && dllm.given[i] !== MASK && units[dllm.given[i]] !== "\n");
  const kept = gpt ? given.filter((i) => gpt.frames.at(-1).canvas[i] === dllm.given[i]).length : 0;
  const race = ` Of the ${given.length} letters that were given further on, the dLLM has all, and the GPT ${kept}.`;
  say(`Done in ${dllm.frames.at(-1).passes} passes, with seed ${seedUsed}.${gpt && given.length ? race : ""}`);
}

// ---- Opening
let ownLink = ""; // the link that was made here, whose text is on the screen
function openLink() { // whether there is a link's text to write
  try {
    if (ownLink && decodeURI(location.hash) === decodeURI(ownLink)) return true;
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
  get("facts").textContent = `· ${models[0].name}, a model of ${models[0].parameters.toLocaleString("en")} numbers`;
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
  for (const name in lacking)
    if (!lacking[name]) return say(`This browser is too old for this page: ${name} is missing.`, true);
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
