"""Lesson 10. Which writes better, a dLLM or a GPT, and what does a step buy?

Two models of the same size, trained on the same text by the same loop, measured in the same unit on the same windows:
an exact likelihood for the GPT, a bound for the dLLM. Then a judge reads what they write: an n-gram model, which guesses each
character from the five before it by counting in the training text. To it, a text that repeats common words looks fluent, so
fluency is never shown without diversity beside it.

Builds on:  lessons 1 (text), 3 (devices), 5 (load_kind, Log), 6 (generate, longest_copy) and 7 (continue_text).
Run:        python 10_compare.py            (about half an hour on one core; --pieces 8 is a quick look)
            python 10_compare.py --dllm checkpoints/my_shakespeare_best.pt --gpt checkpoints/my_gpt_best.pt
Last line:  the path of a picture, `figures/10_speed.png`. Lesson 11 takes from here: Judge, Writers, spread.

The other pictures are figures/10_curves.png, drawn from the logs (.csv) beside the checkpoints, and figures/10_steps.png.

Exercises (answers in docs/answers.md; use --pieces 16)
  1. Let the judge be a 2-gram model (ORDER = 2). Which figures of the table still tell good text from bad?
  2. Judge the first pieces of the training text instead of pieces from all of it. What happens to their diversity, and why?
  3. Run it with another --seed. Which differences between two rows survive, and what do the standard errors say of them?
"""

import functools
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
training = import_module("05_train")
generation = import_module("06_generate")
gpt_lesson = import_module("07_train_gpt")
UserError = lesson1.UserError

ORDER = 6  # the judge guesses a character from the five before it
CHARACTERS_A_PASS = (1, 2, 4, 8, 16, 32)
TEMPERATURES = {  # confidence sharpens by itself (lesson 4, c), so it needs more heat
    "confidence": (1.0, 1.3, 1.6, 2.0),
    "certainty": (0.6, 0.7, 0.8, 0.9, 1.0),
    "random": (0.4, 0.6, 0.8, 1.0),
}
GPT_TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
LEFT_TO_RIGHT = "left to right"  # the order in which the GPT writes
TOP_KS = (3, 5, 10)  # at one character a pass, by certainty, at temperature 1
SAME_DIVERSITY = 0.03  # how far a setting's diversity may be from real text's, to either side
SPEED_LENGTH = 256  # characters of the text that is timed


# ---------------------------------------------------------------------------------------------------------
# The judge


class Judge:
    """Knows the training text, and gives four figures to any pieces of text.

    Fluency is the cross-entropy under a character n-gram model, interpolated as Witten and Bell have it (Chen and Goodman,
    arXiv cmp-lg/9606011): with N(h) the number of times that the history h occurs, and D(h) that of the different
    characters that follow it,

        p(c | h) = (N(hc) + D(h) p(c | h without its first character)) / (N(h) + D(h))

    so that the less a history tells, the more the history one character shorter decides; below the empty one stands 1/V.
    """

    def __init__(self, text, vocab_size, order=ORDER):
        self.text, self.order, self.vocab_size = text, order, vocab_size
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
        return generation.longest_copy(pieces, self.text)


def with_error(figure, pieces):
    """(figure(pieces), its standard error by the jackknife: how much it varies as each piece is left out in turn). Leaving out
    one of n moves a figure only about 1/n as far as its own noise, so the squares are all but summed, not averaged."""
    n = len(pieces)
    without = [figure(pieces[:i] + pieces[i + 1 :]) for i in range(n)]
    mean = statistics.fmean(without)
    return figure(pieces), math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without))


