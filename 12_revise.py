"""Lesson 12. What is exact about taking letters back, and what else is it good for?

Lesson 6 hides letters of a finished text and draws them again, seeing all the others. That is a step of Gibbs sampling
(for dLLMs arXiv 2407.21243, 2502.03540, 2503.00307). A GPT cannot do this. What it has written stands.

- One letter at a time, at random places, leads to the true distribution. Two at a time do not. Nor do doubted places,
  which are a low temperature in disguise. Lesson 4's toy world proves all three.
- Doubted places, some at a time, give more real words in the same number of passes.
- `repair` takes back what breaks a rule, until a checker finds no fault. So couplets come to keep their metre, and
  robots' paths (lesson 14) their distance.

Builds on:  lessons 4 (draw_tokens, sample, ToyWorld), 6 (revise, flags), 9 (the metre, couplets), 10 (Judge).
Run:        python 12_revise.py            (the walk, about 20 seconds on a laptop's CPU)
            python 12_revise.py --kural --num 5 --seed 1             (couplets that scan, with data/tamil.txt)
            python 12_revise.py --kural --metre --rhyme --num 5      (and rhyme)
Last line:  the path of a picture, `figures/12_revise.png`. With --kural it is the last line of the verse.

Lesson 14 takes repair from here. benchmarks/tamil.py takes RULES, PASSES, mend_couplets.

Exercises (answers in docs/answers.md)
  1. Let `show_chains` take back three letters at a time. Does it end nearer to the truth than two, or farther off? Why?
  2. Let `word_curves` call `revise` for one pass at a time, so that any letters are taken back. What do passes buy now?
  3. Give `repair` window=2 in `show_repair`. Does the couplet scan after 150 rounds? Why?
"""

import itertools
import re
import sys
from importlib import import_module

from tools.command_line import check, run, seeded_generator
from tools.devices import pick_device
from tools.pictures import new_figure, save_figure

import torch

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
tamil = import_module("tamil_dataset")
tamil_generation = import_module("09_generate_tamil")
comparison = import_module("10_compare")

HEAT = 1.1  # the temperature of the walk's texts: taking back cools by itself. Lesson 6 is cooler, for more real words
MARKS = (16, 32, 64, 128)  # passes after which the walk counts known words
PIECES = 8  # texts in which it counts them
TOY_PASSES = (0, 1, 2, 4, 8, 16, 32)
SHAPE = (19, 14)  # letters in the lines of the couplet that is mended
WINDOW = 8  # letters, at most, that a repair takes back at once
PASSES = 150  # that mend a couplet


# ---- 1. What is exact: the chance that a text of the toy world becomes another, for all pairs of texts
def redrawn(world, places):
    """[X, X] the probability that a text (row) becomes another (column) when its letters at K `places` are drawn again
    as if independent. The world has X texts."""
    canvases = world.texts.clone()  # [X, L]
    canvases[:, places] = world.config.vocab_size
    log_p, letters = world(canvases)[:, places], world.texts[:, places]  # [X, K, V], [X, K]
    drawn = sum(log_p[:, k, letters[:, k]] for k in range(len(places))).exp()  # [X, X]
    the_rest_stays = (canvases[:, None] == canvases).all(dim=2)  # [X, X]
    return drawn * the_rest_stays


def at_random(world, count):
    """[X, X] a pass that takes back `count` letters, all choices of places being equally likely."""
    choices = list(itertools.combinations(range(world.texts.shape[1]), count))
    return sum(redrawn(world, list(places)) for places in choices) / len(choices)


