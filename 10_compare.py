"""Lesson 10. Which writes better, a dLLM or a GPT, and what does a pass buy?

Two models of the same size learned the same text by the same loop. First they are measured in the same unit on the same
windows, exact against exact. A GPT has an exact likelihood. So has a dLLM in three orders of lesson 4. The bound speaks
of random order and has a column of its own.

Then a judge reads what both write. The judge is an n-gram model: it guesses each letter from the five before it by
counting in the training text. What it reads at once is a piece, a text of one window's length. A piece that repeats
common words looks fluent to the judge. So the table shows diversity beside fluency.

A figure's standard error says how much it would vary with other pieces. The jackknife estimates it: leave out one piece
after the other and see how much the figure moves. The errors are wide here, since the texts are few.
`python -m benchmarks.sweep` tries 88 ways of writing. `python -m benchmarks.exact` shows what fewer passes cost.
What came out is in docs/dllm_vs_gpt.md, and for the small pair in docs/results.md.

Builds on:  lessons 1 (text), 4 (bound, exact_nats), 5 (load_kind), 6 (Sampling, generate), 7 (token_nats, writing).
Run:        python 10_compare.py            (about a minute on a laptop's CPU)
            python 10_compare.py --dllm checkpoints/mine_best.safetensors --gpt checkpoints/my_gpt_best.safetensors
Last line:  how much faster the cache makes the GPT.

Exercises (answers in docs/answers.md). Use --pieces 16.
  1. Let the judge be a 2-gram model (ORDER = 2). Which figures of the table still tell good text from bad?
  2. Judge the first pieces of the training text instead of pieces from all of it. How diverse are they, and why?
  3. Run it with another --seed. Which differences between two rows survive? What do the standard errors say of them?
"""

import math
import statistics
import timeit
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from tools.command_line import DEVICES, Parser, UserError, between, run
from tools.devices import pick_device
from tools.files import find_checkpoint
from tools.pictures import longest_copy, mean_and_error
from tools.training_run import Log

import torch
from tqdm import tqdm

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")

TITLES = "| text | nats/character | known words | distinct 4-grams | longest copy |\n|---|---|---|---|---|"
ORDER = 6  # the judge guesses a letter from the five before it
PIECES = 8  # that the judge reads of each kind
WINDOWS = 8  # of held-out text for the exact figures. Each takes 128 passes in each order
AT_ONCE = 32  # windows in a batch


# ---- The models
class Writers:
    """Both models, with one way of calling each. They must share an alphabet."""

    def __init__(self, dllm, gpt_name, device="auto", length=None):
        """dllm, gpt_name: checkpoints. length: that of windows and pieces, None for the shorter context."""
        self.device = pick_device(device)
        files = find_checkpoint(dllm), find_checkpoint(gpt_name)
        self.dllm, self.tokenizer, dllm_info = training.load_kind(files[0], False, self.device)
        self.gpt, other, gpt_info = training.load_kind(files[1], True, self.device)
        if self.tokenizer.units != other.units:
            raise UserError(f"{dllm} and {gpt_name} do not have the same alphabet, so they cannot be compared.")
        contexts = self.dllm.config.context, self.gpt.config.context
        self.length, self.caches = length or min(contexts), gpt.can_cache(self.gpt)
        if self.length > min(contexts):
            raise UserError(f"--len {length} is too long; these models see {min(contexts)} letters at once.")
        self.infos, self.logs = (dllm_info, gpt_info), tuple(map(log_beside, files))

    def texts(self, tokens):
        """Tokens [N, L] -> N texts."""
        return [self.tokenizer.decode(row) for row in tokens.tolist()]

    def by_dllm(self, sampling, num, length, seed):
        """num texts of that length by the dLLM."""
        canvas = torch.full((num, length), self.tokenizer.vocab_size, device=self.device)
        return self.texts(generation.generate(self.dllm, canvas, sampling, torch.Generator().manual_seed(seed)))

    def by_gpt(self, temperature, num, length, seed, cached=True):
        """num texts of that length by the GPT."""
        empty = torch.zeros(num, 0, dtype=torch.long, device=self.device)  # [num, 0]
        generator, cached = torch.Generator().manual_seed(seed), cached and self.caches
        return self.texts(gpt.continue_text(self.gpt, empty, length, temperature, None, generator, cached))


def log_beside(path):
    """The rows of the log beside a checkpoint NAME.safetensors or NAME_best.safetensors. [] if there is no log."""
    return Log(path.with_name(path.stem.removesuffix("_best") + ".csv"), step=math.inf).rows