def mean_with_error(figure, pieces):
    """The same for a figure that is an average over pieces of equal length, where the jackknife is the usual formula."""
    return lesson1.mean_and_error(torch.tensor([figure([piece]) for piece in pieces], dtype=torch.float64))


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
        cells = (f"{self.nats[0]:.2f} +- {self.nats[1]:.2f}", f"{self.words[0]:.1%} +- {self.words[1]:.1%}")
        return f"| {self.label} | {' | '.join(cells)} | {self.distinct[0]:.3f} +- {self.distinct[1]:.3f} | {self.longest} |"


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
    """One way to write: the GPT's, or one of the dLLM's."""

    order: str  # LEFT_TO_RIGHT for the GPT
    temperature: float
    characters: int = 1  # a pass
    top_k: int | None = None

    def __str__(self):
        if self.order == LEFT_TO_RIGHT:
            return f"GPT, {self.temperature}"
        top = f", top-k {self.top_k}" if self.top_k else ""
        return f"dLLM, {self.characters} a pass, {self.order}, {self.temperature}{top}"


def all_settings():
    """The settings that are judged."""
    settings = [Setting(LEFT_TO_RIGHT, temperature) for temperature in GPT_TEMPERATURES]
    settings += [Setting("certainty", 1.0, top_k=top_k) for top_k in TOP_KS]
    for order, temperatures in TEMPERATURES.items():
        for characters in CHARACTERS_A_PASS:
            settings += [Setting(order, temperature, characters) for temperature in temperatures]
    return settings


