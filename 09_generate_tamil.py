"""Lesson 9. Does the model write Tamil verse, or only something that looks like it?

The model of lesson 8 writes verse by the sampler of lesson 4, a letter a pass. --kural writes couplets. Their canvas
says where the line breaks and where the poem ends. Few couplets keep the metre. Lesson 12 mends them until they do.

--score counts what can be counted. Are the letters letters, and the words words? Do the feet follow the metre, and do
the lines rhyme? A second column has couplets that the model has not seen. A third has the same couplets with their
words shuffled. Forty couplets show how it is done, with wide errors. `python -m benchmarks.tamil` takes 400.

Builds on:  lessons 6 (generate, make_canvas, flags), 8 (poems, their bits, letter_grid); tamil_dataset.py (letters).
Run:        python 09_generate_tamil.py                               (some seconds)
            python 09_generate_tamil.py --kural --num 5 --seed 1      (needs data/tamil.txt, for the couplets' lengths)
            python 09_generate_tamil.py --score --seed 1              (half a minute, needs data/tamil.txt)
Last line:  the last line of the verse. With --score it is the last row of the table.

Lesson 12 and benchmarks/tamil.py take from here: SHIPPED_TAMIL, WORD, the metre, the writing and the score.

Exercises (answers in docs/answers.md)
  1. Run `python -m benchmarks.tamil --seed 1` (two minutes) with --temp 0.5 and 0.8. What does heat cost and buy?
  2. Drop the lost final u in `scansions`. Which share of real couplets still passes, and why the difference?
  3. Shuffle the words of the first couplet of the Thirukkural 1,000 times. How many of them scan? How many rhyme?
"""

import math
import random
import re
from functools import partial
from importlib import import_module
from itertools import pairwise

from tools.command_line import run, seeded_generator
from tools.files import ROOT
from tools.pictures import longest_copy, mean_and_error, print_row

import torch

generation = import_module("06_generate")
tamil_training = import_module("08_train_tamil")
tamil = import_module("tamil_dataset")

SHIPPED_TAMIL = ROOT / "checkpoints" / "tamil.safetensors"
SHORT_VOWELS = "அஇஉஎஒ"
SHORT_U = ("கு", "சு", "டு", "து", "பு", "று", "வு")  # lost before a vowel in speech, though வு not always
WORD = r"[\u0b80-\u0bff]+"
SCORED = 40  # couplets, at least
SHUFFLES = 10  # of the words of each held-out couplet


# ---- The metre: kural venba. The first couplet of the Thirukkural, foot by foot:
#
#     அகர         முதல         எழுத்தெல்லாம்         ஆதி
#     a ka ra      mu da la      e zhut tel laam      aa di
#     R    N       R     N       R      N   N         N  N
#
#     பகவன்       முதற்றே      உலகு.
#     pa ka van    mu dat ree    u la ku
#     R     N      R      N      R    N
#
# A couplet has four feet and three. The editions print a foot as a word, so a word is a foot here. A foot has one to
# three metremes (acai). R (nirai) is a short vowel and the vowel after it with one consonant between, as in "aka".
# N (ner) is any other vowel. A consonant without a vowel ends the metreme before it, as in "tel". After a foot of two
# metremes that ends in N comes an R. After any other foot comes an N.
#
# Two things are left out. Before y a final u is spoken as i. And some words are printed otherwise than the feet.
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
    """The metremes of a word: "R", a short vowel and another vowel, or "N", any other vowel.

    A letter without a vowel closes the metreme before it. ai counts as short unless it begins the word.
    """
    kinds = ""  # s: short, l: long, dot: no vowel
    for place, letter in enumerate(letters_of(word)):
        vowel = vowel_of(letter)
        short = vowel in SHORT_VOWELS or (vowel == "ஐ" and place > 0)
        kinds += "." if not vowel else "s" if short else "l"
    return "".join("R" if len(group) == 2 else "N" for group in re.findall("s[sl]|[sl]", kinds))


