"""Lesson 12. Can a model take back what it wrote?

A GPT cannot: what it has written stands. A dLLM can hide some letters of a finished text and draw them again, seeing
all the others (a step of Gibbs sampling; for dLLMs arXiv 2407.21243, 2502.03540, 2503.00307). Two uses of it:

revise      takes back the letters that the model doubts, pass after pass: better text in fewer passes; more of them
            go on mending, less and less, and cool the text
repair      takes back what breaks a rule, until a checker has nothing left to say: verse that keeps its metre

What is exact about it is proved in lesson 4's toy world: one letter at a time, at random places, leads to the true
distribution; two at a time do not, nor do doubted places, which is a low temperature in disguise.

Builds on:  lessons 4 (draw_tokens, score_places, top_ranked, sample, ToyWorld), 9 (the metre), 10 (Writers, Judge).
Run:        python 12_revise.py            (about 20 seconds on a laptop's CPU)
            python 06_generate.py --len 128 --steps 512 --watch
            python 09_generate_tamil.py --kural --metre --num 5
Last line:  the path of a picture, `figures/12_revise.png`.

Lesson 6 takes revise from here, and lesson 9 both; later lessons, too.

Exercises (answers in docs/answers.md)
  1. Let `show_chains` take back three letters at a time. Does it end nearer to the truth than two, or farther off? Why?
  2. Give revise order="random" in `word_curves`. What do the passes buy now?
  3. Give `repair` window=2 in `show_repair`. How many rounds does the couplet take, and why more?
"""

import itertools
from importlib import import_module

from tools.command_line import check, run
from tools.pictures import new_figure, save_figure

import torch

diffusion = import_module("04_diffusion")
training = import_module("05_train")
tamil_generation = import_module("09_generate_tamil")
comparison = import_module("10_compare")

HEAT = 1.1  # the temperature of the walk's texts: revising cools by itself (`show_chains`)
MARKS = (16, 32, 64, 128)  # passes after which the walk looks at the words
PIECES = 8  # texts in which it does
TOY_PASSES = (0, 1, 2, 4, 8, 16, 32)
SHAPE = (19, 14)  # letters in the lines of the couplet that is mended
WINDOW = 8  # letters, at most, that a repair takes back at once


# ---- 1. Revise: take back what the model doubts
def least_sure(scores, allowed, counts, generator):
    """[B, L] True at counts[b] of the allowed places of row b: where score x a uniform random number is lowest."""
    lot, ties = torch.rand(2, *scores.shape, generator=generator).to(scores.device)  # [B, L] each
    return diffusion.top_ranked(1 - scores * lot, allowed, counts, ties)


def keep_if_no_worse(new, old, faults):
    """new, old [B, L] -> [B, L]: of each row the new one where faults finds no more places in it than in the old."""
    no_worse = [len(faults(a)) <= len(faults(b)) for a, b in zip(new, old)]
    return torch.where(torch.tensor(no_worse, device=new.device)[:, None], new, old)


