// Lesson 3's transformer, with lesson 2's attention, in JavaScript: tokens [T] -> logits [T, V], for one text.
//
// The names are those of 02_attention.py and 03_transformer.py, spelled as JavaScript spells them. A matrix [rows, columns]
// is a Float32Array, row after row, each padded to a multiple of 8 numbers: so many does the matrix product, most of
// the work, compute at once. Whatever takes long is written twice: in WebAssembly (product.wat), and here, for browsers
// without that.
"use strict";

const ROPE_BASE = 100; // as in lesson 2
const padded = (n) => Math.ceil(n / 8) * 8;

// ---- Memory: one piece for all numbers, since WebAssembly sees no other
class Memory {
  constructor(numbers, wasm) {
    this.wasm = wasm && new WebAssembly.Memory({ initial: Math.ceil(numbers / 2 ** 14) }); // pages of 2^14 numbers
    this.buffer = wasm ? this.wasm.buffer : new ArrayBuffer(4 * numbers);
    this.taken = 0;
    // multiply, gelu, softmax, norm and add: of product.wat, which takes addresses for matrices; or in JavaScript
    const fast = wasm && new WebAssembly.Instance(wasm, { page: { memory: this.wasm } }).exports;
    for (const name in plain)
      this[name] = wasm ? (...given) => fast[name](...given.map((one) => one.byteOffset ?? one)) : plain[name];
  }

  // A new matrix of zeros. The product takes four rows at once, so their number is padded, too.
  matrix(rows, columns) {
    const numbers = matrixSize(rows, columns);
    this.taken += numbers;
    return new Float32Array(this.buffer, 4 * (this.taken - numbers), numbers);
  }

  row(numbers) { // a copy of a vector, as a matrix of one row
    const row = this.matrix(1, numbers.length);
    row.set(numbers);
    return row;
  }
}

const matrixSize = (rows, columns) => Math.ceil(rows / 4) * 4 * padded(columns);

// ---- What product.wat computes, once more in JavaScript
function erf(z) { // to 1.5e-7 (Abramowitz and Stegun, 7.1.26)
  const t = 1 / (1 + 0.3275911 * Math.abs(z));
  const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(z) * (1 - series * Math.exp(-z * z));
}

const plain = {
  multiply(x, w, y, T, K, N) { // x [T, K] times W [K, N], in strips (see `pack`), into y [T, N]
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
  },

  gelu(x, count) { // in place: x times the probability that a normal number is below x
    for (let i = 0; i < count; i++) x[i] *= 0.5 * (1 + erf(x[i] * Math.SQRT1_2));
  },

  // In place, in each of T rows of S numbers: softmax(scores * scale) of the first `seen`, and `more` more of each next row;
  // the others get 0
  softmax(scores, T, S, seen, more, scale) {
    for (let t = 0, start = 0; t < T; t++, start += padded(S), seen += more) {
      let most = -Infinity, sum = 0;
      for (let i = start; i < start + seen; i++) most = Math.max(most, scores[i]);
      for (let i = start; i < start + seen; i++) sum += scores[i] = Math.exp((scores[i] - most) * scale);
      for (let i = start; i < start + S; i++) scores[i] = i < start + seen ? scores[i] / sum : 0;
    }
  },

  norm(x, T, D, scale, y) { // x [T, D] -> y [T, D], every row with mean 0 and deviation 1, times scale [D]
    for (let t = 0, start = 0; t < T; t++, start += padded(D)) {
      let mean = 0, variance = 0;
      for (let i = start; i < start + D; i++) mean += x[i] / D;
      for (let i = start; i < start + D; i++) variance += (x[i] - mean) ** 2 / D;
      const deviation = Math.sqrt(variance + 1e-5);
      for (let i = 0; i < D; i++) y[start + i] = ((x[start + i] - mean) / deviation) * scale[i];
    }
  },

  add(x, update, count) { // in place
    for (let i = 0; i < count; i++) x[i] += update[i];
  },
};

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

// Rotary positions: every head of x [T, D] is d/2 points in a plane, turned by angles that grow with their place
class Rotation {
  constructor(places, d) { // cosines and sines [places, d/2]
    Object.assign(this, { d, cos: new Float64Array(places * d / 2), sin: new Float64Array(places * d / 2) });
    for (let i = 0; i < d / 2; i++) {
      const frequency = Math.fround(ROPE_BASE ** Math.fround((-2 * i) / d)); // fround: to float32, as PyTorch computes it
      for (let place = 0; place < places; place++) {
        const angle = Math.fround(place * frequency);
        this.cos[place * d / 2 + i] = Math.cos(angle);
        this.sin[place * d / 2 + i] = Math.sin(angle);
      }
    }
  }

  turn(x, T, first, D) { // in place: x [T, D], the places first..first + T - 1
    const half = this.d / 2, row = padded(D);
    for (let t = 0; t < T; t++)
      for (let head = t * row; head < t * row + D; head += this.d)
        for (let i = 0, p = head, angle = (first + t) * half; i < half; i++, p++, angle++) {
          const one = x[p], other = x[p + half], cos = this.cos[angle], sin = this.sin[angle]; // a point
          x[p] = one * cos - other * sin;
          x[p + half] = one * sin + other * cos;
        }
  }
}