def scansions(word, following):
    """The ways to scan a word, as it stands and as it may be spoken. following: the next word.

    A short u may be lost before a vowel, at the word's end or inside it. The aytham may count as a short vowel.
    """
    spoken = [word]
    if word.endswith(SHORT_U) and following and following[0] in tamil.VOWELS:
        spoken.append(word[:-1] + tamil.PULLI)
    inside = f"({'|'.join(SHORT_U)})(?=[{tamil.VOWELS}])"
    spoken += [re.sub(inside, lambda found: found[1][0] + tamil.PULLI, form) for form in spoken]
    spoken += [form.replace(tamil.AYTHAM, "அ") for form in spoken]
    return list(dict.fromkeys(map(metremes, spoken)))


def feet_of_fault(foot, following, last_word):
    """How many feet, from this one on, break a rule of a simplified kural venba: 0, 1 or 2.

    foot, following: strings of N and R. following is None after the last foot, whose word is last_word. A foot has two
    metremes, or three that end in N. The last foot has one metreme, or two that end in N and u. Which foot may follow
    which is said above.
    """
    if following is None:
        return int(len(foot) != 1 and not (len(foot) == 2 and foot[1] == "N" and last_word.endswith(SHORT_U)))
    if len(foot) != 2 and not (len(foot) == 3 and foot[2] == "N"):
        return 1
    return 0 if following[:1] == ("R" if foot[1:] == "N" else "N") else 2


def words_of(couplet):
    """The words of each line of a couplet: [[words], [words]]."""
    return [re.findall(WORD, line) for line in couplet.split("\n")]


def four_and_three(couplet):
    """Whether a couplet has four words and three."""
    return [len(words) for words in words_of(couplet)] == [4, 3]


def strict_metre(couplet):
    """Whether a couplet follows the metre as it is printed."""
    words = sum(words_of(couplet), [])
    feet = [*map(metremes, words), None]
    return four_and_three(couplet) and not any(feet_of_fault(*pair, words[-1]) for pair in pairwise(feet))


def metre_faults(couplet):
    """The places, counted in characters, where a couplet breaks the metre, each as often as it does.

    They are all places of a foot that does not fit, spoken in the way that breaks the metre least. A line counts once
    for each word too many or too few. So do spaces that do not stand between two words.
    """
    words, faults = list(re.finditer(WORD, couplet)), [k.start() for k in re.finditer(r"(?<!\S) | (?!\S)", couplet)]
    for line, number in zip(re.finditer(".+", couplet), (4, 3)):
        faults += abs(len(re.findall(WORD, line.group())) - number) * [*range(*line.span())]
    forms, best = [word.group() for word in words], {None: []}  # way to speak a word: the fewest faults from it on
    for i in reversed(range(len(words))):
        before, best = best, {}
        for foot in scansions(forms[i], "".join(forms[i + 1 : i + 2])):
            counts = {following: feet_of_fault(foot, following, forms[-1]) for following in before}
            ways = ([*range(words[i].start(), words[i + n - 1].end())] if n else [] for n in counts.values())
            best[foot] = min((here + rest for here, rest in zip(ways, before.values())), key=len)
    return faults + min(best.values(), key=len)


def spoken_metre(couplet):
    """Whether a couplet follows the metre in one of the ways in which it may be spoken."""
    return four_and_three(couplet) and not metre_faults(tamil.normalize(couplet))  # stray spaces are no matter of metre


def rhymes(couplet):
    """Whether the second letters of both lines have the same consonant (etukai).

    Tradition also asks that the first letters be both short or both long. That is not checked.
    """
    lines = [letters_of("".join(words)) for words in words_of(couplet)]
    if len(lines) != 2 or min(map(len, lines)) < 2:
        return False
    return lines[0][1][0] == lines[1][1][0]  # a letter's first character is its consonant


