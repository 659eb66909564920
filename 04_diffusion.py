"""Lesson 4. How does a model that sees both sides become a generator of text?

Masked diffusion has two halves. The forward process hides tokens, at random, until nothing is left. The
model learns the way back: to guess every hidden token from those still visible. To generate, start from
nothing but masks and let the model reveal a few tokens at a time. Such a model is called a denoiser, and the row of
tokens that it fills a canvas. (The length of a text is L here, what was T before, since t is time.)

    corrupt, mask_exactly            the forward process
    hide_some, masked_cross_entropy  what training does: hide some tokens, and score the guesses at them
    bound                            an upper bound on -log p(text), by which models are measured and compared
    sample                           the way back: in one of three orders

What the lesson claims is checked in a toy world of 4 letters and texts of length 4, small enough to know its true
distribution and to compute the perfect model by enumeration (the idea of an exact oracle: arXiv 2602.19619):

    (a)  with the perfect denoiser, the bound is -log p(x);
    (b)  with it, and at temperature 1, unmasking one letter at a time is exact in every order that chooses a position before
         drawing its letter: p(x) = p(x_a) p(x_b | x_a) p(x_c | x_a, x_b) ..., whichever position comes first;
    (c)  by confidence it is not: the draw itself decides whether it is kept, so likely letters are kept too often;
    (d)  several letters at once are drawn as if they were independent: the more at once, the farther off.

Builds on:  lesson 1 (check, save_figure). Uses no transformer: any model(tokens) -> logits will do.
Run:        python 04_diffusion.py        (about 10 seconds on a laptop's CPU)
Last line:  the path of a picture, `figures/04_orders.png`.

Later lessons take from here: hide_some, masked_cross_entropy, bound, bound_on_part, bound_over_orders, heldout_bound, draw_tokens,
sample, ORDERS.
"""

import itertools
import math
from importlib import import_module
from types import SimpleNamespace

import torch
from torch.nn import functional as F

lesson1 = import_module("01_tensors")
check, save_figure = lesson1.check, lesson1.save_figure

ORDERS = ("confidence", "certainty", "random")
BELL_WIDTH = 0.12  # standard deviation, before truncation, of the share of masked tokens in training (docs/tuning.md)


# ---------------------------------------------------------------------------------------------------------
# The forward process: hiding tokens


def corrupt(tokens, t, mask_id, generator=None):
    """The forward process at time t: hides each token, independently, with probability t.

    The linear schedule of MDLM (arXiv 2406.07524) and LLaDA (2502.09992): alpha_t = 1 - t is the share that
    is still visible. Time 0 is the clean text, time 1 is all masks.

    tokens [B, L] ids, t [B] in (0, 1], generator a CPU generator.
    Returns (noisy [B, L], mask [B, L]): the tokens with mask_id where mask is True.
    """
    chance = torch.rand(tokens.shape, generator=generator).to(tokens.device)  # [B, L]
    mask = chance < t[:, None]
    return tokens.masked_fill(mask, mask_id), mask


def mask_exactly(tokens, counts, mask_id, generator=None):
    """Hides exactly counts[b] tokens of row b, every choice of positions being equally likely.

    tokens [B, L], counts [B] from 0 to L, generator a CPU generator. Returns (noisy [B, L], mask [B, L]).
    """
    lottery = torch.rand(tokens.shape, generator=generator).argsort(dim=1)  # [B, L] a random order of 0..L-1
    mask = lottery.to(tokens.device) < counts[:, None]
    return tokens.masked_fill(mask, mask_id), mask


def stratified(batch, generator=None):
    """[B] numbers in [0, 1), in random order: one from each of B equal slices, so that no batch lacks
    light or heavy masking (MDLM's low-discrepancy sampler). Each by itself is uniform."""
    slices = torch.randperm(batch, generator=generator)
    u = (slices + torch.rand(batch, generator=generator)) / batch
    return u.clamp(max=1 - 2**-24)  # float32 may round up to 1