// ---- The model
class SelfAttention {
  constructor(memory, weights, name, { context, n_heads: H, dim: D, causal }) {
    const d = D / H;
    Object.assign(this, { memory, H, d, D, causal, rotation: new Rotation(context + 1, d) });
    for (const part of ["query", "key", "value", "output"])
      this[part] = new Linear(memory, weights, `${name}.${part}`);
    this.k = memory.matrix(context + 3, D); // kept for the next call: a GPT's cache (lesson 7); 3 more, since the
    this.v = memory.matrix(context + 3, D); // product writes four rows at once
  }

  // x [T, D], the places first..first + T - 1 of a text, -> y [T, D]; those before them were given in earlier calls.
  // watch(head, scores, T, S) is shown what each head looks at
  forward(x, T, first, y, scratch, watch) {
    const { H, d, D, causal, k, v, memory, rotation } = this, { q, one, strips, scores, mixed } = scratch;
    const S = first + T, row = padded(D), after = first * row; // S places to look at
    this.query.forward(x, T, q); // [T, D]
    this.key.forward(x, T, k.subarray(after)); // [T, D]
    this.value.forward(x, T, v.subarray(after)); // [T, D]
    rotation.turn(q, T, first, D);
    rotation.turn(k.subarray(after), T, first, D);
    for (let h = 0; h < H; h++) {
      for (let t = 0; t < T; t++) one.set(q.subarray(t * row + h * d, t * row + h * d + d), t * padded(d)); // [T, d]
      pack(k, h * d, 1, row, d, S, strips); // k^T [d, S] of this head
      memory.multiply(one, strips, scores, T, d, S); // [T, S]
      memory.softmax(scores, T, S, causal ? first + 1 : S, causal ? 1 : 0, 1 / Math.sqrt(d));
      watch(h, scores, T, S);
      pack(v, h * d, row, 1, S, d, strips); // v [S, d]
      memory.multiply(scores, strips, one, T, S, d); // [T, d]
      for (let t = 0; t < T; t++) mixed.set(one.subarray(t * padded(d), t * padded(d) + d), t * row + h * d);
    }
    this.output.forward(mixed, T, y); // [T, D]
  }
}

class Block { // x + attention(norm(x)), then x + feed_forward(norm(x)), in place
  constructor(memory, weights, name, config) {
    this.memory = memory;
    this.norm1 = memory.row(weights[`${name}.norm1.weight`].numbers);
    this.attention = new SelfAttention(memory, weights, `${name}.attention`, config);
    this.norm2 = memory.row(weights[`${name}.norm2.weight`].numbers);
    this.up = new Linear(memory, weights, `${name}.feed_forward.0`);
    this.down = new Linear(memory, weights, `${name}.feed_forward.2`);
  }

  forward(x, T, first, scratch, watch) {
    const { normed, update, wide } = scratch, { memory, down: { N: D } } = this;
    memory.norm(x, T, D, this.norm1, normed);
    this.attention.forward(normed, T, first, update, scratch, watch);
    memory.add(x, update, T * padded(D));
    memory.norm(x, T, D, this.norm2, normed);
    this.up.forward(normed, T, wide); // [T, 4D]
    memory.gelu(wide, T * padded(this.up.N));
    this.down.forward(wide, T, update); // [T, D]
    memory.add(x, update, T * padded(D));
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
    const norms = Array(2 * n_layers + 1).fill([1, D]);
    const numbers = [...Object.values(shapes), ...kept, ...norms, ...matrices].map((shape) => matrixSize(...shape));
    const memory = this.memory = new Memory(numbers.reduce((a, b) => a + b), wasm);
    this.scratch = {};
    for (const name in shapes) this.scratch[name] = memory.matrix(...shapes[name]);
    this.embedding = weights["embedding.weight"].numbers; // [V + 1, D]
    this.blocks = Array.from({ length: n_layers }, (_, i) => new Block(memory, weights, `blocks.${i}`, config));
    this.norm = memory.row(weights["norm.weight"].numbers);
    this.head = new Linear(memory, weights, "head");
  }

  // tokens [T] at the places first..first + T - 1 -> logits [T, V]; first is above 0 in a GPT alone. Leaves in `attention`
  // [T, S] what is `watched`: how much each place looks at each other by the heads {layer, head}, of which -1 means all
  forward(tokens, first = 0) {
    const { vocab_size: V, dim: D } = this.config, T = tokens.length, { x, normed, logits } = this.scratch;
    tokens.forEach((token, t) => x.set(this.embedding.subarray(token * D, token * D + D), t * padded(D))); // [T, D]
    this.attention = this.watched ? new Float32Array(T * (first + T)) : null;
    this.blocks.forEach((block, layer) => block.forward(x, T, first, this.scratch, this.watch(layer)));
    this.memory.norm(x, T, D, this.norm, normed);
    this.head.forward(normed, T, logits); // [T, V]
    return Array.from(tokens, (_, t) => logits.slice(t * padded(V), t * padded(V) + V));
  }

  watch(layer) { // what a block shows its heads' scores to: it adds the mean of those watched to `attention`
    const { layer: oneLayer, head: oneHead } = this.watched ?? {}, { n_layers, n_heads } = this.config, { attention } = this;
    if (!attention || (oneLayer >= 0 && oneLayer !== layer)) return () => {};
    const share = 1 / ((oneLayer >= 0 ? 1 : n_layers) * (oneHead >= 0 ? 1 : n_heads));
    return (head, scores, T, S) => {
      if (oneHead >= 0 && oneHead !== head) return;
      for (let t = 0; t < T; t++) for (let s = 0; s < S; s++) attention[t * S + s] += share * scores[t * padded(S) + s];
    };
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
