"""Tables, figures, the live view in the terminal, and animations."""

import io
import math
import os
import sys
from pathlib import Path

from tools.command_line import UserError
from tools.files import ROOT, write_safely

HIDDEN = "░"  # how a mask is shown


# ---- Tables
def mean_and_error(values):
    """(mean, standard error of the mean) of values [N]."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def print_row(name, form, cells):
    """Prints a row of a table. Each cell is (mean, standard error), printed by the format `form`."""
    print(f"| {name} | {' | '.join(' +- '.join(form.format(value) for value in cell) for cell in cells)} |")


def longest_copy(pieces, text):
    """The length of the longest passage of any piece that stands in the text."""
    longest = 0
    for piece in pieces:
        start = 0
        while start + longest < len(piece):
            if piece[start : start + longest + 1] in text:
                longest += 1
            else:
                start += 1
    return longest


# ---- Figures
def new_figure(rows=1, columns=1, figsize=None, layout=None, **options):
    """(figure, axes) of matplotlib without its pyplot, whose windows are the caller's. options: Figure.subplots's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout=layout)
    return figure, figure.subplots(rows, columns, **options)


def save_figure(figure, path):
    """Saves a figure and prints where. A path that is not absolute is under figures/."""
    buffer, path = io.BytesIO(), ROOT / "figures" / path
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    write_safely(path, buffer.getbuffer())
    print(path)


# ---- The live view
def show_text(tokenizer, tokens, mask_id):
    """Tokens [L] -> text. Masks are shown as HIDDEN."""
    return "".join(HIDDEN if i == mask_id else tokenizer.units[i] for i in tokens.tolist())


def can_draw(stream):
    """Whether a stream is a terminal that can move its cursor and show colours."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def drawn(line):
    """[(letter, its columns)] of a line. Tabs, form feeds and others that would move the cursor are spaces."""
    from wcwidth import wcwidth  # letters of Chinese take two columns, joining signs none

    return [(" ", 1) if wcwidth(letter) < 0 else (letter, wcwidth(letter)) for letter in line]


def wrapped(text, width):
    """The lines of a text as a terminal of `width` columns shows them."""
    lines = [""]
    for line in text.split("\n"):
        used = 0
        for letter, columns in drawn(line):
            if used + columns > width:
                lines, used = [*lines, ""], 0
            lines[-1], used = lines[-1] + letter, used + columns
        lines.append("")
    return lines[:-1]


class LiveView:
    """Draws a text again and again in the same place of the terminal."""

    def __init__(self, tokenizer, mask_id):
        self.tokenizer, self.mask_id, self.lines = tokenizer, mask_id, 0

    def __call__(self, canvas):
        width, height = (n or 80 for n in os.get_terminal_size(sys.stderr.fileno()))  # some say 0
        lines = wrapped(show_text(self.tokenizer, canvas[0], self.mask_id), max(2, width - 1))
        end = max((i + 1 for i, line in enumerate(lines) if line.strip(HIDDEN)), default=0)  # after the last letter
        lines = lines[: max(end, height - 1)][1 - height :]  # what fits, up to there
        back, self.lines = self.to_beginning(), len(lines)
        sys.stderr.write(back + "\n".join(lines) + "\n")  # at once, so that Ctrl-C finds either text

    def to_beginning(self):
        """The codes that move the cursor to where the text began and clear what is below."""
        return f"\x1b[{self.lines}A\x1b[J" if self.lines else ""

    def erase(self):
        """Clears the text."""
        sys.stderr.write(self.to_beginning())
        sys.stderr.flush()


# ---- Animations
GIF_COLUMNS = 100  # letters in a line, at most
GIF_HEIGHT = 2**16 - 1  # pixels, by the format
GIF_PIXELS = 2**28  # of all frames together, since they are held in memory


def gif_places(letters):
    """Where each letter stands in an animation, [(x, y)], from its upper left corner."""
    places, row, column = [], 0, 0
    for letter in letters:
        if column == GIF_COLUMNS:
            row, column = row + 1, 0
        places.append((12 + 10 * column, 10 + 22 * row))
        row, column = (row + 1, 0) if letter == "\n" else (row, column + 1)
    return places


def save_gif(path, frames, tokenizer, mask_id):
    """Saves canvases [1, L] as an animation. Letters stand where they stand in the last canvas. Raises UserError.

    Beyond GIF_PIXELS in all it shows every k-th canvas, and always the last."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf", 16)
    units = [unit if unit == "\n" else "".join(letter for letter, _ in drawn(unit)) for unit in tokenizer.units]
    letters = [units[i] for i in frames[-1][0].tolist()]
    places = gif_places(letters)
    width, height = size = max(x for x, _ in places) + 24, places[-1][1] + 34
    if height > GIF_HEIGHT:
        raise UserError(f"the animation would be {height:,} pixels high, and a GIF has {GIF_HEIGHT:,}: lower --len.")
    tell_missing(font, set(letters) - {"\n"})
    most = max(2, GIF_PIXELS // (width * height))
    frames = frames[:: -math.ceil(len(frames) / most)][::-1]  # the last one always
    images, before = [], frames[0]
    for frame in frames:
        image = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(image)
        for place, i, was in zip(places, frame[0].tolist(), before[0].tolist()):
            if i == mask_id:
                draw.rectangle((place[0] + 1, place[1] + 4, place[0] + 8, place[1] + 17), fill="#d0d7e5")
            elif units[i] != "\n":
                draw.text(place, units[i], fill="#d2322d" if was == mask_id else "black", font=font)
        images.append(image.quantize(256))  # fewer colours would lose the few red pixels
        before = frame
    durations = [80] * (len(images) - 1) + [4000]  # milliseconds; the last one stays
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    write_safely(path, file.getvalue())
    print(path, file=sys.stderr)


def tell_missing(font, units):
    """Says on standard error which letters a font lacks. It draws all of these as the same box."""
    box = bytes(font.getmask("\uffff"))
    if missing := sorted(unit for unit in units if any(bytes(font.getmask(letter)) == box for letter in unit)):
        shown = ", ".join(map(repr, missing[:5]))
        fonts = "the Noto fonts have all scripts, such as Noto Sans CJK, Noto Sans Tamil and Noto Emoji"
        print(f"the animation shows boxes for {shown}: its font lacks them ({fonts})", file=sys.stderr)
