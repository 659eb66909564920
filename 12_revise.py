"""Lesson 12. Can a model take back what it wrote?

A GPT cannot: what it has written stands. A dLLM can hide some letters of a finished text and draw them again, seeing all
the others (a step of Gibbs sampling; for dLLMs arXiv 2407.21243, 2502.03540, 2503.00307). Two uses of it:

revise      takes back the letters that the model doubts, pass after pass: better text in fewer passes, and better still
            for as long as one likes
repair      takes back what breaks a rule, until a checker has nothing left to say: verse that keeps its metre

What is exact about it is proved in lesson 4's toy world: one letter at a time, at random places, leads to the true
distribution; two at a time do not, nor do doubted places, which is a low temperature in disguise.

Builds on:  lessons 4 (draw_tokens, score_places, top_ranked, sample, ToyWorld), 9 (the metre), 10 (Writers, Judge).
Run:        python 12_revise.py            (about a minute on a laptop's CPU)
            python 06_generate.py --len 128 --steps 512 --watch
            python 09_generate_tamil.py --kural --metre --num 5
Last line:  the path of a picture, `figures/12_revise.png`.

Lesson 6 takes revise from here, and lesson 9 both; later lessons, too.

Exercises (answers in docs/answers.md)
  1. Let `show_exact` take back three letters at a time. Does it end nearer to the truth than two, or farther off? Why?
  2. Give revise order="random" in `word_curves`. What do the passes buy now?
  3. Set WINDOW to 2 in `show_repair`. How many rounds does the couplet take, and why more?
"""

import itertools
from importlib import import_module

import tools
from tools import check

import torch

diffusion = import_module("04_diffusion")
training = import_module("05_train")
tamil_generation = import_module("09_generate_tamil")
comparison = import_module("10_compare")

HEAT = 1.0  # the temperature of the walk's texts: revising cools by itself (section 3)
LETTERS_A_PASS = 8  # written, and taken back, a pass
MARKS = (16, 32, 64, 128)  # passes at which the walk looks at the words
PIECES = 8  # texts in which it does
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
            on_step(tokens)
    return tokens
