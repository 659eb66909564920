// The buttons and the forms: a new text, an ending to write towards, settings, and what can be taken along.
"use strict";

function startWith(tokens) { // a canvas that a person made, which is written at once
  if (tokens.length === 0) throw new Error("Type some text, with _ for every hidden letter.");
  const most = Number(get("len").max);
  endTour();
  if (tokens.length > most)
    throw new Error(`That is ${tokens.length} letters. This model sees ${most} at once, so leave some out.`);
  remember();
  writers[0].known = null;
  begin(tokens);
  moveTo(Math.max(0, tokens.indexOf(MASK)));
  mends = true;
  if (hiddenIn(tokens)) play();
  else say("Nothing is hidden. Click a letter to hide it.");
}

// What was typed as beginning, middle and ending, with masks between them
function aroundMasks() {
  const [first, middle, last] = ["first", "middle", "ending"].map((id) => encode(get(id).value));
  if (!first.length) first.push(...defaults.first); // where nothing is given a blank line stands, as in lesson 6
  if (!last.length) last.push(...defaults.last);
  const given = first.length + middle.length + last.length, most = Number(get("len").max);
  const free = Math.min(most, Math.max(Number(get("len").value), given + 24)) - given;
  if (free < 2) throw new Error(`This leaves no room to write. The text may have ${most} letters in all.`);
  const half = middle.length ? Math.floor(free / 2) : 0, masks = (count) => Array(count).fill(MASK);
  return [...first, ...masks(half), ...middle, ...masks(free - half), ...last];
}

const attempt = (form, make) => (event) => {
  event.preventDefault();
  const mistake = form.querySelector(".problem");
  mistake.textContent = "";
  try {
    startWith(make());
  } catch (problem) {
    mistake.textContent = problem.message;
  }
};

function newText() {
  endTour();
  if (!get("len").validity.valid || get("len").value === "")
    return say(`Letters: give a whole number from 1 to ${get("len").max}. This model sees no more at once.`, true);
  remember();
  writers[0].known = null;
  begin(defaultCanvas(Number(get("len").value)));
  moveTo(0);
  mends = true;
  play();
}

const press = (button, on) => button.setAttribute("aria-pressed", on);
const pressed = (button) => button.getAttribute("aria-pressed") === "true";
const tell = async (what, done) => say((await done) ? `${what} is copied.` : `${what} could not be copied.`);

function listenToTools() {
  get("undo").onclick = undo;
  get("new").onclick = newText;
  get("heat").onclick = () => {
    press(get("heat"), !pressed(get("heat")));
    get("legend").hidden = !pressed(get("heat"));
    for (const writer of writers) writer.heat = pressed(get("heat"));
    for (const writer of writers) writer.show(writer.shown);
  };
  get("select").onclick = () => {
    const selects = !pressed(get("select"));
    press(get("select"), selects);
    document.body.classList.toggle("selects", selects);
    say(selects ? "Drag over letters to select them, as in any text." : "Drag over letters to hide them.");
  };
  get("copy-text").onclick = () => tell("The text", copy(asTyped(writers[0].letters).replace(/^\n+|\n+$/g, "")));
  get("copy-command").onclick = () => tell("The command", copy(get("command").textContent));
  get("copy-link").onclick = () => {
    ownLink = linkFor(writers[0].given, { ...choices(), seed: seedUsed ?? choices().seed });
    location.replace(ownLink);
    tell("A link to this text", copy(location.href));
  };
  get("picture").onclick = () => {
    const caption = `written by a diffusion language model, tiny-dllm ${models[0].name}, seed ${seedUsed}`;
    savePicture(writers[0], caption, "tiny-dllm.png");
  };
  get("shell").onchange = showCommand;
  get("settings-button").onclick = () => {
    get("settings").hidden = !get("settings").hidden;
    get("settings-button").setAttribute("aria-expanded", !get("settings").hidden);
  };
}

function listen() {
  const { cells } = writers[0];
  listenToPointer(cells);
  listenToKeys(cells);
  listenToTools();
  get("play").onclick = () => {
    if (playing || touring) return pause();
    mends = true;
    if (!atEnd() || pressedSame()) play();
    else newText();
  };
  get("toggle").onclick = () => toggle(cursor);
  get("close").onclick = () => { get("look").classList.remove("open"); markCursor(); };
  get("backwards").onsubmit = attempt(get("backwards"), aroundMasks);
  get("editor").onsubmit = attempt(get("editor"), () => encode(get("text").value));
  get("time").oninput = () => {
    playing = false;
    showAll(Number(get("time").value)); // as far as they have come
    refresh();
  };
  get("settings").onsubmit = (event) => event.preventDefault();
  get("settings").onchange = ({ target }) => {
    get("order-why").textContent = WHY[get("order").value];
    if (target.id === "len") return newText();
    if (["layer", "head"].includes(target.id)) return lookHere();
    if (target.id === "speed") return;
    if (!atEnd() && settings) begin(writers[0].given); // an unfinished text begins anew, with the new settings
    try {
      completeSettings(choices(), hiddenIn(writers[0].given), fillsGaps(writers[0].given));
      say("The next text is written so.");
    } catch (mistake) {
      say(mistake.message, true);
    }
  };
  const touched = (event) => {
    if (!touring || event.key === "Tab" || event.target.id === "play") return;
    endTour();
    refresh();
  };
  for (const name of ["pointerdown", "keydown"]) document.addEventListener(name, touched, true);
  window.addEventListener("hashchange", openLink);
}

// A text given in part is filled again; one written from nothing makes room for a new one
const pressedSame = () => String(writers[0].given) !== String(defaultCanvas(writers[0].given.length));

const WHY = {
  "": "Certainty where every letter has a pass of its own, random where several share one.",
  certainty: "First the places where the likeliest letter is likeliest.",
  margin: "First the places where the likeliest letter is farthest ahead of the second.",
  confidence: "First the places where the letter drawn is likeliest. It repeats itself.",
  random: "Any place, as chance has it.",
  "left to right": "As a GPT does, but seeing both sides.",
};
