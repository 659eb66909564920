// What the model expects at the place under the pointer, how that grew pass by pass, and what it looked at there.
"use strict";

const svg = (name, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  return element;
};

// ---- The panel's sentence, its bars and its curve
function describePlace(dllm, place) { // {sentence, guesses, token}: what to say of a place
  const token = dllm.frame.canvas[place], drawn = dllm.drawnIn(place), name = `Letter ${place + 1}`;
  if (token === MASK) return { sentence: `${name} is hidden. The likeliest letters, now:`, guesses: dllm.expected(place), token };
  if (drawn === null) return { sentence: `${name}, “${nameOf(token)}”, was given.`, guesses: null, token };
  const sentence = `${name}, “${nameOf(token)}”, was drawn in pass ${dllm.frames[drawn].passes}. The likeliest were:`;
  return { sentence, guesses: dllm.expected(place, drawn - 1), token };
}

function drawBar([guess, p], token) {
  const [row, letter, column, bar, share] = ["li", "span", "span", "span", "span"].map((tag) => document.createElement(tag));
  [letter.className, bar.className, share.className] = ["letter", "bar", "share"];
  row.classList.toggle("drawn", guess === token);
  letter.textContent = nameOf(guess);
  bar.style.width = `${100 * p}%`;
  share.textContent = p < 0.001 ? "<0.1%" : `${(100 * p).toFixed(1)}%`;
  column.append(bar);
  row.append(letter, column, share);
  return row;
}

// The probability of the letter that stands here in the end, in every pass so far; a dot where it was drawn
function drawCurve(dllm, place) {
  const end = dllm.frames.at(-1).canvas[place], known = dllm.frames.flatMap(({ p }, i) => (p ? [[i, p]] : []));
  const token = end !== MASK ? end : dllm.expected(place)?.[0][0];
  get("curve").replaceChildren();
  get("rise").textContent = "";
  if (token === undefined || known.length < 2) return;
  const [W, H] = [240, 46], at = (i) => (W * i) / Math.max(1, dllm.last), up = (p) => 2 + (H - 4) * (1 - p);
  const points = known.map(([i, p]) => [at(i), up(p[place * MASK + token]), i]);
  get("curve").append(svg("path", { class: "ground", d: `M0 ${up(0)}H${W}` }));
  get("curve").append(svg("polyline", { points: points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ") }));
  for (const [x, y, i] of points)
    if (dllm.frames[i + 1]?.chosen?.[place]) get("curve").append(svg("circle", { cx: x, cy: y, r: 3.5 }));
  const percent = ([, p]) => `${(100 * p[place * MASK + token]).toFixed(0)}%`;
  const dots = get("curve").querySelector("circle") ? " Dots: a letter was drawn here." : "";
  get("rise").textContent = `“${nameOf(token)}” here: ${percent(known[0])} in the first pass, ${percent(known.at(-1))} in the last.${dots}`;
  get("curve").setAttribute("aria-label", get("rise").textContent);
}

function showPanel(dllm, place) {
  const { sentence, guesses, token } = describePlace(dllm, place);
  get("where").textContent = sentence;
  get("bars").replaceChildren(...(guesses ?? []).map((guess) => drawBar(guess, token)));
  drawCurve(dllm, place);
  get("toggle").disabled = token === MASK && dllm.known[place] === MASK;
  get("toggle").textContent = token === MASK ? "Give this letter back" : "Hide this letter";
}

// ---- What the attention looks at, from a place: arcs to the letters, the thicker the more
const FAINTEST = 0.03; // a share that is drawn

function drawArcs(dllm, place) {
  const { attention, canvas } = dllm.frame, T = canvas.length, places = dllm.places;
  const lines = get("arcs");
  lines.replaceChildren();
  if (!attention || attention.length !== T * T) return;
  const centre = ({ x, y, width, height }) => [x + width / 2, y + height * 0.5];
  const [x, y] = centre(places[place]);
  for (let i = 0; i < T; i++) {
    const share = attention[place * T + i];
    if (share < FAINTEST || i === place) continue;
    const [a, b] = centre(places[i]), high = Math.min(y, b) - 14 - Math.abs(a - x) / 6;
    const line = { d: `M${x} ${y - 8}Q${(x + a) / 2} ${high} ${a} ${b - 8}`, "stroke-width": 1 + 5 * share };
    lines.append(svg("path", { ...line, "stroke-opacity": Math.min(1, 0.35 + share) }));
    lines.append(svg("circle", { cx: a, cy: b - 8, r: 2 + 4 * share }));
  }
}
