// What the page shows by itself, until somebody touches it: five scenes, over and over, each time with another seed.
"use strict";

let touring = 0; // the number of the tour that runs; 0: none
let tours = 0;

function endTour() {
  if (touring) setScene(0);
  touring = 0;
}

const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function setScene(number) { // 1 to 5; 0: none
  const scenes = get("scenes"), before = scenes.querySelector(".now"), now = scenes.children[number - 1];
  if (before === (now ?? null)) return;
  before?.classList.remove("now");
  before?.removeAttribute("aria-current");
  now?.classList.add("now");
  now?.setAttribute("aria-current", "step");
  scenes.tabIndex = scenes.scrollWidth > scenes.clientWidth ? 0 : -1; // on a phone they stand side by side
  if (now) scenes.scrollTo({ left: now.offsetLeft - scenes.children[0].offsetLeft, behavior: still() ? "auto" : "smooth" });
}

const isScene = (number) => get("scenes").children[number - 1].classList.contains("now");

// Scenes 1 and 2: letters are hidden, and the model guesses one of them from both sides
async function hideAndLook(dllm, text, goesOn) {
  setScene(1);
  begin([...text]);
  const breaks = (pattern) => asTyped(text).match(pattern)[0].length; // what is given at both ends stays
  const inner = [...text.keys()].slice(breaks(/^\n*/), text.length - breaks(/\n*$/));
  const lottery = inner.map((i) => [Math.random(), i]).sort(([a], [b]) => a - b).map(([, i]) => i);
  const canvas = [...text], hideSome = async (from, to, pause) => {
    for (let i = from; i < to && goesOn(); i += 4) {
      for (const place of lottery.slice(i, Math.min(i + 4, to))) canvas[place] = MASK;
      begin([...canvas]);
      await wait(pause);
    }
  };
  await wait(600);
  const half = Math.floor(lottery.length * 0.5);
  await hideSome(0, half, 70);
  await dllm.opened;
  if (!goesOn()) return;
  setScene(2);
  const middle = [...canvas.keys()].filter((i) => canvas[i] === MASK);
  moveTo(middle[Math.floor(middle.length / 2)]);
  await lookHere(true);
  await wait(3200);
  get("arcs").replaceChildren();
  if (goesOn()) await hideSome(half, lottery.length, 40);
}

// Scene 5: a word in the middle is hidden, and filled to fit both sides
async function breakAndMend(dllm, goesOn) {
  setScene(5);
  await wait(2600);
  const canvas = dllm.frame.canvas, isLetter = (i) => /\p{L}/u.test(units[canvas[i]] ?? "");
  const words = [];
  for (let i = 0; i < canvas.length; i++)
    if (isLetter(i)) isLetter(i - 1) ? words.at(-1).push(i) : words.push([i]);
  const word = words.find(([first], i) => first > canvas.length / 2 && words[i].length > 3);
  if (!goesOn() || !word) return;
  edit(word, true);
  await wait(900);
  if (goesOn()) await play(contents.opening.seeds[0]);
  await wait(4500);
}

async function startTour() {
  const mine = (touring = ++tours), [dllm] = writers, { text, seeds } = contents.opening;
  const goesOn = () => touring === mine;
  let before = text;
  for (let round = 1; goesOn(); round++) {
    const seed = seeds[round % seeds.length] + (round < seeds.length ? 0 : 1000 * Math.floor(round / seeds.length));
    await hideAndLook(dllm, before, goesOn);
    if (!goesOn()) break;
    setScene(3);
    begin(defaultCanvas(text.length));
    await play(seed);
    if (!goesOn()) break;
    before = dllm.frame.canvas;
    await breakAndMend(dllm, goesOn);
  }
}
