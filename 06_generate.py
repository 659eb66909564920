"""Lesson 6. How does a trained model write?

Starts from a canvas of masks, the prompt at its beginning if there is one, and lets the sampler of lesson 4 unmask
it. Few passes (--steps) unmask many letters at once, which is fast and rough; one pass a letter is slow and as good as it gets.
A text longer than the model's context is written window by window, each seeing the half before it.

Builds on:  lesson 1 (Tokenizer), 3 (pick_device), 4 (sample), 5 (load_kind).
Run:        python 06_generate.py                                        (a few seconds on a laptop's CPU)
            python 06_generate.py --prompt "ROMEO:" --len 400 --steps 200 --seed 1
            python 06_generate.py --watch
            python 06_generate.py --checkpoint checkpoints/my_shakespeare_best.pt --num 3
            python 06_generate.py --checkpoint hf://OWNER/REPO/FILE.pt
Last line:  the last line of the text. The text alone goes to standard output.

Later lessons take from here: SHIPPED, generate, fill_spans, make_canvas, longest_copy, LiveView, find_checkpoint, generating_parser,
add_text_flags, load_generator, pick_order, seeded_generator, print_texts.

Exercises (answers in docs/answers.md)
  1. Write the same seed with --steps 256, 64, 16 and 4. Which mistakes come with haste, and why these?
  2. Try --temp 0 in each of the three orders. Two of them write the same text: why? What goes wrong?
  3. Compare --order confidence --temp 1 with --order random --temp 1. Which reads better? Which repeats itself?
"""

import io
import os
import random
import sys
from importlib import import_module
from pathlib import Path

import torch

lesson1 = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
UserError = lesson1.UserError

SHIPPED = lesson1.ROOT / "checkpoints" / "shakespeare.pt"
HIDDEN = "░"  # how a mask is shown


# ---------------------------------------------------------------------------------------------------------
# Generating


