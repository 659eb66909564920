// Where every letter stands. The page places letters itself, so that one that moves glides, and nothing jumps.
"use strict";

// cells: [{width, kind}], kind being "letter", "hidden", "space", "break" (a line break) or "edge" (one that takes no line);
// room: how wide a line is. Letters side by side are a word, and stay together where a line has room. A space or a line
// break may stand beyond the room, by `spare`. Returns {places: [{x, line}], lines}
function layOut(cells, room, spare) {
  const places = [];
  let x = 0, line = 0;
  for (let i = 0; i < cells.length; ) {
    const { kind } = cells[i], hangs = kind !== "letter" && kind !== "hidden";
    let end = i + 1, width = cells[i].width;
    while (kind === "letter" && cells[end]?.kind === "letter") width += cells[end++].width;
    if (x > 0 && !hangs && x + width > room) [x, line] = [0, line + 1];
    for (; i < end; i++) {
      if (x > 0 && x + cells[i].width > room + (hangs ? spare : 0)) [x, line] = [0, line + 1]; // a word longer than a line
      places.push({ x, line });
      x += cells[i].width;
      if (kind === "break") [x, line] = [0, line + 1];
    }
  }
  return { places, lines: x > 0 || line === 0 ? line + 1 : line };
}
