"""Lesson 11. What does a dLLM do that lesson 7's GPT cannot? Write the middle.

That GPT knows what stands to the left, and no more (a GPT can learn to fill gaps, from texts whose middle was moved to their end:
arXiv 2207.14255). A dLLM was trained to guess hidden letters from all that is visible, so a blank is nothing new to it: the blank is
masked, all else is given, and the sampler of lesson 4 fills it, unchanged. What was given stays as it is.

    _       one hidden letter            {12}    twelve hidden letters
    {3-15}  a blank whose length is to be found; the model says which fits best
    \\_ \\{ \\}  the characters themselves

Builds on:  lessons 1 (Tokenizer), 4 (sample, the bounds), 6 (fill_spans, flags, LiveView), 7 (a GPT), 8, 9 (couplets), 10 (the judge).
Run:        python 11_fill_blanks.py                              (a walk through examples, some seconds)
            python 11_fill_blanks.py "To be, or ___ to be: that is the ________"
            python 11_fill_blanks.py --file letter.txt            (or: python 11_fill_blanks.py < letter.txt)
            python 11_fill_blanks.py --score                      (some minutes; beside a GPT)
            python 11_fill_blanks.py --couplets --checkpoint checkpoints/tamil.pt     (needs data/tamil.txt)
Last line:  the end of the text, or of the walk its last check; with --score the path of a picture,
            `figures/11_blanks.png`; with --couplets a row of a table.

Exercises (answers in docs/answers.md)
  1. Fill "The king will ____ the voice of his ______." ten times, with --steps 1, 4 and 10. How many words are real, and why?
  2. Set NEAR to 8, and SIZES to (1,) to be quick. How often is the true length found by --score now, and how often do two sets of draws agree?
  3. Fill "the {1-8} of England": which lengths come close to the best, and what can stand there?
"""

import math
import os
import re
import stat
import sys
import unicodedata
from dataclasses import dataclass
from importlib import import_module

import torch
from tqdm import tqdm

lesson1 = import_module("01_tensors")
diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
gpt_lesson = import_module("07_train_gpt")
lesson8 = import_module("08_train_tamil")
lesson9 = import_module("09_generate_tamil")
compare = import_module("10_compare")
UserError = lesson1.UserError

NEAR = 16  # letters on each side of a blank by which its length is chosen
DRAWS = 128  # times that some of them are hidden and guessed, to score a length


# ---------------------------------------------------------------------------------------------------------
# A text with blanks


@dataclass(frozen=True)
class Blank:
    """A blank of low to high letters."""

    low: int
    high: int


PIECE = re.compile(
    r"\\(?P<escaped>[_{}])|(?P<line>_+)|\{(?P<low>\d{1,6})(?:-(?P<high>\d{1,6}))?\}"
    r"|(?P<brace>[{}])|(?P<plain>[^\\_{}]+|\\)"  # a brace of no blank; the rest: a backslash before anything else is a backslash
)


def read_blanks(text, tokenizer):
    """A text with blanks -> its parts in order: lists of ids, and Blanks. Raises UserError, naming what is wrong."""
    parts = []
    for found in PIECE.finditer(text):
        place = f"at position {found.start() + 1}"
        if found["brace"]:
            raise UserError(f"the {found['brace']} {place} is no part of a blank; write {{12}}, {{3-15}}, or \\{found['brace']} for itself.")
        if found["line"]:
            parts.append(Blank(len(found["line"]), len(found["line"])))
        elif found["low"]:
            low, high = int(found["low"]), int(found["high"] or found["low"])
            if not 1 <= low <= high:
                raise UserError(f"{found.group()} {place} is no blank: lengths begin at 1, and the smaller one comes first.")
            parts.append(Blank(low, high))
        else:
            written = "escaped" if found["escaped"] else "plain"
            parts.append(tokenizer.encode(found[written], position=found.start(written)))
    if not any(isinstance(part, Blank) for part in parts):
        raise UserError("there is no blank in the text; write one _ for every hidden letter, or {12}, or {3-15}.")
    return parts


