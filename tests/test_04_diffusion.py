"""Lesson 4: the forward process, the bound and the sampler, against exact enumeration."""

import itertools
import math
from importlib import import_module
from types import SimpleNamespace

import pytest
from conftest import TableModel, nats_in_order, seeded

import torch

diffusion = import_module("04_diffusion")


def exact_bound(model, x):
    """The definition, term by term: over every n, and every choice of n positions."""
    L = len(x)
    total = 0.0
    for n in range(1, L + 1):
        choices = list(itertools.combinations(range(L), n))
        for chosen in choices:
            noisy = x.clone()
            noisy[list(chosen)] = model.config.vocab_size
            log_p = torch.log_softmax(model(noisy[None])[0], dim=-1)
            total += -sum(log_p[i, x[i]].item() for i in chosen) / n / len(choices) / L
    return total


def bound_in_time(model, x, generator):
    """The bound as papers write it: E_t [ 1/t * sum over masked i of -log p(x_i | x_t) ] / L."""
    t = 1 - diffusion.stratified(len(x), generator)  # in (0, 1]
    noisy, mask = diffusion.corrupt(x, t, model.config.vocab_size, generator)
    log_p = torch.log_softmax(model(noisy), dim=-1).gather(2, x[..., None]).squeeze(2)  # [B, L]
    return -(log_p * mask).sum(dim=1) / t / x.shape[1]


X = torch.tensor([0, 2, 1, 1])


def assert_mean(estimates, expected, largest_error):
    error = estimates.std().item() / math.sqrt(len(estimates))
    assert error < largest_error
    assert estimates.mean().item() == pytest.approx(expected, abs=4 * error + 1e-5)


@pytest.mark.parametrize("estimate", [diffusion.bound, bound_in_time])
def test_both_bounds_estimate_the_enumerated_one(estimate):
    model = TableModel(3, 4)
    assert_mean(estimate(model, X.expand(40_000, -1), generator=seeded()), exact_bound(model, X), 0.02)


def test_bound_is_the_likelihood_for_the_perfect_denoiser():
    world = diffusion.ToyWorld(torch.softmax(torch.randn(27, generator=seeded(1)), dim=0), V=3, L=3)
    for x, p in zip(world.texts[::5], world.p[::5]):
        assert exact_bound(world, x) == pytest.approx(-math.log(p) / 3, abs=1e-5)


@pytest.mark.parametrize("places", [[1, 2, 3], [0, 3], [2]])
def test_bound_on_a_part_is_the_average_over_its_orders(places):
    model = TableModel(3, 4)
    nats = [nats_in_order(model, X, order) for order in itertools.permutations(places)]
    estimates = diffusion.bound_on_part(model, X.expand(10_000, -1), torch.tensor(places), seeded())
    assert_mean(estimates, sum(nats) / len(nats), 0.02 * len(places))


def test_more_draws_make_the_bound_steadier():
    model, rows = TableModel(3, 4), X.expand(500, -1)
    one, many = (diffusion.bound(model, rows, draws, seeded()).std().item() for draws in (1, 16))
    assert many == pytest.approx(one / 4, rel=0.2)


def test_corrupt_hides_each_token_with_probability_t():
    tokens = torch.zeros(4000, 10, dtype=torch.long)
    t = torch.tensor([0.2, 0.9]).repeat(2000)
    noisy, mask = diffusion.corrupt(tokens, t, 7, seeded())
    assert torch.equal(noisy == 7, mask)
    assert [mask[i::2].float().mean().item() for i in (0, 1)] == pytest.approx([0.2, 0.9], abs=0.01)
    together = (mask[::2, 0] & mask[::2, 1]).float().mean().item()
    assert together == pytest.approx(0.04, abs=0.02)  # independently


def test_mask_exactly_chooses_every_subset_equally_often():
    tokens = torch.zeros(12_000, 4, dtype=torch.long)
    _, mask = diffusion.mask_exactly(tokens, torch.full((12_000,), 2), 7, seeded())
    assert (mask.sum(dim=1) == 2).all()
    subsets = (mask * torch.tensor([1, 2, 4, 8])).sum(dim=1)
    counts = torch.bincount(subsets, minlength=16)[[3, 5, 6, 9, 10, 12]]
    assert counts.sum() == 12_000
    assert ((counts - 2000).abs() < 5 * math.sqrt(2000)).all()


