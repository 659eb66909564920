"""Lesson 10. Which writes better, a dLLM or a GPT, and what does a step buy?

Two models of the same size, trained on the same text by the same loop, measured in the same unit on the same windows:
an exact likelihood for the GPT, a bound for the dLLM. Then a judge reads what they write. A text that repeats itself
is easy to find fluent, so fluency is never shown without diversity beside it.

Builds on:  lessons 1 (text), 3 (sizes), 4 (the bound, sample), 5 (load_kind), 6 (generate) and 7 (continue_text).
Run:        python 10_compare.py            (half an hour on a laptop's CPU: 50,000 passes of text; --pieces 8 is a quick look)
            python 10_compare.py --dllm checkpoints/my_shakespeare_best.pt --gpt checkpoints/my_gpt_best.pt
Last line:  the path of a picture, `figures/10_speed.png`.

The other pictures are figures/10_curves.png, drawn from the logs (.csv) beside the checkpoints, and figures/10_steps.png.

Exercises (answers in docs/answers.md; use --pieces 16)
  1. Let the judge be a 2-gram model (ORDER = 2). Which figures of the table still tell good text from bad?
  2. Draw the "real" pieces from the training text. What happens to each of the four figures, and which one gives it away?
  3. Run it with another --seed. Which differences between two rows survive, and what do the standard errors say of them?
"""

import csv
import math
import re
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from tqdm import tqdm

lesson1 = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt_lesson = import_module("07_train_gpt")
UserError = lesson1.UserError

ORDER = 6  # the judge guesses a character from the five before it
CHARACTERS_A_PASS = (1, 2, 4, 8, 16, 32)
TEMPERATURES = {  # for every order those that span what is worth seeing
    "confidence": (1.0, 1.3, 1.6, 2.0),
    "certainty": (0.6, 0.7, 0.8, 0.9, 1.0),
    "random": (0.4, 0.6, 0.8, 1.0),
}
GPT_TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0)
TOP_KS = (3, 5, 10)  # at one character a pass, by certainty, at temperature 1
SAME_DIVERSITY = 0.03  # a setting may be this much less diverse than real text, and be called as diverse


# ---------------------------------------------------------------------------------------------------------
# The judge


class Judge:
    """Knows the training text, and gives four figures to any pieces of text.

    Fluency is the cross-entropy under a character n-gram model, interpolated as Witten and Bell have it (Chen and Goodman,
    arXiv cmp-lg/9606011): with N(h) the number of times that the history h occurs, and D(h) that of the
    different characters that follow it,

        p(c | h) = (N(hc) + D(h) p(c | h without its first character)) / (N(h) + D(h))

    and below the empty history, 1/V.
    """

    def __init__(self, text, order=ORDER):
        self.text, self.order, self.vocab_size = text, order, len(set(text))
        self.words = set(re.findall(r"[\w']+", text))
        self.counts, self.seen, self.different = Counter(), Counter(), Counter()  # N(hc), N(h), D(h)
        for n in range(1, order + 1):
            self.counts.update(text[i : i + n] for i in range(len(text) - n + 1))
        for gram, count in self.counts.items():
            self.seen[gram[:-1]] += count
            self.different[gram[:-1]] += 1

    def probability(self, history, character):
        """p(character | history), from the last order - 1 characters of the history."""
        p = 1 / self.vocab_size
        for length in range(min(self.order - 1, len(history)) + 1):  # from the empty history to the longest
            h = history[len(history) - length :]
            if h not in self.seen:
                break
            p = (self.counts[h + character] + self.different[h] * p) / (self.seen[h] + self.different[h])
        return p

    def nats(self, pieces):
        """Nats per character, less being more fluent."""
        surprises = [
            -math.log(self.probability(piece[max(0, i - self.order + 1) : i], piece[i]))
            for piece in pieces
            for i in range(len(piece))
        ]
        return statistics.fmean(surprises)

    def known_words(self, pieces):
        """The share of words that occur in the training text; a word cut off at an end counts as it stands."""
        words = [word for piece in pieces for word in re.findall(r"[\w']+", piece)]
        return sum(word in self.words for word in words) / max(1, len(words))

    def distinct(self, pieces):
        """The share of different character 4-grams among all 4-grams of all pieces: diversity. Compare it between equal
        numbers of pieces of equal length alone, since it falls with their number."""
        grams = [piece[i : i + 4] for piece in pieces for i in range(len(piece) - 3)]
        return len(set(grams)) / max(1, len(grams))

    def longest_copy(self, pieces):
        """The length of the longest passage in any piece that stands in the training text."""
        longest = 0
        for piece in pieces:
            start = 0
            while start + longest < len(piece):
                if piece[start : start + longest + 1] in self.text:
                    longest += 1
                else:
                    start += 1
        return longest


