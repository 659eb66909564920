// Lesson 3's transformer, with lesson 2's attention, in JavaScript: tokens [T] -> logits [T, V], for one text.
//
// The names are those of 02_attention.py and 03_transformer.py, spelled as JavaScript spells them. A matrix [rows, columns]
// is a Float32Array, row after row, each padded to a multiple of 8 numbers: so many does the matrix product, most of
// the work, compute at once. It is written twice: in WebAssembly (product.wat), and here, for browsers without that.
"use strict";

const ROPE_BASE = 100; // as in lesson 2
const padded = (n) => Math.ceil(n / 8) * 8;

// ---- Memory: one piece for all numbers, since WebAssembly sees no other
class Memory {
  constructor(numbers, wasm) {
    this.wasm = wasm && new WebAssembly.Memory({ initial: Math.ceil(numbers / 2 ** 14) }); // pages of 2^14 numbers
    this.buffer = wasm ? this.wasm.buffer : new ArrayBuffer(4 * numbers);
    const instance = wasm && new WebAssembly.Instance(wasm, { page: { memory: this.wasm } });
    this.multiply = wasm
      ? (x, w, y, T, K, N) => instance.exports.multiply(x.byteOffset, w.byteOffset, y.byteOffset, T, K, N)
      : multiplyPlainly;
    this.taken = 0;
  }

  // A new matrix of zeros. The product takes four rows at once, so their number is padded, too.
  matrix(rows, columns) {
    const numbers = matrixSize(rows, columns);
    this.taken += numbers;
    return new Float32Array(this.buffer, 4 * (this.taken - numbers), numbers);
  }
}

const matrixSize = (rows, columns) => Math.ceil(rows / 4) * 4 * padded(columns);

// x [T, K] times W [K, N], in strips (see `pack`), into y [T, N]
function multiplyPlainly(x, w, y, T, K, N) {
  for (let strip = 0; strip < N; strip += 8)
    for (let t = 0; t < T; t++) {
      let a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
      for (let k = 0, i = t * padded(K), j = strip * K; k < K; k++, i++, j += 8) {
        const number = x[i];
        a += number * w[j]; b += number * w[j + 1]; c += number * w[j + 2]; d += number * w[j + 3];
        e += number * w[j + 4]; f += number * w[j + 5]; g += number * w[j + 6]; h += number * w[j + 7];
      }
      y.set([a, b, c, d, e, f, g, h], t * padded(N) + strip);
    }
}

// A matrix W [K, N], whose number [k, n] is source[first + k * down + n * right], into strips of 8 columns [N/8, K, 8]
function pack(source, first, down, right, K, N, strips) {
  for (let n = 0; n < N; n++)
    for (let k = 0, to = (n - (n % 8)) * K + (n % 8); k < K; k++, to += 8)
      strips[to] = source[first + k * down + n * right];
}

// ---- The parts
class Linear {
  constructor(memory, weights, name) {
    const { shape: [N, K], numbers } = weights[name + ".weight"]; // [out, in], as PyTorch has it
    Object.assign(this, { memory, K, N, bias: weights[name + ".bias"]?.numbers, w: memory.matrix(K, N) });
    pack(numbers, 0, 1, K, K, N, this.w);
  }

  forward(x, T, y) { // x [T, K] -> y [T, N]
    this.memory.multiply(x, this.w, y, T, this.K, this.N);
    if (this.bias)
      for (let t = 0; t < T; t++)
        for (let n = 0; n < this.N; n++) y[t * padded(this.N) + n] += this.bias[n];
  }
}

function layerNorm(x, T, scale, y) { // x [T, D] -> y [T, D], every row with mean 0 and deviation 1, times scale [D]
  const D = scale.length;
  for (let t = 0; t < T; t++) {
    const row = x.subarray(t * padded(D), t * padded(D) + D);
    let mean = 0, variance = 0;
    for (const number of row) mean += number / D;
    for (const number of row) variance += (number - mean) ** 2 / D;
    const deviation = Math.sqrt(variance + 1e-5);
    for (let i = 0; i < D; i++) y[t * padded(D) + i] = ((row[i] - mean) / deviation) * scale[i];
  }
}

