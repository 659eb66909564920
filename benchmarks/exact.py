"""What does it cost, in nats, to write several letters in a pass? And how many should each pass write?

Letters of one pass do not see each other. The orders of lesson 4 with an exact likelihood tell the price of that
without a judge. Random order has a bound. Its expected cost follows from one curve: I(n) is the nats of a random hidden
letter where n random letters are visible. A pass that begins with n visible letters and writes m more costs m I(n). So
k passes cost a left Riemann sum of that curve. Dynamic programming finds the cheapest numbers of letters (arXiv
2510.25544, 2511.04647). Their gain is measured on other windows than those of the curve that chose them.

Run, from the folder of the project:
            python -m benchmarks.exact --pictures docs        (an hour on two cores)
            python -m benchmarks.exact --windows 16           (ten minutes)
Last line:  the last row of the table of schedules.

Builds on:  lessons 4 (exact_nats, masked_cross_entropy), 7 (token_nats) and 10 (Writers, the flags).
"""

from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from tools.command_line import between, run
from tools.files import ROOT
from tools.pictures import mean_and_error, new_figure, save_figure

import torch
from torch.nn import functional as F
from tqdm import tqdm

diffusion = import_module("04_diffusion")
gpt = import_module("07_train_gpt")
comparison = import_module("10_compare")

WINDOWS = 96  # of held-out text
LETTERS_A_PASS = (1, 2, 4, 8, 16, 32)
PASSES = (8, 16, 32)  # for which the schedules are compared
CURVE_DRAWS = 4  # random orders of each window for the curve
ORDERS = 4  # other random orders of each window, for both schedules


# ---- The price of a saved pass
def measure_price(model, windows):
    """{order: [(mean, standard error) for each of LETTERS_A_PASS]} of the exact nats per letter of windows [N, L]."""
    price, L = {}, windows.shape[1]
    for order in tqdm(diffusion.EXACT_ORDERS, desc="orders", leave=False, disable=None):
        ways = [partial(diffusion.exact_nats, model, order=order, steps=-(-L // number)) for number in LETTERS_A_PASS]
        price[order] = [mean_and_error(comparison.in_batches(measure, windows)) for measure in ways]
    return price


def show_price(price, bounds, gpt_figure, folder):
    """Prints the table of what measure_price found and saves its picture. bounds: random order's column."""
    print(f"\n1. The price of a saved pass, nats/character, exact (the GPT's: {gpt_figure:.3f})\n")
    print(f"| letters a pass | {' | '.join(price)} | random: a bound |\n|---|{'---|' * (len(price) + 1)}")
    for number, *cells, bound in zip(LETTERS_A_PASS, *price.values(), bounds):
        print(f"| {number} | {' | '.join('{:.3f} +- {:.3f}'.format(*cell) for cell in cells)} | {bound:.3f} |")
    figure, axes = new_figure(figsize=(7, 4.5))
    for order, points in price.items():
        means, errors = zip(*points)
        axes.errorbar(LETTERS_A_PASS, means, errors, fmt="o-", label=f"dLLM, {order}: exact")
    axes.plot(LETTERS_A_PASS, bounds, "k:", label="dLLM, random: a bound")
    axes.axhline(gpt_figure, color="tab:red", linestyle="--", label="GPT, a letter a pass: exact")
    axes.set(xscale="log", xlabel="letters a pass", ylabel="nats per character of held-out text")
    axes.set_xticks(LETTERS_A_PASS, LETTERS_A_PASS)
    axes.minorticks_off()
    axes.legend()
    save_figure(figure, folder / "10_exact.png")


# ---- Random order: how many letters in each pass?
def random_rankings(windows, generator):
    """[N, L] a random order of the places for each of windows [N, L]."""
    return torch.rand(windows.shape, generator=generator).argsort(dim=1).to(windows.device)


@torch.inference_mode()
def information_curve(model, windows, draws, generator):
    """[L] I(n) for n from 0 to L - 1: the expected -log p of a random hidden letter where n random ones are visible.

    The visible letters grow along `draws` random orders of each of windows [N, L], the same for all n. So the curve is
    smooth, and a search on it does not find where chance was kind.
    """
    (_, L), mask_id = windows.shape, model.config.vocab_size
    parts = windows.repeat(draws, 1).split(comparison.AT_ONCE)
    curve, rankings = torch.zeros(L), [random_rankings(part, generator) for part in parts]
    for n in tqdm(range(L), desc="curve", leave=False, disable=None):
        nats = []
        for part, ranking in zip(parts, rankings):  # [B, L] each
            mask = torch.ones_like(part, dtype=torch.bool).scatter(1, ranking[:, :n], False)  # [B, L]
            logits = model(part.masked_fill(mask, mask_id)).float()  # [B, L, V]
            nats.append(diffusion.masked_cross_entropy(logits, part, mask).cpu())
        curve[n] = torch.cat(nats).mean()
    return curve


def equal_sizes(letters, passes):
    """[letters of each pass] in equal shares, as lesson 4's sampler has them."""
    left = [letters * passes_left // passes for passes_left in range(passes, -1, -1)]  # letters, before each pass
    return [before - after for before, after in pairwise(left)]


def best_sizes(curve, passes):
    """The numbers of letters for which `passes` passes cost least by the curve [L], by dynamic programming."""
    L = len(curve)
    n, m = torch.arange(L)[:, None], torch.arange(1, L + 1)  # [L, 1], [L] letters visible before and after a pass
    cost = torch.where(m > n, (m - n) * curve[:, None], torch.inf)  # [L, L] of that pass
    least, choices = cost[0], []  # [L] the least cost of coming to m letters, so far in one pass
    for _ in range(passes - 1):
        before = torch.cat([torch.tensor([torch.inf]), least[:-1]])  # [L] of coming to n letters
        least, choice = (before[:, None] + cost).min(dim=0)  # [L] each; the n from which it is best to go on to m
        choices.append(choice)
    ends = [L]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1] - 1]))
    return [after - before for before, after in pairwise([0, *reversed(ends)])]


