"""Tamil verse, measured: lesson 9's score, letters against code points, mending and hidden words.

It needs the verse that --data names, or else data/tamil.txt (`python tamil_dataset.py` makes it).

Run, from the folder of the project:
            python -m benchmarks.tamil --seed 1                            (the score, two minutes)
            python -m benchmarks.tamil --seed 1 --codepoints checkpoints/codepoints_best.safetensors
            python -m benchmarks.tamil --seed 1 --metre                    (the couplets mended, four minutes)
            python -m benchmarks.tamil --seed 1 --mending                  (what passes buy, four minutes)
            python -m benchmarks.tamil --seed 1 --couplets                 (every third word hidden, one minute)
Last line:  the last row of the table. With --codepoints it is the path of a picture, `figures/09_ill_formed.png`.

--codepoints prints the score and then compares a model that `python 08_train_tamil.py --units codepoints` made.

Builds on:  lessons 4 (ORDERS), 6 (generate, flags), 8 (couplets, the bits), 9 (writing, the score), 12 (mending).
"""

import re
from functools import partial
from importlib import import_module
from itertools import islice

from tools.command_line import UserError, run, seeded_generator
from tools.devices import pick_device
from tools.files import find_checkpoint
from tools.pictures import mean_and_error, new_figure, print_row, save_figure

import torch
from tqdm import tqdm

diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
tamil_training = import_module("08_train_tamil")
tamil_generation = import_module("09_generate_tamil")
revision = import_module("12_revise")

# sampling_for is a function below: number of letters -> Sampling
COUPLETS = 400  # that the model writes by default
PICTURE_PASSES = (1, 2, 4, 8, 16, 32, 64)  # in which a couplet is written, for the picture
MENDING_PASSES = (50, 75, 130, 200)  # that a couplet may take
WORD_PASSES = (1, 2, 4, 8, 16)  # in which hidden words are to be found


# ---- Letters against code points
def load_code_points(name, device):
    """(model, tokenizer) of a checkpoint of code points. Raises UserError for another."""
    model, tokenizer, _ = training.load_kind(find_checkpoint(name), False, pick_device(device))
    if max(map(len, tokenizer.units)) > 1:
        raise UserError(f"{name} is a model of letters; give one that 08_train_tamil.py --units codepoints made.")
    return model, tokenizer


def compare_code_points(writers, known, real, num, sampling_for, generator):
    """Prints bits per held-out couplet by letters and by code points. Draws ill-formed letters against passes.

    The picture is of num couplets of the same shapes. writers: {name: (model, tokenizer)}. known: couplets of the
    training text. real: held-out ones.
    """
    chosen = tamil_generation.draw_couplets(known, num, generator)
    bits, shares = {}, {}
    for name, (model, tokenizer) in writers.items():
        bits[name] = tamil_training.bits_per_couplet(model, tokenizer, real)  # [N]
        mean, error = mean_and_error(bits[name])
        print(f"{name}: bound {mean:.1f} +- {error:.1f} bits per held-out couplet")
        shapes, shares[name] = tamil_generation.line_lengths(tokenizer, chosen), []
        for passes in tqdm(PICTURE_PASSES, desc=name, leave=False):
            setting = partial(sampling_for, steps=passes)
            couplets = tamil_generation.write_couplets(model, tokenizer, shapes, setting, generator)
            groups = [[couplet] for couplet in couplets]
            shares[name].append(tamil_generation.average(tamil_generation.ill_formed_share, groups))
        listed = ", ".join(f"{mean:.1%} in {passes}" for (mean, _), passes in zip(shares[name], PICTURE_PASSES))
        print(f"{name}: ill-formed letters {listed} passes")
    gain, error = mean_and_error(bits["code points"] - bits["letters"])
    print(f"letters save {gain:.1f} +- {error:.1f} bits a couplet, {gain / bits['code points'].mean():.1%}")
    sampling = sampling_for(1)
    draw_ill_formed(shares, f"order {sampling.order}, temperature {sampling.temperature}")


def draw_ill_formed(shares, title):
    """Saves the picture. shares: {name: [(mean, standard error) for each of PICTURE_PASSES]}."""
    figure, axes = new_figure(figsize=(7, 4))
    for name, points in shares.items():
        means, errors = ([100 * share for share in column] for column in zip(*points))
        axes.errorbar(PICTURE_PASSES, means, errors, fmt="o-", label=name)
    axes.set(xscale="log", xlabel="passes for a couplet", ylabel="ill-formed letters, %", title=title)
    axes.set_xticks(PICTURE_PASSES, PICTURE_PASSES)
    axes.minorticks_off()
    axes.legend()
    save_figure(figure, "09_ill_formed.png")


