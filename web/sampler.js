// The samplers of lessons 4, 6 and 7 in JavaScript, and PyTorch's generator of random numbers: the same seed writes the same
// text as on the command line.
"use strict";

// ---- Random numbers: the Mersenne Twister (Matsumoto and Nishimura, 1998), as torch.Generator().manual_seed(seed)
class Generator {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = seed % 2 ** 32;
    for (let i = 1; i < 624; i++) {
      const before = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, before ^ (before >>> 30)) + i;
    }
    this.place = 624;
  }

  renew() {
    const s = this.state;
    for (let i = 0; i < 624; i++) {
      const y = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
      s[i] = s[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.place = 0;
  }

  number() { // uniform in [0, 1), with the 24 bits that a float32 has
    if (this.place === 624) this.renew();
    let y = this.state[this.place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return (y & 0xffffff) / 2 ** 24;
  }

  rand(count) { // torch.rand(count, generator=...)
    return Float32Array.from({ length: count }, () => this.number());
  }
}

// ---- Lesson 4. A row here is what belongs to one place: logits and p are lists of L rows [V].
function probabilities(logits) { // softmax, of one row [V] -> [V]
  const most = Math.max(...logits), exps = Array.from(logits, (x) => Math.exp(x - most));
  const sum = exps.reduce((a, b) => a + b);
  return Float32Array.from(exps, (x) => x / sum);
}

const argmax = (row) => row.reduce((best, x, i) => (x > row[best] ? i : best), 0);

// A token for every place, by the Gumbel-max trick; `fround` rounds to float32, as PyTorch does after every step
function drawTokens(logits, temperature, generator) {
  if (temperature < 1e-4) return logits.map(argmax);
  const log = (x) => Math.fround(Math.log(x));
  return logits.map((row) => {
    const noise = generator.rand(row.length).map((u) => -log(-log(u)));
    return argmax(row.map((x, v) => Math.fround(x / Math.fround(temperature)) + noise[v]));
  });
}

// The score of each place, the highest unmasked first
function scorePlaces(order, p, drawn) {
  const ranked = (row) => row.slice().sort((a, b) => b - a);
  if (order === "confidence") return p.map((row, i) => row[drawn[i]]);
  if (order === "certainty") return p.map((row) => Math.max(...row));
  if (order === "margin") return p.map(ranked).map(([best, second]) => Math.fround(best - second));
  if (order === "left to right") return p.map((_, i) => p.length - i);
  return p.map(() => 0); // random: all equal, so that the ties decide
}

function roundToEven(x) { // as PyTorch rounds: 0.5 to 0, 1.5 and 2.5 to 2
  const down = Math.floor(x), rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2) ? down + 1 : down;
}

// [L] true at the `count` allowed places with the highest scores, rounded to four digits; of equal ones the lowest tie wins
function topRanked(scores, allowed, count, ties) {
  const rounded = scores.map((x) => roundToEven(Math.fround(Math.fround(x) * 10000)));
  const shuffle = [...ties.keys()].sort((i, j) => ties[i] - ties[j]);
  const ranking = shuffle.filter((i) => allowed[i]).sort((i, j) => rounded[j] - rounded[i]); // equal ones stay as they are
  const best = new Set(ranking.slice(0, count));
  return scores.map((_, i) => best.has(i));
}

const count = (flags) => flags.filter(Boolean).length;

// Fills the masks of a canvas [L] in so many passes. Yields {canvas, chosen, p} after each: `chosen` [L] says which
// places it uncovered, p [L, V] what the model thought of each before
function* sample(model, canvas, { writing, temperature, order }, generator) {
  let masked = canvas.map((token) => token === model.config.vocab_size); // [L]
  const total = count(masked), passes = Math.min(writing, total);
  for (let left = passes - 1; left >= 0; left--) { // passes still to come after this one
    const logits = model.forward(canvas); // [L, V]
    const drawn = drawTokens(logits, temperature, generator); // [L]
    const p = logits.map(probabilities); // [L, V]
    const now = count(masked) - Math.floor((total * left) / passes); // to unmask in this pass
    const chosen = topRanked(scorePlaces(order, p, drawn), masked, now, generator.rand(canvas.length)); // [L]
    canvas = canvas.map((token, i) => (chosen[i] ? drawn[i] : token));
    masked = masked.map((flag, i) => flag && !chosen[i]);
    yield { canvas, chosen, p };
  }
}

// ---- Lesson 6. Takes back `size` letters, those that the model doubts rather than others, and draws them again, `passes`
// times. fillable [L]: what may be taken back. Yields {canvas, taken}, and after the pass {canvas, chosen, p}
function* revise(model, canvas, passes, size, fillable, temperature, generator) {
  let sureness = canvas.map(() => 0); // [L] nothing is known yet
  for (let pass = 0; pass < passes; pass++) {
    const noise = generator.rand(canvas.length), ties = generator.rand(canvas.length); // [L] each
    const doubt = sureness.map((p, i) => 1 - Math.fround(p * noise[i]));
    const chosen = topRanked(doubt, fillable, size, ties); // [L]
    const masked = canvas.map((token, i) => (chosen[i] ? model.config.vocab_size : token));
    yield { canvas: masked, taken: chosen };
    const logits = model.forward(masked); // [L, V]
    const drawn = drawTokens(logits, temperature, generator); // [L]
    const p = logits.map(probabilities); // [L, V]
    canvas = canvas.map((token, i) => (chosen[i] ? drawn[i] : token));
    sureness = canvas.map((token, i) => p[i][token]); // of every letter, taken back or not
    yield { canvas, chosen, p };
  }
}

// Writes, and then takes back what it wrote, as many letters a pass as one pass wrote
function* generate(model, canvas, settings, generator) {
  const fillable = canvas.map((token) => token === model.config.vocab_size); // [L] what was given stays
  let written = canvas;
  for (const step of sample(model, canvas, settings, generator)) {
    written = step.canvas;
    yield step;
  }
  const size = Math.ceil(count(fillable) / settings.writing);
  yield* revise(model, written, size ? settings.revise : 0, size, fillable, settings.temperature, generator);
}

// ---- Lesson 7. Continues tokens [P] to `length`, one a pass: after the first, a pass reads one token, since the model
// keeps the keys and values of what it has read. Within the context.
function* continueText(model, tokens, length, { temperature }, generator) {
  const beginning = model.config.vocab_size;
  let piece = [beginning, ...tokens], read = 0;
  while (tokens.length < length) {
    const logits = model.forward(piece, read).slice(-1); // [1, V]
    read += piece.length;
    piece = drawTokens(logits, temperature, generator);
    tokens = [...tokens, ...piece];
    const masks = Array(length - tokens.length).fill(model.config.vocab_size);
    yield { canvas: [...tokens, ...masks], chosen: Array.from({ length }, (_, i) => i === tokens.length - 1) };
  }
}
