"""Lesson 4: the forward process, the bound and the sampler, against exact enumeration."""

import itertools
import math
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

diffusion = import_module("04_diffusion")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class TableModel:
    """A denoiser with arbitrary, fixed logits for every canvas of L letters out of V: wrong, but known."""

    def __init__(self, V, L):
        self.config = SimpleNamespace(vocab_size=V)
        self.table = torch.randn((V + 1,) * L + (L, V), generator=seeded(5))
        self.passes = 0

    def __call__(self, tokens):
        self.passes += 1
        return self.table[tuple(tokens.T)]


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


@pytest.mark.parametrize("estimate", [diffusion.bound, diffusion.bound_in_time])
def test_both_bounds_estimate_the_enumerated_one(estimate):
    model, x = TableModel(3, 4), torch.tensor([0, 2, 1, 1])
    estimates = estimate(model, x.expand(40_000, -1), generator=seeded())
    error = estimates.std().item() / math.sqrt(len(estimates))
    assert error < 0.02
    assert estimates.mean().item() == pytest.approx(exact_bound(model, x), abs=4 * error)


def test_bound_is_the_likelihood_for_the_perfect_denoiser():
    world = diffusion.ToyWorld(torch.softmax(torch.randn(27, generator=seeded(1)), dim=0), V=3, L=3)
    for x, p in zip(world.texts[::5], world.p[::5]):
        assert exact_bound(world, x) == pytest.approx(-math.log(p) / 3, abs=1e-5)


def nats_in_order(model, x, order):
    """-log p(x at the places in `order` | the rest), unmasking one after the other in this order."""
    canvas, total = x.clone(), 0.0
    canvas[list(order)] = model.config.vocab_size
    for place in order:
        total -= torch.log_softmax(model(canvas[None])[0, place], dim=-1)[x[place]].item()
        canvas[place] = x[place]
    return total


def test_more_orders_bring_the_bound_down_to_the_likelihood():
    """All orders are enumerated: one at a time gives their average, the usual bound; many give -log of the average p."""
    model, x, places = TableModel(3, 4), torch.tensor([0, 2, 1, 1]), [1, 2, 3]
    nats = torch.tensor([nats_in_order(model, x, order) for order in itertools.permutations(places)])
    usual, likelihood = nats.mean().item(), -(-nats).exp().mean().log().item()
    assert usual - likelihood > 0.1
    rows, generator = x.expand(5_000, -1), seeded()
    means = {}
    for orders in (1, 3, 100):
        estimates = diffusion.bound_over_orders(model, rows, torch.tensor(places), orders, generator)
        means[orders] = estimates.mean().item()
        if orders == 1:
            assert means[1] == pytest.approx(usual, abs=4 * estimates.std().item() / math.sqrt(len(rows)))
    assert likelihood - 0.01 < means[100] < means[3] < means[1]
    assert means[100] == pytest.approx(likelihood, abs=0.1 * (usual - likelihood))


def test_more_draws_make_the_bound_steadier():
    model, x = TableModel(3, 4), torch.tensor([0, 2, 1, 1]).expand(500, -1)
    one, many = (diffusion.bound(model, x, draws, seeded()).std().item() for draws in (1, 16))
    assert many == pytest.approx(one / 4, rel=0.2)


def test_corrupt_hides_each_token_with_probability_t():
    tokens = torch.zeros(4000, 10, dtype=torch.long)
    t = torch.tensor([0.2, 0.9]).repeat(2000)
    noisy, mask = diffusion.corrupt(tokens, t, 7, seeded())
    assert torch.equal(noisy == 7, mask)
    assert mask[::2].float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert mask[1::2].float().mean().item() == pytest.approx(0.9, abs=0.01)
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


def test_bell_is_centred_and_within_range():
    shares = diffusion.bell(10_000, seeded())
    assert 0 <= shares.min() and shares.max() <= 1
    assert shares.mean().item() == pytest.approx(0.5, abs=0.001)
    assert shares.std().item() == pytest.approx(diffusion.BELL_WIDTH, rel=0.05)


