"""Lesson 6. How does a trained model write?

Starts from a canvas of masks and lets the sampler of lesson 4 unmask it. What is given stays: a prompt, and an ending
(a GPT can be given none); unless you say otherwise a blank line on either side, as it stands between speeches.

By default a pass writes one letter, in blocks of 32 from left to right (the first has 64), the surest of the block
first. The model is shown the block and as much before it, so such a pass is quick; of an ending it sees what falls into
that. Then it looks at the whole, one pass for every eight letters, takes back those that it doubts and draws them again
(lesson 12 explains it, docs/revise.md measures both). With fewer passes (--steps) a quarter of them write, or one for
every eight letters if that is more, many letters at once and all over the text, which is fast and rough; what passes
are left then revise (--revise says how many; 0: none). A text longer than the model's context is written window by
window, each seeing the half before it: `--steps 128 --len 512` writes three windows of 256 letters, 1-256 in 64 passes,
129-384 (the first half of them there already) in 32, and 257-512 in 32; of each, half write and half revise.

Windows of up to 128 letters, and so the blocks, two shipped models write together: a letter counts more where the large
one is surer of it than the small one is (--amateur; `Contrast` below). That reads more like English. What sees more
at once is the large one's alone: the passes that revise a longer text, or that write it without blocks (with fewer
--steps, --revise or --order).

In a terminal you see it at work: the text is drawn after every pass. The text alone goes to standard output.

Builds on:  lessons 1 (Tokenizer), 4 (sample) and 5 (load_kind); unless --revise 0, lesson 12, which comes later.
Run:        python 06_generate.py                                        (some ten seconds on a laptop's CPU)
            python 06_generate.py --prompt "ROMEO:" --len 400 --seed 1
            python 06_generate.py --ending "And so farewell."
            python 06_generate.py --checkpoint checkpoints/my_shakespeare_best.safetensors --num 3
            python 06_generate.py --checkpoint hf://OWNER/REPO/FILE.safetensors
            python 06_generate.py --amateur none                     (the large model alone)
            python 06_generate.py --len 128 --steps 512              (passes to spare: they revise)
            python 06_generate.py --gif figures/text.gif
Last line:  the last line of the text.

Later lessons take from here: SHIPPED, SMALL, Sampling, generate, fill_spans, make_canvas, generating_parser,
add_text_flags, add_live_flags, is_live, load_generator.

Exercises (answers in docs/answers.md)
  1. Write the same seed with --revise 0 and --steps 256, 64, 16 and 4. Which mistakes come with haste, and why these?
  2. With --len 128 --amateur none, try --temp 0 in the orders confidence, certainty, random. Why do two write the same?
  3. Likewise, --num 2: compare --order confidence --temp 1 with --order random --temp 1. Which reads better, and why?
"""

import math
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tools.command_line import DEVICES, Parser, SEED, UserError, between, print_texts, run, seeded_generator
from tools.devices import pick_device
from tools.files import ROOT, find_checkpoint
from tools.pictures import LiveView, save_gif

import torch
import torch.nn.functional as F
from torch import nn

diffusion = import_module("04_diffusion")
training = import_module("05_train")

SHIPPED = ROOT / "checkpoints" / "shakespeare.safetensors"  # `base`
SMALL = ROOT / "checkpoints" / "small.safetensors"  # `small`, three times as fast
BLOCK = 32  # letters that are written, seeing as many before them, until the next ones begin
PLAUSIBLE = 0.2  # of the likeliest letter's probability: what a letter needs where two models write as one
ADVANTAGE = 3.0  # the most that a letter's probability is multiplied by there
TAKEN_BACK = 4  # letters that a pass revises in a text that was written in blocks


# ---- Two models that write as one
class Contrast(nn.Module):
    """Answers as a model does, the expert, but favours what it is surer of than a smaller one, the amateur.

    Both know which letters are frequent and how words are spelt; what the expert knows better is which word fits. Its
    log p minus the amateur's is that advantage (below 0 where the amateur is surer), and is added to its log p. A
    letter less likely to the expert than PLAUSIBLE times its likeliest one is ruled out, lest a difference of two tiny
    numbers decide. This is contrastive decoding (arXiv 2210.15097), brought to a dLLM. One limit more is needed here:
    far from all that is written both are unsure, and a letter that the expert repeats, at 6%, can be ten times as
    likely to it as to the amateur. So an advantage counts for ADVANTAGE times at most; without that one text in twenty
    ended in quotation marks (docs/revise.md). Canvases too long for the amateur get the expert's own answer.
    """

    def __init__(self, expert, amateur):
        super().__init__()
        self.expert, self.amateur, self.config = expert, amateur, expert.config

    def forward(self, tokens):
        """tokens [B, T] -> logits [B, T, V], -inf for what is ruled out (if T is too long for the amateur, nothing)."""
        if tokens.shape[1] > self.amateur.config.context:
            return self.expert(tokens)
        expert = F.log_softmax(self.expert(tokens).float(), dim=-1)  # [B, T, V]
        amateur = F.log_softmax(self.amateur(tokens).float(), dim=-1)  # [B, T, V]
        ruled_out = expert < expert.amax(dim=-1, keepdim=True) + math.log(PLAUSIBLE)
        advantage = (expert - amateur).clamp(max=math.log(ADVANTAGE))
        return (expert + advantage).masked_fill(ruled_out, -torch.inf)