def by_doubt(world):
    """[X, X] a pass that takes back one letter: where p(letter | the others) x a uniform random number is lowest.

    `revise` asks for p of a letter that is seen, which is 1 in this perfect model. A trained model was never scored on
    letters that it sees. That its answer helps is measured, not proved: `python -m benchmarks.revise --rivals`.
    """
    X, L = world.texts.shape
    hidden = world.texts.repeat(L, 1, 1)  # [L, X, L]
    hidden[range(L), :, range(L)] = world.config.vocab_size
    p = torch.stack([world(hidden[i])[range(X), i, world.texts[:, i]].exp() for i in range(L)], dim=1)  # [X, L]
    # Product i has the value t with density 1/p_i. Product j is above t with the chance 1 - t/p_j. Summed over t:
    t = p.amin(dim=1) * (torch.arange(1000)[:, None] + 0.5) / 1000  # [1000, X] above the least p it is never
    beyond = 1 - t[..., None] / p  # [1000, X, L]
    chances = (beyond.prod(dim=2, keepdim=True) / beyond / p).mean(dim=0) * p.amin(dim=1, keepdim=True)  # [X, L]
    return sum(chances[:, i, None] * redrawn(world, [i]) for i in range(L))


def distance(p, q):
    """Total variation: half the sum of the differences."""
    return 0.5 * (p - q).abs().sum().item()


def show_chains(world, generator):
    """Passes over all texts at once, from those of four letters drawn in one pass. Returns {name: distances}."""
    print("1. In lesson 4's toy world: how far from the truth (total variation) after so many passes\n")
    start = torch.softmax(world(torch.full((1, 4), 4)), dim=-1)[0]  # [L, V]
    start = torch.stack([start[i, world.texts[:, i]] for i in range(4)]).prod(dim=0)  # [X]
    passes = {"1 letter, anywhere": at_random(world, 1), "2 letters, anywhere": at_random(world, 2)}
    passes["1 letter, by doubt"] = by_doubt(world)
    ends, curves = {}, {}
    print(f"  {'passes':20}" + "".join(f"{n:8}" for n in TOY_PASSES) + "   for ever")
    for name, matrix in passes.items():
        curves[name] = [distance(start @ torch.matrix_power(matrix, n), world.p) for n in TOY_PASSES]
        ends[name] = start @ torch.matrix_power(matrix, 2**12)
        figures = [*curves[name], distance(ends[name], world.p)]
        print(f"  {name:20}" + "".join(f"{figure:8.3f}" for figure in figures))
    one, two, doubt = passes
    check("one letter anywhere keeps the true distribution", (world.p @ passes[one] - world.p).abs().max() < 1e-6)
    check("and brings any other nearer, pass by pass", curves[one] == sorted(curves[one], reverse=True))
    far = {name: distance(end, world.p) for name, end in ends.items()}
    check("in the end it comes to it", far[one] < 1e-3)
    check("two soon stand still, far from it", abs(curves[two][-1] - far[two]) < 0.01 < far[two])
    check("one by doubt is quicker at first, and then goes astray", min(curves[doubt]) < curves[one][3] < far[doubt])
    surprise = [-(p * world.p.log()).sum().item() for p in (world.p, ends[doubt])]
    print(f"  -log p(text) on average: {surprise[0]:.2f} in the truth, {surprise[1]:.2f} after passes by doubt")
    check("doubt prefers what is likely: a low temperature in disguise", surprise[1] < surprise[0])
    texts = world.texts[torch.multinomial(start, 50_000, replacement=True, generator=generator)]
    for _ in range(4):  # the first pass of a call takes back any letter
        texts = generation.revise(world, texts, 1, 1, generator=generator)
    check("`revise` of lesson 6 comes as near in 4 passes", abs(world.distance(texts) - curves[one][3]) < 0.02)
    return curves


