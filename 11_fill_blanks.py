r"""Lesson 11. What does a dLLM do that lesson 7's GPT cannot? Write the middle.

That GPT sees the left side only. (GPTs can learn to fill gaps from texts whose middle was moved to their end: arXiv
2207.14255.) A dLLM was trained to guess hidden letters from all that is visible, so a blank is nothing new to it. The
blank is masked, and the sampler of lesson 4 fills it. What was given stays.

    _       one hidden letter            {12}    twelve hidden letters
    {3-15}  a blank of 3 to 15 letters   \_ \{ \}  the characters themselves

Of several lengths the best one makes the letters around the blank likeliest (section 2). In a terminal you see all
passes, as in lesson 6. The text alone goes to standard output. The walk ends with what the right side is worth, beside
a GPT, on a few windows. `python -m benchmarks.blanks` measures it on many.

Builds on:  lessons 1 (Tokenizer), 4 (the bound, exact_nats), 6 (write_window, flags), 7 (token_nats), 10 (Writers).
Run:        python 11_fill_blanks.py                              (a walk through examples, some ten seconds)
            python 11_fill_blanks.py "To be, or ___ to be: that is the ________"
            python 11_fill_blanks.py --file letter.txt            (or through a pipe, or by < letter.txt)
Last line:  the end of the text, or of the walk the last row of its table.

The benchmark takes from here: fill, score_lengths, middles, print_figures, Blank.

Exercises (answers in docs/answers.md)
  1. Fill "The king will ____ the voice of his ______." ten times, with --steps 1, 4 and 10. How many words are real?
     Why?
  2. Set NEAR to 8. To be quick, set SIZES in benchmarks/blanks.py to (1,). Run `python -m benchmarks.blanks --seed 0`.
     How often is the true length found now? How often do two sets of draws agree?
  3. Fill "the {1-8} of England" with --seed 1 --num 4. Which lengths come close to the best? What can stand there?
"""

import os
import re
import stat
import sys
from dataclasses import dataclass
from importlib import import_module

from tools.command_line import UserError, check, print_texts, run, seeded_generator
from tools.files import find_checkpoint
from tools.pictures import LiveView, can_draw, mean_and_error, print_row

import torch

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
comparison = import_module("10_compare")

NEAR = 16  # letters on each side of a blank that are guessed to choose its length
DRAWS = 128  # times that some of them are hidden and guessed, for each length
SIZES = (1, 4, 16)  # letters of the blanks in the walk's table
WINDOWS = 24  # texts that have such blanks


# ---- 1. A text with blanks
@dataclass(frozen=True)
class Blank:
    """A blank of low to high letters."""

    low: int
    high: int


PIECE = re.compile(
    r"\\(?P<escaped>[_{}])|(?P<line>_+)|\{(?P<low>\d{1,6})(?:-(?P<high>\d{1,6}))?\}"
    # then a brace of no blank, and the rest, where a backslash before anything else is a backslash
    r"|(?P<brace>[{}])|(?P<plain>[^\\_{}]+|\\)"
)


def read_blanks(text, tokenizer):
    """A text with blanks -> its parts in order: lists of ids, and Blanks. Raises UserError."""
    parts = []
    for found in PIECE.finditer(text):
        place = f"at position {found.start() + 1}"
        if found["brace"]:
            itself = f", or \\{found['brace']} for itself" if found["brace"] in tokenizer.id_of else ""
            raise UserError(f"the {found['brace']} {place} is no part of a blank: write {{12}} or {{3-15}}{itself}.")
        if found["line"]:
            parts.append(Blank(len(found["line"]), len(found["line"])))
        elif found["low"]:
            low, high = int(found["low"]), int(found["high"] or found["low"])
            if not 1 <= low <= high:
                rule = "lengths begin at 1, and the smaller one comes first"
                raise UserError(f"{found.group()} {place} is no blank: {rule}.")
            parts.append(Blank(low, high))
        else:
            written = "escaped" if found["escaped"] else "plain"
            parts.append(tokenizer.encode_typed(found[written], position=found.start(written)))
    if not any(isinstance(part, Blank) for part in parts):
        raise UserError("there is no blank in the text: write one _ for every hidden letter, or {12}, or {3-15}.")
    return parts