@torch.inference_mode()
def revise(
    model, tokens, passes, count, temperature=1.0, top_k=None, fillable=None, generator=None, on_step=None,
    order="confidence", choose=least_sure, faults=None,
):  # fmt: skip
    """Takes back `count` letters of each finished text and draws them again, seeing all the others; `passes` times.

    Which? Those that the model doubts: in each pass it also says how probable it finds every letter that stands there,
    taken back or not (P2, arXiv 2502.03540), and in the next one the letters go where that score x a uniform random
    number is lowest: the doubtful ones mostly, each at some time. Nothing is known before the first pass, which takes
    any. Another `order` of lesson 4 gives other scores: "random" none, so that all places are equally likely.

    model(tokens [B, L]) -> logits [B, L, V], with model.config.vocab_size = V, the mask's id.
    tokens [B, L]; fillable [B, L]: what may be taken back (default: all); the rest stays. choose: as least_sure.
    faults(row [L]) -> places that break a rule: a change that adds to them is undone. The rest is as in `sample`.
    on_step(tokens): called with the letters hidden, and with the new ones. Returns tokens [B, L].
    """
    fillable = torch.ones_like(tokens, dtype=torch.bool) if fillable is None else fillable.expand(tokens.shape)
    counts = fillable.sum(dim=1).clamp(max=count)  # [B]
    scores = torch.zeros(tokens.shape, device=tokens.device)  # [B, L]
    on_step = on_step or (lambda tokens: None)
    for _ in range(passes if counts.any() else 0):
        chosen = choose(scores, fillable, counts, generator)  # [B, L]
        canvas = tokens.masked_fill(chosen, model.config.vocab_size)
        on_step(canvas)
        logits = model(canvas).float()  # [B, L, V]
        drawn = diffusion.draw_tokens(logits, temperature, top_k, generator)  # [B, L]
        new = torch.where(chosen, drawn, tokens)
        tokens = keep_if_no_worse(new, tokens, faults) if faults else new
        safe = tokens.clamp(max=model.config.vocab_size - 1)  # a mask outside of fillable has no probability
        scores = diffusion.score_places(order, torch.softmax(logits, dim=-1), safe)  # [B, L]
        on_step(tokens)
    return tokens


# ---- 2. Repair: take back what breaks a rule
def windows_at(faults, width, length, generator):
    """[R, width] places in a row, somewhere around one of the faults, lists of places, of each of R texts."""
    starts = []
    for places, (lot, shift) in zip(faults, torch.rand(len(faults), 2, generator=generator).tolist()):
        start = places[int(lot * len(places))] - int(shift * width)
        starts.append(max(0, min(length - width, start)))
    return torch.tensor(starts)[:, None] + torch.arange(width)


@torch.inference_mode()
def repair(
    model, tokens, faults, rounds, window=WINDOW, draws=32, temperature=1.0, top_k=None, fillable=None, generator=None,
    on_step=None,
):  # fmt: skip
    """Redraws what breaks a rule, until nothing does or the rounds, a pass of the model each, are over.

    faults(row [L]) -> list of the places that break a rule, each as often as it does; empty for a text that keeps it.

    A round hides 1 to `window` places in a row around a fault. The pass is dear and the draws are cheap: so `draws`
    fillings are drawn from its one answer, and the one with the fewest faults is taken, of several the likeliest; the
    text is changed only where it has no more faults than before. tokens [B, L], finished texts, or one row [L]; the
    rest is as in revise. Where the rounds did not suffice, the best text is returned: ask faults again.
    """
    if tokens.dim() == 1:
        how = (window, draws, temperature, top_k, fillable, generator, on_step)
        return repair(model, tokens[None], faults, rounds, *how)[0]
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
            faults_of = [faults(text) for text in texts]
            best = min(range(draws), key=lambda i: (len(faults_of[i]), -likely[i]))
            if len(faults_of[best]) <= len(found[b]):
                tokens[b], found[b] = texts[best], faults_of[best]
        if on_step:
            on_step(tokens.clone())  # the rows change in place
    return tokens