def lay_out(parts, lengths, mask_id):
    """Parts, and the lengths of the Blanks among them in order, -> tokens [L], the blanks masked."""
    lengths = iter(lengths)
    ids = [[mask_id] * next(lengths) if isinstance(part, Blank) else part for part in parts]
    return torch.tensor(sum(ids, []), dtype=torch.long)


# ---------------------------------------------------------------------------------------------------------
# A blank of unknown length


@torch.inference_mode()
def score_lengths(model, before, after, blank, seed=0):
    """[lengths, DRAWS] for each length n, draws of the bound on -log p(the letters near the blank | n masks between them), in nats.

    These letters are the same for every n, so the lengths compare, and a long and bland filling gains nothing; and the same ones
    are hidden for every n, so that the luck of the draw cancels. before, after: tokens [A] and [B], of which the NEAR nearest
    count; masks of other blanks among them are not scored.
    """
    mask_id = model.config.vocab_size
    near = min(NEAR, (model.config.context - blank.high) // 2)
    left, right = before[max(0, len(before) - near) :], after[:near]
    scores = []
    for n in range(blank.low, blank.high + 1):
        row = torch.cat([left, torch.full((n,), mask_id), right]).to(model.head.weight.device)  # [L]
        places = (row != mask_id).nonzero().flatten()  # [G]
        if len(places) == 0:
            raise UserError("no letter beside the blank can be seen to choose its length by; give one length, or shorter ones.")
        generator = torch.Generator().manual_seed(seed)
        scores.append(diffusion.bound_on_part(model, row.expand(DRAWS, -1), places, generator).cpu())
    return torch.stack(scores)


def find_lengths(model, parts):
    """A length for every Blank among the parts; the unknown ones are found from left to right, and each choice is reported, with
    the runners-up and how much less likely they make the text around the blank, +- at most the standard error that the draws leave;
    the same draws chose the best, so the gaps are on the large side.

    Until its turn comes, an unknown length is taken to be in the middle of what is allowed.
    """
    mask_id = model.config.vocab_size
    places = [i for i, part in enumerate(parts) if isinstance(part, Blank)]
    lengths = [(parts[i].low + parts[i].high) // 2 for i in places]
    if (longest := max(parts[i].high for i in places)) > model.config.context:
        raise UserError(f"a blank of {longest} letters is too long; this model sees {model.config.context} at once.")
    for number, i in enumerate(places):
        blank = parts[i]
        if blank.low < blank.high:
            before = lay_out(parts[:i], lengths[:number], mask_id)  # [A]
            after = lay_out(parts[i + 1 :], lengths[number + 1 :], mask_id)  # [B]
            scores = score_lengths(model, before, after, blank)
            best, *others = scores.mean(dim=1).argsort()[:4].tolist()
            lengths[number] = blank.low + best
            behind = [(blank.low + other, *lesson1.mean_and_error(scores[other] - scores[best])) for other in others]
            text = ", ".join(f"{n} by {mean:.2f} +- {error:.2f}" for n, mean, error in behind)
            print(f"blank {number + 1}: {blank.low + best} letters fit best; less likely, in nats of the text around it: {text}", file=sys.stderr)
    return lengths


# ---------------------------------------------------------------------------------------------------------
# Filling


def group_blanks(masked, context):
    """masked, a list of L booleans, -> (first, last) of the groups of blanks that are filled together; last is excluded.

    All in one where the text fits into the context. Otherwise a group spans half a context at most, or a single blank, so that
    a window around it has room for what stands on both sides. Raises UserError for a blank that does not fit.
    """
    longest = len(masked) if len(masked) <= context else context // 2
    groups = []
    for run in re.finditer("1+", "".join("01"[m] for m in masked)):
        if run.end() - run.start() > context:
            raise UserError(f"a blank of {run.end() - run.start()} letters is too long; this model sees {context} at once.")
        if groups and run.end() - groups[-1][0] <= longest:
            groups[-1] = (groups[-1][0], run.end())
        else:
            groups.append(run.span())
    return groups


def fill(model, canvas, steps, on_step=None, **settings):
    """Fills the masks of a canvas [B, L], which stand at the same places in every row, by fill_spans of lesson 6. Returns [B, L].

    A canvas longer than the context is filled group by group; in a window, the blanks of later groups stay masked.
    """
    mask_id, context, spans = model.config.vocab_size, model.config.context, []
    for first, last in group_blanks((canvas[0] == mask_id).tolist(), context):
        start = max(0, min((first + last - context) // 2, canvas.shape[1] - context))  # the group in the middle, where it can
        spans.append(((first, last), (start, start + context)))
    return generation.fill_spans(model, canvas, steps, spans, on_step, **settings)


def with_marks(tokenizer, tokens, masked):
    """tokens, masked [L] -> text in which what was masked is bold and green, where standard output is a terminal."""
    begin, end = ("\x1b[1;32m", "\x1b[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    units = [tokenizer.units[i] for i in tokens.tolist()]
    return "".join(begin + unit + end if filled else unit for unit, filled in zip(units, masked.tolist()))


# ---------------------------------------------------------------------------------------------------------
# The measurement: blanks in the middle of held-out windows

SIZES = (1, 4, 16, 64)
WINDOWS = 200  # in which a blank is filled
AT_ONCE = 8  # of them, for the GPT's continuations
ORDER_PASSES = 64  # for the tighter bound: as many orders as fit into these
LENGTH_WINDOWS = 48  # in which its length is found
CONTINUATIONS = 32  # among which the GPT may choose
BEST, GREEDY, TIGHTER = f"GPT, best of {CONTINUATIONS}", "dLLM at temperature 0", "dLLM, over several orders"
RANGE = Blank(1, 12)  # of the lengths that are to be found
PASSES = (1, 2, 4, 8, 16)  # in which hidden words are to be found


@torch.inference_mode()
def score_truth(writers, judge, windows, spans):
    """Prints the nats/character of what stands at spans, [(start, end)], of windows [N, L]. The dLLM sees both sides,
    and its figures are bounds (exact for one letter); the others see the left side, and are exact. Their differences are taken on the
    same windows, so that their error is smaller. Returns {who: [N figures, for each of SIZES]}."""
    texts, results = writers.texts(windows), {"dLLM": [], TIGHTER: [], "GPT": [], "n-gram judge": []}
    exact = gpt_lesson.token_nats(writers.gpt, windows).cpu()  # [N, L]
    for start, end in spans:
        places, generator = torch.arange(start, end), torch.Generator().manual_seed(0)
        draws = [diffusion.bound_on_part(writers.dllm, windows, places, generator).cpu() for _ in range(16)]
        orders = max(1, ORDER_PASSES // len(places))
        tighter = [diffusion.bound_over_orders(writers.dllm, some, places, orders, generator) for some in windows.split(64)]
        surprises = [[-math.log(judge.probability(text[:i], text[i])) for i in range(start, end)] for text in texts]
        totals = torch.stack(draws).mean(dim=0), torch.cat(tighter), exact[:, start:end].sum(dim=1), torch.tensor(surprises).sum(dim=1)
        for figures, total in zip(results.values(), totals):
            figures.append(total / (end - start))
    gains = {f"GPT minus {who}": [gpt - own for gpt, own in zip(results["GPT"], results[who])] for who in ("dLLM", TIGHTER)}
    print_figures("nats/character of the truth (dLLM: bounds)", {**results, **gains}, "{:.2f}")
    return results


def print_figures(title, results, form):
    """Prints {who: [N figures, for each of SIZES]} as a table of means and standard errors."""
    print(f"\n| {title} | {' | '.join(f'blank of {size}' for size in SIZES)} |\n|---|{'---|' * len(SIZES)}")
    for who, figures in results.items():
        lesson1.print_row(who, form, map(lesson1.mean_and_error, figures))


def gpt_fillings(writers, windows, start, end, args, generator):
    """(the first, the best) of CONTINUATIONS of the left side, [N, L] each. The best is the one after which the GPT finds the
    right side likeliest: its fair chance to use it."""
    first, best, cached = [], [], gpt_lesson.can_cache(writers.gpt)
    for some in windows.split(AT_ONCE):  # [n, L]
        tries = some.repeat_interleave(CONTINUATIONS, dim=0)  # [n * CONTINUATIONS, L]
        filled = gpt_lesson.continue_text(writers.gpt, tries[:, :start], end, args.temp, args.topk, generator, cached)
        tries = torch.cat([filled, tries[:, end:]], dim=1)  # [n * CONTINUATIONS, L]
        right_side = gpt_lesson.token_nats(writers.gpt, tries)[:, end:].sum(dim=1)  # [n * CONTINUATIONS]
        tries = tries.view(len(some), CONTINUATIONS, -1)  # [n, CONTINUATIONS, L]
        likeliest = right_side.view(len(some), CONTINUATIONS).argmin(dim=1)  # [n]
        first.append(tries[:, 0])
        best.append(tries[torch.arange(len(some)), likeliest])
    return torch.cat(first), torch.cat(best)


def dllm_fillings(writers, windows, start, end, args, generator, temperature):
    """The windows [N, L] with start..end filled by the dLLM."""
    canvas = windows.clone()
    canvas[:, start:end] = writers.dllm.config.vocab_size
    steps = args.steps or end - start
    order = generation.pick_order(args.order, steps, end - start)
    return fill(writers.dllm, canvas, steps, temperature=temperature, top_k=args.topk, order=order, generator=generator)


def real_words(judge, texts, seam):
    """Of the words that touch the seam before character number `seam`, 1 for each that the training text has, 0 for the others."""
    touching = [word for text in texts for word in re.finditer(r"[\w']+", text) if word.start() <= seam <= word.end()]
    return torch.tensor([float(word.group() in judge.words) for word in touching])


def score_fillings(writers, judge, windows, spans, args):
    """Prints how good the fillings are. Returns {who: [N shares of characters right, for each of SIZES]}."""
    generator = generation.seeded_generator(args.seed)
    right, left_words, right_words = {}, {}, {}
    for start, end in tqdm(spans, desc="blanks", leave=False):
        first, best = gpt_fillings(writers, windows, start, end, args, generator)
        drawn, likeliest = (dllm_fillings(writers, windows, start, end, args, generator, t) for t in (args.temp, 0))
        for who, tokens in {"dLLM": drawn, GREEDY: likeliest, "GPT": first, BEST: best, "the text itself": windows}.items():
            texts = writers.texts(tokens)
            right.setdefault(who, []).append((tokens == windows)[:, start:end].float().mean(dim=1).cpu())
            left_words.setdefault(who, []).append(real_words(judge, texts, start))
            right_words.setdefault(who, []).append(real_words(judge, texts, end))
    del right["the text itself"]
    gains = {f"{who} minus {BEST}": [own - gpt for own, gpt in zip(right[who], right[BEST])] for who in ("dLLM", GREEDY)}
    print_figures("characters right", {**right, **gains}, "{:.1%}")
    print_figures("real words where the blank begins", left_words, "{:.1%}")
    print_figures("real words where it ends", right_words, "{:.1%}")
    return right


def draw_scores(nats, right):
    """Saves the picture of both figures against the size of the blank."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axes, results, label in zip(panels, (nats, right), ("nats/character of the truth (dLLM: bounds)", "share of characters right")):
        for who, figures in results.items():
            means, errors = zip(*map(lesson1.mean_and_error, figures))
            axes.errorbar(SIZES, means, errors, fmt="o-", label=who)
        axes.set(xscale="log", xlabel="letters in the blank", ylabel=label)
        axes.set_xticks(SIZES, SIZES)
        axes.minorticks_off()
        axes.legend()
    lesson1.save_figure(figure, "11_blanks.png")


def score_found_lengths(writers, windows):
    """Prints how often the true length of a blank is found, and how often two sets of draws agree on it."""
    found, sizes = [], range(RANGE.low, RANGE.high + 1)
    for number, window in enumerate(tqdm(windows.cpu(), desc="lengths", leave=False)):
        size = sizes[number % len(sizes)]  # all equally often
        start = (len(window) - size) // 2
        both = [score_lengths(writers.dllm, window[:start], window[start + size :], RANGE, seed) for seed in (0, 1)]
        one, other = (sizes[scores.mean(dim=1).argmin()] for scores in both)
        found.append((one == size, abs(one - size) <= 1, one == other))
    near = sum(abs(one - other) <= 1 for one in sizes for other in sizes) / len(sizes) ** 2
    print(f"\n| lengths from {RANGE.low} to {RANGE.high}; guessing finds {1 / len(sizes):.1%}, and {near:.1%} within 1 | share |\n|---|---|")
    names = "found", "found, or missed by 1", f"two sets of {DRAWS} draws choose the same length"
    for name, column in zip(names, torch.tensor(found).float().T):
        lesson1.print_row(name, "{:.1%}", [lesson1.mean_and_error(column)])


def score(args):
    """Prints all tables, and saves the picture, for blanks in held-out text."""
    args.dllm = args.checkpoint  # its name in lesson 10
    writers = compare.Writers(args)
    tokens, windows = lesson1.split_text(lesson1.load_text(args.data), writers.tokenizer, writers.context)
    windows = compare.spread(windows, min(WINDOWS, len(windows))).to(writers.device)
    judge = compare.Judge(writers.tokenizer.decode(tokens), writers.tokenizer.vocab_size)
    spans = [((writers.context - size) // 2, (writers.context + size) // 2) for size in SIZES]  # in the middle
    nats, right = score_truth(writers, judge, windows, spans), score_fillings(writers, judge, windows, spans, args)
    score_found_lengths(writers, compare.spread(windows, min(LENGTH_WINDOWS, len(windows))))
    draw_scores(nats, right)


# ---------------------------------------------------------------------------------------------------------
# Tamil couplets with every third word hidden


def third_words(tokenizer, couplet):
    """[(start, end)] in tokens of every third word of a couplet."""
    words = list(re.finditer(lesson9.WORD, couplet))[2::3]
    return [tuple(len(tokenizer.encode(couplet[:place])) for place in word.span()) for word in words]


def find_words(model, tokenizer, couplets, steps, order, args, generator):
    """[words] 1 for every hidden word that was found again, 0 for the others. Raises UserError if there is none."""
    right = []
    for places, rows in lesson8.by_length(tokenizer, couplets).values():
        spans = [third_words(tokenizer, couplets[place]) for place in places]
        canvas = rows.clone()
        for row, words in zip(canvas, spans):
            for start, end in words:
                row[start:end] = model.config.vocab_size
        canvas = canvas.to(model.head.weight.device)
        filled = diffusion.sample(model, canvas, steps, args.temp, args.topk, order, generator).cpu()
        for new, old, words in zip(filled, rows, spans):
            right += [float(torch.equal(new[start:end], old[start:end])) for start, end in words]
    if len(right) < 2:
        raise UserError("no couplet has a third word in this model's letters; give a model of Tamil by --checkpoint.")
    return torch.tensor(right)


def score_couplets(model, tokenizer, args):
    """Prints the share of hidden words found again in held-out couplets, for each order and number of passes."""
    _, _, couplets = lesson9.read_couplets(tokenizer, args)
    generator = generation.seeded_generator(args.seed)
    print(f"| every third word of {len(couplets)} couplets; passes: | {' | '.join(map(str, PASSES))} |\n|---|{'---|' * len(PASSES)}")
    for order in diffusion.ORDERS:
        found = [find_words(model, tokenizer, couplets, steps, order, args, generator) for steps in PASSES]
        lesson1.print_row(order, "{:.1%}", map(lesson1.mean_and_error, found))


# ---------------------------------------------------------------------------------------------------------
# The lesson, and the command line


def fill_text(model, tokenizer, text, args):
    """Fills the blanks in a text --num times, and prints it. Returns whether all that was given is still the same."""
    mask_id = model.config.vocab_size
    parts = read_blanks(unicodedata.normalize("NFC", text), tokenizer)
    canvas = lay_out(parts, find_lengths(model, parts), mask_id).expand(args.num, -1).to(model.head.weight.device)
    masked = canvas[0] == mask_id
    letters = int(masked.sum())
    order = generation.pick_order(args.order, args.steps or letters, letters)
    view = generation.LiveView(tokenizer, mask_id)
    tokens = fill(
        model, canvas, args.steps or letters, temperature=args.temp, top_k=args.topk, order=order,
        generator=generation.seeded_generator(args.seed), on_step=view if args.watch else None,
    )  # fmt: skip
    view.erase()
    generation.print_texts(with_marks(tokenizer, row, masked) for row in tokens)
    return torch.equal(tokens[:, ~masked], canvas[:, ~masked])


@torch.inference_mode()
def demo(model, tokenizer, args):
    """Walks through the lesson."""
    line = "The king will hear the voice of his people."
    tokens, places = torch.tensor(tokenizer.encode(line)), torch.arange(len(line))  # [L] each
    both_sides = tokens.repeat(len(line), 1)  # [L, L] row i is to tell how likely letter i is
    left_side = torch.where(places <= places[:, None], tokens, model.config.vocab_size)  # [L, L] masked to the right of i
    nats = [
        sum(diffusion.bound_on_part(model, rows[i : i + 1], places[i : i + 1]).item() for i in places) / len(line)
        for rows in (left_side.to(model.head.weight.device), both_sides.to(model.head.weight.device))
    ]
    print(f"1. The letters of {line!r}, nats each: {nats[0]:.2f} given the left side, {nats[1]:.2f} given both")
    lesson1.check("the right side makes a hidden letter likelier", nats[1] < nats[0])

    for number, text in enumerate(("The king will ____ the voice of his ______.", "My {2-9} lord, what news with you?"), 2):
        print(f"\n{number}. {text}")
        lesson1.check("what was given stands there unchanged", fill_text(model, tokenizer, text, args))


def given_text(args):
    """The text to fill: the argument, --file, or standard input where it is a pipe or a file; None without any of these, or where it is empty."""
    if args.file is not None:
        return lesson1.load_text(args.file).removesuffix("\n")
    if args.text is not None or not sys.stdin or not (stat.S_ISFIFO(os.fstat(0).st_mode) or stat.S_ISREG(os.fstat(0).st_mode)):
        return args.text
    piped = sys.stdin.buffer.read().decode("utf-8-sig", errors="replace")  # what is not UTF-8 is in no alphabet
    return piped.replace("\r\n", "\n").removesuffix("\n") or None


def main():
    """The command line of 11_fill_blanks.py."""
    parser = generation.generating_parser(__doc__, generation.SHIPPED, length=None)
    add = parser.add_argument
    add("text", nargs="?", metavar="TEXT", help="the text with its blanks")
    add("--file", metavar="FILE", help="the text is in this file")
    add("--watch", action="store_true", help="show the text while it is filled")
    add("--score", action="store_true", help="measure it on held-out text, beside a GPT")
    add("--couplets", action="store_true", help="measure it on Tamil couplets; give --checkpoint checkpoints/tamil.pt")
    add("--gpt", default=str(gpt_lesson.SHIPPED_GPT), metavar="FILE", help="with --score: the GPT beside it (default: checkpoints/gpt.pt)")
    add("--data", metavar="FILE", help="with --score or --couplets: what the model was trained on (default: TinyShakespeare, or data/tamil.txt)")
    args = parser.parse_args()
    if args.text is not None and args.file is not None:
        parser.error("give the text or --file, not both")
    if (args.text is not None or args.file is not None) + args.score + args.couplets > 1:
        parser.error("give a text to fill, or --score, or --couplets, one of them")
    if args.watch and (args.num > 1 or args.score or args.couplets or not sys.stderr.isatty()):
        parser.error("--watch needs a terminal, and shows one text being filled; leave out --num, --score and --couplets")
    model, tokenizer = generation.load_generator(parser, args)
    if args.score:
        score(args)
    elif args.couplets:
        score_couplets(model, tokenizer, args)
    elif (text := given_text(args)) is not None:
        fill_text(model, tokenizer, text, args)
    else:
        demo(model, tokenizer, args)


if __name__ == "__main__":
    lesson1.run(main)