# ---- 2. What doubted places are worth
def word_curves(model, tokenizer, judge, seed=0):
    """{name: shares of known words} of PIECES texts after each number of passes in MARKS.

    Some are written in all these passes. The others are written in the first MARKS[0] of them and then revised.
    """
    L = model.config.context
    empty = torch.full((PIECES, L), tokenizer.vocab_size, device=model.head.weight.device)
    share = lambda tokens: judge.known_words([tokenizer.decode(row) for row in tokens])  # noqa: E731
    generator, written = torch.Generator().manual_seed(seed), []
    for passes in MARKS[:-1]:
        tokens = diffusion.sample(model, empty, passes, 0.8, order="random", generator=generator)
        written.append(share(tokens))
    tokens = diffusion.sample(model, empty, MARKS[0], HEAT, order="random", generator=generator)
    revised, count = [share(tokens)], -(-L // MARKS[0])  # a pass takes back as many as one has written
    for before, after in itertools.pairwise(MARKS):
        tokens = generation.revise(model, tokens, after - before, count, HEAT, generator=generator)
        revised.append(share(tokens))
    return {"written, at 0.8": written, f"written in {MARKS[0]}, then revised, at {HEAT}": revised}


def show_words(model, tokenizer, judge):
    """Prints the share of known words with and without passes that take back."""
    print(f"\n2. Known words in {PIECES} texts of {model.config.context} letters, the number being the temperature\n")
    curves = word_curves(model, tokenizer, judge)
    print(f"  {'passes in all':36}" + "".join(f"{n:8}" for n in MARKS))
    for name, shares in curves.items():
        print(f"  {name:36}" + "".join(f"{share:8.1%}" for share in shares))
    written, revised = curves.values()
    check(f"in {MARKS[2]} passes, revised texts have more of them than written ones", revised[2] > written[2])


# ---- 3. Repair: take back what breaks a rule
def windows_at(faults, width, length, generator):
    """[R, width] places in a row around a fault of each text. faults: lists of places, one for each of R texts."""
    starts = []
    for places, (which, shift) in zip(faults, torch.rand(len(faults), 2, generator=generator).tolist()):
        start = places[int(which * len(places))] - int(shift * width)
        starts.append(max(0, min(length - width, start)))
    return torch.tensor(starts)[:, None] + torch.arange(width)


@torch.inference_mode()
def repair(
    model, tokens, faults, rounds, window=WINDOW, draws=32, temperature=1.0, top_k=None, fillable=None, generator=None,
    on_step=None,
):  # fmt: skip
    """Redraws what breaks a rule in finished texts, tokens [B, L], until nothing does or the rounds are over.

    faults(row [L]) -> list of the places that break a rule, each as often as it does. A text that keeps it gives [].

    A round hides 1 to `window` places in a row around a fault and asks the model once. The pass is dear and the draws
    are cheap, so it draws `draws` fillings. It takes the one with the fewest faults, of several the likeliest. A text
    never gets more faults. It may still have some when the rounds are over. The rest is as in `revise` of lesson 6.
    """
    fillable = torch.ones_like(tokens, dtype=torch.bool) if fillable is None else fillable.expand(tokens.shape)
    tokens, L, found = tokens.clone(), tokens.shape[1], [faults(row) for row in tokens]
    for _ in range(rounds):
        broken = [b for b, places in enumerate(found) if places]  # R of the B rows
        if not broken:
            break
        width = 1 + int(torch.randint(min(window, L), (1,), generator=generator))
        places = windows_at([found[b] for b in broken], width, L, generator).to(tokens.device)  # [R, W]
        open_ = fillable[broken].gather(1, places)  # [R, W]
        rows = tokens[broken]  # [R, L]
        before = rows.gather(1, places)  # [R, W]
        canvas = rows.scatter(1, places, before.masked_fill(open_, model.config.vocab_size))
        logits = model(canvas).float()  # [R, L, V]
        logits = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[2]))  # [R, W, V]
        many = logits.repeat_interleave(draws, dim=0)  # [R * draws, W, V]
        drawn = diffusion.draw_tokens(many, temperature, top_k, generator)  # [R * draws, W]
        log_p = torch.log_softmax(many, dim=-1).gather(2, drawn[..., None]).squeeze(2)  # [R * draws, W]
        drawn, log_p = drawn.view(-1, draws, width), log_p.view(-1, draws, width)
        for r, b in enumerate(broken):
            texts = rows[r].repeat(draws, 1)  # [draws, L]
            texts[:, places[r]] = torch.where(open_[r], drawn[r], before[r])
            likely = (log_p[r] * open_[r]).sum(dim=1).tolist()
            after = [faults(text) for text in texts]
            best = min(range(draws), key=lambda i: (len(after[i]), -likely[i]))
            if len(after[best]) <= len(found[b]):
                tokens[b], found[b] = texts[best], after[best]
        if on_step:
            on_step(tokens.clone())  # the rows change in place
    return tokens


