"""How sure may a model be? This divides its logits by the number that suits unseen text.

A model that has begun to learn its text by heart is too sure of itself elsewhere. Dividing all its logits by one number
T takes that back and changes the order of no two letters (temperature scaling: Guo et al. 2017, arXiv 1706.04599).
Dividing the head's weights by T does it for good. Numbers from 1 up are tried. Each half of the held-out windows
chooses a T for the other half. That shows the real gain. Several checkpoints of one run are first averaged, which is
often better than each of them (Izmailov et al. 2018, arXiv 1803.05407).

Run, from the folder of the project (some minutes on two cores):
            python -m benchmarks.calibrate checkpoints/my_shakespeare_best.safetensors
            python -m benchmarks.calibrate a.safetensors b.safetensors --shares 3 7 --out mine.safetensors
Last line:  the held-out figure of what was written. Without --out it is what the choice gains, or a doubt about it.

Builds on:  lessons 1 (text), 5 (the figures of a dLLM, checkpoints) and 7 (those of a GPT).
"""

import copy
from dataclasses import asdict, replace
from importlib import import_module

from tools.checkpoints import PROGRESS, as_shipped, save_checkpoint
from tools.command_line import Parser, UserError, between, given_path, run

import torch
from tqdm import tqdm

tensors = import_module("01_tensors")
training = import_module("05_train")
gpt = import_module("07_train_gpt")

TEMPERATURES = (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4, 1.5)


def load_alike(paths):
    """[(model, tokenizer, info)] of checkpoints that hold the same kind of model. Raises UserError for another kind."""
    loaded = [training.load_checkpoint(path) for path in paths]
    for path, (model, tokenizer, _) in zip(paths, loaded):
        alike = replace(model.config, dropout=0) == replace(loaded[0][0].config, dropout=0)
        if not alike or tokenizer.units != loaded[0][1].units:
            raise UserError(f"{path} has another shape or alphabet than {paths[0]}; give checkpoints of one run.")
    return loaded


def mean_of(models, shares):
    """A model whose weights are the mean of the models' weights in these shares. They need not sum to 1."""
    weights, mean = [model.state_dict() for model in models], copy.deepcopy(models[0])
    parts = [share / sum(shares) for share in shares]
    mean.load_state_dict({name: sum(part * each[name] for part, each in zip(parts, weights)) for name in weights[0]})
    return mean


def tempered(model, temperature):
    """A copy of the model whose logits are divided by `temperature`."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.head.weight /= temperature  # all of it, since the head has no bias
    return model


def measure_halves(model, objective, windows):
    """[temperatures, 2] nats per token on the even and the odd ones of windows [N, L], by each of TEMPERATURES.

    Every temperature is measured with the same masks.
    """
    figures = []
    for temperature in tqdm(TEMPERATURES, desc="temperatures", leave=False, disable=None):
        milder = tempered(model, temperature)
        figures.append([objective.heldout(milder, half) for half in (windows[::2], windows[1::2])])
    return torch.tensor(figures)


def choose_temperature(figures):
    """Prints what `measure_halves` found, and each half's gain by the other's choice. Returns the best for all."""
    print("| logits divided by | even windows | odd windows | mean |\n|---|---|---|---|")
    for temperature, (even, odd) in zip(TEMPERATURES, figures.tolist()):
        print(f"| {temperature} | {even:.4f} | {odd:.4f} | {(even + odd) / 2:.4f} |")
    for half, name, others in ((0, "even", "odd"), (1, "odd", "even")):
        choice = figures[:, half].argmin()
        gain = figures[0, 1 - half] - figures[choice, 1 - half]  # over 1.0, which is tried first
        print(f"The {name} windows choose {TEMPERATURES[choice]}, which gains {gain:.4f} on the {others} ones.")
    best = TEMPERATURES[figures.mean(dim=1).argmin()]
    if best == TEMPERATURES[-1]:
        print(f"{best} is the largest number tried. A larger one may be better.")
    return best


def write_model(model, tokenizer, info, objective, windows, path):
    """Writes a checkpoint for generating, in bfloat16, and prints its held-out figure."""
    weights, shipped = as_shipped(model)
    progress = {name: info[name] for name in PROGRESS if name in info}
    progress["heldout"] = objective.heldout(shipped, windows)
    save_checkpoint(dict(model=weights, config=asdict(model.config), units=tokenizer.units, **progress), path, new=True)
    print(f"{path}: {objective.report(shipped, windows)}")


def main():
    """The command line of benchmarks.calibrate."""
    parser = Parser(__doc__)
    parser.add_argument("checkpoints", nargs="+", type=given_path, metavar="FILE", help="checkpoints of one run")
    share = between(float, 0.001, 1000)
    parser.add_argument("--shares", nargs="+", type=share, metavar="N", help="of each in the mean (default: equal)")
    parser.add_argument("--data", metavar="FILE", help="the text that it was trained on (default: TinyShakespeare)")
    parser.add_argument("--out", type=given_path, metavar="FILE", help="where to write the model (default: nowhere)")
    args = parser.parse_args()
    if args.out and (args.out.suffix != ".safetensors" or args.out.exists()):
        parser.error(f"--out {args.out} must end in .safetensors, and must not be there yet")
    shares = args.shares or [1] * len(args.checkpoints)
    if len(shares) != len(args.checkpoints):
        parser.error(f"{len(args.checkpoints)} checkpoints need as many --shares, not {len(shares)}")
    loaded = load_alike(args.checkpoints)
    model = mean_of([each for each, _, _ in loaded], shares)
    _, tokenizer, info = max(loaded, key=lambda each: each[2].get("step", 0))  # how far the run has come
    objective = gpt.NEXT_TOKEN if model.config.causal else training.DIFFUSION
    _, windows = tensors.split_text(tensors.load_text(args.data), tokenizer, model.config.context)
    if len(windows) < 2:
        raise UserError(f"{args.data} has one held-out window; two halves of them are needed, so give a longer text.")
    temperature = choose_temperature(measure_halves(model, objective, windows))
    if args.out:
        write_model(tempered(model, temperature), tokenizer, info, objective, windows, args.out)


if __name__ == "__main__":
    run(main)