def test_stratified_takes_one_number_from_every_slice():
    u = diffusion.stratified(50, seeded())
    assert sorted((u * 50).long().tolist()) == list(range(50))
    assert (u * 50).long().tolist() != list(range(50))


def test_the_bell_is_centred_and_training_hides_by_it():
    """A uniform share would have a standard deviation of 0.29."""
    shares = diffusion.bell(10_000, seeded())
    assert shares.min() >= 0 and shares.max() <= 1
    _, mask = diffusion.hide_some(torch.zeros(4000, 200, dtype=torch.long), 5, seeded())
    for drawn, error in (shares, 0.001), (mask.float().mean(dim=1), 0.01):
        assert drawn.mean().item() == pytest.approx(0.5, abs=error)
        assert drawn.std().item() == pytest.approx(diffusion.BELL_WIDTH, rel=0.05)


def test_training_hides_at_least_one_token_and_knows_which():
    tokens = torch.randint(5, (200, 3))
    noisy, mask = diffusion.hide_some(tokens, 5, seeded())
    assert mask.any(dim=1).all()
    assert torch.equal(noisy == 5, mask)
    assert torch.equal(noisy[~mask], tokens[~mask])


def random_canvases(V, B=20, L=4):
    tokens = torch.randint(V, (B, L), generator=seeded(2))
    given = torch.rand(B, L, generator=seeded(3)) < 0.4
    return torch.where(given, tokens, V), given


@pytest.mark.parametrize("order", diffusion.ORDERS)
@pytest.mark.parametrize("steps, temperature, top_k", [(1, 1.0, None), (2, 0.5, 2), (3, 0.0, None), (9, 2.0, 1)])
def test_sample_keeps_what_is_given_and_fills_the_rest(order, steps, temperature, top_k):
    model, (canvas, given) = TableModel(3, 4), random_canvases(3)
    seen = []
    settings = dict(temperature=temperature, top_k=top_k, order=order)
    out = diffusion.sample(model, canvas, steps, generator=seeded(), on_step=seen.append, **settings)
    most = int((~given).sum(dim=1).max())
    assert model.passes == min(steps, most)
    assert torch.equal(out[given], canvas[given])
    assert out.max() < 3 and out.min() >= 0
    assert len(seen) == model.passes + 1 and torch.equal(seen[0], canvas) and torch.equal(seen[-1], out)
    for before, after in itertools.pairwise(seen):
        assert torch.equal(before[before != 3], after[before != 3])  # unmasked is unmasked for good
    again = diffusion.sample(model, canvas, steps, generator=seeded(), **settings)
    assert torch.equal(out, again)


def test_sample_shares_the_masks_out_evenly():
    model, seen = TableModel(2, 7), []
    canvas = torch.tensor([[2] * 7, [2, 2, 2, 0, 0, 0, 0]])
    count = lambda tokens: seen.append((tokens == 2).sum(dim=1).tolist())  # noqa: E731
    diffusion.sample(model, canvas, 3, generator=seeded(), on_step=count)
    assert seen == [[7, 3], [4, 2], [2, 1], [0, 0]]


@pytest.mark.parametrize("order", diffusion.ORDERS)
def test_sample_fills_only_what_it_may(order):
    model, canvas = TableModel(3, 4), torch.tensor([[3, 3, 3, 1], [3, 0, 3, 3]])
    fillable = torch.tensor([[True, False, True, True], [False, True, True, True]])
    out = diffusion.sample(model, canvas, 9, order=order, generator=seeded(), fillable=fillable)
    assert torch.equal(out == 3, (canvas == 3) & ~fillable)
    assert torch.equal(out[canvas != 3], canvas[canvas != 3])
    assert model.passes == 2  # the most masks that may be filled in any row
    for_all = diffusion.sample(model, canvas, 9, order=order, generator=seeded(), fillable=torch.tensor([True] * 4))
    assert torch.equal(for_all, diffusion.sample(model, canvas, 9, order=order, generator=seeded()))


def test_canvas_without_masks_costs_no_pass():
    model = TableModel(3, 4)
    canvas = torch.zeros(2, 4, dtype=torch.long)
    assert torch.equal(diffusion.sample(model, canvas, 5), canvas)
    assert model.passes == 0