def bell(batch, generator=None):
    """[B] shares of tokens to mask, stratified, from normal(1/2, BELL_WIDTH) truncated to [0, 1].

    In short runs half-masked texts teach the most (arXiv 2605.13026; docs/tuning.md), so training meets them more
    often than the bound does, below, which weighs all shares equally. Training may use other weights: at every share the best
    guess is p(letter | what is visible), so the perfect model is the same for all of them. But its loss is then not the bound,
    and is never called so.
    """
    normal = torch.distributions.Normal(0.5, BELL_WIDTH)
    low, high = normal.cdf(torch.tensor(0.0)), normal.cdf(torch.tensor(1.0))
    return normal.icdf(low + stratified(batch, generator) * (high - low)).clamp(0, 1)


def hide_some(tokens, vocab_size, generator):
    """The training input of a dLLM: tokens [B, L] with some hidden, and the mask [B, L] of the hidden ones."""
    B, L = tokens.shape
    counts = (bell(B, generator) * L).ceil().clamp(min=1).to(tokens.device)  # [B] in 1..L
    return mask_exactly(tokens, counts, vocab_size, generator)


# ---------------------------------------------------------------------------------------------------------
# The likelihood bound


def masked_cross_entropy(logits, tokens, mask):
    """logits [B, L, V]; tokens, mask [B, L] -> [B], the mean of -log p(token) over each row's masked positions."""
    losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")  # [B*L]
    losses = losses.view(tokens.shape) * mask  # [B, L]
    return losses.sum(dim=1) / mask.sum(dim=1)


def bound(model, tokens, draws=1, generator=None):
    """[B] an unbiased estimate of the likelihood bound of each row of tokens [B, L], in nats per token.

    The bound on -log p(x) / L, in its discrete form: hide n tokens, n uniform on 1..L, and average the
    cross-entropy over the hidden ones:

        NELBO = E_n [ mean over the n masked positions i of  -log p(x_i | what is visible) ]

    (NELBO: negative evidence lower bound, the field's name for it.) It equals the average, over all orders of the positions,
    of -log p(x) / L with p factorised in that order (RADD, arXiv 2406.03736). A sampler that unmasks one token at a time in
    random order, at temperature 1, has the average of those p as its own; and the average of -log p is at least -log of the
    average (Jensen). So the bound holds for that sampler, and says nothing about others.

    model(tokens [B, L]) -> logits [B, L, V], with model.config.vocab_size = V, the mask's id.
    draws: how many n to average for each row. generator: a CPU generator.
    """
    L = tokens.shape[1]
    total = sum(bound_on_part(model, tokens, torch.arange(L), generator) for _ in range(draws))  # [B], the part being all of it
    return total / draws / L


def bound_on_part(model, tokens, places, generator=None):
    """[B] one draw of the same bound for a part of a text, in nats: on -log p(tokens at places [G] | the rest of tokens [B, L]).

    The rest stays as it is, be it visible or masked. Of the G places n are hidden, n uniform on 1..G; the mean cross-entropy
    over the hidden ones, times G, is an unbiased estimate. For G = 1 nothing is drawn, and it is -log p itself.
    """
    mask_id = model.config.vocab_size
    part = tokens[:, places]  # [B, G]
    counts = 1 + (stratified(len(tokens), generator) * len(places)).long().to(tokens.device)  # [B] in 1..G
    noisy, mask = mask_exactly(part, counts, mask_id, generator)
    canvas = tokens.clone()
    canvas[:, places] = noisy
    logits = model(canvas).float()[:, places]  # [B, G, V]
    return masked_cross_entropy(logits, part, mask) * len(places)