function erf(z) { // to 1.5e-7 (Abramowitz and Stegun, 7.1.26)
  const t = 1 / (1 + 0.3275911 * Math.abs(z));
  const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(z) * (1 - series * Math.exp(-z * z));
}

function gelu(x, count) { // in place: x times the probability that a normal number is below x
  for (let i = 0; i < count; i++) x[i] *= 0.5 * (1 + erf(x[i] * Math.SQRT1_2));
}

function add(x, update, count) { // in place
  for (let i = 0; i < count; i++) x[i] += update[i];
}

// Rotary positions, in place: every head of x [T, D] is d/2 points in a plane, turned by angles that grow with their place
function rotate(x, T, first, H, d) {
  for (let i = 0; i < d / 2; i++) {
    const frequency = Math.fround(ROPE_BASE ** Math.fround((-2 * i) / d)); // fround: to float32, as PyTorch computes it
    for (let t = 0; t < T; t++) {
      const angle = Math.fround((first + t) * frequency), cos = Math.cos(angle), sin = Math.sin(angle);
      for (let h = 0, p = t * padded(H * d) + i; h < H; h++, p += d) {
        const one = x[p], other = x[p + d / 2]; // the coordinates of a point
        x[p] = one * cos - other * sin;
        x[p + d / 2] = one * sin + other * cos;
      }
    }
  }
}

// ---- The model
class SelfAttention {
  constructor(memory, weights, name, { context, n_heads: H, dim: D, causal }) {
    const d = D / H;
    Object.assign(this, { memory, H, d, D, causal });
    for (const part of ["query", "key", "value", "output"])
      this[part] = new Linear(memory, weights, `${name}.${part}`);
    this.k = memory.matrix(context + 3, D); // kept for the next call: a GPT's cache (lesson 7); 3 more, since the
    this.v = memory.matrix(context + 3, D); // product writes four rows at once
  }

  // x [T, D], the places first..first + T - 1 of a text, -> y [T, D]; those before them were given in earlier calls
  forward(x, T, first, y, scratch) {
    const { H, d, D, causal, k, v } = this, { q, one, strips, scores, mixed } = scratch;
    const S = first + T, row = padded(D), after = first * row; // S places to look at
    this.query.forward(x, T, q); // [T, D]
    this.key.forward(x, T, k.subarray(after)); // [T, D]
    this.value.forward(x, T, v.subarray(after)); // [T, D]
    rotate(q, T, first, H, d);
    rotate(k.subarray(after), T, first, H, d);
    for (let h = 0; h < H; h++) {
      for (let t = 0; t < T; t++) one.set(q.subarray(t * row + h * d, t * row + h * d + d), t * padded(d)); // [T, d]
      pack(k, h * d, 1, row, d, S, strips); // k^T [d, S] of this head
      this.memory.multiply(one, strips, scores, T, d, S); // [T, S]
      for (let t = 0; t < T; t++) softmax(scores, t * padded(S), S, causal ? first + t + 1 : S, Math.sqrt(d));
      pack(v, h * d, row, 1, S, d, strips); // v [S, d]
      this.memory.multiply(scores, strips, one, T, S, d); // [T, d]
      for (let t = 0; t < T; t++) mixed.set(one.subarray(t * padded(d), t * padded(d) + d), t * row + h * d);
    }
    this.output.forward(mixed, T, y); // [T, D]
  }
}

// A row of scores, S numbers from `start` on, in place: softmax(scores / root) of the first `seen`; the others get 0
function softmax(scores, start, S, seen, root) {
  let most = -Infinity, sum = 0;
  for (let i = start; i < start + seen; i++) most = Math.max(most, scores[i]);
  for (let i = start; i < start + seen; i++) sum += scores[i] = Math.exp((scores[i] - most) / root);
  for (let i = start; i < start + S; i++) scores[i] = i < start + seen ? scores[i] / sum : 0;
}

