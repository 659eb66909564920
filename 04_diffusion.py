"""Lesson 4. How does a model that sees both sides become a generator of text?

Masked diffusion has two halves. The forward process hides tokens at random until nothing is left. The model learns the
way back. It guesses every hidden token from the visible ones. To generate, start from masks alone and unmask a few
tokens at a time. The row of tokens that the model fills is called a canvas. The length of a text is L, since t is time.

Everything is checked in a toy world of 4 letters and texts of length 4. ToyWorld knows its true distribution and is its
perfect model, the perfect denoiser (arXiv 2602.19619).

Builds on:  lesson 1 (tensors, cross-entropy, nats). Any model(tokens) -> logits will do.
Run:        python 04_diffusion.py        (about 10 seconds on a laptop's CPU)
Last line:  the path of a picture, `figures/04_masks.png`.
"""

import itertools
from functools import partial

from tools.command_line import Parser, check, run
from tools.pictures import mean_and_error, new_figure, save_figure
from tools.toy_world import ToyWorld

import torch
from torch.nn import functional as F

EXACT_ORDERS = ("left to right", "certainty", "margin")  # these have an exact -log p (section 5)
ORDERS = ("confidence", "random", *EXACT_ORDERS)
BELL_WIDTH = 0.12  # standard deviation, before truncation, of the share of masked tokens in training (docs/tuning.md)
GREEDY = 1e-4  # a temperature below this counts as 0, since float32 would round the noise away beside such logits


# ---- 1. Hide some tokens, guess them, score the guesses
def mask_exactly(tokens, counts, mask_id, generator=None):
    """Hides exactly counts[b] tokens of row b. Every choice of places is equally likely.

    tokens [B, L], counts [B] from 0 to L. Returns (noisy, mask) [B, L]: mask_id stands where mask is True.
    """
    lottery = torch.rand(tokens.shape, generator=generator).argsort(dim=1)  # [B, L] a random order of 0..L-1
    mask = lottery.to(tokens.device) < counts[:, None]
    return tokens.masked_fill(mask, mask_id), mask


def masked_cross_entropy(logits, tokens, mask):
    """logits [B, L, V], tokens and mask [B, L] -> [B], the mean of -log p(token) over each row's masked places."""
    losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")  # [B*L]
    return (losses.view(tokens.shape) * mask).sum(dim=1) / mask.sum(dim=1)


# ---- 2. The likelihood bound. To score a text, hide 1 to L of its letters, each count equally often, and guess them.
def stratified(batch, generator=None):
    """[B] numbers in [0, 1) in random order, one from each of B equal slices (MDLM's low-discrepancy sampler)."""
    # Each number by itself is uniform. No batch lacks light or heavy masking.
    u = (torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)) / batch
    return u.clamp(max=1 - 2**-24)  # float32 may round up to 1


#     NELBO = E_n [ mean over the n masked places i of  -log p(x_i | what is visible) ],   n uniform on 1..L
#
# (NELBO: negative evidence lower bound.) With n places hidden, each is equally likely to come next in a random order.
# So the NELBO is the mean over all orders of -log p_order(x) / L (RADD, arXiv 2406.03736). The sampler that unmasks one
# token at a time in random order, at temperature 1, has p(x) = mean of p_order(x). By Jensen's inequality the mean of
# -log p_order is at least -log p. So less is better. The bound speaks of that sampler alone. A bound above an exact
# figure proves nothing, since the model's own -log p may lie below it.
def bound(model, tokens, draws=1, generator=None):
    """[B] an unbiased estimate of the bound of each row of tokens [B, L], in nats per token.

    model(tokens [B, L]) -> logits [B, L, V], with model.config.vocab_size = V, the mask's id. draws: n to average for
    a row. generator, here and below: a CPU generator.
    """
    L = tokens.shape[1]
    total = sum(bound_on_part(model, tokens, torch.arange(L), generator) for _ in range(draws))  # [B], of the whole
    return total / draws / L


