"""Lesson 12. (being written) revise and repair."""

from importlib import import_module

import tools  # noqa: F401

import torch

diffusion = import_module("04_diffusion")


# ---- Take back and draw again
def least_sure(scores, allowed, counts, generator):
    """[B, L] True at counts[b] of the allowed places of row b: those with the lowest score x a uniform random number."""
    noise = torch.rand(scores.shape, generator=generator).to(scores.device)  # [B, L]
    ties = torch.rand(scores.shape, generator=generator).to(scores.device)  # [B, L]
    return diffusion.top_ranked(1 - scores * noise, allowed, counts, ties)


@torch.inference_mode()
def revise(
    model, tokens, passes, count, temperature=1.0, top_k=None, fillable=None, generator=None, on_step=None,
    order="confidence", choose=least_sure,
):  # fmt: skip
    """Takes back `count` letters of each finished text and draws them again, seeing all the others; passes times."""
    fillable = (
        torch.ones_like(tokens, dtype=torch.bool) if fillable is None else fillable.expand(tokens.shape)
    )  # [B, L]
    counts = fillable.sum(dim=1).clamp(max=count)  # [B]
    scores = torch.zeros(tokens.shape, device=tokens.device)  # [B, L] 0: not drawn here yet, so they come first
    on_step = on_step or (lambda tokens: None)
    for _ in range(passes if counts.any() else 0):
        chosen = choose(scores, fillable, counts, generator)  # [B, L]
        canvas = tokens.masked_fill(chosen, model.config.vocab_size)
        on_step(canvas)
        logits = model(canvas).float()  # [B, L, V]
        drawn = diffusion.draw_tokens(logits, temperature, top_k, generator)  # [B, L]
        news = diffusion.score_places(order, torch.softmax(logits, dim=-1), drawn)  # [B, L]
        tokens, scores = torch.where(chosen, drawn, tokens), torch.where(chosen, news, scores)
        on_step(tokens)
    return tokens


# ---- Repair
@torch.inference_mode()
def repair(
    model, tokens, faults, rounds, size=3, draws=32, temperature=1.0, top_k=None, fillable=None, generator=None,
    on_round=None,
):  # fmt: skip
    """Redraws what breaks a rule, until nothing does or the rounds are over. tokens [B, L], finished texts; or one row [L].

    faults(row [L]) -> the list of the places that break a rule, empty for a text that keeps it.
    """
    if tokens.dim() == 1:
        row = None if fillable is None else fillable[None]
        return repair(model, tokens[None], faults, rounds, size, draws, temperature, top_k, row, generator, on_round)[0]
    tokens, (_, L) = tokens.clone(), tokens.shape
    fillable = torch.ones_like(tokens, dtype=torch.bool) if fillable is None else fillable.expand(tokens.shape)
    broken = [faults(row) for row in tokens]
    for _ in range(rounds):
        open_rows = [b for b, places in enumerate(broken) if places]
        if not open_rows:
            break
        width = min(L, 1 + int(torch.randint(size, (1,), generator=generator)))
        lots = torch.rand(len(open_rows), 2, generator=generator).tolist()
        starts = []
        for b, (which, shift) in zip(open_rows, lots):
            place = broken[b][int(which * len(broken[b]))]
            starts.append(max(0, min(L - width, place - int(shift * width))))
        window = (torch.tensor(starts)[:, None] + torch.arange(width)).to(tokens.device)  # [R, W] places
        rows = tokens[open_rows]  # [R, L]
        masked = torch.zeros_like(rows, dtype=torch.bool).scatter(1, window, True) & fillable[open_rows]
        logits = model(rows.masked_fill(masked, model.config.vocab_size)).float()  # [R, L, V]
        logits = logits.gather(1, window[..., None].expand(-1, -1, logits.shape[-1]))  # [R, W, V]
        drawn = diffusion.draw_tokens(logits.repeat_interleave(draws, 0), temperature, top_k, generator)  # [R*n, W]
        several = rows.repeat_interleave(draws, 0)  # [R*n, L]
        several = torch.where(
            masked.repeat_interleave(draws, 0), several.scatter(1, window.repeat_interleave(draws, 0), drawn), several
        )
        for b, texts in zip(open_rows, several.view(len(open_rows), draws, L)):
            found = [faults(text) for text in texts]
            best = min(range(draws), key=lambda i: len(found[i]))
            if len(found[best]) <= len(broken[b]):
                tokens[b], broken[b] = texts[best], found[best]
        if on_round:
            on_round(tokens)
    return tokens