# ---- 4. Verse that keeps its rules
# A rule is a function. It takes a couplet and names the places where the couplet breaks the rule, each as often as it
# does. Places are counted in characters.
def rhyme_faults(couplet):
    """The second letters of both lines, where they do not rhyme. All of a line that has no second letter."""
    places = []
    for line in re.finditer(".+", couplet):
        letters = [*re.compile(tamil.LETTER).finditer(couplet, *line.span())]
        places += [letters[1].start()] if len(letters) > 1 else range(*line.span())
    return [] if tamil_generation.rhymes(couplet) else places


RULES = dict(metre=tamil_generation.metre_faults, rhyme=rhyme_faults)


def faults_of(tokenizer, rules):
    """The faults function for rows of tokens [L] that names the tokens where these rules do."""

    def faults(row):
        units = [tokenizer.units[i] for i in row.tolist()]
        token_of = [place for place, unit in enumerate(units) for _ in unit]  # of each character
        return [token_of[place] for rule in rules for place in rule("".join(units))]

    return faults


def revise_keeping(model, tokens, passes, faults, **settings):
    """`revise` of lesson 6, two passes and two letters at a time. Where a row of tokens [B, L] has more faults than
    before, its change is undone. The first pass takes back any letters, the second doubted ones."""
    for _ in range(passes // 2):
        new = generation.revise(model, tokens, 2, 2, **settings)
        no_worse = [len(faults(a)) <= len(faults(b)) for a, b in zip(new, tokens)]  # [B]
        tokens = torch.where(torch.tensor(no_worse, device=tokens.device)[:, None], new, tokens)
    return tokens


def mend_couplets(model, tokenizer, couplets, rules, generator, passes=PASSES, temperature=0.8, top_k=None):
    """Couplets mended until they break none of the rules. A third of the passes repair. The others take letters back,
    for the sake of the words."""
    line_break, faults, mended = tokenizer.id_of["\n"], faults_of(tokenizer, rules), {}
    writer = tamil_generation.WithoutBreaks(model, line_break)
    shapes = tamil_generation.line_lengths(tokenizer, couplets)
    for shape in sorted(set(shapes)):  # those of one shape make a batch
        places = [place for place, other in enumerate(shapes) if other == shape]
        rows = torch.tensor([tokenizer.encode(couplets[place]) for place in places], device=model.head.weight.device)
        settings = dict(temperature=temperature, top_k=top_k, fillable=rows != line_break, generator=generator)
        rows = repair(writer, rows, faults, passes // 3, **settings)  # [n, L]
        rows = revise_keeping(writer, rows, passes - passes // 3, faults, **settings)
        mended.update(zip(places, map(tokenizer.decode, rows)))
    return [mended[place] for place in range(len(couplets))]


def scansion(couplet):
    """The feet of a couplet, as they are printed."""
    lines = tamil_generation.words_of(couplet)
    return " / ".join(" ".join(map(tamil_generation.metremes, words)) for words in lines)


def show_repair(generator, rounds=150):
    """Prints a couplet whenever the repair has brought down the number of its faults."""
    print("\n3. The worst of eight couplets, mended. N, R: metremes (lesson 9). Places: letters that do not fit\n")
    model, tokenizer, _ = training.load_kind(tamil_generation.SHIPPED_TAMIL, False)
    line_break, mask_id = tokenizer.id_of["\n"], model.config.vocab_size
    canvas = torch.full((8, sum(SHAPE) + 1), mask_id)
    canvas[:, SHAPE[0]] = line_break
    letters, writer = canvas[:1] == mask_id, tamil_generation.WithoutBreaks(model, line_break)
    couplets = diffusion.sample(writer, canvas, sum(SHAPE), 0.8, order="certainty", generator=generator)
    faults, seen = faults_of(tokenizer, [tamil_generation.metre_faults]), []
    couplet = max(couplets, key=lambda row: len(faults(row)))[None]  # [1, L]

    def show(rows):
        number = len(faults(rows[0]))
        if not seen or number < min(seen):
            text = tokenizer.decode(rows[0])
            print(f"  after {len(seen):3} rounds, {number:2} places: {scansion(text)}\n{text}\n")
        seen.append(number)

    show(couplet)
    settings = dict(temperature=0.8, fillable=letters, generator=generator)
    mended = repair(writer, couplet, faults, rounds, on_step=show, **settings)
    revised = revise_keeping(writer, mended, 60, faults, **settings)
    # Word by word: "even than the unlearned", "safety", "other uses" / "a hard branch", "eye" and "fetter", "word". It
    # scans, and as a whole it means nothing. So small a model knows words and metre.
    print(f"  and revised in 60 passes, the metre kept: {scansion(tokenizer.decode(revised[0]))}")
    print(tokenizer.decode(revised[0]))
    check("it scans", tamil_generation.spoken_metre(tokenizer.decode(revised[0])))


# ---- The walk, and the command line
def draw_chains(curves):
    """Saves the picture: total variation from the truth against passes."""
    figure, axes = new_figure(figsize=(7, 4.5))
    for name, distances in curves.items():
        axes.plot(TOY_PASSES, distances, "o-", label=name)
    axes.set(xlabel="passes", ylabel="total variation from the truth", title="the toy world", ylim=(0, 0.6))
    axes.set_xscale("symlog")
    axes.set_xticks(TOY_PASSES, TOY_PASSES)
    axes.minorticks_off()
    axes.legend()
    save_figure(figure, "12_revise.png")


def show_walk(generator, device):
    """Walks through the lesson."""
    p = torch.softmax(1.5 * torch.randn(4**4, generator=torch.Generator().manual_seed(0)), dim=0)  # that of lesson 4
    curves = show_chains(diffusion.ToyWorld(p, V=4, L=4), generator)
    model, tokenizer, _ = training.load_kind(generation.SMALL, False, device)
    tokens, _ = tensors.split_text(tensors.load_text(), tokenizer, model.config.context)
    show_words(model, tokenizer, comparison.Judge(tokenizer.decode(tokens), tokenizer.vocab_size))
    show_repair(generator)
    draw_chains(curves)


def main():
    """The command line of 12_revise.py."""
    parser = generation.generating_parser(__doc__, tamil_generation.SHIPPED_TAMIL, length=None)
    verse = dict(kural="write couplets and mend them", metre="their metre (the default)", rhyme="their rhyme")
    for name, what in verse.items():
        parser.add_argument(f"--{name}", action="store_true", help=what)
    parser.add_argument("--data", metavar="FILE", help="the verse it was trained on (default: data/tamil.txt)")
    args = parser.parse_args()
    if not args.kural:
        for flag in parser.changed(args, vars(args).keys() - {"kural", "seed", "device"}):
            parser.error(f"{flag} goes with --kural, which writes whole couplets")
        return show_walk(torch.Generator().manual_seed(args.seed or 0), pick_device(args.device))
    rules = [rule for name, rule in RULES.items() if getattr(args, name)] or [tamil_generation.metre_faults]
    sampling_for = generation.read_sampling(parser, args, letters_a_pass=1)
    model, tokenizer = generation.load_writer(parser, args)
    known, generator = tamil_generation.read_couplets(tokenizer, args.data)[1], seeded_generator(args.seed)
    shapes = tamil_generation.line_lengths(tokenizer, tamil_generation.draw_couplets(known, args.num, generator))
    couplets = tamil_generation.write_couplets(model, tokenizer, shapes, sampling_for, generator)
    heat = dict(temperature=args.temp, top_k=args.topk)
    couplets = mend_couplets(model, tokenizer, couplets, rules, generator, **heat)
    if broken := sum(any(rule(couplet) for rule in rules) for couplet in couplets):
        print(f"{broken} of {len(couplets)} still break what was asked for", file=sys.stderr)
    print("\n\n".join(couplets))


if __name__ == "__main__":
    run(main)
