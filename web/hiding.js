// Hiding letters and giving them back, by mouse, finger and keys, and looking at what the model expects there.
"use strict";

// The text on the screen becomes what is given, with these places hidden or given back
function edit(places, hide) {
  remember();
  const [dllm] = writers, canvas = dllm.frame.canvas, changed = [...dllm.letters];
  dllm.letters.forEach((token, i) => { if (token !== MASK) dllm.known[i] = token; });
  canvas.forEach((token, i) => { if (token === MASK && dllm.frame.taken?.[i] !== true) changed[i] = MASK; });
  for (const place of places) changed[place] = hide ? MASK : dllm.known[place];
  begin(changed);
  const hidden = hiddenIn(changed);
  say(hidden ? `${hidden} of ${changed.length} letters are hidden.` : "Nothing is hidden. Click a letter to hide it.");
}

const MENDS_AFTER = 1200; // milliseconds without another change
let mending = 0;
function editByHand(places, hide) { // and has it filled, unless Pause was pressed
  edit(places, hide);
  clearTimeout(mending);
  if (mends && hiddenIn(writers[0].given)) mending = setTimeout(() => !playing && !touring && play(), MENDS_AFTER);
}

const toggle = (place) => editByHand([place], writers[0].letters[place] !== MASK);

function markCursor() {
  const { cells } = writers[0];
  cells.querySelector(".cursor")?.classList.remove("cursor");
  const shown = document.activeElement === cells || get("look").classList.contains("open");
  if (shown) cells.children[cursor]?.classList.add("cursor");
}

function moveTo(place) {
  const { cells } = writers[0];
  cursor = Math.max(0, Math.min(place, cells.children.length - 1));
  cells.setAttribute("aria-activedescendant", cells.children[cursor].id);
  markCursor();
  showPanel(writers[0], cursor);
  lookHere();
}

// Sees to it that the panel and the arcs have something to show of the frame on the screen
let looking = false;
async function lookHere(always = false) {
  const [dllm] = writers, { frame } = dllm;
  if (!frame.attention && !always && (playing || touring || looking)) return;
  if (!playing) {
    looking = true;
    await dllm.look(frame, watched()).finally(() => (looking = false));
  }
  if (frame !== dllm.frame) return;
  if (hiddenIn(frame.canvas)) dllm.show(dllm.shown); // what is hidden shows its likeliest letters
  markCursor();
  showPanel(dllm, cursor);
  showArcs(always);
}

function showArcs(always = false) { // where somebody is at the letters, in every frame anew
  const { cells } = writers[0];
  const isThere = cells.matches(":hover") || document.activeElement === cells || get("look").classList.contains("open");
  if (always || isThere) drawArcs(writers[0], cursor);
  else get("arcs").replaceChildren();
}

function placeAt({ clientX, clientY }) { // the place under the pointer, where its letter stands or glides to; -1: none
  const { cells, places } = writers[0], box = cells.getBoundingClientRect();
  const [x, y] = [clientX - box.left - cells.clientLeft, clientY - box.top - cells.clientTop];
  const isOver = (place) => x >= place.x && x < place.x + place.width && y >= place.y && y < place.y + place.height;
  return places.findIndex(isOver);
}

function listenToPointer(cells) {
  let from = -1, to = -1, before = -1;
  const pick = () => [...cells.children].forEach((cell, i) =>
    cell.classList.toggle("picked", from >= 0 && from !== to && i >= Math.min(from, to) && i <= Math.max(from, to)));
  const selects = () => get("select").getAttribute("aria-pressed") === "true";
  cells.addEventListener("pointerdown", (event) => {
    from = to = selects() || event.button !== 0 ? -1 : placeAt(event);
    before = get("look").classList.contains("open") ? cursor : -1; // what the panel was at
    if (from >= 0) cells.setPointerCapture(event.pointerId);
  });
  cells.addEventListener("pointermove", (event) => {
    const place = placeAt(event);
    if (place < 0 || (from < 0 && event.pointerType !== "mouse")) return;
    if (from >= 0) [to] = [place, pick()];
    if (place !== cursor) moveTo(place);
    pick();
  });
  cells.addEventListener("pointercancel", () => pick((from = -1)));
  cells.addEventListener("pointerleave", () => {
    if (from < 0 && document.activeElement !== cells) get("arcs").replaceChildren();
  });
  cells.addEventListener("pointerup", (event) => {
    if (from < 0) return;
    const [low, high] = [Math.min(from, to), Math.max(from, to)], looked = before === from;
    const hide = writers[0].letters[from] !== MASK, touch = event.pointerType !== "mouse";
    const places = Array.from({ length: high - low + 1 }, (_, i) => low + i);
    from = -1;
    pick();
    if (low < high || !touch || looked) editByHand(places, hide); // a first tap only looks
    get("look").classList.toggle("open", touch && low === high && !looked);
    moveTo(to);
    const hiddenBy = cells.children[to].getBoundingClientRect().bottom + 12 - get("look").getBoundingClientRect().top;
    if (get("look").classList.contains("open") && touch && hiddenBy > 0) scrollBy({ top: hiddenBy }); // under the panel
  });
}

function listenToKeys(cells) {
  const line = (direction) => { // how far it is to the place above or below
    const { places } = writers[0], here = places[cursor];
    const beyond = places.map((place, i) => [place, i]).filter(([place]) => direction * (place.y - here.y) > 1);
    beyond.sort(([a], [b]) => direction * (a.y - b.y) || Math.abs(a.x - here.x) - Math.abs(b.x - here.x));
    return beyond.length ? beyond[0][1] - cursor : 0;
  };
  cells.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = {
      ArrowRight: () => 1, ArrowLeft: () => -1, ArrowUp: () => line(-1), ArrowDown: () => line(1),
      Home: () => -cursor, End: () => cells.children.length,
    };
    const was = cursor;
    if (event.key === " " || event.key === "Enter") toggle(cursor);
    else if (event.key in steps) {
      moveTo(cursor + steps[event.key]());
      if (event.shiftKey && cursor !== was) editByHand([was, cursor], true);
    } else return;
    event.preventDefault();
    moveTo(cursor);
  });
  cells.addEventListener("focus", () => moveTo(cursor));
  cells.addEventListener("blur", markCursor);
  cells.addEventListener("copy", (event) => {
    event.clipboardData.setData("text/plain", selectedText(writers[0]));
    event.preventDefault();
  });
}
