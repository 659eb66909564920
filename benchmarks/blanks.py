"""Blanks of known text, measured: what the right side is worth in nats, in letters found again and in words.

Blanks of four sizes stand in the middle of held-out windows. The dLLM fills them and sees both sides. A GPT sees the
left side, or chooses among its continuations by the right one. The nats are exact. Blanks of unknown length follow.

Run, from the folder of the project:
            python -m benchmarks.blanks --seed 0              (more than half an hour on one core)
            python -m benchmarks.blanks --seed 0 --num 16     (a quick look)
            python -m benchmarks.blanks --exact               (a part of it, some minutes)
Last line:  the path of a picture, `11_blanks.png` in the folder --pictures. With --exact it is the last row of a table.

Builds on:  lessons 4 (exact_nats), 6 (Sampling, flags), 7 (token_nats, continue_text), 10 (Writers, Judge), 11.
"""

import math
from dataclasses import replace
from functools import partial
from importlib import import_module

from tools.command_line import between, given_path, run, seeded_generator
from tools.files import ROOT
from tools.pictures import mean_and_error, new_figure, print_row, save_figure

import torch
from tqdm import tqdm

diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
comparison = import_module("10_compare")
blanks = import_module("11_fill_blanks")

SIZES = (1, 4, 16, 64)
WINDOWS = 200  # in which a blank is filled, by default
ORDERS = ("left to right", "certainty")  # of the dLLM, with exact figures
AT_ONCE = 8  # windows for the GPT's continuations
CONTINUATIONS = 32  # among which the GPT may choose
BEST, GREEDY = f"GPT, best of {CONTINUATIONS}", "dLLM at temperature 0"
LENGTH_WINDOWS = 48  # in which the length of a blank is found
RANGE = blanks.Blank(1, 12)  # of these lengths


# ---- The nats of the truth
@torch.inference_mode()
def exact_of_blanks(writers, judge, windows, spans):
    """{who: [N exact nats per letter, for each of SIZES]} of what stands at spans [(start, end)] of windows [N, L].

    The dLLM sees both sides. The others see the left one.
    """
    texts, results = writers.texts(windows), {"GPT": [], "n-gram judge": []}
    by_gpt = gpt.token_nats(writers.gpt, windows).cpu()  # [N, L]
    for start, end in tqdm(spans, desc="exact nats", leave=False, disable=None):
        surprises = [[-math.log(judge.probability(text[:i], text[i])) for i in range(start, end)] for text in texts]
        results["GPT"].append(by_gpt[:, start:end].mean(dim=1))
        results["n-gram judge"].append(torch.tensor(surprises).mean(dim=1))
        for order in ORDERS:
            part = dict(steps=end - start, places=torch.arange(start, end))
            measure = partial(diffusion.exact_nats, writers.dllm, order=order, **part)
            results.setdefault(f"dLLM, {order}", []).append(comparison.in_batches(measure, windows))  # [N]
    return results


def show_exact_costs(writers, judge, windows, spans):
    """Prints the exact cost of the truth at spans of windows [N, L]. Returns the figures."""
    nats = exact_of_blanks(writers, judge, windows, spans)
    dllm = [who for who in nats if who.startswith("dLLM")]
    gaps = {f"GPT minus {who}": [left - own for left, own in zip(nats["GPT"], nats[who])] for who in dllm}
    title, sizes = "nats/character of the truth, exact", [end - start for start, end in spans]
    blanks.print_figures(title, sizes, nats | gaps, "{:.3f}")
    return nats


# ---- Filling
def gpt_fillings(writers, windows, start, end, sampling, generator):
    """(the first, the best) of CONTINUATIONS of the left side, [N, L] each.

    After the best one the GPT finds the right side likeliest. That is its fair chance to use the right side.
    """
    first, best, cached = [], [], writers.caches
    for some in windows.split(AT_ONCE):  # [n, L]
        tries = some.repeat_interleave(CONTINUATIONS, dim=0)  # [n * CONTINUATIONS, L]
        how = sampling.temperature, min(sampling.top_k, writers.gpt.config.vocab_size), generator, cached
        filled = gpt.continue_text(writers.gpt, tries[:, :start], end, *how)  # [n * CONTINUATIONS, end]
        tries = torch.cat([filled, tries[:, end:]], dim=1)  # [n * CONTINUATIONS, L]
        right_side = gpt.token_nats(writers.gpt, tries)[:, end:].sum(dim=1)  # [n * CONTINUATIONS]
        tries = tries.view(len(some), CONTINUATIONS, -1)  # [n, CONTINUATIONS, L]
        likeliest = right_side.view(len(some), CONTINUATIONS).argmin(dim=1)  # [n]
        first.append(tries[:, 0])
        best.append(tries[torch.arange(len(some)), likeliest])
    return torch.cat(first), torch.cat(best)


def dllm_fillings(writers, windows, start, end, sampling, generator):
    """The windows [N, L] with start..end filled by the dLLM."""
    canvas = windows.clone()
    canvas[:, start:end] = writers.dllm.config.vocab_size
    return blanks.fill(writers.dllm, canvas, sampling, generator)


def words_at(text, seam):
    """The words that touch the place before character number `seam`."""
    end = 0
    for word in comparison.split_words(text):
        start = text.index(word, end)
        end = start + len(word)
        if start <= seam <= end:
            yield word


def real_words(judge, texts, seam):
    """1 for each word at the seam before character number `seam` that the training text has, 0 for any other."""
    return torch.tensor([float(word in judge.words) for text in texts for word in words_at(text, seam)])