def test_training_hides_at_least_one_token_and_knows_which():
    tokens = torch.randint(5, (200, 3))
    noisy, mask = diffusion.hide_some(tokens, 5, seeded())
    assert mask.any(dim=1).all()
    assert torch.equal(noisy == 5, mask)
    assert torch.equal(noisy[~mask], tokens[~mask])


def test_heldout_bound_is_repeatable_and_leaves_the_training_generator_alone(small_model):
    model, tokenizer = small_model
    windows = torch.randint(tokenizer.vocab_size, (70, 32))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = diffusion.heldout_bound(model, windows, draws=3)
    assert first == diffusion.heldout_bound(model, windows, draws=3)
    assert torch.equal(before, torch.get_rng_state())
    assert first[1] > 0
    assert math.isnan(diffusion.heldout_bound(model, windows)[1])


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
    diffusion.sample(model, canvas, 3, generator=seeded(), on_step=lambda tokens: seen.append((tokens == 2).sum(1).tolist()))
    assert seen == [[7, 3], [4, 2], [2, 1], [0, 0]]


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


def first_position(order, n=6000, **settings):
    """How often each position is unmasked first."""
    seen = []
    canvas = torch.full((n, 3), 2)
    diffusion.sample(PeakedModel(), canvas, 3, order=order, generator=seeded(), on_step=seen.append, **settings)
    return (seen[1] != 2).float().mean(dim=0).tolist(), seen


def test_certainty_takes_the_likeliest_position_first_and_draws_fairly():
    share, seen = first_position("certainty")
    assert share == [0, 1, 0]
    assert seen[-1].float().mean(dim=0).tolist() == pytest.approx([0.4, 0.95, 0.2], abs=0.03)


def test_confidence_takes_the_likeliest_draw_first():
    share, _ = first_position("confidence")
    by_hand = [0.05 * 0.2, 0.95, 0.05 * 0.8]  # B at 0.95; else A at 0.8; else whichever of 0.6 and 0.4
    assert share[1] == pytest.approx(by_hand[1], abs=0.015) and share[2] == pytest.approx(by_hand[2], abs=0.015)


def test_random_order_takes_each_position_first_equally_often():
    share, _ = first_position("random")
    assert share == pytest.approx([1 / 3] * 3, abs=0.03)


def test_ranking_uses_the_models_own_probability():
    """At a high temperature with top_k, the second position is still the one the model is surest of."""
    share, _ = first_position("certainty", temperature=10.0, top_k=2)
    assert share == [0, 1, 0]


def test_ties_are_broken_at_random():
    model = SimpleNamespace(config=SimpleNamespace(vocab_size=2))
    flat = lambda tokens: torch.zeros(*tokens.shape, 2) + 1e-7 * torch.arange(tokens.shape[1])[:, None]  # noqa: E731
    flat.config = model.config
    seen = []
    diffusion.sample(flat, torch.full((6000, 3), 2), 3, order="certainty", generator=seeded(), on_step=seen.append)
    assert (seen[1] != 2).float().mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_draws_follow_temperature_and_top_k():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = p.log().expand(40_000, 1, 4)
    for temperature, top_k in ((1.0, None), (0.5, None), (2.0, 2), (1.0, 1)):
        drawn = diffusion.draw_tokens(logits, temperature, top_k, seeded()).flatten()
        expected = p ** (1 / temperature) * (torch.arange(4) < (top_k or 4))
        torch.testing.assert_close(torch.bincount(drawn, minlength=4) / 40_000, expected / expected.sum(), atol=0.01, rtol=0)
    assert (diffusion.draw_tokens(logits, 0, None, None) == 0).all()


@pytest.mark.parametrize("settings", [dict(order="best", steps=1), dict(order="random", steps=0)])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="confidence, certainty, random"):
        diffusion.sample(TableModel(3, 4), torch.full((1, 4), 3), **settings)
