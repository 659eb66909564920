// What a reader takes along: the text, the command, a link, a picture.
"use strict";

async function copy(text) { // true where it worked
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // an older way, for browsers that do not let a file use the clipboard
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

// The letters that are selected on the screen, as text: each is a box of its own, which a browser would put on a line
function selectedText(writer) {
  const selection = getSelection();
  const inside = [...writer.cells.children].map((cell) => selection.containsNode(cell, true));
  return writer.letters.map((token, i) => (!inside[i] ? "" : token === MASK ? "_" : units[token])).join("");
}

// A picture of the text as it stands on the screen, with whose and which it is. Returns a canvas
function drawPicture(writer, caption) {
  const { width, height } = writer.cells.getBoundingClientRect(), scale = 2, foot = 34;
  const picture = Object.assign(document.createElement("canvas"), { width: scale * width, height: scale * (height + foot) });
  const pen = picture.getContext("2d"), style = getComputedStyle(writer.cells);
  pen.scale(scale, scale);
  pen.fillStyle = style.backgroundColor;
  pen.fillRect(0, 0, width, height + foot);
  pen.textBaseline = "middle";
  writer.places.forEach(({ x, y, width, height }, i) => {
    const cell = writer.cells.children[i], look = getComputedStyle(cell);
    pen.fillStyle = look.backgroundColor;
    pen.fillRect(x, y + 2, width, height - 4);
    pen.fillStyle = look.getPropertyValue("--mask");
    if (cell.classList.contains("hidden")) pen.fillRect(x + 1, y + height - 8, width - 2, 3);
    pen.font = `${look.fontWeight} ${look.fontSize} ${look.fontFamily}`;
    pen.fillStyle = look.color;
    pen.fillText(cell.textContent, x, y + height / 2);
  });
  pen.font = "13px system-ui, sans-serif";
  pen.fillStyle = style.color;
  pen.fillText(caption, parseFloat(style.paddingLeft), height + foot / 2 - 4);
  return picture;
}

function savePicture(writer, caption, name) {
  drawPicture(writer, caption).toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}
