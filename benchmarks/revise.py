"""Passes that take back, measured: known words, nats and diversity, with and without them. Then the rivals.

The judge of lesson 10 reads the texts. +- is one standard error over them.

Run, from the folder of the project:
            python -m benchmarks.revise --pictures docs       (the dial and its picture, ten minutes on two cores)
            python -m benchmarks.revise --default             (lesson 6's default, at three temperatures)
            python -m benchmarks.revise --rivals              (other ways to spend 64 passes, five minutes)
            python -m benchmarks.revise --rivals --pieces 4   (a quick look)
Last line:  the path of a picture, `12_passes.png` in the folder --pictures. Otherwise it is the last row of the table.

Builds on:  lessons 4 (sample, top_ranked), 6 (generate, revise), 10 (Writers, Judge).
"""

import timeit
from functools import partial
from importlib import import_module

from tools.command_line import given_path, run
from tools.files import ROOT
from tools.pictures import new_figure, save_figure

import torch

diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
comparison = import_module("10_compare")

PIECES = 32  # texts of each kind
# Several temperatures each, so that texts of the same diversity can be compared
# WRITTEN: {passes: (order, temperatures)}. REVISED: {passes in all: (how many of them write, temperatures)}.
WRITTEN = {32: ("random", (0.7, 0.8)), 64: ("random", (0.7, 0.8)), 128: ("certainty", (0.8, 0.9, 1.0))}
REVISED = {(32, 64): (16, (1.0, 1.1, 1.2)), (128,): (32, (1.0, 1.1, 1.2)), (256, 512): (32, (1.1, 1.2, 1.4))}
DEFAULT = (0.6, 0.7, 0.8)  # temperatures of lesson 6's default
GPT_TEMPERATURES = (0.7, 0.8, 0.9)
DIVERSITY = 0.62  # distinct 4-grams of the texts that are compared
RIVAL_PASSES, RIVAL_HEAT = 64, (0.8, 1.0)  # two temperatures, since some rivals cool by themselves
APART = 8  # places between letters of one pass, for `dilated`