def bound_on_part(model, tokens, places, generator=None):
    """[B] one draw of the same bound on -log p(tokens at places [G] | the rest of tokens [B, L]), in nats.

    The rest stays as it is, visible or masked. n of the G places are hidden, n uniform on 1..G. The estimate is their
    mean cross-entropy times G. With G = 1 it is -log p itself.
    """
    part = tokens[:, places]  # [B, G]
    counts = 1 + (stratified(len(tokens), generator) * len(places)).long().to(tokens.device)  # [B] in 1..G
    noisy, mask = mask_exactly(part, counts, model.config.vocab_size, generator)
    canvas = tokens.clone()
    canvas[:, places] = noisy
    logits = model(canvas).float()[:, places]  # [B, G, V]
    return masked_cross_entropy(logits, part, mask) * len(places)


def corrupt(tokens, t, mask_id, generator=None):
    """The forward process at time t: hides each token of [B, L] independently with probability t [B] in (0, 1].

    With it papers write the bound as E_t [ 1/t * sum over masked i of -log p(x_i | x_t) ] / L (MDLM, arXiv 2406.07524,
    and LLaDA, 2502.09992). It is the same figure, harder to estimate (exercise 3). Returns (noisy, mask) [B, L].
    """
    mask = torch.rand(tokens.shape, generator=generator).to(tokens.device) < t[:, None]  # [B, L]
    return tokens.masked_fill(mask, mask_id), mask


# ---- 3. What training hides
def bell(batch, generator=None):
    """[B] shares of tokens to mask, stratified, from normal(1/2, BELL_WIDTH) truncated to [0, 1].

    Half-masked texts teach the most (arXiv 2605.13026, docs/tuning.md). The best guess, p(letter | what is visible), is
    the same at every share. The shares are not uniform, so the training loss is not the bound.
    """
    normal = torch.distributions.Normal(0.5, BELL_WIDTH)
    low, high = normal.cdf(torch.tensor(0.0)), normal.cdf(torch.tensor(1.0))
    return normal.icdf(low + stratified(batch, generator) * (high - low)).clamp(0, 1)


def hide_some(tokens, vocab_size, generator):
    """The training input of a dLLM: tokens [B, L] with some hidden, and the mask [B, L] of the hidden ones."""
    B, L = tokens.shape
    counts = (bell(B, generator) * L).ceil().clamp(min=1).to(tokens.device)  # [B] in 1..L
    return mask_exactly(tokens, counts, vocab_size, generator)


# ---- 4. The way back: unmasking
def draw_tokens(logits, temperature, top_k, generator):
    """logits [B, L, V] -> a token for every place [B, L] from softmax(logits / temperature), of the top_k likeliest.

    The Gumbel-max trick: the argmax of logits plus Gumbel noise has the distribution softmax(logits).
    """
    if temperature < GREEDY:  # the limit is the likeliest token
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if top_k is not None:
        weakest_kept = logits.topk(top_k, dim=-1).values[..., -1:]  # [B, L, 1]
        logits = logits.masked_fill(logits < weakest_kept, -torch.inf)
    gumbel = -torch.log(-torch.log(torch.rand(logits.shape, generator=generator)))  # [B, L, V]
    return (logits + gumbel.to(logits.device)).argmax(dim=-1)


# Which places come first? An order gives every place a score from the model's probabilities, before temperature and
# top-k. The highest scores come first.
#
#   order           a place's score                               exact at one letter a pass?   repeats itself?
#   random          none, chance decides                          yes (the bound is about it)   no
#   certainty       p of its likeliest letter (2510.04525)        yes                           a little
#   margin          p of its likeliest letter minus the second's  yes                           a little
#   left to right   the leftmost place first                      yes                           no
#   confidence      p of the letter that was drawn (MaskGIT)      no                            badly
#
# Exact: a perfect model at temperature 1 writes every text as often as it should. Repeats itself: see lesson 10.
# Certainty is exact, since it chooses a place before anything is drawn there. Confidence looks at the draws and keeps
# lucky ones. Take two letters, each A with probability 0.9, and two passes. The first pass draws at least one A with
# probability 0.99 and keeps an A. The second pass draws the other place again. AA comes out in 0.99 x 0.9 = 0.891 of
# all texts, and 0.81 is right.
def score_places(order, p, guesses):
    """[B, L] the score of each place, from probabilities p [B, L, V] and draws guesses [B, L]."""
    if order == "confidence":
        return p.gather(2, guesses[..., None]).squeeze(2)
    if order == "certainty":
        return p.amax(dim=-1)
    if order == "margin":
        best, second = F.pad(p, (0, 1)).topk(2, dim=-1).values.unbind(dim=-1)  # an alphabet of 1 gets a second, 0
        return best - second
    if order == "left to right":
        return torch.arange(p.shape[1], 0, -1.0, device=p.device).expand(p.shape[:2])
    return torch.zeros_like(p[..., 0])  # random: all are equal, so ties decide