# ---- Couplets that scan, against passes
def draw_anew(write, shapes, passes):
    """For each of shapes the couplet that breaks the metre least, of all that `passes` passes write."""
    tries = [max(1, passes // sum(shape)) for shape in shapes]
    many = [shape for shape, number in zip(shapes, tries) for _ in range(number)]
    written = iter(write(many))
    faults = lambda couplet: len(tamil_generation.metre_faults(couplet))  # noqa: E731
    return [min(islice(written, number), key=faults) for number in tries]


def print_mending(model, tokenizer, verse, num, write, mend, generator):
    """Prints how many of num couplets scan after so many passes, if mended and if drawn anew with the best kept.

    write: shapes -> couplets. mend: couplets, rules, passes -> couplets.
    """
    text, known, _ = verse
    shapes = tamil_generation.line_lengths(tokenizer, tamil_generation.draw_couplets(known, num, generator))
    score, rules = tamil_generation.Score(text), [tamil_generation.metre_faults]
    print("| passes a couplet | mended: they scan | known words | drawn anew: they scan | known words |")
    print("|---|---|---|---|---|")
    for passes in MENDING_PASSES:
        longest = max(map(sum, shapes))  # so many passes write
        mended = mend(write(shapes), rules, passes=max(0, passes - longest))
        anew = draw_anew(write, shapes, passes)
        groups = [[[couplet] for couplet in couplets] for couplets in (mended, anew)]
        figures = tamil_generation.spoken_metre, score.known_words
        cells = [tamil_generation.average(figure, couplets) for couplets in groups for figure in figures]
        print_row(passes, "{:.1%}", cells)


# ---- Every third word hidden
def third_words(tokenizer, couplet):
    """[(start, end)] in tokens of every third word of a couplet."""
    words = list(re.finditer(tamil_generation.WORD, couplet))[2::3]
    return [tuple(len(tokenizer.encode(couplet[:place])) for place in word.span()) for word in words]


def find_words(model, tokenizer, couplets, sampling_for, generator):
    """[words] 1 for every hidden word that was found again, else 0. Raises UserError if there are too few."""
    right = []
    for places, rows in tamil_training.by_length(tokenizer, couplets).values():  # rows [N, L]
        spans = [third_words(tokenizer, couplets[place]) for place in places]
        canvas = rows.clone()
        for row, words in zip(canvas, spans):
            for start, end in words:
                row[start:end] = model.config.vocab_size
        sampling = sampling_for(int((canvas[0] == model.config.vocab_size).sum()))
        filled = generation.generate(model, canvas.to(model.head.weight.device), sampling, generator).cpu()  # [N, L]
        for new, old, words in zip(filled, rows, spans):
            right += [float(torch.equal(new[start:end], old[start:end])) for start, end in words]
    if len(right) < 2:
        raise UserError("hardly any couplet has a third word, so there is nothing to hide; give other verse.")
    return torch.tensor(right)


def print_found_words(model, tokenizer, couplets, sampling_for, generator):
    """Prints the share of hidden words found again for each order and number of passes."""
    title = f"every third word of {len(couplets)} couplets, passes:"
    print(f"| {title} | {' | '.join(map(str, WORD_PASSES))} |\n|---|{'---|' * len(WORD_PASSES)}")
    for order in diffusion.ORDERS:
        settings = [partial(sampling_for, steps=steps, order=order) for steps in WORD_PASSES]
        found = [find_words(model, tokenizer, couplets, setting, generator) for setting in settings]
        print_row(order, "{:.1%}", map(mean_and_error, found))


# ---- The command line
def read_arguments():
    """(parser, args, the rules that are asked for). Refuses flags that do not go together."""
    parser = generation.generating_parser(__doc__, tamil_generation.SHIPPED_TAMIL, length=None)
    parser.set_defaults(num=COUPLETS)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--codepoints", metavar="FILE", help="a model of code points to compare, after the score")
    kind.add_argument("--couplets", action="store_true", help="no score: hide words of held-out couplets and find them")
    kind.add_argument("--mending", action="store_true", help="no score: couplets that scan, against passes")
    for name in revision.RULES:
        parser.add_argument(f"--{name}", action="store_true", help=f"mend the scored couplets until they have {name}")
    parser.add_argument("--data", metavar="FILE", help="the verse it was trained on (default: data/tamil.txt)")
    args = parser.parse_args()
    tried = ("num", "steps", "order") if args.couplets else ("steps",) if args.mending else ()
    for flag in parser.changed(args, tried):
        kind = "--couplets" if args.couplets else "--mending"
        parser.error(f"{flag} does not go with {kind}, which tries several numbers of passes")
    rules = [rule for name, rule in revision.RULES.items() if getattr(args, name)]
    if rules and (args.couplets or args.mending):
        parser.error("--metre and --rhyme go with the score; leave out --couplets or --mending")
    if args.num < 2:
        parser.error("--num must be 2 or more, since every figure has a standard error")
    return parser, args, rules


def main():
    """The command line of benchmarks.tamil."""
    parser, args, rules = read_arguments()
    sampling_for = generation.read_sampling(parser, args, letters_a_pass=1)
    model, tokenizer = generation.load_writer(parser, args)
    generator = seeded_generator(args.seed)
    here = dict(sampling_for=sampling_for, generator=generator)
    write = partial(tamil_generation.write_couplets, model, tokenizer, **here)
    heat = dict(temperature=args.temp, top_k=args.topk)
    mend = partial(revision.mend_couplets, model, tokenizer, generator=generator, **heat)
    verse = tamil_generation.read_couplets(tokenizer, args.data)
    _, known, real = verse
    if args.mending:
        return print_mending(model, tokenizer, verse, args.num, write, mend, generator)
    if args.couplets:
        return print_found_words(model, tokenizer, real, **here)
    writers = {"letters": (model, tokenizer)}
    if args.codepoints is not None:
        writers["code points"] = load_code_points(args.codepoints, args.device)
    mended = lambda shapes: mend(write(shapes), rules)  # noqa: E731
    tamil_generation.print_score(model, tokenizer, verse, args.num, mended if rules else write, generator)
    if args.codepoints is not None:
        in_order = partial(sampling_for, order=args.order or "certainty")  # lest it change along the curve
        compare_code_points(writers, known, real, args.num, in_order, generator)


if __name__ == "__main__":
    run(main)