class Block { // x + attention(norm(x)), then x + feed_forward(norm(x)), in place
  constructor(memory, weights, name, config) {
    this.norm1 = weights[`${name}.norm1.weight`].numbers;
    this.attention = new SelfAttention(memory, weights, `${name}.attention`, config);
    this.norm2 = weights[`${name}.norm2.weight`].numbers;
    this.up = new Linear(memory, weights, `${name}.feed_forward.0`);
    this.down = new Linear(memory, weights, `${name}.feed_forward.2`);
  }

  forward(x, T, first, scratch) {
    const { normed, update, wide } = scratch;
    layerNorm(x, T, this.norm1, normed);
    this.attention.forward(normed, T, first, update, scratch);
    add(x, update, T * padded(this.down.N));
    layerNorm(x, T, this.norm2, normed);
    this.up.forward(normed, T, wide); // [T, 4D]
    gelu(wide, T * padded(this.up.N));
    this.down.forward(wide, T, update); // [T, D]
    add(x, update, T * padded(this.down.N));
  }
}

class Transformer {
  // config: the checkpoint's; weights: {name: {shape, numbers}}; wasm: the module of product.wat, or null
  constructor(config, weights, wasm) {
    const { vocab_size: V, context: L, n_layers, n_heads, dim: D } = (this.config = config), d = D / n_heads;
    const shapes = {
      x: [L, D], normed: [L, D], update: [L, D], q: [L, D], mixed: [L, D], wide: [L, 4 * D],
      one: [L, d], strips: [padded(d), L], scores: [L, L], logits: [L, V],
    };
    const kept = Array(2 * n_layers).fill([L + 3, D]); // keys and values
    const matrices = Object.values(weights).filter((w) => w.shape.length === 2).map((w) => [w.shape[1], w.shape[0]]);
    const numbers = [...Object.values(shapes), ...kept, ...matrices].map((shape) => matrixSize(...shape));
    const memory = new Memory(numbers.reduce((a, b) => a + b), wasm);
    this.scratch = {};
    for (const name in shapes) this.scratch[name] = memory.matrix(...shapes[name]);
    this.embedding = weights["embedding.weight"].numbers; // [V + 1, D]
    this.blocks = Array.from({ length: n_layers }, (_, i) => new Block(memory, weights, `blocks.${i}`, config));
    this.norm = weights["norm.weight"].numbers;
    this.head = new Linear(memory, weights, "head");
  }

  // tokens [T] at the places first..first + T - 1 -> logits [T, V]; first is above 0 in a GPT alone
  forward(tokens, first = 0) {
    const { vocab_size: V, dim: D } = this.config, T = tokens.length, { x, normed, logits } = this.scratch;
    tokens.forEach((token, t) => x.set(this.embedding.subarray(token * D, token * D + D), t * padded(D))); // [T, D]
    for (const block of this.blocks) block.forward(x, T, first, this.scratch);
    layerNorm(x, T, this.norm, normed);
    this.head.forward(normed, T, logits); // [T, V]
    return Array.from(tokens, (_, t) => logits.slice(t * padded(V), t * padded(V) + V));
  }
}

// ---- The weights, as 13_web_page.py packs them: text in base64 -> {name: {shape, numbers}}, in float32
async function unpack(base64, shapes) {
  const text = atob(base64), zipped = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) zipped[i] = text.charCodeAt(i);
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer()), half = bytes.length / 2;
  const words = new Uint32Array(half); // a bfloat16 is the upper half of a float32: all first bytes, all second bytes
  for (let i = 0; i < half; i++) words[i] = (bytes[i] << 24) | (bytes[half + i] << 16);
  const weights = {}, all = new Float32Array(words.buffer);
  let start = 0;
  for (const [name, shape] of shapes) {
    const size = shape.reduce((a, b) => a * b);
    weights[name] = { shape, numbers: all.subarray(start, (start += size)) };
  }
  return weights;
}