def top_ranked(scores, masked, counts, ties):
    """[B, L] True at the counts[b] masked places of row b with the highest scores. Of equals the lowest tie wins."""
    shuffle = ties.argsort(dim=1)  # [B, L]
    scores = scores.round(decimals=4)  # [B, L] lest the last digits of floating point decide
    scores = scores.masked_fill(~masked, -torch.inf)
    places = scores.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)  # [B, L] in the shuffled order
    ranking = shuffle.gather(1, places)  # [B, L] places, best first
    best = torch.arange(masked.shape[1], device=masked.device) < counts[:, None]  # [B, L] the first counts[b] of them
    return torch.zeros_like(masked).scatter(1, ranking, best)  # [B, L] back from ranking to places


def unmask(model, canvas, masked, steps, order, guess, break_ties):
    """The loop of `sample` and `exact_nats`: the passes that fill the places `masked` [B, L] of a canvas [B, L].

    guess(logits) -> letters [B, L]. break_ties() -> [B, L]. Yields (logits, chosen [B, L], canvas) after each pass.
    """
    total = masked.sum(dim=1)  # [B] masks to begin with
    passes = min(steps, int(total.max()))
    for left in reversed(range(passes)):  # passes still to come after this one
        logits = model(canvas).float()  # [B, L, V]
        guesses = guess(logits)  # [B, L]
        scores = score_places(order, torch.softmax(logits, dim=-1), guesses)  # [B, L]
        counts = masked.sum(dim=1) - total * left // passes  # [B] to unmask now
        chosen = top_ranked(scores, masked, counts, break_ties())  # [B, L]
        canvas, masked = torch.where(chosen, guesses, canvas), masked & ~chosen
        yield logits, chosen, canvas


@torch.inference_mode()
def sample(
    model, tokens, steps, temperature=1.0, top_k=None, order="confidence", generator=None, on_step=None, fillable=None
):
    """Fills the masks (the id V) of a canvas [B, L] a few at a time: iterative unmasking (MaskGIT, arXiv 2202.04200).

    Every pass draws a token for every mask and keeps the best-ranked share. There are min(steps, most masks in any row)
    passes. Ties are broken at random. (An all-masked canvas has ties everywhere: all value vectors are equal there, so
    every mixture of them is equal.) The same seed of the generator gives the same text on the same machine.

    model as in `bound`. fillable [B, L]: fill the masks where it is True. on_step(tokens) is called with the canvas
    before the first pass and after each one. Raises ValueError for an unknown order or steps below 1.
    """
    if order not in ORDERS or steps < 1:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, and steps at least 1.")
    masked = (tokens == model.config.vocab_size) & (True if fillable is None else fillable)  # [B, L]
    on_step = on_step or (lambda tokens: None)
    on_step(tokens)
    guess = partial(draw_tokens, temperature=temperature, top_k=top_k, generator=generator)
    break_ties = lambda: torch.rand(tokens.shape, generator=generator).to(tokens.device)  # noqa: E731 [B, L]
    for _, _, tokens in unmask(model, tokens, masked, steps, order, guess, break_ties):  # noqa: B020
        on_step(tokens)
    return tokens