def prepare(dllm, gpt_name, device, data, length=None):
    """(Writers, training tokens [N], held-out windows [M, L]). data: the text's path, None for TinyShakespeare."""
    writers = Writers(dllm, gpt_name, device, length)
    tokens, windows = tensors.split_text(tensors.load_text(data), writers.tokenizer, writers.length)
    return writers, tokens, windows


def spread(windows, num, flag="--pieces"):
    """[num, L] of the windows [M, L], spread evenly over all. Raises UserError where they are too few."""
    if num > len(windows):
        raise UserError(f"{flag} {num} is too many; the text has {len(windows)} windows.")
    return windows[torch.linspace(0, len(windows) - 1, num).round().long()]


def show_models(writers):
    """What each model was given."""
    print("\n1. The models\n\n| | dLLM | GPT |\n|---|---|---|")
    rows = {"parameters": [f"{sum(p.numel() for p in m.parameters()):,}" for m in (writers.dllm, writers.gpt)]}
    for key in ("characters", "seconds"):
        until = [f"{info[key]:,.0f}" if key in info else "not recorded" for info in writers.infos]
        whole = [f"{float(log[-1][key]):,.0f}" if log else "not recorded" for log in writers.logs]
        rows |= {f"{key} of training, until these weights": until, f"{key} of the whole run": whole}
    rows["dropout"] = [str(info.get("config", {}).get("dropout", "not recorded")) for info in writers.infos]
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


# ---- Exact against exact
def in_batches(measure, windows):
    """[N] the figures of windows [N, L], from measure(part) -> [n] of a part at a time."""
    return torch.cat([measure(part).cpu() for part in windows.split(AT_ONCE)])


@torch.inference_mode()
def show_exact_nats(writers, windows):
    """Prints the exact figures on windows [N, L], their differences to the GPT's, and the bound of random order.

    Beside each stands its standard error over the windows. Returns the exact figures, {name: [N] nats per letter}.
    """
    N, L = windows.shape
    print(f"\n2. How well each predicts {N} held-out windows of {L} characters, nats/character\n")
    print("| | exact | exact, minus the GPT's | bound |\n|---|---|---|---|")
    windows, generator = windows.to(writers.device), torch.Generator().manual_seed(0)
    form, gaps = "{:.3f} +- {:.3f}".format, {}
    figures = {"GPT": in_batches(lambda part: gpt.token_nats(writers.gpt, part).mean(dim=1), windows)}
    print(f"| GPT | {form(*mean_and_error(figures['GPT']))} | | |")
    for order in diffusion.EXACT_ORDERS:  # a letter a pass
        name, measure = f"dLLM, {order}", partial(diffusion.exact_nats, writers.dllm, order=order, steps=L)
        figures[name] = in_batches(measure, windows)
        gaps[name] = mean_and_error(figures[name] - figures["GPT"])
        print(f"| {name} | {form(*mean_and_error(figures[name]))} | {form(*gaps[name])} | |")
    bounds = in_batches(lambda part: diffusion.bound(writers.dllm, part, 16, generator), windows)
    print(f"| dLLM, random | | | {form(*mean_and_error(bounds))} |")
    best = min(gaps, key=lambda name: gaps[name][0])  # picked, so the last line asks for 3 errors and not 2
    gap, error = gaps[best]
    more, better = ("more", "the GPT predicts them better") if gap > 0 else ("less", "the dLLM predicts them better")
    print(f"\nExact against exact, {best} (its best order here) needs {form(abs(gap), error)} nats/character", end=" ")
    print(f"{more} than the GPT: {better if abs(gap) > 3 * error else 'no clear difference'}.")
    return figures


# ---- The judge
def split_words(text):
    """The words of a text: letters, digits and apostrophes, and signs that join a letter, as Tamil vowels do."""
    belongs = (c.isalnum() or c in "_'" or unicodedata.category(c)[0] == "M" for c in text)
    return "".join(c if part else " " for c, part in zip(text, belongs)).split()


