"""What does it cost, in nats, to write several letters in a pass?

Letters of one pass do not see each other. The orders of lesson 4 with an exact likelihood tell the price of that
without a judge. Random order has a bound. Its expected cost follows from one curve: I(n) is the nats of a random hidden
letter where n random letters are visible. A pass that begins with n visible letters and writes m more costs m I(n)
(arXiv 2510.25544, 2511.04647).

Run, from the folder of the project:
            python -m benchmarks.exact --pictures docs        (an hour on two cores)
            python -m benchmarks.exact --windows 16           (ten minutes)
Last line:  the path of a picture, `10_exact.png` in the folder --pictures.

Builds on:  lessons 4 (exact_nats, masked_cross_entropy), 7 (token_nats) and 10 (Writers, the flags).
"""

from functools import partial
from importlib import import_module
from itertools import pairwise

from tools.command_line import between, given_path, run
from tools.files import ROOT
from tools.pictures import mean_and_error, new_figure, save_figure

import torch
from tqdm import tqdm

diffusion = import_module("04_diffusion")
gpt = import_module("07_train_gpt")
comparison = import_module("10_compare")

WINDOWS = 96  # of held-out text
LETTERS_A_PASS = (1, 2, 4, 8, 16, 32)
CURVE_DRAWS = 4  # random orders of each window for the curve


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
    print(f"\nThe price of a saved pass, nats/character, exact (the GPT's: {gpt_figure:.3f})\n")
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


# ---- Random order's expected cost
@torch.inference_mode()
def information_curve(model, windows, draws, generator):
    """[L] I(n) for n from 0 to L - 1: the expected -log p of a random hidden letter where n random ones are visible.

    The visible letters grow along `draws` random orders of each of windows [N, L], the same for all n. So the curve is
    smooth, and a search on it does not find where chance was kind.
    """
    (_, L), mask_id = windows.shape, model.config.vocab_size
    parts = windows.repeat(draws, 1).split(comparison.AT_ONCE)
    curve = torch.zeros(L)
    rankings = [torch.rand(part.shape, generator=generator).argsort(dim=1).to(part.device) for part in parts]  # [B, L]
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


def expected_nats(curve, sizes):
    """The expected nats per letter of passes that write so many letters each, by the curve [L]."""
    visible = torch.tensor([0, *sizes[:-1]]).cumsum(dim=0)  # [passes]
    return ((torch.tensor(sizes) * curve[visible]).sum() / len(curve)).item()


# ---- The command line
def main():
    """The command line of benchmarks.exact."""
    parser, folder = comparison.comparing_parser(__doc__), ROOT / "figures"
    counted = between(int, 4, 10**5)
    parser.add_argument("--windows", type=counted, default=WINDOWS, help="of held-out text (default: %(default)s)")
    parser.add_argument("--pictures", type=given_path, default=folder, metavar="FOLDER", help="default: figures")
    args = parser.parse_args()
    writers, _, windows = comparison.prepare(args.dllm, args.gpt, args.device, args.data, args.len)
    windows = comparison.spread(windows, args.windows, "--windows").to(writers.device)
    model, generator, L = writers.dllm, torch.Generator().manual_seed(args.seed), writers.length
    print(f"{len(windows)} held-out windows of {L} characters, +- one standard error over the windows")
    curve = torch.zeros(L)
    for half in windows[::2], windows[1::2]:  # one after the other, as the published figures were drawn
        curve += information_curve(model, half, CURVE_DRAWS, generator) * len(half) / len(windows)
    bounds = [expected_nats(curve, equal_sizes(L, -(-L // number))) for number in LETTERS_A_PASS]
    gpt_figure = comparison.in_batches(lambda part: gpt.token_nats(writers.gpt, part).mean(dim=1), windows).mean()
    show_price(measure_price(model, windows), bounds, gpt_figure, args.pictures.resolve())


if __name__ == "__main__":
    run(main)