def lay_out(parts, lengths, mask_id):
    """Parts and the lengths of their Blanks, in order -> tokens [L], the blanks masked."""
    lengths = iter(lengths)
    ids = [[mask_id] * next(lengths) if isinstance(part, Blank) else part for part in parts]
    return torch.tensor(sum(ids, []), dtype=torch.long)


# ---- 2. A blank of unknown length
# How likely are the NEAR letters on each side, with n masks between them? A draw hides some of these letters and
# guesses them: one draw of lesson 4's bound. The score of a length is the mean of DRAWS draws, and the lowest one wins.
# All lengths are scored by the same letters, so a long and bland filling gains nothing. In draw k the same letters are
# hidden for every length, so the luck of the draw cancels when two scores are compared.
@torch.inference_mode()
def score_lengths(model, before, after, blank, seed=0):
    """[lengths, DRAWS] draws of the bound on -log p(the letters near the blank | n masks between them), in nats.

    before, after: tokens [A] and [B] around the blank. Masks of other blanks among them are not scored. Raises
    UserError where no letter is left to score.
    """
    mask_id = model.config.vocab_size
    near = min(NEAR, (model.config.context - blank.high) // 2)
    left, right = before[max(0, len(before) - near) :], after[:near]
    scores = []
    for n in range(blank.low, blank.high + 1):
        row = torch.cat([left, torch.full((n,), mask_id), right]).to(model.head.weight.device)  # [L]
        places = (row != mask_id).nonzero().flatten()  # [G]
        if len(places) == 0:
            missing = "no letter beside the blank can be seen to choose its length by"
            raise UserError(f"{missing}: give one length, or shorter ones.")
        generator = torch.Generator().manual_seed(seed)
        scores.append(diffusion.bound_on_part(model, row.expand(DRAWS, -1), places, generator).cpu())
    return torch.stack(scores)


def find_lengths(model, parts):
    """A length for every Blank among the parts. Unknown ones are found from left to right.

    Until its turn comes, an unknown length is the middle of what is allowed. Each choice goes to standard error, with
    the runners-up: how many nats they are behind, +- one standard error over the draws. The same draws chose the best,
    so the gaps are on the large side.
    """
    mask_id = model.config.vocab_size
    places = [i for i, part in enumerate(parts) if isinstance(part, Blank)]
    lengths = [(parts[i].low + parts[i].high) // 2 for i in places]
    check_fits(max(parts[i].high for i in places), model.config.context)
    for number, i in enumerate(places):
        blank = parts[i]
        if blank.low < blank.high:
            before = lay_out(parts[:i], lengths[:number], mask_id)  # [A]
            after = lay_out(parts[i + 1 :], lengths[number + 1 :], mask_id)  # [B]
            scores = score_lengths(model, before, after, blank)
            best, *others = scores.mean(dim=1).argsort()[:4].tolist()
            lengths[number] = blank.low + best
            behind = [(blank.low + other, *mean_and_error(scores[other] - scores[best])) for other in others]
            text = ", ".join(f"{n} by {mean:.2f} +- {error:.2f}" for n, mean, error in behind)
            found = f"blank {number + 1}: {blank.low + best} letters fit best"
            print(f"{found}. Others make the text around it less likely, in nats: {text}", file=sys.stderr)
    return lengths


def check_fits(letters, context):
    """Raises UserError for a blank longer than the context."""
    if letters > context:
        raise UserError(f"a blank of {letters} letters is too long: this model sees {context} at once.")


# ---- 3. Filling
def group_blanks(masked, context):
    """[(first, last)] of the groups of blanks that are filled together, last excluded. masked: a list of L booleans.

    Where the text fits into the context there is one group. Otherwise a group is a single blank or spans half a context
    at most, so that its window has room for what stands on both sides. Raises UserError for a blank that does not fit.
    """
    longest = len(masked) if len(masked) <= context else context // 2
    groups = []
    for blank in re.finditer("1+", "".join("01"[m] for m in masked)):
        check_fits(blank.end() - blank.start(), context)
        if groups and blank.end() - groups[-1][0] <= longest:
            groups[-1] = (groups[-1][0], blank.end())
        else:
            groups.append(blank.span())
    return groups


def fill(model, canvas, sampling, generator=None, on_step=None):
    """Fills the masks of a canvas [B, L], which stand at the same places in every row. Returns [B, L].

    A canvas longer than the context is filled group by group. A group stands in the middle of its window, where it can.
    Blanks of later groups are seen as masks.
    """
    context, L = model.config.context, canvas.shape[1]
    masked, places = canvas == model.config.vocab_size, torch.arange(L, device=canvas.device)  # [B, L], [L]
    groups = group_blanks(masked[0].tolist(), context)
    parts = generation.share_passes(sampling, [int(masked[0, first:last].sum()) for first, last in groups])
    for (first, last), part in zip(groups, parts):
        start = max(0, min((first + last - context) // 2, L - context))
        window, group = (start, min(start + context, L)), masked & (first <= places) & (places < last)  # [B, L]
        canvas = generation.write_window(model, canvas, group, window, part, generator, on_step)
    return canvas


def with_marks(tokenizer, tokens, masked):
    """tokens, masked [L] -> text. In a terminal what was masked is bold and green."""
    colours = can_draw(sys.stdout) and not os.environ.get("NO_COLOR")
    begin, end = ("\x1b[1;32m", "\x1b[0m") if colours else ("", "")
    units = [tokenizer.units[i] for i in tokens.tolist()]
    return "".join(begin + unit + end if filled else unit for unit, filled in zip(units, masked.tolist()))


def fill_text(model, tokenizer, text, sampling_for, seed=None, num=1, live=False):
    """Fills the blanks in a text num times and prints it. Returns whether all that was given is still the same.

    sampling_for: number of letters -> Sampling. live: draw the text after every pass. Raises UserError.
    """
    mask_id = model.config.vocab_size
    parts = read_blanks(text, tokenizer)
    canvas = lay_out(parts, find_lengths(model, parts), mask_id).expand(num, -1).to(model.head.weight.device)
    masked = canvas[0] == mask_id
    view = LiveView(tokenizer, mask_id)
    sampling = sampling_for(int(masked.sum()))
    tokens = fill(model, canvas, sampling, seeded_generator(seed), view if live else None)
    view.erase()
    print_texts(with_marks(tokenizer, row, masked) for row in tokens)
    return torch.equal(tokens[:, ~masked], canvas[:, ~masked])


# ---- 4. What the right side is worth
def middles(length, sizes):
    """[(start, end)] of a blank of each size in the middle of `length` places."""
    return [((length - size) // 2, (length + size) // 2) for size in sizes]


def print_figures(title, sizes, results, form):
    """Prints {who: [N figures, for each of sizes]} as a table of means and standard errors."""
    print(f"\n| {title} | {' | '.join(f'blank of {size}' for size in sizes)} |\n|---|{'---|' * len(sizes)}")
    for who, figures in results.items():
        print_row(who, form, map(mean_and_error, figures))


def show_worth(writers, windows):
    """Prints what blanks in windows [N, L] cost, exactly. The GPT sees the left side, the dLLM both. The last row is by
    how much they differ in the same windows."""
    exact = gpt.token_nats(writers.gpt, windows).cpu()  # [N, L]
    results = {"GPT": [], "dLLM, certainty": []}
    for start, end in middles(windows.shape[1], SIZES):
        nats = diffusion.exact_nats(writers.dllm, windows, "certainty", end - start, torch.arange(start, end))  # [N]
        results["GPT"].append(exact[:, start:end].mean(dim=1))
        results["dLLM, certainty"].append(nats.cpu())
    results["GPT minus dLLM"] = [left - both for left, both in zip(*results.values())]
    title = f"{len(windows)} held-out windows, exact nats/character"
    print_figures(title, SIZES, results, "{:.2f}")


# ---- The lesson, and the command line
@torch.inference_mode()
def show_sides(model, tokenizer, shipped, line="The king will hear the voice of his people."):
    """Prints what the letters of a line cost to guess, given the left side alone and given both.

    shipped: whether claims are made, since it is a shipped model.
    """
    tokens, places = torch.tensor(tokenizer.encode(line)), torch.arange(len(line))  # [L] each
    both_sides = tokens.repeat(len(line), 1)  # [L, L] row i tells how likely letter i is
    left_side = both_sides.masked_fill(places > places[:, None], model.config.vocab_size)  # [L, L]
    nats = []
    for rows in (left_side.to(model.head.weight.device), both_sides.to(model.head.weight.device)):
        each = [diffusion.bound_on_part(model, rows[i : i + 1], places[i : i + 1]).item() for i in places]
        nats.append(sum(each) / len(line))
    print(f"1. The letters of {line!r}, nats each: {nats[0]:.2f} given the left side, {nats[1]:.2f} given both")
    check("the right side makes a hidden letter likelier", nats[1] < nats[0], shipped)


def demo(model, tokenizer, writers, windows, shipped, **settings):
    """Walks through the lesson. writers: a dLLM and a GPT of one size. windows [M, L]: held-out text. settings: those
    of fill_text."""
    show_sides(model, tokenizer, shipped)
    texts = "The king will ____ the voice of his ______.", "My {2-9} lord, what news with you?"
    for number, text in enumerate(texts, 2):
        print(f"\n{number}. {text}")
        unchanged = fill_text(model, tokenizer, text, **settings)
        check("what was given stands there unchanged", unchanged)
    print("\n4. What the right side is worth, for blanks in the middle of a text, +- one standard error over the texts")
    show_worth(writers, comparison.spread(windows, max(2, min(WINDOWS, len(windows)))).to(writers.device))


def given_text(text, file):
    """The text to fill: the argument, the file's, or standard input where that is a pipe or a file.

    None without any of these, or where standard input is empty.
    """
    if file is not None:
        return tensors.load_text(file).removesuffix("\n")
    if text is not None or not sys.stdin:
        return text
    mode = os.fstat(0).st_mode
    is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
    if not is_pipe and not stat.S_ISREG(mode):
        return None
    if is_pipe:  # which may never end
        print("reading the text from standard input", file=sys.stderr)
    piped = sys.stdin.buffer.read().decode("utf-8-sig", errors="replace")  # what is not UTF-8 is in no alphabet
    return piped.replace("\r\n", "\n").removesuffix("\n") or None


def main():
    """The command line of 11_fill_blanks.py."""
    parser = generation.generating_parser(__doc__, generation.SHIPPED, length=None)
    generation.add_live_flags(parser)
    add = parser.add_argument
    add("text", nargs="?", metavar="TEXT", help="the text with its blanks")
    add("--file", metavar="FILE", help="the text is in this file")
    small = str(gpt.SMALL_GPT)
    add("--gpt", default=small, metavar="FILE", help="the walk's GPT (default: the shipped small one)")
    add("--data", metavar="FILE", help="what the walk's models were trained on (default: TinyShakespeare)")
    args = parser.parse_args()
    if args.text is not None and args.file is not None:
        parser.error("give the text or --file, not both")
    live, sampling_for = generation.is_live(parser, args), generation.read_sampling(parser, args, letters_a_pass=1)
    model, tokenizer = generation.load_writer(parser, args)
    settings = dict(sampling_for=sampling_for, seed=args.seed, num=args.num, live=live)
    text = given_text(args.text, args.file)
    if text is not None:
        for flag in parser.changed(args, ("gpt", "data")):
            parser.error(f"{flag} goes with the walk, without a text")
        return fill_text(model, tokenizer, text, **settings)
    is_shipped = find_checkpoint(args.checkpoint).resolve() == generation.SHIPPED
    rival = str(generation.SMALL) if is_shipped else args.checkpoint  # of the GPT's size
    writers, _, windows = comparison.prepare(rival, args.gpt, args.device, args.data)
    demo(model, tokenizer, writers, windows, is_shipped, **settings)


if __name__ == "__main__":
    run(main)
