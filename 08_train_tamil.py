"""Lesson 8. What was English about our model, and what was not?

A letter of Tamil is often two code points of Unicode: a consonant and a vowel sign, or a consonant and the dot that
says "no vowel". கொக்கு, a heron, is six code points and three letters: கொ, க், கு. A model of code points can put a
vowel sign where no consonant stands. It does so often when it writes many at once.
`python -m benchmarks.tamil --codepoints FILE` counts it. So here a token is a whole letter. The tokenizer's class, the
model, the loop and the sampler are those of the lessons before. The list of units and the windows are new.

Builds on:  lessons 1 (Tokenizer), 3 (presets), 4 (bound), 5 (the loop); tamil_dataset.py (what a letter is, the poems).
Run:        python tamil_dataset.py                               (first: it fetches the poems)
            python 08_train_tamil.py                              (5 minutes and the evaluations)
            python 08_train_tamil.py --units codepoints --out checkpoints/codepoints.safetensors
            python 08_train_tamil.py --data data/tamil_wiki.txt --preset small --out checkpoints/prose.safetensors
            python 08_train_tamil.py --evaluate checkpoints/tamil.safetensors
Last line:  the command that generates verse from what was trained. With --evaluate it is the bits per couplet.

Blank lines separate poems. Of each ten that follow each other one, drawn by lot, is held out. So all works are in both
parts. A couplet is a poem of two lines. It is also a window by itself. Lesson 5's loop prints nats per letter here.
With --units codepoints it prints nats per code point. The two may not be compared.

Exercises (answers in docs/answers.md). Use --steps 100 --batch 8 and another --out for each run. A run takes seconds.
  1. Train with --units codepoints. Why may the two held-out figures in nats per token not be compared? What may be?
  2. Set COUPLET_SHARE to 0 and compare the bits per couplet. What did the windows of one couplet teach?
  3. How many letters of letter_grid occur in the training text? What does the model make of the others?
"""

import math
import random
import re
import string
import sys
import unicodedata
from collections import Counter
from dataclasses import replace
from importlib import import_module
from itertools import product

from tools.command_line import UserError, print_command, run
from tools.devices import pick_device
from tools.pictures import mean_and_error
from tools.settings import settle, training_parser

import torch

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
tamil = import_module("tamil_dataset")

OWN = dict(preset="tiny", dropout=0.1)  # a larger model reads less in the same minutes and ends worse (docs/tuning.md)
COUPLET_SHARE = 0.7  # of the batches are couplets, each a window of its own
OFTEN = 100  # a code point that is not on the grid becomes a unit if it occurs so often
OTHERS = [*"0123456789", *" \n", *tamil.PUNCTUATION]


# ---- The alphabet
def letter_grid():
    """All letters of Tamil: vowels, the aytham, and every consonant with every vowel and with none.

    (Two clusters have signs of their own, க்ஷ and ஸ்ரீ. Each is two letters here.)
    """
    carried = product(tamil.CONSONANTS + tamil.GRANTHA, ["", *tamil.SIGNS, tamil.PULLI])
    return [*tamil.VOWELS, tamil.AYTHAM, *(consonant + sign for consonant, sign in carried)]


def make_units(text, kind):
    """The units for a text. kind: "letters" or "codepoints".

    The alphabet does not depend on the text, save for code points off the grid that occur OFTEN. If one of them is of
    a to z or A to Z, all of these become units, or a word like "km" would lose a letter.
    """
    units = letter_grid() if kind == "letters" else sorted(set("".join(letter_grid())))
    known = {*"".join(units), *OTHERS}
    foreign = Counter(character for character in text if character not in known)
    frequent, latin = {character for character, count in foreign.items() if count >= OFTEN}, {*string.ascii_letters}
    return units + OTHERS + sorted(frequent | latin if frequent & latin else frequent)


