"""Lesson 6. How does a trained model write?

It starts from a canvas: masks, and what is given. Two kinds of passes follow. Each pass runs the model once.

write       `sample` of lesson 4 uncovers a few letters a pass, anywhere on the canvas, until no mask is left.
take back   `revise` hides letters that the model doubts and draws them again, seeing all that is left.

There is a pass for every two letters to be written. A quarter of the passes write, the rest take back. So the default,
252 letters between two blank lines, takes 126 passes. 32 passes write seven or eight letters each. Letters of one
pass do not see each other, so they often do not fit together. The other 94 passes mend that. Each takes back eight
letters from all over the text and draws them again beside the other 244. What is given is never taken back.

With a letter a pass the surest place comes first (certainty). Where letters share a pass the order is random, since the
surest places are often neighbours. A text longer than the context is written window by window. Each window sees the
half before it and takes back only what it wrote itself.

Builds on:  lessons 1 (Tokenizer), 4 (sample, draw_tokens, top_ranked) and 5 (load_kind).
Run:        python 06_generate.py                        (some seconds, pass by pass in a terminal)
            python 06_generate.py --prompt "ROMEO:" --ending "And so farewell." --len 400 --seed 1
            python 06_generate.py --checkpoint checkpoints/my_shakespeare_best.safetensors --gif text.gif
Last line:  the last line of the text.

Exercises (answers in docs/answers.md)
  1. Write the same seed with --revise 0 and --steps 256, 64, 16 and 4. Which mistakes come with haste, and why these?
  2. With --len 128 --steps 128 --revise 0 --temp 0, try --order confidence, certainty, random. Why do two agree?
  3. Write the same seed with --steps 32 and with --steps 32 --revise 0. Which reads better, and why?
"""

import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

from tools.command_line import DEVICES, Parser, SEED, UserError, between, print_texts, run, seeded_generator
from tools.devices import pick_device
from tools.files import ROOT, find_checkpoint
from tools.pictures import LiveView, can_draw, save_gif

import torch

diffusion = import_module("04_diffusion")
training = import_module("05_train")

SHIPPED = ROOT / "checkpoints" / "shakespeare.safetensors"  # `base`
SMALL = ROOT / "checkpoints" / "small.safetensors"  # `small`, three times as fast
ALL = 10**5  # more than an alphabet may have
TEMPERATURE = 0.7  # a colder text repeats itself, a hotter one has fewer real words


# ---- The settings
@dataclass(frozen=True)
class Sampling:
    """How to write a text."""

    steps: int  # passes in all
    revise: int  # how many of them take back
    order: str  # which places are written first (lesson 4)
    temperature: float
    top_k: int  # draw among so many likeliest letters

    @classmethod
    def for_letters(cls, letters, temperature, top_k=ALL, steps=None, revise=None, order=None, letters_a_pass=2):
        """The Sampling for so many letters to write. None: half as many passes, three in four take back. UserError."""
        steps = steps or max(1, math.ceil(letters / letters_a_pass))
        revise = steps - math.ceil(steps / 4) if revise is None else revise
        if revise >= steps:
            raise UserError(f"--revise {revise} leaves none of the {steps} passes to write: lower it or raise --steps.")
        order = order or ("certainty" if steps - revise >= letters else "random")
        return cls(steps, revise, order, temperature, top_k)


# ---- The canvas
def make_canvas(tokenizer, prompt, ending, length, num, device):
    """[num, length] masks between a prompt and an ending (which a GPT could not be told). Raises UserError.

    None for either means a blank line, unless no mask would be left or the alphabet has no line break.
    """
    given = [None if text is None else tokenizer.encode_typed(text) for text in (prompt, ending)]
    room = length - sum(map(len, filter(None, given)))
    if room < 0:
        raise UserError(f"prompt and ending have {length - room} letters, more than --len {length} allows.")
    has_room = "\n" in tokenizer.id_of and room > 2 * given.count(None)
    first, last = ((tokenizer.encode("\n\n") if has_room else []) if ids is None else ids for ids in given)
    row = first + [tokenizer.vocab_size] * (length - len(first) - len(last)) + last
    return torch.tensor(row, dtype=torch.long, device=device).repeat(num, 1)