def bound_over_orders(model, tokens, places, orders, generator=None):
    """[B] one draw of a tighter bound on the same -log p(tokens at places [G] | the rest of tokens [B, L]), in nats.

    The sampler's p is the average of p(tokens | order) over all orders of the places, and `bound_on_part` estimates the average of
    -log p(tokens | order). Here -log is taken of the average over a few orders, which by Jensen lies between the two, the lower
    the more orders (arXiv 1509.00519). It costs G passes for each of the `orders`.
    """
    rows, log_p = torch.arange(len(tokens)), []
    for _ in range(orders):
        canvas = tokens.clone()
        canvas[:, places] = model.config.vocab_size
        ranking = torch.rand(len(tokens), len(places), generator=generator).argsort(dim=1)  # [B, G] an order for each row
        log_p.append(torch.zeros(len(tokens)))
        for place in places[ranking].T:  # [B] the next place of each row
            log_probabilities = F.log_softmax(model(canvas).float()[rows, place], dim=-1)  # [B, V]
            answer = tokens[rows, place]  # [B]
            log_p[-1] += log_probabilities[rows, answer].cpu()
            canvas[rows, place] = answer
    return math.log(orders) - torch.stack(log_p).logsumexp(dim=0)  # [orders, B] -> [B]


def bound_in_time(model, tokens, generator=None):
    """[B] the same bound in continuous time, as MD4 (arXiv 2406.04329) and MDLM write it:

        NELBO = E_t [ 1/t * sum over masked i of  -log p(x_i | x_t) ] / L          t uniform on (0, 1]

    Here to be compared with `bound`; it is the noisier one, since a small t gives a large weight to few tokens.
    """
    B, L = tokens.shape
    t = 1 - stratified(B, generator).to(tokens.device)  # [B] in (0, 1]
    noisy, mask = corrupt(tokens, t, model.config.vocab_size, generator)
    log_p = F.log_softmax(model(noisy).float(), dim=-1)  # [B, L, V]
    log_p = log_p.gather(2, tokens[..., None]).squeeze(2)  # [B, L] of the true tokens
    return -(log_p * mask).sum(dim=1) / t / L


@torch.inference_mode()
def heldout_bound(model, windows, draws=1):
    """The bound on held-out windows [N, L], as (nats per token, standard error over the draws; nan for one).

    The masks come from a generator of their own with a fixed seed, so that every call measures the same thing.
    """
    generator = torch.Generator().manual_seed(0)
    figures = []
    for _ in range(draws):
        parts = [bound(model, part, generator=generator) for part in windows.split(64)]
        figures.append(torch.cat(parts).mean().item())
    figures = torch.tensor(figures)
    return figures.mean().item(), figures.std().item() / math.sqrt(draws) if draws > 1 else math.nan


# ---------------------------------------------------------------------------------------------------------
# The way back: unmasking


