// Text and tokens, as in lesson 1. `contents`: what 13_web_page.py tells of the models.
"use strict";

const { units, models } = contents;
const MASK = models[0].config.vocab_size;
const NAMES = { "\n": "line break", " ": "space", "\t": "tab" };
const nameOf = (token) => NAMES[units[token]] ?? units[token];
const asTyped = (tokens) => tokens.map((token) => (token === MASK ? "_" : units[token])).join("");
const hiddenIn = (tokens) => tokens.filter((token) => token === MASK).length;

const idOf = new Map(units.map((unit, i) => [unit, i]));
const longestFirst = [...units].sort((a, b) => b.length - a.length);
const escaped = longestFirst.map((unit) => unit.replace(/[\\^$.*+?()[\]{}|\/]/g, "\\$&"));
const unitPattern = new RegExp(escaped.join("|"), "uy");

// What phones and word processors type, and what stands for it where the alphabet lacks it
const SUBSTITUTES = {
  "‘": "'", "’": "'", "‚": ",", "“": "\"'", "”": "\"'", "„": "\"'", '"': "'", "–": "-", "—": "-", "−": "-",
  "\u00a0": " ", "\t": " ",
};

// The unit that text has at `place`, and how many characters of it that takes; none where it is not in the alphabet
function unitAt(text, place) {
  unitPattern.lastIndex = place;
  const unit = unitPattern.exec(text)?.[0];
  if (unit !== undefined) return [unit, unit.length];
  const other = [...(SUBSTITUTES[text[place]] ?? "")].find((letter) => idOf.has(letter));
  return other === undefined ? [] : [other, 1];
}

// Text, with _ for hidden letters -> tokens. Throws an Error whose message is a sentence for a person
function encode(typed) {
  const text = typed.normalize("NFC").replace(/\r\n?/g, "\n").replace(/…/g, idOf.has("…") ? "…" : "..."), tokens = [];
  for (let place = 0; place < text.length; ) {
    const [unit, size] = text[place] === "_" ? ["_", 1] : unitAt(text, place);
    if (unit === undefined) {
      const letter = String.fromCodePoint(text.codePointAt(place)), number = [...text.slice(0, place)].length + 1;
      throw new Error(`The character “${letter}” (number ${number}) is not in this model’s alphabet.`);
    }
    tokens.push(unit === "_" ? MASK : idOf.get(unit));
    place += size;
  }
  return tokens;
}