# ---- Taking back
@torch.inference_mode()
def revise(model, tokens, passes, count, temperature=1.0, top_k=None, fillable=None, generator=None, on_step=None):
    """Takes back `count` letters of each finished text and draws them again, `passes` times.

    A pass also says how probable the model finds every letter. The next pass takes back where this probability x a
    uniform random number is lowest: mostly what the model doubts, and everything at some time (P2, arXiv 2502.03540).
    The first pass takes back any letters. That the model can judge letters it sees is measured, not proved (lesson 12).

    fillable [B, L] says what of tokens [B, L] may be taken back (default: all). on_step(tokens) is called with the
    letters hidden, and with the new ones. The rest is as in `sample` of lesson 4. Returns tokens [B, L].
    """
    fillable = torch.ones_like(tokens, dtype=torch.bool) if fillable is None else fillable.expand(tokens.shape)
    counts = fillable.sum(dim=1).clamp(max=count)  # [B]
    sureness = torch.zeros(tokens.shape, device=tokens.device)  # [B, L]
    on_step = on_step or (lambda tokens: None)
    for _ in range(passes if counts.any() else 0):
        noise, ties = torch.rand(2, *tokens.shape, generator=generator).to(tokens.device)  # [B, L] each
        hidden = diffusion.top_ranked(1 - sureness * noise, fillable, counts, ties)  # [B, L]
        canvas = tokens.masked_fill(hidden, model.config.vocab_size)
        on_step(canvas)
        logits = model(canvas).float()  # [B, L, V]
        drawn = diffusion.draw_tokens(logits, temperature, top_k, generator)  # [B, L]
        tokens = torch.where(hidden, drawn, tokens)
        letters = tokens.clamp(max=model.config.vocab_size - 1)  # a mask outside of fillable has no probability
        sureness = torch.softmax(logits, dim=-1).gather(2, letters[..., None]).squeeze(2)  # [B, L]
        on_step(tokens)
    return tokens


