// Text and tokens, as in lesson 1. `contents`: what 13_web_page.py tells of the models.
"use strict";

const { units, models } = contents;
const MASK = models[0].config.vocab_size;
const NAMES = { "\n": "line break", " ": "space", "\t": "tab" };
const nameOf = (token) => NAMES[units[token]] ?? units[token];
const asTyped = (tokens) => tokens.map((token) => (token === MASK ? "_" : units[token])).join("");
const hiddenIn = (tokens) => tokens.filter((token) => token === MASK).length;

// What finds the first of some texts at a place of another text, the longest one where several stand there
function patternOf(texts) {
  const longestFirst = [...texts].sort((a, b) => b.length - a.length);
  const escaped = longestFirst.map((text) => text.replace(/[\\^$.*+?()[\]{}|\/]/g, "\\$&"));
  return new RegExp(escaped.join("|"), "uy");
}

const idOf = new Map(units.map((unit, i) => [unit, i]));
const idApart = new Map(units.map((unit, i) => [unit.normalize("NFD"), i])); // of the letters with their signs apart
const patterns = new Map([idOf, idApart].map((ids) => [ids, patternOf(ids.keys())]));
const invisible = "\u200b\u200c\u200d\u2060\ufeff\u00ad"; // zero-width signs, the soft hyphen
const foreign = new Set([...invisible].filter((sign) => !idOf.has(sign)));

// What phones and word processors type, and what stands for it where the alphabet lacks it
const SUBSTITUTES = {
  "‘": "'", "’": "'", "‚": ",", "“": "\"'", "”": "\"'", "„": "\"'", '"': "'", "–": "-", "—": "-", "−": "-",
  "\u00a0": " ", "\t": " ",
};

// The token that text has at `place`, and how many characters of it that takes; none where it is not in the alphabet
function tokenAt(text, place, ids) {
  if (text[place] === "_") return [MASK, 1];
  const pattern = patterns.get(ids);
  pattern.lastIndex = place;
  const unit = pattern.exec(text)?.[0];
  if (unit !== undefined) return [ids.get(unit), unit.length];
  const other = [...(SUBSTITUTES[text[place]] ?? "")].find((letter) => idOf.has(letter));
  return other === undefined ? [] : [idOf.get(other), 1];
}

// The tokens of a text as far as the alphabet has it, and the place where that ends
function read(text, ids) {
  const tokens = [];
  for (let place = 0; place < text.length; ) {
    const [token, size] = tokenAt(text, place, ids);
    if (token === undefined) return { tokens, end: place };
    tokens.push(token);
    place += size;
  }
  return { tokens, end: text.length };
}

// Text, with _ for hidden letters -> tokens: as typed, else with signs apart from their letters, else without invisible
// signs, as in lesson 1. Throws an Error whose message is a sentence for a person
function encode(typed) {
  const text = typed.replace(/\r\n?/g, "\n").replace(/…/g, idOf.has("…") ? "…" : "...");
  for (const form of [text, [...text].filter((sign) => !foreign.has(sign)).join("")]) {
    for (const [whole, ids] of [[form, idOf], [form.normalize("NFD"), idApart]]) {
      const { tokens, end } = read(whole, ids);
      if (end === whole.length) return tokens;
    }
  }
  const { end } = read(text, idOf), letter = String.fromCodePoint(text.codePointAt(end));
  const number = [...text.slice(0, end)].length + 1;
  throw new Error(`The character “${letter}” (number ${number}) is not in this model’s alphabet.`);
}