def keep_known(tokenizer, text):
    """The text without what no unit covers. A word that would lose a letter goes whole. Says how much was dropped.

    Raises UserError where it is more than half.
    """
    lost = "".join(filter(str.isalpha, set(tokenizer.pattern.sub("", text))))
    letters = "".join(c for c in set(text) if unicodedata.category(c)[0] in "LM")  # M: signs that join a letter
    whole = re.sub(f"(?<![{letters}])[{letters}]*[{lost}][{letters}]*", "", text) if lost else text
    kept = "".join(tokenizer.pattern.findall(whole))
    if len(kept) < len(text) / 2:  # the alphabet of another writing system
        has = f"only {len(kept):,} of the text's {len(text):,} characters"
        raise UserError(f"the model's alphabet has {has}: is it one of Tamil?")
    if len(kept) < len(text):
        dropped = f"{len(text) - len(kept):,} of {len(text):,} characters"
        print(f"{dropped} were dropped: words with letters that the alphabet lacks, and other signs", file=sys.stderr)
    return kept


# ---- Poems
def split_poems_for_training(text):
    """A text -> (training poems, held-out poems). Of each ten that follow each other one is held out.

    A lot chooses it, since every tenth couplet of the Thirukkural ends a chapter.
    """
    poems = [poem.strip("\n") for poem in re.split(r"\n{2,}", text) if poem.strip()]
    if len(poems) < 10:
        raise UserError(f"the text has {len(poems)} poems, separated by blank lines; ten or more are needed.")
    lot = random.Random(0)
    chosen = {start + lot.randrange(10) for start in range(0, len(poems) - 9, 10)}
    heldout = [poem for i, poem in enumerate(poems) if i in chosen]
    return [poem for i, poem in enumerate(poems) if i not in chosen], heldout


def couplets_of(poems):
    """The couplets among some poems. None where they are rare, since two lines of prose are an accident."""
    couplets = [poem for poem in poems if poem.count("\n") == 1]
    return couplets if len(couplets) >= len(poems) / 10 else []


def couplets_or_refuse(poems):
    """The couplets among some poems. Raises UserError when there are fewer than two."""
    couplets = couplets_of(poems)
    if len(couplets) < 2:
        raise UserError("this needs a text of which many poems are couplets, such as data/tamil.txt.")
    return couplets


def by_length(tokenizer, couplets):
    """{length: (places, tokens [N, length])}. places are indices into `couplets`. One length makes a batch."""
    groups = {}
    for place, couplet in enumerate(couplets):
        ids = tokenizer.encode(couplet)
        places, rows = groups.setdefault(len(ids), ([], []))
        places.append(place)
        rows.append(ids)
    return {length: (places, torch.tensor(rows)) for length, (places, rows) in groups.items()}


def poem_windows(tokenizer, poems, couplets, context, batch):
    """Returns draw(generator) -> tokens [B, L]: `batch` windows of the poems in a row, or couplets of one length.

    COUPLET_SHARE says how often it draws couplets. Each is a window by itself. Both kinds have as many tokens a batch.
    """
    tokens = torch.tensor(tokenizer.encode("\n\n".join(poems)))
    if len(tokens) <= context:
        raise UserError(f"the poems to train on have {len(tokens):,} tokens; more than {context} are needed.")
    from_anywhere = tensors.random_windows(tokens, context, batch)
    groups = [rows for length, (_, rows) in by_length(tokenizer, couplets).items() if length <= context]
    sizes = torch.tensor([float(len(group)) for group in groups])

    def draw(generator):
        if not groups or torch.rand((), generator=generator) >= COUPLET_SHARE:
            return from_anywhere(generator)
        group = groups[torch.multinomial(sizes, 1, generator=generator).item()]  # [N, L], the large groups more often
        number = batch * context // group.shape[1]
        return group[torch.randint(len(group), (number,), generator=generator)]  # [number, L]

    return draw


@torch.inference_mode()
def bits_per_couplet(model, tokenizer, couplets, draws=64):
    """[N] the bound in bits of each couplet, as a window of its own length.

    Bits per couplet compare models whose tokens differ, since each must spell the same couplets. The model sees
    the window's length. A length in code points tells more than one in letters, which favours code points.
    """
    generator, bits = torch.Generator().manual_seed(0), torch.empty(len(couplets))
    for length, (places, rows) in by_length(tokenizer, couplets).items():
        copies = rows.repeat_interleave(draws, dim=0).to(model.head.weight.device)  # [N * draws, length]
        nats = [diffusion.bound(model, part, generator=generator) for part in copies.split(draws)]  # each stratified
        bits[places] = torch.cat(nats).view(-1, draws).mean(dim=1).cpu() * length / math.log(2)  # [N]
    return bits