# ---- Writing
def generate(model, canvas, sampling, generator=None, on_step=None):
    """Fills the masks of a canvas [B, L], window by window where it exceeds the model's context. on_step(canvas) is
    called with the whole canvas after every pass. Returns the canvas [B, L] without masks."""
    masked, L, context = canvas == model.config.vocab_size, canvas.shape[1], model.config.context
    starts = range(0, max(1, L - context + context // 2), context // 2)  # each window is half over the one before
    ends = [min(start + context, L) for start in starts]
    masks = [int(masked[:, a:b].sum()) for a, b in zip([0, *ends], ends)]  # how many masks each adds
    for start, end, part in zip(starts, ends, share_passes(sampling, masks)):
        canvas = write_window(model, canvas, masked, (start, end), part, generator, on_step)
    return canvas


def share_passes(sampling, masks):
    """Shares the passes out among parts of a text that have so many masks each. Returns a Sampling for each part."""
    parts, steps_left, masks_left = [], sampling.steps, sum(masks)
    for number in masks:
        steps = max(1, round(steps_left * number / max(1, masks_left)))
        revising = min(steps - 1, round(steps * sampling.revise / sampling.steps))
        parts.append(replace(sampling, steps=steps, revise=revising))
        steps_left, masks_left = steps_left - steps * (number > 0), masks_left - number
    return parts


def write_window(model, canvas, fillable, window, sampling, generator=None, on_step=None):
    """Fills the masks of a canvas [B, L] in a window, (start, end), where fillable [B, L] is True. Then takes back what
    it wrote, as many letters a pass as one pass wrote. Returns the canvas [B, L]."""
    start, end = window
    own = fillable[:, start:end] & (canvas[:, start:end] == model.config.vocab_size)  # [B, T]
    put_back = lambda tokens: torch.cat([canvas[:, :start], tokens, canvas[:, end:]], dim=1)  # noqa: E731 [B, L]
    top_k = sampling.top_k if sampling.top_k < model.config.vocab_size else None  # as `sample` has it
    show = on_step and (lambda tokens: on_step(put_back(tokens)))
    settings = dict(temperature=sampling.temperature, top_k=top_k, fillable=own, generator=generator, on_step=show)
    writing = sampling.steps - sampling.revise
    tokens = diffusion.sample(model, canvas[:, start:end], writing, order=sampling.order, **settings)  # [B, T]
    count = math.ceil(int(own.sum(dim=1).max()) / writing)
    return put_back(revise(model, tokens, sampling.revise, count, **settings))


# ---- The command line
def add_text_flags(flags, checkpoint, length=256):
    """Adds the flags of every script that writes text. length: None where the text to fill is given: no --prompt."""
    add, here = flags.add_argument, f"checkpoints/{checkpoint.name}"
    add("--checkpoint", default=str(checkpoint), metavar="FILE", help=f"or hf://OWNER/REPO/PATH (default: {here})")
    if length:
        add("--prompt", metavar="TEXT", help="how the text begins (default: a blank line)")
        add("--len", type=between(int, 1, 10**5), default=length, help="letters, given ones too (default: %(default)s)")
    add("--temp", type=between(float, 0, 10), default=0.8, help="0: always the likeliest letter (default: %(default)s)")
    add("--topk", type=between(int, 1, 10**5), help="draw among this many likeliest letters only (default: all)")
    add("--num", type=between(int, 1, 1000), default=1, help="how many texts (default: %(default)s)")


def generating_parser(doc, checkpoint, length=256, revises=False):
    """The flags of the scripts that write by unmasking. revises: whether some of the passes take back by default."""
    parser = Parser(doc)
    add = parser.add_argument
    add_text_flags(parser, checkpoint, length)
    if length:
        add("--ending", metavar="TEXT", help="how the text ends, often a space first (default: a blank line)")
    each, most = ("one for every two letters", "three in four") if revises else ("one a letter", "none")
    add("--steps", type=between(int, 1, 10**6), help=f"passes in all, at least one a window (default: {each})")
    taken_back = f"so many of the passes take letters back (default: {most})"
    add("--revise", type=between(int, 0, 10**6), default=None if revises else 0, metavar="N", help=taken_back)
    add("--order", choices=diffusion.ORDERS, help="default: certainty, or random where letters share a pass")
    add("--seed", type=SEED, help="the same seed and flags, the same text (default: drawn, and printed)")
    add("--device", choices=DEVICES, default="auto", help="default: auto")
    return parser


def add_live_flags(parser):
    """Adds the flags by which a text is drawn after every pass, or not."""
    add = parser.add_mutually_exclusive_group().add_argument
    add("--watch", action="store_true", help="show every pass (the default where all goes to a terminal)")
    add("--quiet", action="store_true", help="do not show them")


def is_live(parser, args):
    """Whether a text is drawn after every pass. Refuses --watch where it cannot be."""
    if args.watch and (args.num > 1 or not can_draw(sys.stderr)):
        parser.error("--watch needs a terminal and shows one text: leave out --num")
    erases = can_draw(sys.stdout) and can_draw(sys.stderr)
    return args.watch or (erases and args.num == 1 and not args.quiet)


def load_writer(parser, args, causal=False):
    """(model, tokenizer) of --checkpoint. Refuses a --topk larger than its alphabet."""
    model, tokenizer, _ = training.load_kind(find_checkpoint(args.checkpoint), causal, pick_device(args.device))
    if args.topk is not None and args.topk > tokenizer.vocab_size:
        parser.error(f"--topk {args.topk} is too large: this model has {tokenizer.vocab_size} letters to choose from")
    return model, tokenizer


def read_sampling(parser, args, letters_a_pass=2):
    """letters -> the Sampling that the flags ask for. Refuses flags that do not go together."""
    if args.revise and args.revise >= (args.steps or math.inf):
        parser.error(f"--revise {args.revise} must be less than --steps, the {args.steps} passes in all")
    flags = dict(temperature=args.temp, top_k=args.topk or ALL, steps=args.steps, revise=args.revise, order=args.order)
    return partial(Sampling.for_letters, **flags, letters_a_pass=letters_a_pass)


def main():
    """The command line of 06_generate.py."""
    parser = generating_parser(__doc__, SHIPPED, revises=True)
    parser.set_defaults(temp=TEMPERATURE)
    add_live_flags(parser)
    parser.add_argument("--gif", metavar="FILE", help="save the writing as an animation")
    args = parser.parse_args()
    if args.gif is not None and (args.num > 1 or not args.gif.endswith(".gif")):
        parser.error(f"--gif {args.gif} must end in .gif, and it shows one text: leave out --num")
    live = is_live(parser, args)
    sampling_for, (model, tokenizer) = read_sampling(parser, args), load_writer(parser, args)
    canvas = make_canvas(tokenizer, args.prompt, args.ending, args.len, args.num, model.head.weight.device)  # [num, L]
    frames, view = [], LiveView(tokenizer, tokenizer.vocab_size)

    def show(canvas):
        if args.gif:
            frames.append(canvas.int())  # which takes half as much memory
        if live:
            view(canvas)

    sampling = sampling_for(int((canvas[0] == tokenizer.vocab_size).sum()))
    tokens = generate(model, canvas, sampling, seeded_generator(args.seed), show)
    view.erase()
    print_texts(tokenizer.decode(row).strip("\n") for row in tokens)
    if args.gif:
        save_gif(Path(args.gif), frames, tokenizer, tokenizer.vocab_size)


if __name__ == "__main__":
    run(main)
