"""How well does one set of weights predict and write, read in blocks of every size? And what does the cache save?

It prints three tables. The first has exact nats per character by block size, from left to right inside a block. The
GPT's figure stands below. A picture is drawn. The second says what it costs to draw two letters in one pass. The
third writes texts by blocks and by lesson 6. It has seconds, known words and distinct 4-grams.

Run, from the folder of the project:
            python -m benchmarks.blocks                        (8 windows, 4 texts: some ten minutes on two cores)
            python -m benchmarks.blocks --windows 24 --texts 32 --pictures docs        (an hour)
Last line:  the last row of the table of texts.

Builds on:  lessons 4 (exact_nats), 5 (load_kind), 6 (generate), 7 (token_nats), 10 (Judge, spread), 15.
"""

import time
from functools import partial
from importlib import import_module

from tools.command_line import Parser, between, given_path, run
from tools.files import ROOT
from tools.pictures import mean_and_error, new_figure, save_figure

import torch

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
comparison = import_module("10_compare")
blocks = import_module("15_blocks")

LETTERS = 256  # of a text


def exact_curve(model, windows):
    """{block size: (mean, standard error)} of exact nats per character of windows [N, L]. Sizes 1, 2, ... L/8 and L.

    A size costs as many passes as it has letters, so L/4 and L/2 are left out.
    """
    L = windows.shape[1]
    sizes = [*(2**k for k in range(20) if 2**k <= L / 8), L]
    nats = {size: [blocks.block_nats(model, part, size) for part in windows.split(16)] for size in sizes}
    return {size: mean_and_error(torch.cat(parts)) for size, parts in nats.items()}


def show_curves(models, gpt_model, windows, folder):
    """Prints and draws the exact figures of {name: model} by block size."""
    curves = {name: exact_curve(model, windows) for name, model in models.items()}
    print(
        f"\n1. {len(windows)} held-out windows of {windows.shape[1]} letters, exact nats per character by block size\n"
    )
    sizes = list(next(iter(curves.values())))
    print(f"| | {' | '.join(map(str, sizes))} |\n|---|{'---|' * len(sizes)}")
    figure, axes = new_figure(figsize=(7, 4.5))
    for name, curve in curves.items():
        print(f"| {name} | {' | '.join('{:.3f} +- {:.3f}'.format(*cell) for cell in curve.values())} |")
        axes.plot(sizes, [mean for mean, _ in curve.values()], "o-", label=name)
    exact, error = mean_and_error(gpt.token_nats(gpt_model, windows).mean(dim=1))
    print(f"| the GPT | {exact:.3f} +- {error:.3f} |{' |' * (len(sizes) - 1)}")
    axes.axhline(exact, color="black", linestyle=":", label="the GPT")
    axes.set(xscale="log", xlabel="letters of a block", ylabel="nats per character, exact, left to right in a block")
    axes.set_xticks(sizes, sizes)
    axes.minorticks_off()
    axes.legend()
    save_figure(figure, folder.resolve() / "15_curve.png")


def show_neighbours(model, windows):
    """Prints what it costs to draw two letters in one pass: neighbours, and letters far apart."""
    print(f"\n2. Two letters hidden in each of {len(windows)} windows, nats for both\n")
    print("| | one pass | two passes | haste costs |\n|---|---|---|---|")
    middle = windows.shape[1] // 2
    for name, other in (("neighbours", middle + 1), ("far apart", middle + windows.shape[1] // 4)):
        places = torch.tensor([middle, other])
        one, two = (2 * diffusion.exact_nats(model, windows, "left to right", steps, places) for steps in (1, 2))
        mean, error = mean_and_error(one - two)
        print(f"| {name} | {one.mean():.2f} | {two.mean():.2f} | {mean:.3f} +- {error:.3f} |")


def ways_to_write(model, length):
    """{label: function(canvas, generator) -> tokens [1, length]}"""
    sampling = generation.Sampling.for_letters(length, temperature=generation.TEMPERATURE)
    ways = {"lesson 6, as it comes": lambda canvas, g: generation.generate(model, canvas, sampling, g)}

    def by_blocks(canvas, generator, size, passes=0):
        draw = dict(temperature=blocks.TEMPERATURE, generator=generator)
        own = canvas == model.config.vocab_size
        tokens = blocks.write_blocks(blocks.BlockWriter(model, size), canvas, size, draw)
        return generation.revise(model, tokens, passes, count=4, fillable=own, **draw)

    ways |= {f"blocks of {size}": partial(by_blocks, size=size) for size in (1, 8, 32)}
    return ways | {"blocks of 32, --revise 32": partial(by_blocks, size=32, passes=32)}


def show_texts(model, tokenizer, judge, number):
    """Writes `number` texts one by one. Prints their seconds, known words and distinct 4-grams."""
    print(f"\n3. {number} texts of {LETTERS} letters, one by one\n")
    print("| | seconds a text | known words | distinct 4-grams |\n|---|---|---|---|")
    for label, write in ways_to_write(model, LETTERS).items():
        generator, texts, began = torch.Generator().manual_seed(1), [], time.perf_counter()
        for _ in range(number):
            canvas = generation.make_canvas(tokenizer, None, None, LETTERS, 1, model.head.weight.device)
            texts.append(tokenizer.decode(write(canvas, generator)[0]))
        seconds = (time.perf_counter() - began) / number
        print(f"| {label} | {seconds:.1f} | {judge.known_words(texts):.1%} | {judge.distinct(texts):.3f} |")


def main():
    """The command line of benchmarks.blocks."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", default=str(generation.SHIPPED), metavar="FILE", help="default: the shipped dLLM")
    shipped = blocks.SHIPPED_BLOCKS
    add("--trained", default=str(shipped), metavar="FILE", help=f"trained with blocks (default: {shipped.name})")
    add("--gpt", default=str(gpt.SHIPPED_GPT), metavar="FILE", help=f"default: {gpt.SHIPPED_GPT.name}")
    add("--windows", type=between(int, 2, 10**4), default=8, help="of held-out text (default: %(default)s)")
    add("--texts", type=between(int, 1, 10**4), default=4, help="of each kind (default: %(default)s)")
    add("--pictures", type=given_path, default=ROOT / "figures", metavar="FOLDER", help="default: figures")
    args = parser.parse_args()
    model, tokenizer, _ = training.load_kind(args.checkpoint, False)
    models = {"the dLLM": model, "trained with blocks, too": training.load_kind(args.trained, False)[0]}
    rival, _, _ = training.load_kind(args.gpt, True)
    tokens, windows = tensors.split_text(tensors.load_text(), tokenizer, model.config.context)
    show_curves(models, rival, comparison.spread(windows, args.windows, "--windows"), args.pictures)
    model = models["trained with blocks, too"]
    show_neighbours(model, comparison.spread(windows, min(64, len(windows)), "--windows"))
    show_texts(model, tokenizer, comparison.Judge(tokenizer.decode(tokens), tokenizer.vocab_size), args.texts)


if __name__ == "__main__":
    run(main)