def draw_tokens(logits, temperature, top_k, generator):
    """logits [B, L, V] -> [B, L], a token for every position from softmax(logits / temperature), of the top_k likeliest.

    Drawn by the Gumbel-max trick: the argmax of logits plus Gumbel noise has the distribution softmax(logits).
    Temperature 0 is the limit: the likeliest token.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if top_k is not None:
        weakest_kept = logits.topk(top_k, dim=-1).values[..., -1:]  # [B, L, 1]
        logits = logits.masked_fill(logits < weakest_kept, -torch.inf)
    gumbel = -torch.log(-torch.log(torch.rand(logits.shape, generator=generator)))  # [B, L, V]
    return (logits + gumbel.to(logits.device)).argmax(dim=-1)


def unmask_most_confident(tokens, guesses, scores, masked, counts, generator):
    """Replaces the counts[b] masked tokens of row b that have the highest scores, whatever these mean, by their guesses.

    tokens, guesses, scores, masked [B, L]; counts [B]. Returns tokens [B, L]. Ties are broken at random; they are the
    rule in the first pass, since with relative positions an all-masked canvas looks the same from everywhere. Scores
    are rounded first, lest the last digits of floating point decide.
    """
    B, L = tokens.shape
    scores = scores.round(decimals=4).masked_fill(~masked, -1.0)  # [B, L]
    shuffle = torch.rand(B, L, generator=generator).argsort(dim=1).to(tokens.device)
    places = scores.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)  # [B, L] in the shuffled order
    ranking = shuffle.gather(1, places)  # [B, L] positions, best first
    best = torch.arange(L, device=tokens.device) < counts[:, None]  # [B, L] the first counts[b] of the ranking
    chosen = torch.zeros_like(masked).scatter(1, ranking, best)  # [B, L] back from ranking to positions
    return torch.where(chosen, guesses, tokens)


@torch.inference_mode()
def sample(
    model, tokens, steps, temperature=1.0, top_k=None, order="confidence", generator=None, on_step=None
):
    """Fills the masked positions of a canvas, a few at a time: iterative unmasking, after MaskGIT (arXiv 2202.04200).

    Every pass runs the model once, draws a token for every masked position, and keeps the best-ranked share of
    them, so that after min(steps, most masks in any row) passes none is left. `order` ranks the positions
      "confidence"  by the probability of the token drawn;
      "certainty"   by the probability of the likeliest token there, so that positions are chosen before tokens are
                    drawn (the idea of arXiv 2510.04525, which chooses by another score);
      "random"      at random, as the likelihood bound assumes.
    Probabilities are the model's own, before temperature and top_k.

    model(tokens [B, L]) -> logits [B, L, V], with model.config.vocab_size = V, the mask's id.
    tokens [B, L]: what is given stays, positions that hold V are filled.
    generator: a CPU generator; the same seed gives the same text on the same machine.
    on_step(tokens): called with the canvas before the first pass and after each one.
    Returns tokens [B, L] without masks. Raises ValueError for an unknown order or steps below 1.
    """
    if order not in ORDERS or steps < 1:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, and steps at least 1.")
    mask_id = model.config.vocab_size
    total = (tokens == mask_id).sum(dim=1)  # [B] masks to begin with
    passes = min(steps, int(total.max()))
    if on_step:
        on_step(tokens)
    for left in reversed(range(passes)):  # passes still to come after this one
        masked = tokens == mask_id  # [B, L]
        counts = masked.sum(dim=1) - total * left // passes  # [B] to unmask now
        logits = model(tokens).float()  # [B, L, V]
        guesses = draw_tokens(logits, temperature, top_k, generator)
        p = torch.softmax(logits, dim=-1)  # [B, L, V]
        if order == "confidence":
            scores = p.gather(2, guesses[..., None]).squeeze(2)  # [B, L]
        elif order == "certainty":
            scores = p.amax(dim=-1)  # [B, L]
        else:
            scores = torch.zeros_like(p[..., 0])  # all equal, so that the random tie-break decides
        tokens = unmask_most_confident(tokens, guesses, scores, masked, counts, generator)
        if on_step:
            on_step(tokens)
    return tokens


# ---------------------------------------------------------------------------------------------------------
# The lesson: a world small enough to know everything about


class ToyWorld:
    """A language of all texts of length L over V letters, with known probabilities and its perfect denoiser.

    Calling it is calling the perfect model: logits[b, i, a] = log p(letter i is a | the visible letters of row b),
    summed from the probabilities of all texts that agree with what is visible.
    """

    def __init__(self, p, V, L):
        self.config = SimpleNamespace(vocab_size=V)
        self.p = p  # [V**L] the probability of each text
        self.texts = torch.tensor(list(itertools.product(range(V), repeat=L)))  # [V**L, L]
        self.place_values = (V + 1) ** torch.arange(L).flip(0)  # a canvas is a number in base V + 1
        canvases = torch.tensor(list(itertools.product(range(V + 1), repeat=L)))  # [(V+1)**L, L], number i is row i
        self.table = self.denoise(canvases)  # [(V+1)**L, L, V]

    def denoise(self, canvases):
        """canvases [N, L] -> logits [N, L, V], by enumeration of all texts."""
        V = self.config.vocab_size
        visible = canvases[:, None] != V  # [N, 1, L]
        agrees = ((canvases[:, None] == self.texts) | ~visible).all(dim=2)  # [N, V**L]
        weights = agrees * self.p  # [N, V**L]
        weights = weights / weights.sum(dim=1, keepdim=True)
        return torch.einsum("nx,xla->nla", weights, F.one_hot(self.texts, V).float()).log()

    def __call__(self, tokens):
        return self.table[(tokens * self.place_values).sum(dim=1)]  # [B, L, V]

    def distance(self, tokens):
        """Total-variation distance between the texts drawn, tokens [N, L], and the true distribution: half the sum of the
        differences between their probabilities; 0 where they are equal, 1 where nothing that is drawn can be true."""
        index = (tokens * self.config.vocab_size ** torch.arange(tokens.shape[1]).flip(0)).sum(dim=1)  # [N]
        drawn = torch.bincount(index, minlength=len(self.p)) / len(index)  # [V**L]
        return 0.5 * (drawn - self.p).abs().sum().item()


def left_to_right(world, canvas, generator):
    """Fills the canvas [N, L] one position after the other, as a GPT would."""
    for i in range(canvas.shape[1]):
        guesses = draw_tokens(world(canvas), 1.0, None, generator)
        canvas = torch.where(torch.arange(canvas.shape[1]) == i, guesses, canvas)
    return canvas


def show_bounds(world, generator):
    """(a) Both forms of the bound, with the perfect denoiser, against the true -log p(x)."""
    print("\n(a) The bound, with the perfect denoiser, for one text x (100 batches of 200 draws)")
    x = world.texts[27]
    copies = x.expand(200, -1)  # [200, L]
    truth, deviations = -world.p[27].log().item() / len(x), []
    print(f"  -log p(x) / L           {truth:.4f} nats per letter")
    for name, estimate in ("in its discrete form", bound), ("in continuous time", bound_in_time):
        estimates = torch.stack([estimate(world, copies, generator=generator) for _ in range(100)])  # [100, 200]
        mean, error = lesson1.mean_and_error(estimates.mean(dim=1))  # of batches, since the draws within one are stratified
        deviations.append(estimates.std().item())
        print(f"  {name:22}  {mean:.4f} +- {error:.4f}    (one draw varies by {deviations[-1]:.2f})")
        check(f"{name}, the bound is -log p(x) / L, within 4 standard errors", abs(mean - truth) < 4 * error)
    check("the discrete form varies less", deviations[0] < deviations[1])


def show_orders(world, generator, n=200_000):
    """(b), (c), (d): the distance from the truth of every order, at 1, 2 and 4 letters a pass."""
    V, L = world.config.vocab_size, world.texts.shape[1]
    canvas = torch.full((n, L), V)
    truth = world.texts[torch.multinomial(world.p, n, replacement=True, generator=generator)]
    noise = world.distance(truth)
    print(f"\n(b, c, d) Total-variation distance from the truth, {n:,} texts (true samples: {noise:.3f})")
    rows = {"left to right": [world.distance(left_to_right(world, canvas, generator))]}
    for order in ("random", "certainty", "confidence"):
        rows[order] = [
            world.distance(sample(world, canvas, L // k, order=order, generator=generator)) for k in (1, 2, 4)
        ]
    print("                     letters a pass:  1      2      4")
    for order, distances in rows.items():
        print(f"  {order:34}  " + "  ".join(f"{distance:.3f}" for distance in distances))
    exact = 1.5 * noise
    for order in ("left to right", "random", "certainty"):
        check(f"(b) {order}, one at a time, is exact up to sampling noise", rows[order][0] < exact)
    check("(c) confidence is not, even one at a time", rows["confidence"][0] > 2 * exact)
    for order in ("random", "certainty"):
        check(f"(d) {order}: the more at once, the farther off", exact < rows[order][1] < rows[order][2])
    return rows, noise


def show_low_temperature(generator):
    """(c) again, where it can be worked out: two independent letters, A with probability 0.9."""
    letter = torch.tensor([0.9, 0.1])
    world = ToyWorld(torch.outer(letter, letter).flatten(), V=2, L=2)
    canvas = torch.full((200_000, 2), 2)
    drawn = sample(world, canvas, steps=2, order="confidence", generator=generator)
    share = (drawn == 0).all(dim=1).float().mean().item()
    by_hand = (1 - 0.1**2) * 0.9  # some letter draws A, and is kept; then the other one draws A
    print(f"\n(c) Two letters, each A with probability 0.9: AA should come out at {0.9**2:.3f}; by confidence, {share:.3f}")
    check(f"that is the {by_hand:.3f} worked out by hand", abs(share - by_hand) < 0.004)
    print("  Confidence draws everywhere and keeps the likeliest draw: a low temperature in disguise.")


def draw_masks():
    """Saves the picture of the forward process: one sentence, hidden more and more as time goes from 0 to 1."""
    import matplotlib.pyplot as plt

    text = "To be, or not to be: that is the question"
    times = torch.linspace(0.1, 1, 10)
    tokens = torch.arange(len(text)).expand(len(times), -1)  # each letter its own id
    _, mask = corrupt(tokens, times, mask_id=len(text), generator=torch.Generator().manual_seed(0))
    figure, axes = plt.subplots(figsize=(11, 3.2))
    axes.imshow(mask, cmap="Blues", aspect="auto", vmin=0, vmax=1.4)
    for row, i in itertools.product(range(len(times)), range(len(text))):
        if not mask[row, i]:
            axes.text(i, row, text[i], ha="center", va="center", family="monospace")
    axes.set_yticks(range(len(times)), [f"t = {t:.1f}   {m:.0%} hidden" for t, m in zip(times, mask.float().mean(1))])
    axes.set(xticks=[], title="The forward process: each letter is hidden with probability t")
    save_figure(figure, "04_masks.png")


def draw_orders(rows, noise):
    """Saves the table of total-variation distances as a bar chart."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for k, (label, offset) in enumerate((("1 letter a pass", -0.25), ("2 letters", 0), ("4 letters: all at once", 0.25))):
        places = [i + offset for i, distances in enumerate(rows.values()) if k < len(distances)]
        axes.bar(places, [distances[k] for distances in rows.values() if k < len(distances)], 0.24, label=label)
    axes.axhline(noise, color="black", linestyle="--", linewidth=1, label="true samples (sampling noise)")
    axes.set_xticks(range(len(rows)), rows)
    axes.set(ylim=(0, 1), ylabel="total-variation distance", title="How far generated texts are from the truth (perfect model)")
    axes.legend(loc="upper left")
    save_figure(figure, "04_orders.png")


def demo():
    """Walks through the lesson."""
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(1.5 * torch.randn(4**4, generator=generator), dim=0)
    world = ToyWorld(p, V=4, L=4)
    print("A toy world: 4 letters, texts of length 4, 256 texts of known probability, and the perfect denoiser.")
    show_bounds(world, generator)
    rows, noise = show_orders(world, generator)
    show_low_temperature(generator)
    print("""
Exercises (answers in docs/answers.md; a change may make a check fail: turn that one into a comment to go on)
  1. Make the letters independent (p an outer product). What do 2 and 4 letters a pass cost now?
  2. Sample by certainty at temperature 0.7. Is it still exact? Which texts come out too often?
  3. Spoil the denoiser: add 0.3 * torch.randn_like(table) to its table. Work out the bound for all 256 texts. Is it still
     above the true -log p(x) for each x, or only on average over x?
""")
    draw_masks()
    draw_orders(rows, noise)


if __name__ == "__main__":
    lesson1.Parser(__doc__).parse_args()
    lesson1.run(demo)