def score_fillings(writers, judge, windows, spans, sampling_for, generator):
    """Prints how good the fillings are. Returns {who: [N shares of letters right, for each of SIZES]}.

    sampling_for: number of letters -> Sampling.
    """
    right, left_words, right_words = {}, {}, {}
    for start, end in tqdm(spans, desc="blanks", leave=False, disable=None):
        sampling = sampling_for(end - start)
        first, best = gpt_fillings(writers, windows, start, end, sampling, generator)
        ways = sampling, replace(sampling, temperature=0.0)
        drawn, likeliest = (dllm_fillings(writers, windows, start, end, way, generator) for way in ways)
        fillings = {"dLLM": drawn, GREEDY: likeliest, "GPT": first, BEST: best, "the text itself": windows}
        for who, tokens in fillings.items():
            texts = writers.texts(tokens)
            right.setdefault(who, []).append((tokens == windows)[:, start:end].float().mean(dim=1).cpu())
            left_words.setdefault(who, []).append(real_words(judge, texts, start))
            right_words.setdefault(who, []).append(real_words(judge, texts, end))
    del right["the text itself"]
    gains = {f"{who} minus {BEST}": [a - b for a, b in zip(right[who], right[BEST])] for who in ("dLLM", GREEDY)}
    blanks.print_figures("characters right", SIZES, right | gains, "{:.1%}")
    blanks.print_figures("real words where the blank begins", SIZES, left_words, "{:.1%}")
    blanks.print_figures("real words where it ends", SIZES, right_words, "{:.1%}")
    return right


# ---- Lengths
def score_found_lengths(writers, windows):
    """Prints how often the true length of a blank is found and how often two sets of draws agree."""
    found, sizes = [], range(RANGE.low, RANGE.high + 1)
    for number, window in enumerate(tqdm(windows.cpu(), desc="lengths", leave=False, disable=None)):
        size = sizes[number % len(sizes)]  # all equally often
        start = (len(window) - size) // 2
        sides = window[:start], window[start + size :]
        both = [blanks.score_lengths(writers.dllm, *sides, RANGE, seed) for seed in (0, 1)]
        one, other = (sizes[scores.mean(dim=1).argmin()] for scores in both)
        found.append((one == size, abs(one - size) <= 1, one == other))
    near = sum(abs(one - other) <= 1 for one in sizes for other in sizes) / len(sizes) ** 2
    chance = f"guessing finds {1 / len(sizes):.1%}, and {near:.1%} within 1"
    title = f"lengths from {RANGE.low} to {RANGE.high}, in {len(windows)} of the windows; {chance}"
    print(f"\n| {title} | share |\n|---|---|")
    agree = f"two sets of {blanks.DRAWS} draws choose the same length"
    for name, column in zip(("found", "found, or missed by 1", agree), torch.tensor(found).float().T):
        print_row(name, "{:.1%}", [mean_and_error(column)])


# ---- The picture and the command line
def draw_scores(nats, right, folder):
    """Saves the picture of both figures against the size of the blank."""
    figure, panels = new_figure(1, 2, figsize=(11, 4), layout="constrained")
    labels = "nats/character of the truth, exact", "share of characters right"
    for axes, results, label in zip(panels, (nats, right), labels):
        for who, figures in results.items():
            means, errors = zip(*map(mean_and_error, figures))
            axes.errorbar(SIZES, means, errors, fmt="o-", label=who)
        axes.set(xscale="log", xlabel="letters in the blank", ylabel=label)
        axes.set_xticks(SIZES, SIZES)
        axes.minorticks_off()
        axes.legend()
    save_figure(figure, folder / "11_blanks.png")


def main():
    """The command line of benchmarks.blanks."""
    parser, folder = generation.generating_parser(__doc__, generation.SMALL, length=None), ROOT / "figures"
    parser.set_defaults(num=WINDOWS)
    add = parser.add_argument
    add("--gpt", default=str(gpt.SMALL_GPT), metavar="FILE", help="default: checkpoints/gpt_small.safetensors")
    add("--data", metavar="FILE", help="the text that both were trained on (default: TinyShakespeare)")
    add("--len", type=between(int, max(SIZES), 10**5), help="letters of a window (default: the models' context)")
    add("--exact", action="store_true", help="the exact figures alone, of all blanks but the longest")
    add("--pictures", type=given_path, default=folder, metavar="FOLDER", help="default: figures")
    args = parser.parse_args()
    if args.num < 2:
        parser.error("--num must be 2 or more, since every figure has a standard error")
    sampling_for = generation.read_sampling(parser, args, letters_a_pass=1)
    generation.load_writer(parser, args)  # which refuses flags that do not fit it
    writers, tokens, windows = comparison.prepare(args.checkpoint, args.gpt, args.device, args.data, args.len)
    windows = comparison.spread(windows, max(2, min(args.num, len(windows)))).to(writers.device)
    judge = comparison.Judge(writers.tokenizer.decode(tokens), writers.tokenizer.vocab_size)
    spans = blanks.middles(writers.length, SIZES[:-1] if args.exact else SIZES)
    print(f"{len(windows)} held-out windows of {writers.length} characters, +- one standard error over the windows")
    nats = show_exact_costs(writers, judge, windows, spans)
    if args.exact:
        return
    right = score_fillings(writers, judge, windows, spans, sampling_for, seeded_generator(args.seed))
    score_found_lengths(writers, comparison.spread(windows, min(LENGTH_WINDOWS, len(windows))))
    draw_scores(nats, right, args.pictures.resolve())


if __name__ == "__main__":
    run(main)