def windows_to_fill(length, context):
    """(start, end) of the windows in which a canvas is filled, left to right, each half over the one before."""
    starts = range(0, max(1, length - context + context // 2), context // 2)
    return [(start, min(start + context, length)) for start in starts]


def generate(model, canvas, steps, on_step=None, **settings):
    """Fills a canvas [B, L] of any length: `sample` of lesson 4, window by window where it exceeds the context.

    Every window after the first is given the half context that was written before it. The rest is as in fill_spans.
    """
    windows = windows_to_fill(canvas.shape[1], model.config.context)
    return fill_spans(model, canvas, steps, [(window, window) for window in windows], on_step, **settings)


def fill_spans(model, canvas, steps, spans, on_step=None, **settings):
    """Fills a canvas [B, L] span by span: spans, [((first, last), (start, end))], what is to be filled and the window that is seen
    meanwhile, in which masks outside first..last stay masked. (Here each window is filled as a whole; lesson 11 fills a part.)

    `steps`, the number of passes, is the total, shared out among the spans by their masks; no span gets less than one. settings: those of `sample`.
    on_step(canvas) is called with the whole canvas. Returns the canvas [B, L] without masks.
    """
    mask_id = model.config.vocab_size
    waiting = mask_id + 1  # a mask that `sample` leaves alone
    canvas = canvas.masked_fill(canvas == mask_id, waiting)
    masks_left = int((canvas == waiting).sum())
    for (first, last), (start, end) in spans:
        span = canvas[:, first:last]  # [B, last - first], a view
        masks = int((span == waiting).sum())
        if masks == 0:
            continue
        span[span == waiting] = mask_id
        share = max(1, round(steps * masks / masks_left))

        def show(window):
            if on_step:
                on_step(torch.cat([canvas[:, :start], window, canvas[:, end:]], dim=1).clamp(max=mask_id))

        canvas[:, start:end] = diffusion.sample(SeesWaiting(model), canvas[:, start:end], share, on_step=show, **settings)
        steps, masks_left = steps - share, masks_left - masks
    return canvas


class SeesWaiting:
    """A model for `sample` that takes id V + 1 for a mask, too, one that is not to be filled yet."""

    def __init__(self, model):
        self.model, self.config = model, model.config

    def __call__(self, tokens):
        return self.model(tokens.clamp(max=self.config.vocab_size))  # [B, L, V]


def make_canvas(prompt_ids, length, num, mask_id, device):
    """[num, length] masks after the prompt. Raises UserError if the prompt is longer than length."""
    if len(prompt_ids) > length:
        raise UserError(f"the prompt has {len(prompt_ids)} letters, more than --len {length}; ask for a longer text.")
    canvas = torch.full((num, length), mask_id, device=device)
    canvas[:, : len(prompt_ids)] = torch.tensor(prompt_ids, dtype=torch.long, device=device)
    return canvas


def find_checkpoint(name):
    """Returns the path of a checkpoint; hf://OWNER/REPO/PATH is downloaded from the Hugging Face hub first."""
    if not name.startswith("hf://"):
        return Path(name)
    from huggingface_hub import hf_hub_download

    owner, _, rest = name.removeprefix("hf://").partition("/")
    repo, _, file = rest.partition("/")
    if not (owner and repo and file):
        raise UserError(f"{name} is incomplete; write hf://OWNER/REPO/PATH, PATH being the file in the repository.")
    try:
        path = Path(hf_hub_download(f"{owner}/{repo}", file))
    except Exception as problem:  # the hub's errors, requests' and plain OSErrors
        raise UserError(f"could not download {name} ({type(problem).__name__}); check the name and the network.")
    try:  # the older format keeps its alphabet in a file of its own
        hf_hub_download(f"{owner}/{repo}", (Path(file).parent / "vocab.json").as_posix())
    except Exception:  # there is none, or the network broke down; loading says so if it is needed
        pass
    return path


def longest_copy(pieces, text):
    """The length of the longest passage in any of the pieces that stands in the text, letter for letter."""
    longest = 0
    for piece in pieces:
        start = 0
        while start + longest < len(piece):
            if piece[start : start + longest + 1] in text:
                longest += 1
            else:
                start += 1
    return longest


# ---------------------------------------------------------------------------------------------------------
# Showing


def show_text(tokenizer, tokens, mask_id):
    """[L] tokens -> text, masks shown as HIDDEN."""
    return "".join(HIDDEN if i == mask_id else tokenizer.units[i] for i in tokens.tolist())


class LiveView:
    """Draws a text in the terminal again and again, in the same place, as it is unmasked."""

    def __init__(self, tokenizer, mask_id):
        self.tokenizer, self.mask_id, self.lines = tokenizer, mask_id, 0

    def __call__(self, canvas):
        width, height = (n or 80 for n in os.get_terminal_size(sys.stderr.fileno()))  # some say 0
        text = show_text(self.tokenizer, canvas[0], self.mask_id)
        width = max(2, width) - 1
        lines = [line[i : i + width] for line in text.split("\n") for i in range(0, max(1, len(line)), width)]
        lines = lines[1 - height :]  # what fits
        self.erase()
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
        self.lines = len(lines)

    def erase(self):
        """Moves the cursor to where the text began, and clears what is below."""
        if self.lines:
            sys.stderr.write(f"\x1b[{self.lines}A\x1b[J")


def save_gif(path, frames, tokenizer, mask_id):
    """Saves canvases [1, L], one after the other, as an animation. Letters stand where they stand in the last one."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf", 16)
    places, row, column = [], 0, 0
    for letter in (tokenizer.units[i] for i in frames[-1][0].tolist()):
        places.append((12 + 10 * column, 10 + 22 * row))
        row, column = (row + 1, 0) if letter == "\n" else (row, column + 1)
    size = (max(x for x, _ in places) + 24, places[-1][1] + 34)
    images, before = [], frames[0]
    for frame in frames:
        image = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(image)
        for place, i, was in zip(places, frame[0].tolist(), before[0].tolist()):
            if i == mask_id:
                draw.rectangle((place[0] + 1, place[1] + 4, place[0] + 8, place[1] + 17), fill="#d0d7e5")
            elif tokenizer.units[i] != "\n":
                draw.text(place, tokenizer.units[i], fill="#d2322d" if was == mask_id else "black", font=font)
        images.append(image.quantize(256))  # fewer colours would lose the few red pixels
        before = frame
    durations = [80] * (len(images) - 1) + [4000]  # milliseconds; the last one stays
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    lesson1.write_safely(path, file.getvalue())
    print(path, file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------
# The command line


def add_text_flags(flags, checkpoint, length=256):
    """Adds to a parser, or to a group of it, the flags that every script has that writes text; two of the defaults differ.
    length: None for a script in which the text to fill is given, so that there is no --prompt and no --len."""
    number, add = lesson1.between, flags.add_argument
    add("--checkpoint", default=str(checkpoint), metavar="FILE", help=f"a file, or hf://OWNER/REPO/PATH (default: checkpoints/{checkpoint.name})")
    if length:
        add("--prompt", default="", help="how the text begins")
        add("--len", type=number(int, 1), default=length, help="letters, the prompt included (default: %(default)s)")
    add("--temp", type=number(float, 0, 10), default=0.8, help="temperature: 0 always takes the likeliest letter (default: %(default)s)")
    add("--topk", type=number(int, 1), help="draw among this many likeliest letters only (default: all)")
    add("--num", type=number(int, 1), default=1, help="how many texts (default: %(default)s)")


def generating_parser(doc, checkpoint, length=256):
    """The flags of the scripts that write by unmasking."""
    number = lesson1.between
    parser = lesson1.Parser(doc)
    add = parser.add_argument
    add_text_flags(parser, checkpoint, length)
    add("--steps", type=number(int, 1), help="passes of the model, fewer being faster (default: one for every letter)")
    add("--order", choices=diffusion.ORDERS, help="which letters come first (default: certainty; random where letters share a pass)")
    add("--seed", type=number(int, 0, 2**63 - 1), help="the same seed and flags, the same text (default: drawn, and printed)")
    add("--device", choices=transformer.DEVICES, default="auto", help="default: auto")
    return parser


def load_generator(parser, args, causal=False):
    """Loads --checkpoint and checks the flags that depend on it. Returns (model, tokenizer)."""
    device = transformer.pick_device(args.device)
    model, tokenizer, _ = training.load_kind(find_checkpoint(args.checkpoint), causal, device)
    if args.topk is not None and args.topk > tokenizer.vocab_size:
        parser.error(f"--topk {args.topk} is too large; this model has {tokenizer.vocab_size} letters to choose from")
    return model, tokenizer


def pick_order(order, steps, letters):
    """The order asked for; for None certainty with a pass for every letter, and random order with fewer.

    Letters of one pass do not see each other, and the surest places are often neighbours, random ones rarely; lesson 10 measures it.
    """
    return order or ("certainty" if steps >= letters else "random")


def seeded_generator(seed):
    """A generator with this seed; for None with a fresh one, which is printed so that the text can be had again."""
    if seed is None:
        seed = random.randrange(2**31)
        print(f"seed {seed}", file=sys.stderr)
    return torch.Generator().manual_seed(seed)


def print_texts(texts):
    """Prints texts with a line of dashes between two, since a text may have blank lines of its own."""
    print("\n\n---\n\n".join(texts))


def main():
    """The command line of 06_generate.py."""
    parser = generating_parser(__doc__, SHIPPED)
    parser.add_argument("--watch", action="store_true", help="show the text while it is unmasked")
    parser.add_argument("--gif", metavar="FILE", help="save the unmasking as an animation")
    args = parser.parse_args()
    if (args.watch or args.gif) and args.num > 1:
        parser.error("--watch and --gif show one text; leave out --num")
    if args.gif and not args.gif.endswith(".gif"):
        parser.error(f"--gif {args.gif} must end in .gif")
    if args.watch and not sys.stderr.isatty():
        parser.error("--watch needs a terminal to draw in")
    model, tokenizer = load_generator(parser, args)
    mask_id, device = model.config.vocab_size, next(model.parameters()).device
    canvas = make_canvas(tokenizer.encode(args.prompt), args.len, args.num, mask_id, device)

    steps = args.steps or args.len
    order = pick_order(args.order, steps, int((canvas[0] == mask_id).sum()))
    frames, view = [], LiveView(tokenizer, mask_id)

    def show(canvas):
        if args.gif:
            frames.append(canvas)
        if args.watch:
            view(canvas)

    tokens = generate(
        model, canvas, steps, temperature=args.temp, top_k=args.topk, order=order,
        generator=seeded_generator(args.seed), on_step=show,
    )  # fmt: skip
    view.erase()
    print_texts(tokenizer.decode(row) for row in tokens)
    if args.gif:
        save_gif(Path(args.gif), frames or [tokens], tokenizer, mask_id)


if __name__ == "__main__":
    lesson1.run(main)
