// What lesson 6 does by default, the command line that writes the same text, and the link that opens it.
"use strict";

const { defaults } = contents; // temperature, and the tokens given at both ends of a canvas: from lesson 6

// The canvas of lesson 6: masks between two blank lines
function defaultCanvas(length) {
  const masks = length - defaults.first.length - defaults.last.length;
  return masks < 1 ? Array(length).fill(MASK) : [...defaults.first, ...Array(masks).fill(MASK), ...defaults.last];
}

// Where most is given, gaps are filled as in lesson 11, with a pass for each letter and none that takes back
const fillsGaps = (canvas) => 2 * hiddenIn(canvas) <= canvas.length;

// Settings, of which any may be missing, as lesson 6's Sampling.for_letters completes them for so many hidden letters, or
// lesson 11 where it `fills` gaps. Throws an Error whose message is a sentence for a person
function completeSettings({ steps, revise, order, temperature }, hidden, fills = false) {
  steps ??= Math.max(1, fills ? hidden : Math.ceil(hidden / 2));
  revise ??= fills ? 0 : steps - Math.ceil(steps / 4);
  if (revise >= steps)
    throw new Error(`${revise} passes that take back leave none of the ${steps} passes to write. Lower them or add passes.`);
  const writing = steps - revise, usual = writing >= hidden ? "certainty" : "random";
  return { steps, revise, writing, order: order || usual, temperature: temperature ?? defaults.temperature };
}

// ---- The command
const QUOTES = {
  "bash or zsh": (text) => (/^[\w.\/=-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`),
  PowerShell: (text) => (/^[\w.\/=-]+$/.test(text) ? text : `'${text.replace(/'/g, "''")}'`),
};

// The command that writes the same text from the same canvas; shell: one of QUOTES
function commandFor(canvas, settings, seed, shell) {
  const quote = QUOTES[shell], { steps, revise, order, temperature } = settings;
  const flags = [`--checkpoint=${contents.checkpoint}`, `--order=${order}`].map(quote);
  flags.push(`--steps ${steps} --revise ${revise} --temp ${temperature} --seed ${seed}`);
  const first = canvas.indexOf(MASK), last = canvas.lastIndexOf(MASK);
  if (canvas.slice(first, last).some((token) => token !== MASK)) { // more than one blank: lesson 11
    const text = asTyped(canvas).replace(/[{}]/g, "\\$&");
    return `python 11_fill_blanks.py ${flags.join(" ")} ${text.startsWith("-") ? "-- " : ""}${quote(text)}`;
  }
  const prompt = asTyped(canvas.slice(0, first)), ending = asTyped(canvas.slice(last + 1));
  const usual = String(canvas) === String(canvas.map((token, i) => defaultCanvas(canvas.length)[i]));
  if (!usual) flags.unshift(quote(`--prompt=${prompt}`), quote(`--ending=${ending}`));
  return `python 06_generate.py --len ${canvas.length} ${flags.join(" ")}`;
}

// ---- The link: all of it behind the #, which no server sees
const CHOICES = { steps: Number, revise: Number, order: String, temperature: Number, seed: Number };

function linkFor(canvas, choices) {
  const chosen = Object.keys(CHOICES).filter((name) => (choices[name] ?? "") !== "");
  return `#${new URLSearchParams([["text", asTyped(canvas)], ...chosen.map((name) => [name, choices[name]])])}`;
}

// {canvas, choices} of a link; null where there is none. Throws an Error for a text that is not in the alphabet
function readLink(hash) {
  const parts = new URLSearchParams(hash.slice(1));
  if (!parts.get("text")) return null;
  const choices = {};
  for (const [name, convert] of Object.entries(CHOICES)) if (parts.get(name)) choices[name] = convert(parts.get(name));
  return { canvas: encode(parts.get("text")), choices };
}