# ---- Writing
def write_verse(model, tokenizer, sampling_for, prompt, ending, length, num, generator):
    """num pieces of verse of `length` letters, with the prompt and the ending, as in make_canvas of lesson 6.

    sampling_for: number of letters -> Sampling.
    """
    canvas = generation.make_canvas(tokenizer, prompt, ending, length, num, model.head.weight.device)  # [num, length]
    sampling = sampling_for(int((canvas[0] == tokenizer.vocab_size).sum()))
    return [tokenizer.decode(row) for row in generation.generate(model, canvas, sampling, generator)]


class WithoutBreaks:
    """A model that writes no line break, since the canvas of a couplet has the only one."""

    def __init__(self, model, line_break):
        self.model, self.config, self.line_break = model, model.config, line_break

    def __call__(self, tokens):
        logits = self.model(tokens)  # [B, L, V]
        logits[..., self.line_break] = -torch.inf
        return logits


def write_couplets(model, tokenizer, shapes, sampling_for, generator):
    """Couplets, one for each of shapes, [(length of line 1, of line 2)] in tokens.

    The line break and the end are given. So only the letters are left to the model. sampling_for: number of letters ->
    Sampling.
    """
    couplets, line_break = {}, tokenizer.id_of["\n"]
    for shape in sorted(set(shapes)):  # those of one shape make a batch
        places = [place for place, other in enumerate(shapes) if other == shape]
        canvas = torch.full((len(places), sum(shape) + 1), tokenizer.vocab_size, device=model.head.weight.device)
        canvas[:, shape[0]] = line_break
        writer = WithoutBreaks(model, line_break)
        rows = generation.generate(writer, canvas, sampling_for(sum(shape)), generator)  # [n, L]
        couplets.update(zip(places, map(tokenizer.decode, rows)))
    return [couplets[place] for place in range(len(shapes))]


def draw_couplets(couplets, num, generator):
    """num of the couplets, drawn for their shapes."""
    return [couplets[i] for i in torch.randint(len(couplets), (num,), generator=generator).tolist()]


def line_lengths(tokenizer, couplets):
    """[(length of line 1, of line 2)] in tokens."""
    return [tuple(len(tokenizer.encode(line)) for line in couplet.split("\n")) for couplet in couplets]


def read_couplets(tokenizer, path):
    """(the training text, its couplets, the couplets held out) of the verse at `path`, by default data/tamil.txt."""
    text = tamil_training.keep_known(tokenizer, tamil_training.load_tamil(path))
    poems, heldout = tamil_training.split_poems_for_training(text)
    return "\n\n".join(poems), tamil_training.couplets_or_refuse(poems), tamil_training.couplets_or_refuse(heldout)


# ---- The score
def ill_formed_share(couplet):
    """The share of ill-formed letters: signs that no consonant carries."""
    stray = sum(count for sign, count in tamil.ill_formed(couplet).items() if sign in tamil.SIGNS + tamil.PULLI)
    return stray / max(1, stray + len(letters_of(couplet)))


class Score:
    """Measures a couplet. Every figure is a share, or a number of letters, of one couplet."""

    def __init__(self, training_text):
        self.lexicon = set(re.findall(WORD, training_text))
        self.single = {letter: chr(0xE000 + i) for i, letter in enumerate(tamil_training.letter_grid())}
        self.letters = self.as_letters(training_text)

    def as_letters(self, text):
        """A text with a single character for every letter. So lengths are numbers of letters."""
        pieces = re.findall(f"{tamil.LETTER}|.", text.replace("\n", " "))
        return "".join(self.single.get(piece, piece) for piece in pieces)

    def known_words(self, couplet):
        """The share of words that occur in the training text."""
        words = sum(words_of(couplet), [])
        return sum(word in self.lexicon for word in words) / max(1, len(words))

    def overlap(self, couplet):
        """The longest passage that stands in the training text, in letters."""
        return longest_copy([self.as_letters(couplet)], self.letters)

    def figures(self):
        """{name: (function, how to print its average)}"""
        return {
            "ill-formed letters": (ill_formed_share, "{:.1%}"),
            "4 + 3 words": (four_and_three, "{:.1%}"),
            "metre, as printed": (strict_metre, "{:.1%}"),
            "metre, as spoken": (spoken_metre, "{:.1%}"),
            "rhyme": (rhymes, "{:.1%}"),
            "known words": (self.known_words, "{:.1%}"),
            "longest copy, letters": (self.overlap, "{:.1f}"),
        }