class Judge:
    """Knows the training text and gives four figures to any pieces of text.

    Fluency is the cross-entropy under an n-gram model of letters, interpolated by Witten and Bell's method (Chen and
    Goodman, arXiv cmp-lg/9606011). N(h) says how often the history h occurs. D(h) counts the different letters after h.
        p(c | h) = (N(hc) + D(h) p(c | h without its first letter)) / (N(h) + D(h))
    The less a history tells, the more the shorter one decides. Below the empty history stands 1/V.
    """

    def __init__(self, text, vocab_size, order=ORDER):
        self.text, self.order, self.vocab_size = text, order, vocab_size
        self.words = set(split_words(text))
        self.counts, self.seen, self.different = Counter(), Counter(), Counter()  # N(hc), N(h), D(h)
        for n in range(1, order + 1):
            self.counts.update(text[i : i + n] for i in range(len(text) - n + 1))
        for gram, count in self.counts.items():
            self.seen[gram[:-1]] += count
            self.different[gram[:-1]] += 1

    def probability(self, history, character):
        """p(character | the last order - 1 characters of the history)."""
        p = 1 / self.vocab_size
        for length in range(min(self.order - 1, len(history)) + 1):  # from the empty history to the longest
            h = history[len(history) - length :]
            if h not in self.seen:
                break
            p = (self.counts[h + character] + self.different[h] * p) / (self.seen[h] + self.different[h])
        return p

    def nats(self, pieces):
        """Nats per letter. Less is more fluent."""
        places = [(piece, i) for piece in pieces for i in range(len(piece))]
        return statistics.fmean(-math.log(self.probability(piece[:i], piece[i])) for piece, i in places)

    def known_words(self, pieces):
        """The share of words that occur in the training text. A word cut off at an end counts as it stands."""
        words = [word for piece in pieces for word in split_words(piece)]
        return sum(word in self.words for word in words) / max(1, len(words))

    def distinct(self, pieces):
        """Diversity: the share of different 4-grams among all 4-grams of letters in all pieces.

        It falls with the number of pieces. Compare equal numbers of pieces of equal length.
        """
        grams = [piece[i : i + 4] for piece in pieces for i in range(len(piece) - 3)]
        return len(set(grams)) / max(1, len(grams))

    def longest_copy(self, pieces):
        """The length of the longest passage in any piece that stands in the training text."""
        return longest_copy(pieces, self.text)


def with_error(figure, pieces):
    """(figure(pieces), its standard error by the jackknife)."""
    n = len(pieces)
    without = [figure(pieces[:i] + pieces[i + 1 :]) for i in range(n)]  # each lacks one piece
    mean = statistics.fmean(without)
    # A figure without one piece moves 1/(n - 1) as far as that piece lies off. So the squares are summed, not averaged.
    return figure(pieces), math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without))


@dataclass
class Verdict:
    """What the judge says of one way of writing."""

    label: str
    nats: tuple  # (figure, standard error), as are the next two
    words: tuple
    distinct: tuple
    longest: int
    pieces: list

    def row(self):
        """As a row of a table."""
        cells = ("{:.2f} +- {:.2f}", self.nats), ("{:.1%} +- {:.1%}", self.words), ("{:.3f} +- {:.3f}", self.distinct)
        return f"| {self.label} | {' | '.join(form.format(*values) for form, values in cells)} | {self.longest} |"


def judge_pieces(judge, label, pieces):
    """Judges pieces of equal length. Returns a Verdict."""
    nats = mean_and_error(torch.tensor([judge.nats([piece]) for piece in pieces], dtype=torch.float64))
    words, distinct = (with_error(share, pieces) for share in (judge.known_words, judge.distinct))
    return Verdict(label, nats, words, distinct, judge.longest_copy(pieces), pieces)


# ---- Writing, and judging what was written
def letters_a_pass(number, length, temperature=0.8, order=None, top_k=generation.ALL):
    """The Sampling that writes `number` of `length` letters a pass. Without an order lesson 6 chooses it."""
    return generation.Sampling.for_letters(length, temperature, top_k, None, 0, order, letters_a_pass=number)


def describe(sampling, length):
    """The label of a Sampling that writes `length` letters."""
    top = f", top-k {sampling.top_k}" if sampling.top_k < generation.ALL else ""
    return f"dLLM, {round(length / sampling.steps)} a pass, {sampling.order}, {sampling.temperature}{top}"


def show_judged(judge, real, ways):
    """Prints the judge's table. real: {label: pieces}. ways: {label: function that writes pieces}. Returns Verdicts."""
    verdicts = [judge_pieces(judge, label, pieces) for label, pieces in real.items()]
    size = f"{len(verdicts[0].pieces)} pieces of {len(verdicts[0].pieces[0])} characters each"
    print(f"\n3. The judge: {size}, +- one standard error over the pieces\n\n{TITLES}")
    print(*(verdict.row() for verdict in verdicts), sep="\n")
    for label, write in tqdm(ways.items(), desc="judging", leave=False, disable=None):
        verdicts.append(judge_pieces(judge, label, write()))
        tqdm.write(verdicts[-1].row())
    return verdicts