def with_error(figure, pieces):
    """(figure(pieces), its standard error by the jackknife: how much it varies as each piece is left out in turn)."""
    n = len(pieces)
    without = [figure(pieces[:i] + pieces[i + 1 :]) for i in range(n)]
    mean = statistics.fmean(without)
    return figure(pieces), math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without))


def mean_with_error(figure, pieces):
    """The same for a figure that is an average over pieces of equal length, where the jackknife is the usual formula."""
    values = [figure([piece]) for piece in pieces]
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


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
        cells = (f"{self.nats[0]:.2f} ± {self.nats[1]:.2f}", f"{self.words[0]:.1%} ± {self.words[1]:.1%}")
        return f"| {self.label} | {' | '.join(cells)} | {self.distinct[0]:.3f} ± {self.distinct[1]:.3f} | {self.longest} |"


def judge_pieces(judge, label, pieces):
    """Judges pieces of equal length. Returns a Verdict."""
    return Verdict(
        label, mean_with_error(judge.nats, pieces), with_error(judge.known_words, pieces),
        with_error(judge.distinct, pieces), judge.longest_copy(pieces), pieces,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------
# Writing


@dataclass(frozen=True)
class Setting:
    """One way to let the dLLM write."""

    order: str
    temperature: float
    characters: int = 1  # a pass
    top_k: int | None = None

    def __str__(self):
        top = f", top-k {self.top_k}" if self.top_k else ""
        return f"dLLM, {self.characters} a pass, {self.order}, {self.temperature}{top}"


def all_settings():
    """The settings that are judged."""
    grid = [
        Setting(order, temperature, characters)
        for order, temperatures in TEMPERATURES.items()
        for characters in CHARACTERS_A_PASS
        for temperature in temperatures
    ]
    return grid + [Setting("certainty", 1.0, top_k=top_k) for top_k in TOP_KS]


class Writers:
    """Both models, with one way of calling them. They must share an alphabet."""

    def __init__(self, args):
        device = transformer.pick_device(args.device)
        self.dllm, self.tokenizer, self.dllm_info = training.load_kind(args.dllm, False, device)
        self.gpt, other, self.gpt_info = training.load_kind(args.gpt, True, device)
        if self.tokenizer.units != other.units:
            raise UserError(f"{args.dllm} and {args.gpt} do not have the same alphabet, so they cannot be compared.")
        if self.dllm.config.context != self.gpt.config.context:
            raise UserError(f"{args.dllm} and {args.gpt} do not have the same context, so their windows differ.")
        self.seed, self.device, self.context = args.seed, device, self.dllm.config.context

    def texts(self, tokens):
        """[N, L] tokens -> N texts."""
        return [self.tokenizer.decode(row) for row in tokens]

    def by_dllm(self, setting, num, length):
        """num texts of that length, by the dLLM."""
        generator = torch.Generator().manual_seed(self.seed)
        canvas = torch.full((num, length), self.tokenizer.vocab_size, device=self.device)
        return self.texts(
            generation.generate(
                self.dllm, canvas, math.ceil(length / setting.characters), temperature=setting.temperature,
                top_k=setting.top_k, order=setting.order, generator=generator,
            )
        )  # fmt: skip

    def by_gpt(self, temperature, num, length, cached=True):
        """num texts of that length, by the GPT."""
        generator = torch.Generator().manual_seed(self.seed)
        empty = torch.zeros(num, 0, dtype=torch.long, device=self.device)
        cached = cached and gpt_lesson.can_cache(self.gpt)
        return self.texts(gpt_lesson.continue_text(self.gpt, empty, length, temperature, generator=generator, cached=cached))


def real_pieces(windows, num):
    """num of the held-out windows [M, L], spread evenly over all of them. Returns [num, L]."""
    if num > len(windows):
        raise UserError(f"--pieces {num} is too many; the held-out text has {len(windows)} windows.")
    return windows[torch.linspace(0, len(windows) - 1, num).round().long()]


# ---------------------------------------------------------------------------------------------------------
# The comparison


def show_models(writers, windows):
    """The two models, what each was given, and the held-out figures in the same unit."""
    print("\n1. The models\n")
    print("| | dLLM | GPT |\n|---|---|---|")
    models, infos = (writers.dllm, writers.gpt), (writers.dllm_info, writers.gpt_info)
    rows = {"parameters": [f"{sum(p.numel() for p in model.parameters()):,}" for model in models]}
    for key in ("characters", "seconds"):
        rows[f"{key} of training"] = [f"{info[key]:,.0f}" if key in info else "not recorded" for info in infos]
    rows["dropout"] = [str(model.config.dropout) for model in models]
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")
    held = training.report_bound(writers.dllm, windows), gpt_lesson.report_exact(writers.gpt, windows)
    print(f"| held-out text | {held[0]} | {held[1]} |")


def read_log(checkpoint):
    """The rows of the log beside a checkpoint NAME.pt or NAME_best.pt, or None."""
    path = Path(checkpoint)
    path = path.with_name(path.stem.removesuffix("_best") + ".csv")
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw_curves(args):
    """Saves the learning curves of both, from their logs."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, path, color in (("dLLM, bound", args.dllm, "tab:blue"), ("GPT, exact", args.gpt, "tab:red")):
        rows = read_log(path)
        if rows is None:
            print(f"No log beside {path}, so its curve is missing from the picture.")
            continue
        for column, label, style in (("heldout", f"{name}, held-out text", "o-"), ("loss", f"{name.split(',')[0]}, training loss", ":")):
            points = [(int(row["characters"]) / 1e6, float(row[column])) for row in rows if row[column]]
            axes.plot(*zip(*points), style, color=color, label=label, markersize=4)
    axes.set(xlabel="million characters of training", ylabel="nats per character", ylim=(0.8, 2.6))
    axes.legend()
    lesson1.save_figure(figure, "10_curves.png")


def judge_all(writers, judge, real):
    """Judges real text, the GPT and the dLLM. Returns {"real" | GPT temperature | Setting: Verdict}."""
    num, length = real.shape
    print(f"\n2. The judge: {num} pieces of {length} characters each, ± one standard error\n")
    print("| text | nats/character | words known | distinct 4-grams | longest copy |\n|---|---|---|---|---|")
    jobs = {"real": ("real, held out", lambda: writers.texts(real))}
    for temperature in GPT_TEMPERATURES:
        jobs[temperature] = (f"GPT, {temperature}", lambda t=temperature: writers.by_gpt(t, num, length))
    for setting in all_settings():
        jobs[setting] = (str(setting), lambda s=setting: writers.by_dllm(s, num, length))
    verdicts = {}
    for key, (label, write) in tqdm(jobs.items(), desc="judging", leave=False):
        verdicts[key] = judge_pieces(judge, label, write())
        tqdm.write(verdicts[key].row())
    return verdicts


def show_choice(verdicts):
    """Of the settings that are as diverse as real text, the most fluent: the defaults of lesson 6."""
    real = verdicts["real"].distinct[0]
    diverse = [v for key, v in verdicts.items() if isinstance(key, Setting) and abs(v.distinct[0] - real) <= SAME_DIVERSITY]
    print(f"\n3. As diverse as real text, {real:.3f} ± {SAME_DIVERSITY}, and the most fluent of those\n")
    for verdict in sorted(diverse, key=lambda v: v.nats[0])[:5]:
        print(verdict.row())
    if not diverse:
        print("None.")


def show_samples(verdicts, temperature=0.8):
    """The first piece of each, not picked, at one temperature."""
    print(f"\n4. The first pieces, at temperature {temperature}")
    for key in (temperature, *(Setting("certainty", temperature, characters) for characters in (1, 4, 16))):
        print(f"\n--- {verdicts[key].label}\n{verdicts[key].pieces[0]}")


def draw_steps(verdicts):
    """Saves the picture of what a step buys: fluency against diversity, a curve over temperatures for each haste."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(15, 5), sharex=True, sharey=True, layout="constrained")
    colors = plt.get_cmap("viridis")(torch.linspace(0, 0.9, len(CHARACTERS_A_PASS)).numpy())
    for axes, (order, temperatures) in zip(panels, TEMPERATURES.items()):
        for characters, color in zip(CHARACTERS_A_PASS, colors):
            points = [verdicts[Setting(order, temperature, characters)] for temperature in temperatures]
            x, y = [v.distinct[0] for v in points], [v.nats[0] for v in points]
            axes.plot(x, y, "o-", color=color, markersize=4, label=f"dLLM, {characters} a pass")
        points = [verdicts[temperature] for temperature in GPT_TEMPERATURES]
        axes.plot([v.distinct[0] for v in points], [v.nats[0] for v in points], "s--", color="tab:red", markersize=4, label="GPT")
        axes.plot(verdicts["real"].distinct[0], verdicts["real"].nats[0], "*", color="black", markersize=14, label="real text")
        axes.set(title=f"{order}, temperatures {', '.join(map(str, temperatures))}", xlabel="diversity: share of distinct 4-grams")
    panels[0].set_ylabel("nats per character to the judge: less is more fluent")
    panels[0].legend()
    lesson1.save_figure(figure, "10_steps.png")


def seconds_of(write, repeats=3):
    """The median time of a few calls."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        write()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def show_speed(writers, length=256):
    """Characters per second of a single text, against the number of passes."""
    print(f"\n5. Speed: one text of {length} characters, median of 3\n")
    print("| | passes | characters/s |\n|---|---|---|")
    rates = {}
    for characters in CHARACTERS_A_PASS:
        setting = Setting("certainty", 0.8, characters)
        rates[length // characters] = length / seconds_of(lambda: writers.by_dllm(setting, 1, length))
        print(f"| dLLM, {characters} a pass | {length // characters} | {rates[length // characters]:,.0f} |")
    for cached, name in ((True, "GPT, with cache"), (False, "GPT, without cache")):
        rates[name] = length / seconds_of(lambda: writers.by_gpt(0.8, 1, length, cached))
        print(f"| {name} | {length} | {rates[name]:,.0f} |")
    print(f"\nThe cache makes the GPT {rates['GPT, with cache'] / rates['GPT, without cache']:.1f} times faster.")
    return rates


def draw_speed(rates, length=256):
    """Saves the picture of the speeds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    passes = [key for key in rates if isinstance(key, int)]
    axes.plot(passes, [rates[p] for p in passes], "o-", label="dLLM")
    for name, mark in (("GPT, with cache", "s"), ("GPT, without cache", "D")):
        axes.plot(length, rates[name], mark, color="tab:red", label=name)
    axes.set(xscale="log", yscale="log", xlabel=f"passes for {length} characters", ylabel="characters per second")
    axes.set_xticks(passes, passes)
    axes.minorticks_off()
    axes.legend()
    lesson1.save_figure(figure, "10_speed.png")


def main():
    """The command line of 10_compare.py."""
    parser = lesson1.Parser(__doc__)
    add, number = parser.add_argument, lesson1.between
    add("--dllm", default=generation.SHIPPED, metavar="FILE", help="default: checkpoints/shakespeare.pt")
    add("--gpt", default=gpt_lesson.SHIPPED_GPT, metavar="FILE", help="default: checkpoints/gpt.pt")
    add("--data", metavar="FILE", help="the text that both were trained on (default: TinyShakespeare, downloaded once)")
    add("--pieces", type=number(int, 2), default=48, help="texts that the judge reads of each kind (default: %(default)s)")
    add("--seed", type=number(int, 0, 2**63 - 1), default=0, help="default: %(default)s")
    add("--device", choices=transformer.DEVICES, default="auto", help="default: auto")
    args = parser.parse_args()

    writers = Writers(args)
    text = lesson1.load_text(args.data)
    tokens, windows = lesson1.split_text(text, writers.tokenizer, writers.context)
    real = real_pieces(windows, args.pieces)
    show_models(writers, windows.to(writers.device))
    draw_curves(args)
    verdicts = judge_all(writers, Judge(writers.tokenizer.decode(tokens)), real)
    show_choice(verdicts)
    show_samples(verdicts)
    draw_steps(verdicts)
    draw_speed(show_speed(writers))


if __name__ == "__main__":
    lesson1.run(main)