class PeakedModel:
    """Three positions whose likeliest token is ever less likely; the same logits whatever is visible."""

    config = SimpleNamespace(vocab_size=2)

    def __call__(self, tokens):
        p = torch.tensor([[0.6, 0.4], [0.05, 0.95], [0.8, 0.2]])
        return p.log().expand(len(tokens), 3, 2)


def shares_of_a_sample(order, **settings):
    """(how often each position is unmasked first, how often it becomes B)."""
    seen, canvas = [], torch.full((6000, 3), 2)
    diffusion.sample(PeakedModel(), canvas, 3, order=order, generator=seeded(), on_step=seen.append, **settings)
    return [shares.float().mean(dim=0).tolist() for shares in (seen[1] != 2, seen[-1])]


@pytest.mark.parametrize(
    "order, settings, expected, error",
    [("certainty", {}, [0, 1, 0], 0), ("left to right", {}, [1, 0, 0], 0), ("random", {}, [1 / 3] * 3, 0.03),
     ("certainty", dict(temperature=10.0, top_k=2), [0, 1, 0], 0),  # by the model's own probability, before both
     ("confidence", {}, [0.01, 0.95, 0.04], 0.015)],  # B at 0.95; else A at 0.8; else whichever of 0.6 and 0.4
)  # fmt: skip
def test_which_position_an_order_takes_first(order, settings, expected, error):
    assert shares_of_a_sample(order, **settings)[0] == pytest.approx(expected, abs=error)


def test_certainty_draws_fairly():
    assert shares_of_a_sample("certainty")[1] == pytest.approx([0.4, 0.95, 0.2], abs=0.03)


def test_scores_of_the_orders():
    p = torch.tensor([[[0.45, 0.45, 0.1], [0.4, 0.35, 0.25], [0.2, 0.1, 0.7]]])  # [1, 3, 3]
    guesses = torch.tensor([[2, 0, 1]])
    scores = {order: diffusion.score_places(order, p, guesses)[0].tolist() for order in diffusion.ORDERS}
    assert scores["confidence"] == pytest.approx([0.1, 0.4, 0.1])
    assert scores["certainty"] == pytest.approx([0.45, 0.4, 0.7])
    assert scores["margin"] == pytest.approx([0, 0.05, 0.5])
    assert diffusion.score_places("margin", torch.ones(1, 2, 1), guesses).tolist() == [[1, 1]]  # an alphabet of one
    assert scores["left to right"] == sorted(set(scores["left to right"]), reverse=True)
    assert len(set(scores["random"])) == 1


def test_scores_are_told_apart_to_four_decimals_and_no_further():
    masked, one = torch.tensor([[True, True, True, False]] * 2), torch.tensor([1, 1])
    scores = torch.tensor([[0.9062, 0.9064, 0.9063, 0.99], [0.90621, 0.90622, 0.90619, 0.99]])
    ties = torch.tensor([[0.1, 0.9, 0.5, 0.0], [0.5, 0.9, 0.1, 0.0]])
    chosen = diffusion.top_ranked(scores, masked, one, ties)
    assert chosen.int().argmax(dim=1).tolist() == [1, 2]
    assert diffusion.top_ranked(scores, masked, torch.tensor([2, 0]), ties).tolist() == [
        [False, True, True, False], [False] * 4
    ]  # fmt: skip
    scores, masked = torch.tensor([[-5.0, 3.0, -7.0]]), torch.tensor([[True, False, True]])
    chosen = diffusion.top_ranked(scores, masked, torch.tensor([2]), torch.arange(3)[None])
    assert torch.equal(chosen, masked)  # what is not masked ranks below any score


def test_ties_are_broken_at_random():
    flat = lambda tokens: torch.zeros(*tokens.shape, 2) + 1e-7 * torch.arange(tokens.shape[1])[:, None]  # noqa: E731
    flat.config = SimpleNamespace(vocab_size=2)
    seen = []
    diffusion.sample(flat, torch.full((6000, 3), 2), 3, order="certainty", generator=seeded(), on_step=seen.append)
    assert (seen[1] != 2).float().mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_draws_follow_temperature_and_top_k():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = p.log().expand(40_000, 1, 4)
    for temperature, top_k in ((1.0, None), (0.5, None), (2.0, 2), (1.0, 1)):
        drawn = diffusion.draw_tokens(logits, temperature, top_k, seeded()).flatten()
        expected = p ** (1 / temperature) * (torch.arange(4) < (top_k or 4))
        shares = torch.bincount(drawn, minlength=4) / 40_000
        torch.testing.assert_close(shares, expected / expected.sum(), atol=0.01, rtol=0)