# ---- 5. Exact likelihoods
@torch.inference_mode()
def exact_nats(model, tokens, order, steps, places=None):
    """[B] the exact -log p(tokens at places [G] | the rest) / G, in nats, of the sampler with one of EXACT_ORDERS.

    In these orders the visible letters alone choose the places of a pass. So one way alone leads to a text. Its p is
    the product, over passes and revealed places, of p(token | what was visible before) (DUEL, arXiv 2603.01367). Here
    the text itself is "drawn". Of equal scores the leftmost place is taken, where `sample` draws one.
    tokens [B, L] have no masks at `places` (None: everywhere). It holds at temperature 1. Raises ValueError.
    """
    if order not in EXACT_ORDERS or steps < 1:
        known = ", ".join(EXACT_ORDERS)
        raise ValueError(f"no exact likelihood: steps must be 1 or more, and chance enters {order} order, not {known}.")
    places = torch.arange(tokens.shape[1]) if places is None else places
    leftmost = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)  # [B, L]
    masked, nats = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros(len(tokens), device=tokens.device)
    masked[:, places] = True
    canvas = tokens.masked_fill(masked, model.config.vocab_size)  # [B, L]
    letters = tokens.clamp(max=model.config.vocab_size - 1)  # masks elsewhere have no probability
    for logits, chosen, _ in unmask(model, canvas, masked, steps, order, lambda _: tokens, lambda: leftmost):
        log_p = F.log_softmax(logits, dim=-1).gather(2, letters[..., None]).squeeze(2)  # [B, L]
        nats -= (log_p * chosen).sum(dim=1)
    return nats / len(places)


# ---- The lesson, in a world of which everything is known (tools/toy_world.py)
def letters(tokens):
    """A row of toy tokens as text. "_" is a mask."""
    return "".join("ABCD_"[i] for i in tokens.tolist())


def show_world(world, generator):
    """The toy world, and section 1 in it: hide half, guess, score."""
    print("A toy world: 4 letters, texts of length 4, 256 texts of known probability, and the perfect denoiser.")
    likeliest = world.p.argsort(descending=True)[[0, 1, 2, 100, 255]].tolist()
    shown = ", ".join(f"{letters(world.texts[i])} {world.p[i]:.2%}" for i in likeliest)
    x = world.texts[27:28]  # [1, L]
    noisy, mask = mask_exactly(x, torch.tensor([2]), 4, generator)
    print(f"  {shown} (1st to 3rd, 101st, last)")
    print(f"\n1. Hide half, guess, score: {letters(x[0])} seen as {letters(noisy[0])}")
    p = torch.softmax(world(noisy), dim=-1)[mask]  # [2, V]
    for i, row, answer in zip(mask[0].nonzero(), p.tolist(), x[mask]):
        shares = ", ".join(f"{a} {share:.0%}" for a, share in zip("ABCD", row))
        print(f"  place {i.item() + 1}: {shares} (right is {'ABCD'[answer]})")
    score, by_hand = masked_cross_entropy(world(noisy), x, mask), -p[[0, 1], x[mask]].log().mean()
    check(f"the mean of -log p(right letter) is the score, {score.item():.3f}", torch.allclose(score, by_hand))


def show_bounds(world, generator):
    """The bound with the perfect denoiser. Its p is the same in every order, so the bound is -log p itself."""
    print("\n2. The bound with the perfect denoiser, for one text (100 batches of 200 draws)")
    x, truth = world.texts[27], -world.p[27].log().item() / 4
    estimates = torch.stack([bound(world, x.expand(200, -1), generator=generator) for _ in range(100)])  # [100, 200]
    mean, error = mean_and_error(estimates.mean(dim=1))  # over batches, since the draws of one are stratified
    print(f"  -log p({letters(x)}) / 4 is {truth:.4f} nats/letter, the bound {mean:.4f} +- {error:.4f}")
    check("they are equal, within 4 standard errors", abs(mean - truth) < 4 * error)


