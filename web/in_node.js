// Runs a page's own model, sampler and rules in Node, without a browser: `node web/in_node.js page.html < questions.json`.
// Questions: a list of [what, argument, ...]; the answers, a list, go to standard output.
"use strict";
const fs = require("fs");

const page = fs.readFileSync(process.argv[2], "utf8");
const content = (id) => page.match(new RegExp(`<script id="${id}"[^>]*>([^]*?)</script>`))[1];
const { Generator, calls } = new Function(content("worker") + "\nreturn { Generator, calls };")();
const contents = JSON.parse(content("contents"));
const names = "encode, defaultCanvas, completeSettings, commandFor, linkFor, readLink, layOut";
const rules = new Function("contents", `${content("rules")}\nreturn { ${names} };`)(contents);

const sayMistake = (call) => (...given) => {
  try {
    return call(...given);
  } catch (mistake) {
    return { mistake: mistake.message };
  }
};

const answer = {
  ...Object.fromEntries(Object.entries(rules).map(([name, call]) => [name, sayMistake(call)])),
  open: (number, fast) => {
    const { models, wasm } = contents;
    return calls.open({ ...models[number], weights: content(`weights-${number}`), wasm: fast ? wasm : "" });
  },
  rand: (seed, count) => [...new Generator(seed).rand(count)],
  logits: (tokens) => calls.model.forward(tokens).map((row) => [...row]),
  seconds: (tokens, passes) => { // how long each pass takes
    return Array.from({ length: passes }, () => {
      const began = performance.now();
      calls.model.forward(tokens);
      return (performance.now() - began) / 1000;
    });
  },
  attention: (canvas, layer, head) => [...calls.look({ canvas, watched: { layer, head } }).attention],
  write: (canvas, settings, seed) => { // the canvas after each step
    calls.start({ canvas, settings, seed });
    return [...calls.passes].map((pass) => pass.canvas);
  },
};

(async () => {
  const answers = [];
  for (const [what, ...rest] of JSON.parse(fs.readFileSync(0, "utf8"))) answers.push(await answer[what](...rest));
  process.stdout.write(JSON.stringify(answers));
})();