def show_pieces(verdicts):
    """Prints the first piece of each. Nobody picked it."""
    print("\n4. The first pieces")
    for verdict in verdicts:
        print(f"\n--- {verdict.label}\n{verdict.pieces[0]}")


def few_samplings(length):
    """Ways in which the dLLM writes without taking back: two good ones and two bad ones."""
    return [
        letters_a_pass(1, length, order="certainty"),
        letters_a_pass(4, length, order="random"),
        letters_a_pass(4, length, order="certainty"),  # neighbours in one pass do not see each other
        letters_a_pass(1, length, temperature=1.0, order="confidence"),  # repeats itself
    ]


# ---- Speed
def characters_per_second(write, length, repeats=3):
    """The median speed of a few calls that write `length` letters."""
    return length / statistics.median(timeit.repeat(write, number=1, repeat=repeats))


def show_speed(writers):
    """Prints the characters per second of a single text, in a few ways."""
    L = writers.length
    print(f"\n5. Speed: one text of {L} characters, median of 3\n\n| | passes | characters/s |\n|---|---|---|")
    rates = []
    for sampling in few_samplings(L)[:2]:
        rate = characters_per_second(lambda: writers.by_dllm(sampling, 1, L, 0), L)
        print(f"| {describe(sampling, L)} | {sampling.steps} | {rate:,.0f} |")
    for cached in (False, True) if writers.caches else (False,):
        rates.append(characters_per_second(lambda: writers.by_gpt(0.8, 1, L, 0, cached), L))
        print(f"| GPT, with{'' if cached else 'out'} cache | {L} | {rates[-1]:,.0f} |")
    if writers.caches:
        print(f"\nThe cache makes the GPT {rates[1] / rates[0]:.1f} times faster.")


# ---- The command line
def comparing_parser(doc, pieces=None):
    """The flags that this lesson and its benchmarks share. pieces: the default of --pieces, None for no such flag."""
    parser = Parser(doc)
    add = parser.add_argument
    add("--dllm", default=str(generation.SMALL), metavar="FILE", help="default: checkpoints/small.safetensors")
    add("--gpt", default=str(gpt.SMALL_GPT), metavar="FILE", help="default: checkpoints/gpt_small.safetensors")
    add("--data", metavar="FILE", help="the text that both were trained on (default: TinyShakespeare, downloaded once)")
    add("--len", type=between(int, 8, 10**5), help="letters of a window and of a piece (default: the shorter context)")
    if pieces:
        add("--pieces", type=between(int, 2, 10**5), default=pieces, help="of each kind of text (default: %(default)s)")
    add("--seed", type=between(int, 0, 2**63 - 2), default=0, help="default: %(default)s")
    add("--device", choices=DEVICES, default="auto", help="default: auto")
    return parser


def main():
    """The command line of 10_compare.py."""
    parser, count = comparing_parser(__doc__, PIECES), between(int, 2, 10**5)
    parser.add_argument("--windows", type=count, help=f"of held-out text, for the exact figures (default: {WINDOWS})")
    args = parser.parse_args()
    writers, tokens, windows = prepare(args.dllm, args.gpt, args.device, args.data, args.len)
    num, L, seen = args.pieces, writers.length, tensors.consecutive_windows(tokens, writers.length)
    samples = {"real, held out": spread(windows, num), "real, from training": spread(seen, num)}
    real = {label: writers.texts(pieces) for label, pieces in samples.items()}
    ways = {"GPT, 0.8": partial(writers.by_gpt, 0.8, num, L, args.seed)}
    for sampling in few_samplings(L):
        ways[describe(sampling, L)] = partial(writers.by_dllm, sampling, num, L, args.seed)
    exact_windows = spread(windows, args.windows or min(WINDOWS, len(windows)), "--windows")
    show_models(writers)
    show_exact_nats(writers, exact_windows)
    judge = Judge(writers.tokenizer.decode(tokens), writers.tokenizer.vocab_size)
    show_pieces(show_judged(judge, real, ways)[2:])
    show_speed(writers)


if __name__ == "__main__":
    run(main)
