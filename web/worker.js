// What the page asks of its worker, in which the model runs so that the page never freezes: {call, ...} brings an answer.
"use strict";

const flat = (rows) => { // L rows [V] -> one list [L * V], quick to send
  const all = new Float32Array(rows.length * rows[0].length);
  rows.forEach((row, i) => all.set(row, i * row.length));
  return all;
};

const calls = {
  // Makes the model. wasm: the bytes of product.wasm. Says whether it could be used
  async open({ weights, shapes, config, wasm }) {
    const bytes = Uint8Array.from(atob(wasm), (letter) => letter.charCodeAt(0));
    const fast = typeof WebAssembly === "object" && WebAssembly.validate(bytes); // not where SIMD is unknown
    this.model = new Transformer(config, await unpack(weights, shapes), fast ? new WebAssembly.Module(bytes) : null);
    return { fast };
  },

  // What the model expects at every place of a canvas, and what the head that is watched looks at
  look({ canvas, watched }) {
    this.model.watched = watched;
    return { p: flat(this.model.forward(canvas).map(probabilities)), attention: this.model.attention, watched };
  },

  // Begins a text
  start({ canvas, settings, seed, watched }) {
    const generator = new Generator(seed), given = canvas.findIndex((token) => token === this.model.config.vocab_size);
    this.model.watched = watched;
    this.passes = this.model.config.causal
      ? continueText(this.model, canvas.slice(0, given), canvas.length, settings, generator)
      : generate(this.model, canvas, settings, generator);
    return {};
  },

  // One step: the new canvas; which places were taken back, or, after a pass, which ones are new, what the pass expected
  // where, what the watched head looked at, and how long it took
  next() {
    const began = performance.now(), { value, done } = this.passes.next();
    if (done) return { done };
    const { canvas, taken, chosen, p } = value, { attention, watched } = this.model;
    const milliseconds = performance.now() - began;
    return { canvas, taken, chosen, p: p && flat(p), ...(p ? { attention, watched } : {}), milliseconds };
  },
};

let earlier = Promise.resolve(); // what was asked earlier is done earlier
async function answer(data) {
  try {
    postMessage(await calls[data.call](data));
  } catch (problem) {
    postMessage({ problem: String(problem) });
  }
}

if (typeof WorkerGlobalScope !== "undefined") onmessage = ({ data }) => (earlier = earlier.then(() => answer(data)));