def expected_nats(curve, sizes):
    """The expected nats per letter of passes that write so many letters each, by the curve [L]."""
    visible = torch.tensor([0, *sizes[:-1]]).cumsum(dim=0)  # [passes]
    return ((torch.tensor(sizes) * curve[visible]).sum() / len(curve)).item()


@torch.inference_mode()
def scheduled_nats(model, tokens, sizes, ranking):
    """[B] -log p / G of tokens [B, L] at the places ranking [B, G], given the rest. sizes: letters of each pass."""
    canvas = tokens.scatter(1, ranking, model.config.vocab_size)
    nats = torch.zeros(len(tokens), device=tokens.device)
    for places in ranking.split(sizes, dim=1):  # [B, size]
        answers = tokens.gather(1, places)  # [B, size]
        log_p = F.log_softmax(model(canvas).float(), dim=-1).gather(2, tokens[..., None]).squeeze(2)  # [B, L]
        nats -= log_p.gather(1, places).sum(dim=1)
        canvas = canvas.scatter(1, places, answers)
    return nats / ranking.shape[1]


def measure_schedules(model, windows, schedules, generator):
    """[schedules, N] the nats per letter of windows [N, L] by each of schedules, [sizes].

    All schedules write in the same ORDERS random orders. So their differences have little noise.
    """
    figures = []
    for part in windows.split(comparison.AT_ONCE):  # [B, L]
        rankings = [random_rankings(part, generator) for _ in range(ORDERS)]
        by_order = [[scheduled_nats(model, part, sizes, r).cpu() for r in rankings] for sizes in schedules]
        figures.append(torch.stack([torch.stack(nats).mean(dim=0) for nats in by_order]))  # [schedules, B]
    return torch.cat(figures, dim=1)


def show_schedules(model, windows, curve, generator):
    """Prints what equal shares and the best sizes cost, for each of PASSES.

    expected: by the curve [L]. measured: on other windows [N, L] than the curve's.
    """
    L = len(curve)
    print("\n2. Random order, equal shares of letters against the best sizes by the curve of one half of the windows,")
    print("measured on the other half, nats/character\n")
    print("| passes | letters of each pass | expected | measured | measured, minus equal shares |")
    print("|---|---|---|---|---|")
    for passes in (passes for passes in PASSES if passes <= L):
        schedules = equal_sizes(L, passes), best_sizes(curve, passes)
        equal, best = measure_schedules(model, windows, schedules, generator)  # [N] each
        for sizes, nats in zip(schedules, (equal, best)):
            gap = "{:.4f} +- {:.4f}".format(*mean_and_error(nats - equal)) if nats is best else ""
            listed = f"{passes} of {sizes[0]}" if len(set(sizes)) == 1 else " ".join(map(str, sizes))
            mean, error = mean_and_error(nats)
            print(f"| {passes} | {listed} | {expected_nats(curve, sizes):.3f} | {mean:.3f} +- {error:.3f} | {gap} |")


# ---- The command line
def main():
    """The command line of benchmarks.exact."""
    parser, folder = comparison.comparing_parser(__doc__), ROOT / "figures"
    counted = between(int, 4, 10**5)
    parser.add_argument("--windows", type=counted, default=WINDOWS, help="of held-out text (default: %(default)s)")
    parser.add_argument("--pictures", type=Path, default=folder, metavar="FOLDER", help="default: figures")
    args = parser.parse_args()
    writers, _, windows = comparison.prepare(args.dllm, args.gpt, args.device, args.data, args.len)
    windows = comparison.spread(windows, args.windows, "--windows").to(writers.device)
    model, generator, L = writers.dllm, torch.Generator().manual_seed(args.seed), writers.length
    print(f"{len(windows)} held-out windows of {L} characters, +- one standard error over the windows")
    halves = windows[::2], windows[1::2]
    curves = [information_curve(model, half, CURVE_DRAWS, generator) for half in halves]  # [L] each
    curve = sum(len(half) * its_curve for half, its_curve in zip(halves, curves)) / len(windows)
    bounds = [expected_nats(curve, equal_sizes(L, -(-L // number))) for number in LETTERS_A_PASS]
    gpt_figure = comparison.in_batches(lambda part: gpt.token_nats(writers.gpt, part).mean(dim=1), windows).mean()
    show_price(measure_price(model, windows), bounds, gpt_figure, args.pictures.resolve())
    show_schedules(model, halves[1], curves[0], generator)


if __name__ == "__main__":
    run(main)
