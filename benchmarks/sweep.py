"""dLLM against GPT at length: the models' figures, 88 ways of writing before a judge, and speed.

Run, from the folder of the project:
            python -m benchmarks.sweep --pieces 32 --pictures docs         (more than half an hour on one core)
            python -m benchmarks.sweep --pieces 8 --exact-windows 8        (a quick look)
            python -m benchmarks.sweep --curves                            (the first picture alone: seconds)
Last line:  how much faster the cache makes the GPT. With --curves it is the path of `10_curves.png`.

Its pictures are 10_curves.png, drawn from the logs (.csv) beside the checkpoints, and 10_steps.png.

Builds on:  lessons 1 (windows), 5 (report_bound), 6 (Sampling), 7 (report_exact) and 10 (all that is measured).
"""

from dataclasses import dataclass
from functools import partial
from importlib import import_module

from tools.command_line import between, given_path, run
from tools.files import ROOT
from tools.pictures import new_figure, save_figure

import torch

tensors = import_module("01_tensors")
training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
comparison = import_module("10_compare")

PIECES = 32  # that the judge reads of each kind
WINDOWS = 96  # of held-out text for the exact figures
LETTERS_A_PASS = (1, 2, 4, 8, 16, 32)
TEMPERATURES = {  # confidence sharpens by itself (lesson 4), so it needs more heat
    "confidence": (1.0, 1.3, 1.6, 2.0),
    "certainty": (0.6, 0.7, 0.8, 0.9, 1.0),
    "random": (0.4, 0.6, 0.8, 1.0),
}
GPT_TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
TOP_KS = (3, 5, 10)  # at one letter a pass, by certainty, at temperature 1
SPEED_LENGTH = 256  # letters of the text that is timed


# ---- The models
def show_figures(writers, windows, seen):
    """Both models' figures on all held-out windows and on as many from training. What was learned by heart shows."""
    print("\n| | dLLM | GPT |\n|---|---|---|")
    for name, data in (("held-out text", windows), ("as much text from training", seen)):
        data = data.to(writers.device)
        print(f"| {name} | {training.report_bound(writers.dllm, data)} | {gpt.report_exact(writers.gpt, data)} |")


def draw_curves(writers, folder):
    """Saves the learning curves of both, from their logs."""
    figure, axes = new_figure(figsize=(7, 4.5))
    kinds = ("dLLM", "bound", "tab:blue"), ("GPT", "exact", "tab:red")
    for (name, figure_is, color), rows in zip(kinds, writers.logs):
        if not rows:
            print(f"There is no log beside the checkpoint of the {name}, so its curve is missing from the picture.")
        labels = f"{figure_is} on held-out text", "training loss (another quantity)"
        for column, label, style in zip(("heldout", "loss"), labels, ("o-", ":")):
            measured = [row for row in rows if row[column]]
            x, y = [int(row["characters"]) / 1e6 for row in measured], [float(row[column]) for row in measured]
            axes.plot(x, y, style, color=color, label=f"{name}, {label}", markersize=4)
    axes.set(xscale="log", xlabel="million characters of training", ylabel="nats per character", ylim=(1, 3))
    axes.legend()
    save_figure(figure, folder / "10_curves.png")


# ---- All ways of writing, judged
@dataclass
class Verdicts:
    """All that the judge said."""

    held_out: comparison.Verdict  # on real text
    seen: comparison.Verdict  # on real text from the training part
    by_gpt: dict  # temperature -> Verdict
    by_dllm: dict  # Sampling -> Verdict


def samplings_of(length, order, number):
    """The Samplings of one order with so many letters a pass, in all its temperatures."""
    return [comparison.letters_a_pass(number, length, temperature, order) for temperature in TEMPERATURES[order]]


def top_k_samplings(length):
    """The Samplings among the TOP_KS likeliest letters."""
    return [comparison.letters_a_pass(1, length, 1.0, "certainty", top_k) for top_k in TOP_KS]


def all_samplings(length):
    """The judged ways of the dLLM, each once. (In short texts 16 and 32 letters a pass may be the same.)"""
    by_order = [samplings_of(length, order, number) for order in TEMPERATURES for number in LETTERS_A_PASS]
    return list(dict.fromkeys(sum(by_order, top_k_samplings(length))))


def judge_all(writers, judge, held_out, seen, seed):
    """Judges real text (held_out and seen [N, L]), the GPT and the dLLM. Prints the table. Returns Verdicts."""
    (num, L), samplings = held_out.shape, all_samplings(writers.length)
    real = {"real, held out": writers.texts(held_out), "real, from training": writers.texts(seen)}
    ways = {f"GPT, {t}": partial(writers.by_gpt, t, num, L, seed) for t in GPT_TEMPERATURES}
    for sampling in samplings:
        ways[comparison.describe(sampling, L)] = partial(writers.by_dllm, sampling, num, L, seed)
    first, second, *written = comparison.show_judged(judge, real, ways)
    by_gpt, by_dllm = written[: len(GPT_TEMPERATURES)], written[len(GPT_TEMPERATURES) :]
    return Verdicts(first, second, dict(zip(GPT_TEMPERATURES, by_gpt)), dict(zip(samplings, by_dllm)))


def default_verdict(verdicts, number, length, temperature=0.8):
    """The verdict on the order of lesson 6 with --revise 0, so many letters a pass."""
    return verdicts.by_dllm[comparison.letters_a_pass(number, length, temperature)]


