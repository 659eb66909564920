"""Lesson 9. Does the model write Tamil verse, or only something that looks like it?

Writes verse with the model of lesson 8, by the sampler of lesson 4. With --kural it writes couplets on a canvas that
says where the line breaks and where the poem ends; with --score it counts what can be counted: are the letters letters, the
words words, do the feet follow the metre (kural venba), do the lines rhyme? Each figure stands between that of real couplets
the model has not seen and that of the same couplets with their words shuffled.

Builds on:  lessons 4 (sample), 6 (flags, longest_copy) and 8 (poems); tamil_dataset.py (what a letter is).
Run:        python 09_generate_tamil.py
            python 09_generate_tamil.py --kural --num 5 --seed 1
            python 09_generate_tamil.py --score                           (some minutes; needs data/tamil.txt)
            python 09_generate_tamil.py --score --codepoints checkpoints/codepoints_best.pt
Last line:  the last line of the verse; with --score, the path of a picture, `figures/09_ill_formed.png`, if --codepoints is
            given, else the last row of the table.

Exercises (answers in docs/answers.md)
  1. Write --kural --seed 1 at --temp 0.5, 0.8 and 1.1, and scan the metre of 100 couplets of each. What does heat cost?
  2. Drop the rule for a final u in `scansions`. Which share of real couplets still passes, and why the difference?
  3. Shuffle the words of a couplet until it scans. How many of 1,000 shuffles do? What does that say of the figures?
"""

import math
import random
import re
import statistics
from importlib import import_module
from itertools import product

import torch
from tqdm import tqdm

lesson1 = import_module("01_tensors")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
transformer = import_module("03_transformer")
generation = import_module("06_generate")
lesson8 = import_module("08_train_tamil")
tamil = import_module("tamil_dataset")

SHIPPED_TAMIL = lesson1.ROOT / "checkpoints" / "tamil.pt"
SHORT_VOWELS = "அஇஉஎஒ"
PASSES = (1, 2, 4, 8, 16, 32)  # of the picture


# ---------------------------------------------------------------------------------------------------------
# The metre


def letters_of(word):
    """A word as a list of Tamil letters."""
    return re.findall(tamil.LETTER, word)


def vowel_of(letter):
    """The vowel in a letter: "" where it has none."""
    if letter.endswith(tamil.PULLI) or letter == tamil.AYTHAM:
        return ""
    if letter in tamil.VOWELS:
        return letter
    return "அ" if len(letter) == 1 else tamil.VOWELS[1 + tamil.SIGNS.index(letter[-1])]


def metremes(word):
    """The syllables of the metre (acai) in a word: "R" (nirai), a short vowel and another vowel, or "N" (ner), any other.

    A letter without a vowel closes the syllable before it. ai counts as short unless it begins the word.
    """
    kinds = ""  # s: short, l: long, dot: no vowel
    for place, letter in enumerate(letters_of(word)):
        vowel = vowel_of(letter)
        short = vowel in SHORT_VOWELS or (vowel == "ஐ" and place > 0)
        kinds += "." if not vowel else "s" if short else "l"
    return "".join("R" if len(group) == 2 else "N" for group in re.findall("s[sl]|[sl]", kinds))


def ends_in_u(word):
    """Whether a word ends in a short u."""
    letters = letters_of(word)
    return bool(letters) and vowel_of(letters[-1]) == "உ"


def scansions(word, following):
    """The ways to scan a word: as it stands, and, where it ends in u and a vowel follows, without the u, as it is spoken."""
    ways = [metremes(word)]
    if ends_in_u(word) and following[:1] and following[0] in tamil.VOWELS:
        ways.append(metremes(word[:-1] + tamil.PULLI))
    return ways


def follows_metre(feet, last_word):
    """A simplified kural venba: feet, a list of strings of N and R; last_word, of the last foot.

    A foot has two syllables, or three of which the last is N; the last foot has one, or two of which the second is N and
    ends in u. After a foot of two that ends in N comes an R; after any other foot comes an N.
    """
    *inner, last = feet
    if not all(len(foot) == 2 or (len(foot) == 3 and foot[2] == "N") for foot in inner):
        return False
    if not (len(last) == 1 or (len(last) == 2 and last[1] == "N" and ends_in_u(last_word))):
        return False
    return all(after[0] == ("R" if foot[1:] == "N" else "N") for foot, after in zip(feet, feet[1:]))


def words_of(couplet):
    """The words of each line of a couplet: [[words], [words]]."""
    return [re.findall(r"[\u0b80-\u0bff]+", line) for line in couplet.split("\n")]


def four_and_three(couplet):
    """Whether a couplet has four words and three."""
    return [len(words) for words in words_of(couplet)] == [4, 3]