class Writers:
    """Both models, with one way of calling them. They must share an alphabet and a context."""

    def __init__(self, args):
        device = transformer.pick_device(args.device)
        dllm_file, gpt_file = generation.find_checkpoint(args.dllm), generation.find_checkpoint(args.gpt)
        self.dllm, self.tokenizer, self.dllm_info = training.load_kind(dllm_file, False, device)
        self.gpt, other, self.gpt_info = training.load_kind(gpt_file, True, device)
        if self.tokenizer.units != other.units:
            raise UserError(f"{args.dllm} and {args.gpt} do not have the same alphabet, so they cannot be compared.")
        if self.dllm.config.context != self.gpt.config.context:
            raise UserError(f"{args.dllm} and {args.gpt} do not have the same context, so their windows differ.")
        self.dllm_log, self.gpt_log = log_beside(dllm_file), log_beside(gpt_file)
        self.device, self.context = device, self.dllm.config.context

    def texts(self, tokens):
        """[N, L] tokens -> N texts."""
        return [self.tokenizer.decode(row) for row in tokens.tolist()]

    def write(self, setting, num, length, seed):
        """num texts of that length, in the way of a setting."""
        if setting.order == LEFT_TO_RIGHT:
            return self.by_gpt(setting.temperature, num, length, seed)
        canvas = torch.full((num, length), self.tokenizer.vocab_size, device=self.device)
        tokens = generation.generate(
            self.dllm, canvas, math.ceil(length / setting.characters), temperature=setting.temperature,
            top_k=setting.top_k, order=setting.order, generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        return self.texts(tokens)

    def by_gpt(self, temperature, num, length, seed, cached=True):
        """num texts of that length, by the GPT."""
        empty = torch.zeros(num, 0, dtype=torch.long, device=self.device)
        generator = torch.Generator().manual_seed(seed)
        cached = cached and gpt_lesson.can_cache(self.gpt)
        return self.texts(gpt_lesson.continue_text(self.gpt, empty, length, temperature, generator=generator, cached=cached))


def spread(windows, num):
    """num of the windows [M, L], spread evenly over all of them: [num, L]."""
    if num > len(windows):
        raise UserError(f"--pieces {num} is too many; the held-out text has {len(windows)} windows.")
    return windows[torch.linspace(0, len(windows) - 1, num).round().long()]


# ---------------------------------------------------------------------------------------------------------
# The models


def log_beside(path):
    """The rows of the log beside a checkpoint NAME.pt or NAME_best.pt; none if there is no log."""
    return training.Log(path.with_name(path.stem.removesuffix("_best") + ".csv"), step=math.inf).rows


def show_models(writers, windows, seen):
    """What each model was given, and the figures in the same unit: on held-out windows and on as many seen in training."""
    print("\n1. The models\n\n| | dLLM | GPT |\n|---|---|---|")
    models, infos, logs = (writers.dllm, writers.gpt), (writers.dllm_info, writers.gpt_info), (writers.dllm_log, writers.gpt_log)
    rows = {"parameters": [f"{sum(p.numel() for p in model.parameters()):,}" for model in models]}
    for key in ("characters", "seconds"):
        rows[f"{key} of training, until these weights"] = [f"{info[key]:,.0f}" if key in info else "not recorded" for info in infos]
        rows[f"{key} of the whole run"] = [f"{float(log[-1][key]):,.0f}" if log else "not recorded" for log in logs]
    rows["dropout"] = [str(info["config"]["dropout"]) if "config" in info else "not recorded" for info in infos]
    for name, data in (("held-out text", windows), ("as much text from training", seen)):
        rows[name] = [training.report_bound(writers.dllm, data), gpt_lesson.report_exact(writers.gpt, data)]
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")
    print("\nA bound below the exact figure proves the dLLM better; a bound above it proves nothing.")


def draw_curves(writers, args):
    """Saves the learning curves of both, from their logs."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    dllm = ("dLLM", "bound", args.dllm, writers.dllm_log, "tab:blue")
    gpt = ("GPT", "exact", args.gpt, writers.gpt_log, "tab:red")
    for name, figure_is, checkpoint, rows, color in (dllm, gpt):
        if not rows:
            print(f"No log beside {checkpoint}, so its curve is missing from the picture.")
        for column, label, style in (("heldout", f"{figure_is} on held-out text", "o-"), ("loss", "training loss (another quantity)", ":")):
            measured = [row for row in rows if row[column]]
            x, y = [int(row["characters"]) / 1e6 for row in measured], [float(row[column]) for row in measured]
            axes.plot(x, y, style, color=color, label=f"{name}, {label}", markersize=4)
    axes.set(xscale="log", xlabel="million characters of training", ylabel="nats per character", ylim=(1, 3))
    axes.legend()
    lesson1.save_figure(figure, args.pictures / "10_curves.png")


# ---------------------------------------------------------------------------------------------------------
# The comparison


@dataclass
class Verdicts:
    """All that the judge said."""

    held_out: Verdict  # on real text
    seen: Verdict  # on real text from the training part
    written: dict  # Setting -> Verdict

    def at(self, order, *temperatures, **others):
        """The verdicts on one order at some temperatures."""
        return [self.written[Setting(order, temperature, **others)] for temperature in temperatures]


def judge_all(writers, judge, args, held_out, seen):
    """Judges real text, held_out and seen [N, L], the GPT and the dLLM, and prints the table. Returns Verdicts."""
    num, length = args.pieces, writers.context
    print(f"\n2. The judge: {num} pieces of {length} characters each, +- one standard error over the pieces\n")
    print("| text | nats/character | known words | distinct 4-grams | longest copy |\n|---|---|---|---|---|")
    real = [judge_pieces(judge, "real, held out", writers.texts(held_out)), judge_pieces(judge, "real, from training", writers.texts(seen))]
    print(*(verdict.row() for verdict in real), sep="\n")
    written = {}
    for setting in tqdm(all_settings(), desc="judging", leave=False):
        written[setting] = judge_pieces(judge, str(setting), writers.write(setting, num, length, args.seed))
        tqdm.write(written[setting].row())
    return Verdicts(*real, written)


def as_diverse(verdicts):
    """The settings as diverse as pieces from the training text, which the models learned to write like; most fluent first."""
    target = verdicts.seen.distinct[0]
    alike = [setting for setting, verdict in verdicts.written.items() if abs(verdict.distinct[0] - target) <= SAME_DIVERSITY]
    return sorted(alike, key=lambda setting: verdicts.written[setting].nats[0])


def show_choice(writers, judge, args, verdicts):
    """The most fluent of those as diverse as real text, of each model's, judged again on other texts, since the best of many
    figures is partly luck."""
    target, alike = verdicts.seen.distinct[0], as_diverse(verdicts)
    print(f"\n3. As diverse as text from training ({target:.3f} +- {SAME_DIVERSITY}), the most fluent; judged again with another seed\n")
    by_gpt = [setting for setting in alike if setting.order == LEFT_TO_RIGHT]
    by_dllm = [setting for setting in alike if setting.order != LEFT_TO_RIGHT]
    for setting in by_gpt[:2] + by_dllm[:5]:
        again = writers.write(setting, args.pieces, writers.context, args.seed + 1)
        print(verdicts.written[setting].row(), judge_pieces(judge, f"{setting}, again", again).row(), sep="\n")
    for name, settings in (("GPT", by_gpt), ("dLLM", by_dllm)):
        if not settings:
            print(f"No setting of the {name} is as diverse.")


def show_samples(verdicts, temperature=0.8):
    """The first piece of each, not picked, at one temperature."""
    print(f"\n4. The first pieces, at temperature {temperature}")
    shown = verdicts.at(LEFT_TO_RIGHT, temperature)
    for characters in (1, 4, 16):
        shown += verdicts.at(generation.pick_order(None, 1, characters), temperature, characters=characters)
    for verdict in shown:
        print(f"\n--- {verdict.label}\n{verdict.pieces[0]}")


def draw_steps(args, verdicts):
    """Saves the picture of what a step buys: fluency against diversity, a curve over temperatures for each number of
    characters a pass."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(15, 5), sharex=True, sharey=True, layout="constrained")
    colors = plt.get_cmap("viridis")(torch.linspace(0, 0.9, len(CHARACTERS_A_PASS)).numpy())

    def draw(axes, points, style, **options):
        x, x_error = zip(*(verdict.distinct for verdict in points))
        y, y_error = zip(*(verdict.nats for verdict in points))
        axes.errorbar(x, y, y_error, x_error, fmt=style, markersize=5, linewidth=1, elinewidth=0.5, **options)

    for axes, (order, temperatures) in zip(panels, TEMPERATURES.items()):
        for characters, color in zip(CHARACTERS_A_PASS, colors):
            draw(axes, verdicts.at(order, *temperatures, characters=characters), "o-", color=color, label=f"dLLM, {characters} a pass")
        if order == "certainty":
            points = [verdicts.written[Setting("certainty", 1.0, top_k=top_k)] for top_k in TOP_KS]
            draw(axes, points, "^:", color="tab:orange", label=f"dLLM, 1 a pass, top-k {', '.join(map(str, TOP_KS))}")
        draw(axes, verdicts.at(LEFT_TO_RIGHT, *GPT_TEMPERATURES), "s--", color="tab:red", label="GPT")
        draw(axes, [verdicts.held_out], "*", color="black", label="real text, held out")
        draw(axes, [verdicts.seen], "X", color="black", label="real text, from training")
        axes.set(title=f"{order}, temperatures {', '.join(map(str, temperatures))}", xlabel="diversity: share of distinct 4-grams")
    panels[0].set_ylabel("nats per character to the judge: less is more fluent")
    panels[1].legend(fontsize=8)
    lesson1.save_figure(figure, args.pictures / "10_steps.png")


# ---------------------------------------------------------------------------------------------------------
# Speed


def characters_per_second(write, repeats=3):
    """The median speed of a few calls that write SPEED_LENGTH characters."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        write()
        times.append(time.perf_counter() - began)
    return SPEED_LENGTH / statistics.median(times)


def show_speed(writers, verdicts, temperature=0.8):
    """Characters per second of a single text, beside what the judge said. Returns [(name, passes, characters/s)]."""
    print(f"\n5. Speed: one text of {SPEED_LENGTH} characters at temperature {temperature}, median of 3\n")
    print("| | passes | characters/s | nats/character to the judge | distinct 4-grams |\n|---|---|---|---|---|")
    rates = []

    def add(name, passes, verdict, write):
        rates.append((name, passes, characters_per_second(write)))
        figures = f"{verdict.nats[0]:.2f} +- {verdict.nats[1]:.2f} | {verdict.distinct[0]:.3f} +- {verdict.distinct[1]:.3f}"
        print(f"| {name} | {passes} | {rates[-1][2]:,.0f} | {figures} |")

    for characters in CHARACTERS_A_PASS:
        setting = Setting(generation.pick_order(None, 1, characters), temperature, characters)
        write = functools.partial(writers.write, setting, 1, SPEED_LENGTH, 0)
        add(f"dLLM, {characters} a pass, {setting.order}", SPEED_LENGTH // characters, verdicts.written[setting], write)
    [verdict] = verdicts.at(LEFT_TO_RIGHT, temperature)
    for cached in (False, True) if gpt_lesson.can_cache(writers.gpt) else (False,):
        write = functools.partial(writers.by_gpt, temperature, 1, SPEED_LENGTH, 0, cached)
        add("GPT, with cache" if cached else "GPT, without cache", SPEED_LENGTH, verdict, write)
    if gpt_lesson.can_cache(writers.gpt):
        print(f"\nThe cache makes the GPT {rates[-1][2] / rates[-2][2]:.1f} times faster.")
    return rates


def draw_speed(args, rates):
    """Saves the picture of the speeds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    dllm = [(passes, rate) for name, passes, rate in rates if name.startswith("dLLM")]
    axes.plot(*zip(*dllm), "o-", label="dLLM")
    for (name, passes, rate), mark in zip([row for row in rates if row[0].startswith("GPT")], "Ds"):
        axes.plot(passes, rate, mark, color="tab:red", label=name)
    axes.set(xscale="log", yscale="log", xlabel=f"passes for {SPEED_LENGTH} characters", ylabel="characters per second")
    axes.set_xticks([passes for passes, _ in dllm], [passes for passes, _ in dllm])
    axes.minorticks_off()
    axes.legend()
    lesson1.save_figure(figure, args.pictures / "10_speed.png")


def main():
    """The command line of 10_compare.py."""
    parser = lesson1.Parser(__doc__)
    add, number = parser.add_argument, lesson1.between
    add("--dllm", default=str(generation.SHIPPED), metavar="FILE", help="default: checkpoints/shakespeare.pt")
    add("--gpt", default=str(gpt_lesson.SHIPPED_GPT), metavar="FILE", help="default: checkpoints/gpt.pt")
    add("--data", metavar="FILE", help="the text that both were trained on (default: TinyShakespeare, downloaded once)")
    add("--pieces", type=number(int, 2), default=32, help="texts that the judge reads of each kind (default: %(default)s)")
    add("--pictures", type=Path, default=lesson1.ROOT / "figures", metavar="FOLDER", help="default: figures")
    add("--seed", type=number(int, 0, 2**63 - 2), default=0, help="default: %(default)s")
    add("--device", choices=transformer.DEVICES, default="auto", help="default: auto")
    args = parser.parse_args()
    args.pictures = args.pictures.resolve()  # absolute, so that save_figure takes it as it is

    writers = Writers(args)
    tokens, windows = lesson1.split_text(lesson1.load_text(args.data), writers.tokenizer, writers.context)
    seen = lesson1.consecutive_windows(tokens, writers.context)
    judge = Judge(writers.tokenizer.decode(tokens), writers.tokenizer.vocab_size)
    pieces = spread(windows, args.pieces), spread(seen, args.pieces)
    args.pictures.mkdir(parents=True, exist_ok=True)
    show_models(writers, windows.to(writers.device), spread(seen, len(windows)).to(writers.device))
    draw_curves(writers, args)
    verdicts = judge_all(writers, judge, args, *pieces)
    show_choice(writers, judge, args, verdicts)
    show_samples(verdicts)
    draw_steps(args, verdicts)
    draw_speed(args, show_speed(writers, verdicts))


if __name__ == "__main__":
    lesson1.run(main)