def draw_steps(verdicts, length, folder):
    """Saves the picture of what a pass buys: fluency against diversity, a curve over temperatures for every speed."""
    import matplotlib

    figure, panels = new_figure(1, 3, figsize=(15, 5), sharex=True, sharey=True, layout="constrained")
    colors = matplotlib.colormaps["viridis"](torch.linspace(0, 0.9, len(LETTERS_A_PASS)).numpy())

    def draw(axes, points, style, **options):
        x, x_error = zip(*(verdict.distinct for verdict in points))
        y, y_error = zip(*(verdict.nats for verdict in points))
        axes.errorbar(x, y, y_error, x_error, fmt=style, markersize=5, linewidth=1, elinewidth=0.5, **options)

    for axes, (order, temperatures) in zip(panels, TEMPERATURES.items()):
        for number, color in zip(LETTERS_A_PASS, colors):
            points = [verdicts.by_dllm[sampling] for sampling in samplings_of(length, order, number)]
            draw(axes, points, "o-", color=color, label=f"dLLM, {number} a pass")
        if order == "certainty":
            points, label = [verdicts.by_dllm[each] for each in top_k_samplings(length)], ", ".join(map(str, TOP_KS))
            draw(axes, points, "^:", color="tab:orange", label=f"dLLM, 1 a pass, top-k {label}")
        draw(axes, verdicts.by_gpt.values(), "s--", color="tab:red", label="GPT")
        draw(axes, [verdicts.held_out], "*", color="black", label="real text, held out")
        draw(axes, [verdicts.seen], "X", color="black", label="real text, from training")
        title = f"{order}, temperatures {', '.join(map(str, temperatures))}"
        axes.set(title=title, xlabel="diversity: share of distinct 4-grams")
    panels[0].set_ylabel("nats per character to the judge (less is more fluent)")
    panels[1].legend(fontsize=8)
    save_figure(figure, folder / "10_steps.png")


# ---- Speed
def show_all_speeds(writers, verdicts, temperature=0.8):
    """Prints the characters per second of a single text, beside what the judge said."""
    print(f"\n5. Speed: one text of {SPEED_LENGTH} characters at temperature {temperature}, median of 3\n")
    print("| | passes | characters/s | nats/character to the judge | distinct 4-grams |\n|---|---|---|---|---|")
    rates = []

    def add(name, passes, verdict, write):
        rates.append(comparison.characters_per_second(write, SPEED_LENGTH))
        cells = ("{:.2f} +- {:.2f}".format(*verdict.nats), "{:.3f} +- {:.3f}".format(*verdict.distinct))
        print(f"| {name} | {passes} | {rates[-1]:,.0f} | {' | '.join(cells)} |")

    for number in LETTERS_A_PASS:
        sampling = comparison.letters_a_pass(number, SPEED_LENGTH, temperature)
        write = partial(writers.by_dllm, sampling, 1, SPEED_LENGTH, 0)
        verdict = default_verdict(verdicts, number, writers.length, temperature)
        add(f"dLLM, {number} a pass, {sampling.order}", sampling.steps, verdict, write)
    for cached in (False, True) if writers.caches else (False,):
        write = partial(writers.by_gpt, temperature, 1, SPEED_LENGTH, 0, cached)
        name = f"GPT, with{'' if cached else 'out'} cache"
        add(name, SPEED_LENGTH, verdicts.by_gpt[temperature], write)
    if writers.caches:
        print(f"\nThe cache makes the GPT {rates[-1] / rates[-2]:.1f} times faster.")


# ---- The command line
def main():
    """The command line of benchmarks.sweep."""
    parser = comparison.comparing_parser(__doc__, PIECES)
    add, folder, counted = parser.add_argument, ROOT / "figures", between(int, 2, 10**5)
    add("--exact-windows", type=counted, default=WINDOWS, help="for the exact figures (default: %(default)s)")
    add("--curves", action="store_true", help="only what each model was given, and the learning curves")
    add("--pictures", type=given_path, default=folder, metavar="FOLDER", help="where pictures go (default: figures)")
    args = parser.parse_args()
    folder = args.pictures.resolve()  # save_figure takes an absolute path as it is
    writers, tokens, windows = comparison.prepare(args.dllm, args.gpt, args.device, args.data, args.len)
    if args.curves:
        comparison.show_models(writers)
        return draw_curves(writers, folder)
    seen, L = tensors.consecutive_windows(tokens, writers.length), writers.length
    pieces = comparison.spread(windows, args.pieces), comparison.spread(seen, args.pieces)
    exact_windows = comparison.spread(windows, args.exact_windows, "--exact-windows")
    comparison.show_models(writers)
    draw_curves(writers, folder)
    show_figures(writers, windows, comparison.spread(seen, len(windows)))
    comparison.show_exact_nats(writers, exact_windows)
    judge = comparison.Judge(writers.tokenizer.decode(tokens), writers.tokenizer.vocab_size)
    verdicts = judge_all(writers, judge, *pieces, args.seed)
    shown = [default_verdict(verdicts, number, L) for number in (1, 4, 16)]
    comparison.show_pieces([verdicts.by_gpt[0.8], *shown])
    draw_steps(verdicts, L, folder)
    show_all_speeds(writers, verdicts)


if __name__ == "__main__":
    run(main)