class Canvases:
    """Empty canvases [num, L] of a model and the ways to fill them."""

    def __init__(self, model, num, L, seed):
        self.model, self.seed, self.L = model, seed, L
        self.empty = torch.full((num, L), model.config.vocab_size, device=next(model.parameters()).device)

    def by_default(self, temperature):
        """tokens [num, L], written as in lesson 6."""
        sampling = generation.Sampling.for_letters(self.L, temperature)
        return generation.generate(self.model, self.empty, sampling, torch.Generator().manual_seed(self.seed))

    def written(self, passes, temperature, order="random"):
        """(tokens [num, L], generator) of the sampler of lesson 4."""
        generator = torch.Generator().manual_seed(self.seed)
        how = dict(temperature=temperature, order=order, generator=generator)
        return diffusion.sample(self.model, self.empty, passes, **how), generator

    def revised(self, writing, temperature, marks):
        """[tokens [num, L] for each of marks]. A mark is a number of passes in all. `writing` of them write."""
        tokens, generator = self.written(writing, temperature)
        seen, done = [], [writing]

        def note(canvas):
            done[0] += 0.5  # it is called twice a pass
            if done[0] in marks:
                seen.append(canvas)

        how = dict(temperature=temperature, generator=generator, on_step=note)
        generation.revise(self.model, tokens, marks[-1] - writing, -(-self.L // writing), **how)
        return seen

    def anywhere(self, writing, temperature, passes):
        """tokens [num, L] of so many passes, of which `writing` write. The others take back letters anywhere."""
        (tokens, generator), count = self.written(writing, temperature), -(-self.L // writing)
        for _ in range(passes - writing):  # the first pass of a call of `revise` takes any places
            tokens = generation.revise(self.model, tokens, 1, count, temperature, generator=generator)
        return tokens


# ---- The dial
def measure_dial(canvases, judge_texts):
    """Prints and returns {"without revising" or "with revising": {passes: [Verdict at each temperature]}}."""
    dial = {"without revising": {}, "with revising": {}}
    for passes, (order, temperatures) in WRITTEN.items():
        for temperature in temperatures:
            label = f"{passes} passes, written, {order}, {temperature}"
            verdict = judge_texts(label, canvases.written(passes, temperature, order)[0])
            dial["without revising"].setdefault(passes, []).append(verdict)
    for marks, (writing, temperatures) in REVISED.items():
        for temperature in temperatures:
            for passes, tokens in zip(marks, canvases.revised(writing, temperature, marks)):
                verdict = judge_texts(f"{passes} passes, {writing} of them write, {temperature}", tokens)
                dial["with revising"].setdefault(passes, []).append(verdict)
    return dial


def at_diversity(verdicts, target=DIVERSITY):
    """{"words" and "nats": (figure, standard error)} at a diversity, by the least-squares line through the verdicts.

    None where all verdicts are on one side of it. The line's value is a weighted sum of the figures. Its squared error
    sums their squared errors and those of their diversities, times the slope.
    """
    x, x_error = torch.tensor([v.distinct for v in verdicts], dtype=torch.float64).T  # [N] each
    if not x.min() <= target <= x.max():
        return None
    spread = (x - x.mean()).square().sum().clamp(min=1e-12)
    weights, found = 1 / len(x) + (target - x.mean()) * (x - x.mean()) / spread, {}
    for name in ("words", "nats"):
        y, y_error = torch.tensor([getattr(v, name) for v in verdicts], dtype=torch.float64).T  # [N] each
        slope = ((x - x.mean()) * y).sum() / spread
        error = (weights.square() * (y_error.square() + (slope * x_error).square())).sum().sqrt()
        found[name] = (weights * y).sum().item(), error.item()
    return found


def show_dial(dial, by_gpt):
    """Prints what passes buy at the same diversity. Returns ({name: {passes: as at_diversity}}, the GPT's)."""
    alike = {
        name: {n: found for n, verdicts in each.items() if (found := at_diversity(verdicts))}
        for name, each in dial.items()
    }
    print(f"\nAt {DIVERSITY} distinct 4-grams, on straight lines through the temperatures (-: none is as diverse)\n")
    sides = ["known words", "nats/character"]
    print(f"| passes | {' | '.join(f'{side}, {name}' for side in sides for name in alike)} |\n{5 * '|---'}|")
    for passes in sorted(set().union(*dial.values())):
        found = [each.get(passes) for each in alike.values()]
        words = ["{:.1%} +- {:.1%}".format(*each["words"]) if each else "-" for each in found]
        nats = ["{:.2f} +- {:.2f}".format(*each["nats"]) if each else "-" for each in found]
        print(f"| {passes} | {' | '.join(words + nats)} |")
    gpt = at_diversity(by_gpt)
    if gpt:
        print("| GPT | {:.1%} +- {:.1%} | | {:.2f} +- {:.2f} | |".format(*gpt["words"], *gpt["nats"]))
    return alike, gpt


def draw_dial(alike, gpt, real, folder):
    """Saves the picture of known words and nats against passes, with the GPT and real text as lines."""
    figure, panels = new_figure(1, 2, figsize=(12, 4.5), layout="constrained")
    sides = ("share of known words", "words"), ("nats per character to the judge", "nats")
    for axes, (label, side) in zip(panels, sides):
        for name, points in alike.items():
            means, errors = zip(*(point[side] for point in points.values())) if points else ((), ())
            axes.errorbar(list(points), means, errors, fmt="o-", label=name)
        if gpt:
            axes.axhline(gpt[side][0], color="tab:red", linestyle=":", label="GPT")
        held_out = f"real, held out ({real.distinct[0]:.2f})"
        axes.axhline(getattr(real, side)[0], color="black", linestyle=":", label=held_out)
        axes.set(xscale="log", xlabel=f"passes (all at {DIVERSITY} distinct 4-grams)", ylabel=label)
        axes.set_xticks([32, 64, 128, 256, 512], [32, 64, 128, 256, 512])
        axes.minorticks_off()
    panels[0].legend(fontsize=8)
    save_figure(figure, folder / "12_passes.png")


# ---- Rivals
def apart(scores, allowed, counts, distance, generator):
    """[B, L] True at counts[b] allowed places of row b with the highest scores. No two are closer than distance."""
    chosen = torch.zeros_like(allowed)
    for _ in range(int(counts.max())):
        near = torch.nn.functional.max_pool1d(chosen.float()[:, None], 2 * distance - 1, 1, distance - 1)[:, 0] > 0
        free = allowed & ~near
        one = free.any(dim=1) & (chosen.sum(dim=1) < counts)  # the rows that get one more
        ties = torch.rand(scores.shape, generator=generator).to(scores.device)
        chosen |= diffusion.top_ranked(scores, free, one.long(), ties)
    return chosen


def entropy_bounded(p, masked, limit):
    """EB-sampler (arXiv 2505.24857): the surest places while their entropies, without the largest, sum to the limit."""
    entropy = torch.special.entr(p).sum(dim=-1).masked_fill(~masked, torch.inf)  # [B, L]
    ranked = entropy.sort(dim=1)
    within = (ranked.values.cumsum(dim=1) - ranked.values <= limit) & ranked.values.isfinite()
    return torch.zeros_like(masked).scatter(1, ranked.indices, within)


def above_threshold(p, masked, limit):
    """Fast-dLLM (arXiv 2505.22618): all places whose likeliest letter reaches the limit, and the surest one."""
    sure = p.amax(dim=-1).masked_fill(~masked, -1)  # [B, L]
    return masked & ((sure >= limit) | (sure == sure.amax(dim=1, keepdim=True)))


def dilated(p, masked, number, generator):
    """After dilated unmasking (arXiv 2506.19037): so many of the surest places, none near another."""
    counts = masked.sum(dim=1).clamp(max=number)
    return apart(p.amax(dim=-1), masked, counts, APART, generator)


@torch.inference_mode()
def write_by_rule(canvases, rule, temperature):
    """(tokens [num, L], passes a text on average). Every pass writes where rule(p, masked) says."""
    tokens, generator, passes = canvases.empty, torch.Generator().manual_seed(canvases.seed), 0
    mask_id = canvases.model.config.vocab_size
    while (masked := tokens == mask_id).any():
        logits = canvases.model(tokens).float()
        chosen = rule(torch.softmax(logits, dim=-1), masked)
        passes += masked.any(dim=1).float().mean().item()
        tokens = torch.where(chosen, diffusion.draw_tokens(logits, temperature, None, generator), tokens)
    return tokens, passes


def limit_for(canvases, rule, temperature, low, high, tries=6):
    """The limit of a rule with which 8 texts take RIVAL_PASSES, by bisection. `high` takes more passes than `low`."""
    few = Canvases(canvases.model, min(8, len(canvases.empty)), canvases.L, canvases.seed)
    for _ in range(tries):
        middle = (low + high) / 2
        _, passes = write_by_rule(few, partial(rule, limit=middle), temperature)
        low, high = (middle, high) if passes < RIVAL_PASSES else (low, middle)
    return (low + high) / 2


def measure_rivals(canvases, judge_texts):
    """Prints what the judge says of every way to spend RIVAL_PASSES."""
    writing = RIVAL_PASSES // 4
    for temperature in RIVAL_HEAT:
        [tokens] = canvases.revised(writing, temperature, (RIVAL_PASSES,))
        judge_texts(f"revised: doubted, {temperature}", tokens)
        judge_texts(f"revised: any place, {temperature}", canvases.anywhere(writing, temperature, RIVAL_PASSES))
        for name, rule, low, high in (
            ("entropy-bounded", entropy_bounded, 8.0, 0.0), ("above a threshold", above_threshold, 0.0, 1.0)
        ):  # fmt: skip
            limit = limit_for(canvases, rule, temperature, low, high)
            tokens, passes = write_by_rule(canvases, partial(rule, limit=limit), temperature)
            judge_texts(f"written: {name} ({limit:.2f}; {passes:.0f} passes), {temperature}", tokens)
        how = dict(number=max(1, canvases.L // RIVAL_PASSES), generator=torch.Generator().manual_seed(canvases.seed))
        tokens, passes = write_by_rule(canvases, partial(dilated, **how), temperature)
        judge_texts(f"written: dilated ({passes:.0f} passes), {temperature}", tokens)
        judge_texts(f"written: random, {temperature}", canvases.written(RIVAL_PASSES, temperature)[0])


def show_cost(canvases, passes=32):
    """Prints how the times of two ways to write compare."""
    works = lambda: canvases.written(passes, 1.0), lambda: canvases.revised(passes // 4, 1.0, (passes,))
    written, revised = (min(timeit.repeat(work, number=1, repeat=3)) for work in works)
    print(f"\n{passes} passes, three in four revising, take {revised / written:.2f} times as long as all writing.")


def main():
    """The command line of benchmarks.revise."""
    parser, folder = comparison.comparing_parser(__doc__, PIECES), ROOT / "figures"
    parser.add_argument("--rivals", action="store_true", help=f"other ways to spend {RIVAL_PASSES} passes")
    parser.add_argument("--default", action="store_true", help=f"lesson 6's default, at temperatures {DEFAULT}")
    parser.add_argument("--pictures", type=given_path, default=folder, metavar="FOLDER", help="default: figures")
    args = parser.parse_args()
    writers, tokens, windows = comparison.prepare(args.dllm, args.gpt, args.device, args.data, args.len)
    judge = comparison.Judge(writers.tokenizer.decode(tokens), writers.tokenizer.vocab_size)
    canvases = Canvases(writers.dllm, args.pieces, writers.length, args.seed)
    print(comparison.TITLES)

    def judge_texts(label, tokens):
        verdict = comparison.judge_pieces(judge, label, writers.texts(tokens))
        print(verdict.row(), flush=True)
        return verdict

    if args.rivals:
        return measure_rivals(canvases, judge_texts)
    if args.default:
        for temperature in DEFAULT:
            judge_texts(f"lesson 6's default, {temperature}", canvases.by_default(temperature))
        return
    real, by_gpt = judge_texts("real, held out", comparison.spread(windows, args.pieces)), []
    for temperature in GPT_TEMPERATURES:
        pieces = writers.by_gpt(temperature, args.pieces, writers.length, args.seed)
        by_gpt.append(comparison.judge_pieces(judge, f"GPT, {temperature}", pieces))
        print(by_gpt[-1].row())
    dial = measure_dial(canvases, judge_texts)
    show_cost(canvases)
    draw_dial(*show_dial(dial, by_gpt), real, args.pictures.resolve())


if __name__ == "__main__":
    run(main)