def show_orders(world, generator, n=200_000):
    """How far every order is from the truth at 1, 2 and 4 letters a pass."""
    canvas, rows = torch.full((n, 4), 4), {}
    noise = world.distance(world.texts[torch.multinomial(world.p, n, replacement=True, generator=generator)])
    print(f"\n4. The way back: total-variation distance from the truth, {n:,} texts (true samples: {noise:.3f})")
    print("  letters a pass:  1      2      4")
    for order in ("left to right", "random", "certainty", "margin", "confidence"):
        drawn = [sample(world, canvas, 4 // k, order=order, generator=generator) for k in (1, 2, 4)]
        rows[order] = [world.distance(tokens) for tokens in drawn]
        print(f"  {order:15}  " + "  ".join(f"{distance:.3f}" for distance in rows[order]))
    lucky = rows.pop("confidence")
    # p(x) = p(x_a) p(x_b | x_a) p(x_c | x_a, x_b) ..., whichever place comes first
    check("one at a time the first four are exact, up to noise", all(r[0] < 1.5 * noise for r in rows.values()))
    check("several at once are drawn as if independent: farther off", all(sorted(r) == r for r in rows.values()))
    check("confidence keeps lucky draws: not exact even one at a time", lucky[0] > 3 * noise)
    check("confidence is worst one at a time: every pass picks luck", lucky[0] == max(lucky))


def show_exact(world):
    """The exact likelihoods of a sampler sum to 1 over all texts, for a model that is wrong, too."""
    print("\n5. Exact likelihoods, for three orders and 1, 2 and 4 letters a pass")
    wrong = ToyWorld(world.p, V=4, L=4)
    wrong.table = wrong.table + torch.randn(wrong.table.shape, generator=torch.Generator().manual_seed(1))
    settings = list(itertools.product((4, 2, 1), EXACT_ORDERS))
    for name, model in (("perfect", world), ("wrong", wrong)):
        p = [torch.exp(-4 * exact_nats(model, world.texts, order, steps)) for steps, order in settings]  # [256] each
        check(f"{name} model: over all 256 texts they sum to 1", all(abs(q.sum() - 1) < 1e-5 for q in p))
        if model is world:
            check("at one letter a pass they are the true p", all(torch.allclose(q, world.p, atol=1e-6) for q in p[:3]))


def draw_masks():
    """Saves the picture of the forward process: one sentence, more and more hidden as t goes from 0 to 1."""
    text, times = "To be, or not to be: that is the question", torch.linspace(0.1, 1, 10)
    tokens = torch.arange(len(text))[None]  # [1, L], each letter with its own id
    rows = [corrupt(tokens, t[None], len(text), torch.Generator().manual_seed(0)) for t in times]  # one lottery
    mask = torch.cat([mask for _, mask in rows])  # [10, L]
    figure, axes = new_figure(figsize=(11, 3.2))
    axes.imshow(mask, cmap="Blues", aspect="auto", vmin=0, vmax=1.4)
    for row, i in (~mask).nonzero().tolist():
        axes.text(i, row, text[i], ha="center", va="center", family="monospace")
    axes.set_yticks(range(len(times)), [f"t = {t:.1f}   {m:.0%} hidden" for t, m in zip(times, mask.float().mean(1))])
    axes.set(xticks=[], title="The forward process: each letter is hidden with probability t")
    save_figure(figure, "04_masks.png")


def demo():
    """Walks through the lesson."""
    generator = torch.Generator().manual_seed(0)
    world = ToyWorld(torch.softmax(1.5 * torch.randn(4**4, generator=generator), dim=0), V=4, L=4)
    show_world(world, generator)
    show_bounds(world, generator)
    shares = bell(10_000, generator)
    print(f"\n3. What training hides: {shares.mean():.0%} of a text, +- {shares.std():.0%}")
    show_orders(world, generator)
    show_exact(world)
    print("""
Exercises (answers in docs/answers.md). Where a change makes a check fail, turn that check into a comment.
  1. Sample the two letters of the comment above `score_places` by confidence in two passes. Is AA 0.891 of the texts?
     Why is that "a low temperature in disguise"?
  2. Sample by certainty at temperature 0.7. Is it still exact? Which texts come out too often?
  3. Write the bound in continuous time (see `corrupt`). How much more does one draw of it vary, and which draws do it?
""")
    draw_masks()


if __name__ == "__main__":
    Parser(__doc__).parse_args()
    run(demo)