# ---- 3. What is exact: the chance that a text of the toy world becomes another, for all pairs of texts
def redrawn(world, places):
    """[X, X] the probability that text x becomes y when its letters at `places` are drawn again as if independent."""
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

    (What `revise` asks for, p of a letter that is seen, is 1 in this perfect model. A trained one was never scored on
    letters that it sees: what it says of them is a by-product. That it helps is measured, not proved: "doubted" against
    "any place" in `python -m benchmarks.revise --rivals`.)
    """
    X, L = world.texts.shape
    hidden = world.texts.repeat(L, 1, 1)  # [L, X, L]
    hidden[range(L), :, range(L)] = world.config.vocab_size
    p = torch.stack([world(hidden[i])[range(X), i, world.texts[:, i]].exp() for i in range(L)], dim=1)  # [X, L]
    # product i is lowest with the chance  integral over t of  1/p_i * product over the others of (1 - t/p_j)
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
    check(
        "one letter anywhere leaves the true distribution as it is",
        (world.p @ passes[one] - world.p).abs().max() < 1e-6,
    )
    check("and brings any other nearer, pass by pass", curves[one] == sorted(curves[one], reverse=True))
    far = {name: distance(end, world.p) for name, end in ends.items()}
    check("in the end it comes to it", far[one] < 1e-3)
    check(
        "two, drawn as if independent, soon stand still far from it", abs(curves[two][-1] - far[two]) < 0.01 < far[two]
    )
    check("one by doubt is quicker at first, and then goes astray", min(curves[doubt]) < curves[one][3] < far[doubt])
    surprise = [-(p * world.p.log()).sum().item() for p in (world.p, ends[doubt])]
    print(f"  -log p(text) on average: {surprise[0]:.2f} in the truth, {surprise[1]:.2f} after passes by doubt")
    check("doubt prefers what is likely: a low temperature in disguise", surprise[1] < surprise[0])
    texts = world.texts[torch.multinomial(start, 50_000, replacement=True, generator=generator)]
    by_sampler = revise(world, texts, 4, 1, order="random", generator=generator)
    check("`revise` itself comes as near in 4 passes", abs(world.distance(by_sampler) - curves[one][3]) < 0.02)
    return curves


# ---- 4. A text being revised, and what it is worth
def show_revision(writers, generator, length=96, writing=12, passes=36):
    """Prints a text every few passes, what has changed since then marked."""
    print(f"\n2. A text of {length} letters, written in {writing} passes and revised in {passes} (^: another letter)\n")
    model, tokenizer = writers.dllm, writers.tokenizer
    canvas = torch.full((1, length), tokenizer.vocab_size, device=writers.device)
    text = before = diffusion.sample(model, canvas, writing, HEAT, order="random", generator=generator)
    for done in range(0, passes + 1, passes // 4):
        print(f"      {''.join(' ^'[changed] for changed in (text != before)[0].tolist())}".rstrip())
        letters = tokenizer.decode(text[0]).replace("\n", "/")
        print(f"  {done:2}  {letters}")
        before, text = text, revise(model, text, passes // 4, length // writing, HEAT, generator=generator)


def word_curves(writers, judge, seed=0):
    """{name: shares of known words} of PIECES texts after so many of MARKS: written in as many passes; and written in
    the first of them, then revised."""
    empty = torch.full((PIECES, writers.length), writers.tokenizer.vocab_size, device=writers.device)
    share = lambda tokens: judge.known_words(writers.texts(tokens))  # noqa: E731
    generator, written = torch.Generator().manual_seed(seed), []
    for passes in MARKS[:-1]:
        tokens = diffusion.sample(writers.dllm, empty, passes, 0.8, order="random", generator=generator)
        written.append(share(tokens))
    tokens = diffusion.sample(writers.dllm, empty, MARKS[0], HEAT, order="random", generator=generator)
    revised, count = [share(tokens)], -(-writers.length // MARKS[0])  # a pass takes back as many as one has written
    for before, after in itertools.pairwise(MARKS):
        tokens = revise(writers.dllm, tokens, after - before, count, HEAT, generator=generator)
        revised.append(share(tokens))
    return {"written, at 0.8": written, f"written in {MARKS[0]}, then revised, at {HEAT}": revised}


def show_words(writers, judge):
    """Prints the share of known words with and without passes that revise. Returns the curves."""
    print(f"\n3. Known words in {PIECES} texts of {writers.length} letters; the number is the temperature\n")
    curves = word_curves(writers, judge)
    print(f"  {'passes in all':36}" + "".join(f"{n:8}" for n in MARKS))
    for name, shares in curves.items():
        print(f"  {name:36}" + "".join(f"{share:8.1%}" for share in shares))
    written, revised = curves.values()
    check(f"in {MARKS[2]} passes, revised texts have more of them than written ones", revised[2] > written[2])
    return curves


# ---- 5. A couplet being mended
def scansion(couplet):
    """The feet of a couplet, as they are printed."""
    lines = tamil_generation.words_of(couplet)
    return " / ".join(" ".join(map(tamil_generation.metremes, words)) for words in lines)


def show_repair(generator, rounds=150):
    """Prints a couplet whenever the repair has brought down the number of its faults."""
    print("\n4. The worst of eight couplets, mended (N, R: metremes, see lesson 9; places: letters that do not fit)\n")
    model, tokenizer, _ = training.load_kind(tamil_generation.SHIPPED_TAMIL, False)
    line_break, mask_id = tokenizer.id_of["\n"], model.config.vocab_size
    canvas = torch.full((8, sum(SHAPE) + 1), mask_id)
    canvas[:, SHAPE[0]] = line_break
    letters, writer = canvas[:1] == mask_id, tamil_generation.WithoutBreaks(model, line_break)
    couplets = diffusion.sample(writer, canvas, sum(SHAPE), 0.8, order="certainty", generator=generator)
    faults, seen = tamil_generation.faults_of(tokenizer, [tamil_generation.metre_faults]), []
    couplet = max(couplets, key=lambda row: len(faults(row)))[None]  # [1, L]

    def show(rows):
        number = len(faults(rows[0]))
        if not seen or number < min(seen):
            text = tokenizer.decode(rows[0])
            print(f"  after {len(seen):3} rounds, {number:2} places: {scansion(text)}\n{text}\n")
        seen.append(number)

    show(couplet)
    how = dict(temperature=0.8, fillable=letters, generator=generator)
    mended = repair(writer, couplet, faults, rounds, on_step=show, **how)
    revised = revise(writer, mended, 60, 2, faults=faults, **how)
    print(f"  and revised in 60 passes, the metre kept: {scansion(tokenizer.decode(revised[0]))}")
    print(tokenizer.decode(revised[0]))
    check("it scans", tamil_generation.spoken_metre(tokenizer.decode(revised[0])))


# ---- The walk
def draw_walk(toy, words, lines):
    """Saves the picture of both: total variation, and known words, against passes. lines: {name: known words}."""
    figure, (left, right) = new_figure(1, 2, figsize=(12, 4.5), layout="constrained")
    for name, distances in toy.items():
        left.plot(TOY_PASSES, distances, "o-", label=name)
    left.set(xscale="symlog", xlabel="passes", ylabel="total variation from the truth", title="the toy world")
    for name, shares in words.items():
        right.plot(MARKS[: len(shares)], shares, "o-", label=name)
    for (name, share), color in zip(lines.items(), ("tab:red", "black")):
        right.axhline(share, linestyle=":", color=color, label=name)
    right.set(xscale="log", xlabel="passes in all", ylabel="share of known words", title=f"{PIECES} texts")
    for axes, ticks in ((left, TOY_PASSES), (right, MARKS)):
        axes.set_xticks(ticks, ticks)
        axes.minorticks_off()
        axes.legend()
    save_figure(figure, "12_revise.png")


def main():
    """Walks through the lesson."""
    args = comparison.comparing_parser(__doc__).parse_args()
    generator = torch.Generator().manual_seed(args.seed)
    p = torch.softmax(1.5 * torch.randn(4**4, generator=torch.Generator().manual_seed(0)), dim=0)  # that of lesson 4
    toy = show_chains(diffusion.ToyWorld(p, V=4, L=4), generator)
    writers, tokens, windows = comparison.prepare(args.dllm, args.gpt, args.device, args.data, args.len)
    judge = comparison.Judge(writers.tokenizer.decode(tokens), writers.tokenizer.vocab_size)
    show_revision(writers, generator)
    words = show_words(writers, judge)
    by_gpt = writers.by_gpt(0.9, PIECES, writers.length, args.seed)
    lines = {"GPT, 0.9": by_gpt, "real, held out": writers.texts(comparison.spread(windows, PIECES))}
    show_repair(generator)
    draw_walk(toy, words, {name: judge.known_words(pieces) for name, pieces in lines.items()})


if __name__ == "__main__":
    run(main)