@pytest.mark.parametrize("temperature", [0, 1e-39, 1e-30, 1e-5])
def test_next_to_no_temperature_is_the_likeliest_token(temperature):
    logits = torch.randn(50, 7, 9, generator=seeded()) * 30
    drawn = diffusion.draw_tokens(logits, temperature, 3, seeded())
    assert torch.equal(drawn, logits.argmax(dim=-1))


@pytest.mark.parametrize("settings", [dict(order="best", steps=1), dict(order="random", steps=0)])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="confidence, random, left to right"):
        diffusion.sample(TableModel(3, 4), torch.full((1, 4), 3), **settings)


# ---- Exact likelihoods
def all_texts(V, L):
    return torch.tensor(list(itertools.product(range(V), repeat=L)))  # [V**L, L]


def nats_by_hand(model, text, order, steps):
    """The sampler's -log p(text) / L, one text and one pass after the other."""
    V, L = model.config.vocab_size, len(text)
    canvas, nats, passes = torch.full((L,), V), 0.0, min(steps, L)
    for done in range(passes):
        p = torch.softmax(model(canvas[None])[0], dim=-1)  # [L, V]
        best = p.sort(dim=-1, descending=True).values
        scores = {"certainty": best[:, 0], "margin": best[:, 0] - best[:, 1], "left to right": -torch.arange(L)}[order]
        masked = [place for place in range(L) if canvas[place] == V]
        left = L * (passes - done - 1) // passes  # masked after this pass
        chosen = sorted(masked, key=lambda place: -round(scores[place].item(), 4))[: len(masked) - left]
        for place in chosen:  # all from the same canvas
            nats -= math.log(p[place, text[place]])
        canvas[chosen] = text[chosen]
    return nats / L


@pytest.mark.parametrize("order", diffusion.EXACT_ORDERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_exact_likelihoods_are_those_by_hand_and_sum_to_one(order, steps):
    model, texts = TableModel(3, 4), all_texts(3, 4)
    nats = diffusion.exact_nats(model, texts, order, steps)
    assert model.passes == min(steps, 4)
    assert torch.exp(-4 * nats).sum().item() == pytest.approx(1, abs=1e-5)
    assert nats.tolist() == pytest.approx([nats_by_hand(model, text, order, steps) for text in texts], abs=1e-5)


@pytest.mark.parametrize("order", diffusion.EXACT_ORDERS)
def test_exact_likelihood_of_the_perfect_denoiser_is_the_truth(order):
    world = diffusion.ToyWorld(torch.softmax(torch.randn(27, generator=seeded(1)), dim=0), V=3, L=3)
    for steps in (3, 100):
        nats = diffusion.exact_nats(world, world.texts, order, steps)
        torch.testing.assert_close(torch.exp(-3 * nats), world.p, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("order", diffusion.EXACT_ORDERS)
def test_exact_likelihoods_are_how_often_the_sampler_writes_each_text(order):
    model, n = TableModel(2, 3), 40_000
    drawn = diffusion.sample(model, torch.full((n, 3), 2), 2, order=order, generator=seeded())
    counts = torch.bincount((drawn * torch.tensor([4, 2, 1])).sum(dim=1), minlength=8)
    p = torch.exp(-3 * diffusion.exact_nats(model, all_texts(2, 3), order, 2))
    torch.testing.assert_close(counts / n, p, atol=0.012, rtol=0)


def test_of_equal_scores_the_leftmost_is_taken():
    model = TableModel(3, 4)
    model.table = model.table.argsort(dim=-1).float()  # every place is as sure as every other
    expected = diffusion.exact_nats(model, all_texts(3, 4), "left to right", 2)
    for order in ("certainty", "margin"):
        torch.testing.assert_close(diffusion.exact_nats(model, all_texts(3, 4), order, 2), expected)


@pytest.mark.parametrize("order, steps", [("random", 4), ("confidence", 4), ("best", 4), ("certainty", 0)])
def test_where_chance_chooses_the_places_there_is_no_exact_likelihood(order, steps):
    with pytest.raises(ValueError, match="no exact likelihood"):
        diffusion.exact_nats(TableModel(3, 4), all_texts(3, 4), order, steps)