# ---- The command line
def load_tamil(path):
    """The text at `path` or in data/tamil.txt. Raises UserError where it is not there or not Tamil."""
    path = tamil.TAMIL_TEXT if path is None else path
    if path == tamil.TAMIL_TEXT and not path.exists():
        raise UserError(f"{tamil.TAMIL_TEXT} is not there yet; make it with: python tamil_dataset.py")
    text = tamil.normalize(tensors.load_text(path))
    in_tamil = sum(map(len, re.findall(tamil.LETTER, text)))
    if in_tamil < 0.5 * len(re.sub(r"\s", "", text)):
        raise UserError(f"{path} is not Tamil: {in_tamil:,} of its {len(text):,} characters are.")
    return text


def tokens_per_letter(tokenizer, text):
    """How many tokens stand for a letter. By it both kinds of unit get contexts that hold the same text."""
    letters = tensors.Tokenizer(make_units(text, "letters"))
    return len(tokenizer.encode(text)) / len(letters.pattern.findall(text))


def train_on_poems(settings, text, saved, kind):
    """Trains on the poems of a text. saved: the checkpoint to go on from, or None. kind: that of the units, or None.

    A saved run takes its alphabet from the file. All else follows from its settings and the text. Raises UserError.
    """
    units = training.read_config(saved, settings.out)[1] if saved else make_units(text, kind or "letters")
    its_kind = "letters" if max(map(len, units)) > 1 else "codepoints"
    if kind and kind != its_kind:
        raise UserError(f"the run in {settings.out} has --units {its_kind}, not {kind}: leave out --units.")
    tokenizer = tensors.Tokenizer(units)
    text = keep_known(tokenizer, text)
    poems, heldout = split_poems_for_training(text)
    shape = transformer.PRESETS[settings.preset]
    context = round(shape["context"] * tokens_per_letter(tokenizer, text))
    config = transformer.Config(tokenizer.vocab_size, **{**shape, "context": context}, dropout=settings.dropout)
    tokens = torch.tensor(tokenizer.encode("\n\n".join(heldout)))
    if len(tokens) < context:
        raise UserError(f"the poems held out have {len(tokens):,} tokens; {context} or more are needed.")
    windows = tensors.consecutive_windows(tokens, context)
    draw = poem_windows(tokenizer, poems, couplets_of(poems), context, settings.batch)
    objective = replace(training.DIFFUSION, token="letter" if its_kind == "letters" else "code point")
    training.train(settings, objective, tokenizer, config, draw, windows, saved)
    print_command("python 09_generate_tamil.py", settings.out)


def print_bits(path, model, tokenizer, text):
    """Prints the bits per held-out couplet of the model in the file `path`."""
    _, heldout = split_poems_for_training(keep_known(tokenizer, text))
    couplets = couplets_or_refuse(heldout)
    bits, error = mean_and_error(bits_per_couplet(model, tokenizer, couplets))
    print(f"{path}: bound {bits:.1f} +- {error:.1f} bits per couplet ({len(couplets)} couplets)")


def main():
    """The command line of 08_train_tamil.py."""
    parser = training_parser(__doc__, "my_tamil.safetensors", transformer.PRESETS, "data/tamil.txt", **OWN)
    parser.add_argument("--units", choices=("letters", "codepoints"), help="what a token is (default: letters)")
    args = parser.parse_args()
    if args.units and args.evaluate is not None:
        parser.error("--units does not go with --evaluate")
    if args.evaluate is not None:
        model, tokenizer, _ = training.load_kind(args.evaluate, False, pick_device(args.device))
        return print_bits(args.evaluate, model, tokenizer, load_tamil(args.data))
    settings, text, saved = settle(args, "08_train_tamil.py", transformer.PRESETS, load_tamil, **OWN)
    train_on_poems(settings, text, saved, args.units)


if __name__ == "__main__":
    run(main)