def strict_metre(couplet):
    """Whether a couplet follows the metre as it is printed."""
    words = sum(words_of(couplet), [])
    feet = [metremes(word) for word in words]
    return four_and_three(couplet) and all(feet) and follows_metre(feet, words[-1])


def spoken_metre(couplet):
    """Whether a couplet follows the metre in one of the ways in which it may be spoken."""
    words = sum(words_of(couplet), [])
    ways = [scansions(word, following) for word, following in zip(words, [*words[1:], ""])]
    return four_and_three(couplet) and any(all(feet) and follows_metre(feet, words[-1]) for feet in product(*ways))


def rhymes(couplet):
    """Whether the second letters of both lines have the same consonant (etukai)."""
    seconds = [letters_of("".join(words))[1:2] for words in words_of(couplet)]
    return len(seconds) == 2 and all(seconds) and seconds[0][0][0] == seconds[1][0][0]


# ---------------------------------------------------------------------------------------------------------
# Writing


def write_verse(model, tokenizer, args, generator):
    """--num pieces of verse of --len letters."""
    canvas = torch.full((args.num, args.len), tokenizer.vocab_size, device=model.head.weight.device)
    ids = tokenizer.encode(tamil.normalize(args.prompt))
    canvas[:, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    return [tokenizer.decode(row) for row in unmask(model, canvas, args.steps, args, generator)]


def unmask(model, canvas, steps, args, generator):
    """Lesson 4's `sample` with the flags of the command line; steps: None for one pass a letter."""
    steps = steps or canvas.shape[1]
    return diffusion.sample(model, canvas, steps, args.temp, args.topk, args.order, generator)


def write_couplets(model, tokenizer, shapes, steps, args, generator):
    """Couplets, one for each of shapes, [(length of line 1, of line 2)] in tokens: the line break and the end are given."""
    couplets, line_break = {}, tokenizer.id_of["\n"]
    for shape in sorted(set(shapes)):  # those of one shape make a batch
        places = [place for place, other in enumerate(shapes) if other == shape]
        canvas = torch.full((len(places), sum(shape) + 1), tokenizer.vocab_size, device=model.head.weight.device)
        canvas[:, shape[0]] = line_break
        rows = unmask(model, canvas, steps, args, generator)
        couplets.update(zip(places, (tokenizer.decode(row) for row in rows)))
    return [couplets[place] for place in range(len(shapes))]


def draw_shapes(tokenizer, couplets, num, generator):
    """The lengths of the two lines of num couplets, drawn from those given."""
    chosen = torch.randint(len(couplets), (num,), generator=generator).tolist()
    return [tuple(len(tokenizer.encode(line)) for line in couplets[i].split("\n")) for i in chosen]


# ---------------------------------------------------------------------------------------------------------
# The score


class Score:
    """Measures a couplet: every figure is a share, or a number of letters, of one couplet, to be averaged."""

    def __init__(self, training_text):
        self.lexicon = set(re.findall(r"[\u0b80-\u0bff]+", training_text))
        self.letters = self.as_letters(training_text)

    @staticmethod
    def as_letters(text):
        """A text with every letter as a single character, whichever, so that lengths are numbers of letters."""
        grid = {letter: chr(0xE000 + i) for i, letter in enumerate(lesson8.letter_grid())}
        return "".join(grid.get(piece, piece) for piece in re.findall(f"{tamil.LETTER}|.", text.replace("\n", " ")))

    def ill_formed(self, couplet):
        """The share of ill-formed letters: signs that no consonant carries."""
        stray = sum(count for sign, count in tamil.ill_formed(couplet).items() if sign in tamil.SIGNS + tamil.PULLI)
        return stray / max(1, stray + len(letters_of(couplet)))

    def known_words(self, couplet):
        """The share of words that occur in the training text."""
        words = sum(words_of(couplet), [])
        return sum(word in self.lexicon for word in words) / max(1, len(words))

    def overlap(self, couplet):
        """The longest passage that stands in the training text, in letters."""
        return generation.longest_copy([self.as_letters(couplet)], self.letters)

    def figures(self):
        """{name: (function, how to print its average)}"""
        return {
            "ill-formed letters": (self.ill_formed, "{:.1%}"),
            "4 + 3 words": (four_and_three, "{:.1%}"),
            "metre, as printed": (strict_metre, "{:.1%}"),
            "metre, as spoken": (spoken_metre, "{:.1%}"),
            "rhyme": (rhymes, "{:.1%}"),
            "known words": (self.known_words, "{:.1%}"),
            "longest copy, letters": (self.overlap, "{:.1f}"),
        }


def average(function, couplets):
    """(mean, standard error) of a figure over couplets."""
    values = [float(function(couplet)) for couplet in couplets]
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def shuffle_words(couplet, source):
    """The same words in another order, as many in each line as before; the marks at the end stay."""
    lines = words_of(couplet)
    words = sum(lines, [])
    source.shuffle(words)
    return " ".join(words[: len(lines[0])]) + "\n" + " ".join(words[len(lines[0]) :])


def print_score(model, tokenizer, args, generator):
    """The table: generated couplets beside real ones that were held out, and those with their words shuffled."""
    poems, heldout = lesson8.split_poems_for_training(lesson8.load_tamil(args))
    known, real = lesson8.couplets_of(poems), lesson8.couplets_of(heldout)
    source = random.Random(0)
    columns = {
        f"generated ({args.num})": write_couplets(model, tokenizer, draw_shapes(tokenizer, known, args.num, generator), args.steps, args, generator),
        f"real, held out ({len(real)})": real,
        "their words shuffled": [shuffle_words(couplet, source) for couplet in real for _ in range(4)],
    }
    bits, error = lesson8.bits_per_couplet(model, tokenizer, real)
    print(f"held-out bound {bits:.1f} ± {error:.1f} bits per couplet\n")
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, (function, form) in Score("\n\n".join(poems)).figures().items():
        cells = [" ± ".join(form.format(value) for value in average(function, couplets)) for couplets in columns.values()]
        print(f"| {name} | {' | '.join(cells)} |")
    return known


def draw_ill_formed(writers, known, args, generator):
    """Saves the picture of ill-formed letters against the number of passes; writers: {name: (model, tokenizer)}."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    score = Score("")
    for name, (model, tokenizer) in writers.items():
        shapes = draw_shapes(tokenizer, known, args.num, generator)
        points = [write_couplets(model, tokenizer, shapes, passes, args, generator) for passes in tqdm(PASSES, desc=name, leave=False)]
        means, errors = zip(*(average(score.ill_formed, couplets) for couplets in points))
        axes.errorbar(PASSES, [100 * m for m in means], [100 * e for e in errors], fmt="o-", label=name)
        print(f"{name}: " + ", ".join(f"{mean:.1%} at {passes}" for mean, passes in zip(means, PASSES)))
    axes.set(xscale="log", xlabel="passes for a couplet", ylabel="ill-formed letters, %")
    axes.set_xticks(PASSES, PASSES)
    axes.legend()
    lesson1.save_figure(figure, "09_ill_formed.png")


# ---------------------------------------------------------------------------------------------------------
# The command line


def check_lengths(parser, args, model, tokenizer):
    """Refuses what does not fit the model."""
    context, ids = model.config.context, tokenizer.encode(tamil.normalize(args.prompt))
    if args.len > context:
        parser.error(f"--len {args.len} is too long; this model was trained on {context} letters")
    if len(ids) > args.len:
        parser.error(f"the prompt has {len(ids)} letters, more than --len {args.len}; ask for a longer text")
    if args.prompt and (args.kural or args.score):
        parser.error("--prompt goes with plain verse; leave out --kural and --score")


def main():
    """The command line of 09_generate_tamil.py."""
    parser = generation.generating_parser(__doc__, SHIPPED_TAMIL, length=96)
    parser.add_argument("--kural", action="store_true", help="whole couplets; needs data/tamil.txt for their lengths")
    parser.add_argument("--score", action="store_true", help="count what can be counted, over --num couplets, 400 unless given")
    parser.add_argument("--codepoints", metavar="FILE", help="with --score: a model of code points, to draw beside this one")
    parser.add_argument("--data", metavar="FILE", help="the verse it was trained on (default: data/tamil.txt)")
    args = parser.parse_args()
    model, tokenizer = generation.load_generator(parser, args)
    check_lengths(parser, args, model, tokenizer)
    if args.score:
        args.num = max(args.num, 400)
    generator = generation.seeded_generator(args.seed)
    if args.score:
        known = print_score(model, tokenizer, args, generator)
        if args.codepoints:
            other, others_tokenizer, _ = training.load_kind(args.codepoints, False, transformer.pick_device(args.device))
            writers = {"letters": (model, tokenizer), "code points": (other, others_tokenizer)}
            draw_ill_formed(writers, known, args, generator)
    elif args.kural:
        poems, _ = lesson8.split_poems_for_training(lesson8.load_tamil(args))
        shapes = draw_shapes(tokenizer, lesson8.couplets_of(poems), args.num, generator)
        print("\n\n".join(write_couplets(model, tokenizer, shapes, args.steps, args, generator)))
    else:
        print("\n\n".join(write_verse(model, tokenizer, args, generator)))


if __name__ == "__main__":
    lesson1.run(main)