# ---- Generating
@dataclass(frozen=True)
class Sampling:
    """How to write: the settings of `sample` of lesson 4, made once from a command line, completed for each canvas."""

    steps: int | None = None  # passes of the model in all; None: as `complete` chooses
    temperature: float = 0.8
    top_k: int | None = None  # draw among so many likeliest letters; None: among all
    order: str | None = None  # None: as `complete` chooses
    revise: int | None = 0  # how many of the passes revise what the others wrote; None: as `complete` chooses
    block: int | None = None  # letters that are written before the next ones begin; None: all of a window

    def complete(self, letters):
        """{name: value} of all of them, for a canvas on which so many letters are to be written.

        Where neither order nor revise is asked for, there are nine passes for eight letters, unless `steps` says more:
        as many as letters write one each, in blocks from left to right, and the others revise. Where `steps` says less,
        a quarter of them write, or one for every eight letters if that is more, and those that are left revise. Where
        an order or a number of passes that revise is asked for, there are as many passes as letters. The order is
        certainty with a pass for every letter that is written, and random with fewer: letters of one pass do not see
        each other, and the surest places are often neighbours, random ones rarely (lesson 10 measures it). Raises
        UserError where no pass is left to write.
        """
        chooses = self.revise is None and self.order is None
        usual = max(1, letters + letters // 8 if chooses else letters)
        steps, revise, block = self.steps or usual, self.revise or 0, self.block
        if chooses and steps >= usual:
            revise, block = steps - letters if letters else 0, BLOCK
        elif chooses:
            revise = max(0, steps - max(1, steps // 4, letters // 8))
        if revise and not letters:
            raise UserError(
                "there is no letter to write, so none to revise; leave out --revise, or ask for more letters."
            )
        if revise >= steps:
            raise UserError(
                f"--revise {revise} leaves none of the {steps} passes to write; give less, or more --steps."
            )
        order = self.order or ("certainty" if steps - revise >= letters else "random")
        values = dict(steps=steps, temperature=self.temperature, top_k=self.top_k, order=order, revise=revise)
        return values | dict(block=block)


def windows_to_fill(length, context):
    """(start, end) of the windows in which a canvas is filled, left to right, each half over the one before."""
    starts = range(0, max(1, length - context + context // 2), context // 2)
    return [(start, min(start + context, length)) for start in starts]


def generate(model, canvas, sampling, generator=None, on_step=None, width=None):
    """Fills a canvas [B, L] of any length: `sample` of lesson 4, window by window where it exceeds the width, which is
    the model's context unless given.

    Every window after the first is given the half window that was written before it. The rest is as in fill_spans.
    """
    windows = windows_to_fill(canvas.shape[1], width or model.config.context)
    return fill_spans(model, canvas, sampling, [(window, window) for window in windows], generator, on_step)


def fill_spans(model, canvas, sampling, spans, generator=None, on_step=None):
    """Fills a canvas [B, L] span by span; spans, [((first, last), (start, end))]: what is filled, and the window seen
    meanwhile, in which masks outside first..last stay. (Here they are the same; lesson 11 fills a part of a window.)

    The passes are shared out among the spans by their masks; no span gets less than one. on_step(canvas) is called with
    the whole canvas. Returns the canvas [B, L] without masks. Raises ValueError as `sample` does, UserError as
    `complete`.
    """
    mask_id = model.config.vocab_size
    canvas, masks_left = canvas.clone(), int((canvas == mask_id).sum())
    settings = sampling.complete(int((canvas[0] == mask_id).sum()))
    passes, revising = settings.pop("steps"), settings.pop("revise")
    passes_left = passes
    for (first, last), (start, end) in spans:
        masks = int((canvas[:, first:last] == mask_id).sum())
        if masks == 0:
            continue
        share = max(1, round(passes_left * masks / masks_left))
        places = torch.arange(start, end, device=canvas.device)
        fillable = (first <= places) & (places < last)  # [end - start], the same for all rows

        def show(window):
            if on_step:
                on_step(torch.cat([canvas[:, :start], window, canvas[:, end:]], dim=1))

        letters = masks // len(canvas)  # of each text
        revised = share - letters if settings["block"] else min(share - 1, round(share * revising / passes))
        window, how = canvas[:, start:end], dict(settings, generator=generator, on_step=show, fillable=fillable)
        canvas[:, start:end] = write_and_revise(model, window, share - revised, revised, **how)
        passes_left, masks_left = passes_left - share, masks_left - masks
    return canvas


def write_and_revise(model, canvas, writing, revising, order, block, fillable, on_step, **how):
    """Fills the fillable masks of a canvas [B, L] in so many passes by `sample` of lesson 4; then, in so many others,
    takes back letters that it wrote, as many a pass as were written in one (in blocks TAKEN_BACK), by `revise` of
    lesson 12.

    In blocks, where the whole canvas is fillable: the model sees no more than the block and as much before it, and so a
    pass takes a fraction of the time; that the text is fluent all the same, docs/revise.md measures. (LLaDA, arXiv
    2502.09992, has blocks, too, and shows the model the whole text.)
    """
    if block:
        letter_by_letter = Sampling(None, how["temperature"], how["top_k"], order)
        written = generate(model, canvas, letter_by_letter, how["generator"], on_step, 2 * block)
    else:
        written = diffusion.sample(model, canvas, writing, order=order, fillable=fillable, on_step=on_step, **how)
    if revising == 0:
        return written
    # a later lesson, and so imported here, where it is wanted: what a reader of lesson 6 need not know yet
    revision = import_module("12_revise")
    own = fillable & (canvas == model.config.vocab_size)  # [B, L] what was given stays
    count = TAKEN_BACK if block else math.ceil(int(own.sum(dim=1).max()) / writing)
    return revision.revise(model, written, revising, count, fillable=own, on_step=on_step, **how)


def make_canvas(tokenizer, prompt, ending, length, num, device):
    """[num, length] masks between a prompt and an ending. (A GPT could not be told how to end.)

    None for either: a blank line, as it stands between speeches, poems and paragraphs, so that the text begins and ends
    as they do; nothing where the alphabet has no line break, or no room is left. Raises UserError if both are longer
    than length.
    """
    blank_line = tokenizer.encode("\n\n") if "\n" in tokenizer.id_of else []
    first = blank_line[:length] if prompt is None else tokenizer.encode(prompt)
    last = blank_line[: max(0, length - len(first))] if ending is None else tokenizer.encode(ending)
    if len(first) + len(last) > length:
        given = f"the prompt and the ending (a blank line, where you give none) have {len(first) + len(last)} letters"
        raise UserError(f"{given}, more than --len {length}; ask for more.")
    row = first + [tokenizer.vocab_size] * (length - len(first) - len(last)) + last
    return torch.tensor(row, dtype=torch.long, device=device).repeat(num, 1)


# ---- The command line
def add_text_flags(flags, checkpoint, length=256):
    """Adds to a parser, or to a group of it, the flags of every script that writes text; two of the defaults differ.
    length: None where the text to fill is given, so that there is no --prompt and no --len."""
    add, here = flags.add_argument, f"checkpoints/{checkpoint.name}"
    add("--checkpoint", default=str(checkpoint), metavar="FILE", help=f"or hf://OWNER/REPO/PATH (default: {here})")
    if length:
        add("--prompt", metavar="TEXT", help="how the text begins (default: a blank line)")
        add("--len", type=between(int, 1, 10**5), default=length, help="letters, given ones too (default: %(default)s)")
    heat = "0: always the likeliest letter (default: %(default)s)"
    add("--temp", type=between(float, 0, 10), default=Sampling.temperature, help=heat)
    add("--topk", type=between(int, 1, 10**5), help="draw among this many likeliest letters only (default: all)")
    add("--num", type=between(int, 1, 1000), default=1, help="how many texts (default: %(default)s)")


def generating_parser(doc, checkpoint, length=256, revises=False):
    """The flags of the scripts that write by unmasking; revises: whether some of the passes revise by default."""
    parser = Parser(doc)
    add = parser.add_argument
    add_text_flags(parser, checkpoint, length)
    if length:
        add("--ending", metavar="TEXT", help="how the text ends (default: a blank line)")
    each = "nine for eight letters; with --revise or --order one for each" if revises else "one a letter"
    add("--steps", type=between(int, 1, 10**6), help=f"passes in all, at least one a window (default: {each})")
    usual = "those over one a letter; of fewer up to three in four; none with --order" if revises else "none"
    taken_back = f"so many of the passes take letters back and draw them again (default: {usual})"
    add("--revise", type=between(int, 0, 10**6), default=None if revises else 0, metavar="N", help=taken_back)
    first = (
        "what comes first: the likeliest draw (confidence), the surest place (certainty), one whose best letter is far "
        'ahead (margin), any (random), "left to right" (default: certainty; random where letters share a pass)'
    )
    add("--order", choices=diffusion.ORDERS, help=first)
    add("--seed", type=SEED, help="the same seed and flags, the same text (default: drawn, and printed)")
    add("--device", choices=DEVICES, default="auto", help="default: auto")
    return parser


def add_live_flags(parser):
    """Adds the flags by which a text is drawn after every pass, or not."""
    live = parser.add_mutually_exclusive_group()
    live.add_argument("--watch", action="store_true", help="show every pass (the default where all goes to a terminal)")
    live.add_argument("--quiet", action="store_true", help="do not show them")


def is_live(args):
    """Whether a text is drawn after every pass."""
    return args.watch or (sys.stdout.isatty() and sys.stderr.isatty() and args.num == 1 and not args.quiet)


def load_generator(parser, args, causal=False):
    """Loads --checkpoint and checks the flags that depend on it. Returns (model, tokenizer, Sampling)."""
    model, tokenizer, _ = training.load_kind(find_checkpoint(args.checkpoint), causal, pick_device(args.device))
    if args.topk is not None and args.topk > tokenizer.vocab_size:
        parser.error(f"--topk {args.topk} is too large; this model has {tokenizer.vocab_size} letters to choose from")
    if causal:  # a GPT has neither order nor passes that revise
        return model, tokenizer, Sampling(args.steps, args.temp, args.topk)
    passes = args.steps or getattr(args, "len", None)
    if args.revise and passes and args.revise >= passes:
        found = f"the {passes} passes in all (with --revise one a letter, unless --steps says otherwise)"
        parser.error(f"--revise {args.revise} must be less than {found}")
    return model, tokenizer, Sampling(args.steps, args.temp, args.topk, args.order, args.revise)


def with_amateur(model, tokenizer, amateur, device):
    """A model, and beside it the amateur: a checkpoint's path, or "none". Raises UserError where alphabets differ."""
    if amateur == "none":
        return model
    other, its_tokenizer, _ = training.load_kind(find_checkpoint(amateur), False, pick_device(device))
    if its_tokenizer.units != tokenizer.units:
        raise UserError(f"--amateur {amateur} has another alphabet than the model; none does without it.")
    return Contrast(model, other)


def main():
    """The command line of 06_generate.py."""
    parser = generating_parser(__doc__, SHIPPED, revises=True)
    parser.set_defaults(temp=0.6)  # less varied than 0.8, and more English (docs/revise.md)
    add_live_flags(parser)
    beside = "a smaller model, to be surer than (default: the shipped small one, for the shipped large one)"
    parser.add_argument("--amateur", metavar="FILE", help=beside)
    parser.add_argument("--gif", metavar="FILE", help="save the unmasking as an animation")
    args = parser.parse_args()
    if (args.watch or args.gif) and args.num > 1:
        parser.error("--watch and --gif show one text; leave out --num")
    if args.gif and not args.gif.endswith(".gif"):
        parser.error(f"--gif {args.gif} must end in .gif")
    if args.watch and not sys.stderr.isatty():
        parser.error("--watch needs a terminal to draw in")
    model, tokenizer, sampling = load_generator(parser, args)
    is_shipped = Path(args.checkpoint).resolve() == SHIPPED  # other models know no smaller one
    model = with_amateur(model, tokenizer, args.amateur or (str(SMALL) if is_shipped else "none"), args.device)
    mask_id, device = model.config.vocab_size, next(model.parameters()).device
    canvas = make_canvas(tokenizer, args.prompt, args.ending, args.len, args.num, device)

    frames, view = [], LiveView(tokenizer, mask_id)
    live = is_live(args)

    def show(canvas):
        if args.gif:
            frames.append(canvas.clone())
        if live:
            view(canvas)

    tokens = generate(model, canvas, sampling, seeded_generator(args.seed), show)
    view.erase()
    print_texts(tokenizer.decode(row).strip("\n") for row in tokens)
    if args.gif:
        save_gif(Path(args.gif), frames or [tokens], tokenizer, mask_id)


if __name__ == "__main__":
    run(main)