def average(function, groups):
    """(mean, standard error) of a figure over groups of couplets. A group's mean is one value."""
    values = torch.tensor([[float(function(couplet)) for couplet in group] for group in groups])  # [groups, in each]
    return mean_and_error(values.mean(dim=1))


def shuffle_words(couplet, source):
    """The same words in another order, as many in each line as before. Punctuation stays where it is."""
    words = re.findall(WORD, couplet)
    source.shuffle(words)
    return re.sub(WORD, lambda match: words.pop(), couplet)


def print_score(model, tokenizer, verse, num, write, generator):
    """The table: num generated couplets, as many held-out ones at most, and these with their words shuffled.

    verse: what read_couplets gives. write: shapes -> couplets.
    """
    text, known, heldout = verse
    real, source = heldout[:: math.ceil(len(heldout) / num)], random.Random(0)
    shuffled = [[shuffle_words(couplet, source) for _ in range(SHUFFLES)] for couplet in real]
    shapes = line_lengths(tokenizer, draw_couplets(known, num, generator))
    written = write(shapes)
    titles = f"generated ({num})", f"real, held out ({len(real)})", f"their words shuffled, {SHUFFLES} times"
    print(f"| | {' | '.join(titles)} |\n|---|---|---|---|")
    columns = [[couplet] for couplet in written], [[couplet] for couplet in real], shuffled
    for name, (function, form) in Score(text).figures().items():
        print_row(name, form, [average(function, groups) for groups in columns])
    firsts = [[group[0] for group in groups] for groups in columns]
    bits = [tamil_training.bits_per_couplet(model, tokenizer, couplets) for couplets in firsts]
    name = "the model's bound, bits per couplet (of the first shuffle)"
    print_row(name, "{:.1f}", map(mean_and_error, bits))


# ---- The command line
def main():
    """The command line of 09_generate_tamil.py."""
    parser = generation.generating_parser(__doc__, SHIPPED_TAMIL, length=96)
    whole = parser.add_mutually_exclusive_group()
    whole.add_argument("--kural", action="store_true", help="whole couplets, of the lengths of couplets in --data")
    whole.add_argument("--score", action="store_true", help=f"count what can be counted, in {SCORED} couplets or more")
    parser.add_argument("--data", metavar="FILE", help="the verse it was trained on (default: data/tamil.txt)")
    args = parser.parse_args()
    plain = not (args.kural or args.score)
    for flag in parser.changed(args, ("data",) if plain else ("prompt", "ending", "len")):
        parser.error(f"{flag} goes {'with' if plain else 'without'} --kural or --score")
    sampling_for = generation.read_sampling(parser, args, letters_a_pass=1)
    model, tokenizer = generation.load_writer(parser, args)
    generator = seeded_generator(args.seed)
    write = partial(write_couplets, model, tokenizer, sampling_for=sampling_for, generator=generator)
    if args.score:
        num, verse = max(args.num, SCORED), read_couplets(tokenizer, args.data)
        return print_score(model, tokenizer, verse, num, write, generator)
    if args.kural:
        known = read_couplets(tokenizer, args.data)[1]
        texts = write(line_lengths(tokenizer, draw_couplets(known, args.num, generator)))
    else:
        texts = write_verse(model, tokenizer, sampling_for, args.prompt, args.ending, args.len, args.num, generator)
    print("\n\n".join(text.strip("\n") for text in texts))


if __name__ == "__main__":
    run(main)
