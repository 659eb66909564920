"""Lesson 12: what is never touched, the passes, the chain of the toy world, and repairs with a known solution."""

from importlib import import_module
from types import SimpleNamespace

import pytest
from conftest import ROOT, TableModel, assert_refused, run_script, seeded
from test_08_train_tamil import verse  # noqa: F401
from test_09_generate_tamil import one_shape, tamil_checkpoint  # noqa: F401

import torch

diffusion, generation = import_module("04_diffusion"), import_module("06_generate")
tamil_generation, blanks = import_module("09_generate_tamil"), import_module("11_fill_blanks")
tensors, revision = import_module("01_tensors"), import_module("12_revise")


class Flat:
    """A model to which all letters are equally likely everywhere; it counts its passes, and the masks it is shown."""

    def __init__(self, V):
        self.config, self.masks = SimpleNamespace(vocab_size=V), []

    def __call__(self, tokens):
        self.masks.append((tokens == self.config.vocab_size).sum(dim=1))
        return torch.zeros(*tokens.shape, self.config.vocab_size)


@pytest.fixture
def world():
    p = torch.softmax(1.5 * torch.randn(4**4, generator=seeded(0)), dim=0)
    return diffusion.ToyWorld(p, V=4, L=4)


# ---- revise
def test_what_may_not_be_taken_back_never_changes_and_every_pass_hides_so_many():
    generator = seeded(1)
    for _ in range(20):
        B, L, V = (int(torch.randint(2, high, (1,), generator=generator)) for high in (5, 30, 9))
        tokens = torch.randint(V, (B, L), generator=generator)
        fillable = torch.rand(B, L, generator=generator) < 0.5
        fillable[:, 0], given = True, tokens.clone()
        model, seen = Flat(V), []
        out = revision.revise(model, tokens, 7, 3, fillable=fillable, generator=generator, on_step=seen.append)
        assert torch.equal(out[~fillable], given[~fillable]) and torch.equal(tokens, given)
        assert len(model.masks) == 7 and len(seen) == 14 and torch.equal(seen[-1], out)
        assert all(torch.equal(masks, fillable.sum(dim=1).clamp(max=3)) for masks in model.masks)
        assert out.max() < V and all((canvas == V)[~fillable].sum() == 0 for canvas in seen)


def test_nothing_to_revise_takes_no_pass():
    model, tokens = Flat(5), torch.zeros(2, 4, dtype=torch.long)
    assert torch.equal(revision.revise(model, tokens, 9, 2, fillable=torch.zeros(2, 4, dtype=torch.bool)), tokens)
    assert model.masks == []


def test_the_same_seed_the_same_text():
    model, tokens = TableModel(3, 5), torch.zeros(4, 5, dtype=torch.long)
    one, again, other = (revision.revise(model, tokens, 6, 2, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_doubted_letters_go_first():
    """A model that finds the letter 0 likely and all others not, wherever: the others are soon gone."""
    model = lambda tokens: torch.tensor([4.0, 0.0, 0.0]).expand(*tokens.shape, 3)  # noqa: E731
    model.config = SimpleNamespace(vocab_size=3)
    tokens = torch.randint(1, 3, (50, 20), generator=seeded(0))
    tokens[:, :10] = 0
    by_doubt, anywhere = (
        revision.revise(model, tokens, 12, 1, generator=seeded(0), order=order) for order in ("confidence", "random")
    )
    assert (by_doubt == 0).sum() > 1.3 * (anywhere == 0).sum() - 0.3 * 500


def test_temperature_and_top_k_reach_the_draw():
    model, tokens = TableModel(4, 4), torch.zeros(3, 4, dtype=torch.long)
    for settings in (dict(temperature=0.0), dict(top_k=1)):
        out = revision.revise(model, tokens, 1, 4, **settings)
        assert torch.equal(out, model(torch.full((3, 4), 4)).argmax(dim=-1))


@pytest.mark.parametrize("order", diffusion.ORDERS)
def test_given_letters_stay_in_every_order(world, order):
    start = world.texts[torch.randint(256, (500,), generator=seeded(0))]
    own = torch.tensor([True, True, False, False])
    out = revision.revise(world, start, 9, 1, order=order, fillable=own.expand(500, -1), generator=seeded(1))
    assert torch.equal(out[:, ~own], start[:, ~own])


def test_a_mask_that_may_not_be_filled_stays():
    tokens = torch.tensor([[1, 2, 5, 3]])
    out = revision.revise(Flat(5), tokens, 4, 2, fillable=tokens < 5, generator=seeded(0))
    assert out[0, 2] == 5 and out[0, [0, 1, 3]].max() < 5


def test_faults_never_grow_in_a_text_that_is_revised():
    faults = lambda row: row.nonzero().flatten().tolist()  # noqa: E731
    tokens, counts = torch.randint(2, (6, 12), generator=seeded(0)), []
    note = lambda canvas: counts.append([len(faults(row)) for row in canvas])  # noqa: E731
    revision.revise(Flat(2), tokens, 40, 2, generator=seeded(1), on_step=note, faults=faults)
    after = counts[1::2]  # the others are with masks
    assert all(b <= a for before, now in zip(after, after[1:]) for a, b in zip(before, now)) and sum(after[-1]) < 8


# ---- The toy world
def test_a_pass_is_what_enumeration_says(world):
    for count in (1, 2):
        start = world.texts[27].expand(40_000, -1)
        drawn = revision.revise(world, start, 1, count, order="random", generator=seeded(count))
        index = (drawn * 4 ** torch.arange(4).flip(0)).sum(dim=1)
        shares = torch.bincount(index, minlength=256) / len(drawn)
        assert revision.distance(shares, revision.at_random(world, count)[27]) < 0.02


def test_matrices_are_of_probabilities_and_one_letter_keeps_the_truth(world):
    one, two, doubt = revision.at_random(world, 1), revision.at_random(world, 2), revision.by_doubt(world)
    for matrix in (one, two, doubt):
        torch.testing.assert_close(matrix.sum(dim=1), torch.ones(256), atol=1e-4, rtol=0)
    assert (world.p @ one - world.p).abs().max() < 1e-6
    assert revision.distance(world.p @ two, world.p) > 0.05 and revision.distance(world.p @ doubt, world.p) > 0.05


def test_doubt_chooses_the_lowest_product(world):
    """The chances by which by_doubt chooses, against a lottery."""
    x, hidden = world.texts[100], world.texts[100].repeat(4, 1)
    hidden[range(4), range(4)] = 4
    p = world(hidden)[range(4), range(4), x].exp()  # [4]
    lottery = (p * torch.rand(100_000, 4, generator=seeded(0))).argmin(dim=1).bincount(minlength=4) / 100_000
    expected = sum(share * revision.redrawn(world, [i])[100] for i, share in enumerate(lottery))
    assert revision.distance(revision.by_doubt(world)[100], expected) < 0.01


# ---- repair
SOLUTION = torch.tensor([2, 0, 1, 2, 1, 0, 0, 1])


def wrong_places(row):
    return (row != SOLUTION).nonzero().flatten().tolist()


def test_a_planted_solution_is_found_and_then_no_pass_is_spent():
    model, start = Flat(3), torch.randint(3, (5, 8), generator=seeded(0))
    out = revision.repair(model, start, wrong_places, 200, generator=seeded(1))
    assert torch.equal(out, SOLUTION.expand(5, -1)) and len(model.masks) < 200
    passes = len(model.masks)
    assert torch.equal(revision.repair(model, out, wrong_places, 50), out) and len(model.masks) == passes
    assert torch.equal(revision.repair(model, start[0], wrong_places, 200, generator=seeded(1)), SOLUTION)


def test_given_letters_stay_and_faults_never_grow():
    start, counts = torch.randint(3, (6, 8), generator=seeded(2)), []
    fillable = torch.arange(8) < 5
    kept = []
    note = lambda rows: (kept.append(rows), counts.append([len(wrong_places(row)) for row in rows]))  # noqa: E731
    out = revision.repair(Flat(3), start, wrong_places, 60, fillable=fillable, generator=seeded(3), on_step=note)
    assert torch.equal(out[:, ~fillable], start[:, ~fillable])
    assert torch.equal(out[:, fillable], SOLUTION[fillable].expand(6, -1))
    assert all(b <= a for before, now in zip(counts, counts[1:]) for a, b in zip(before, now))
    assert [[len(wrong_places(row)) for row in rows] for rows in kept] == counts  # what was shown stays as it was


def test_a_checker_that_is_never_satisfied_stops_at_its_rounds():
    model = Flat(4)
    out = revision.repair(model, torch.zeros(2, 6, dtype=torch.long), lambda row: [3], 9, generator=seeded(0))
    assert len(model.masks) == 9 and out.shape == (2, 6)


def test_of_equally_good_draws_the_likeliest_is_taken():
    model = TableModel(5, 1)
    out = revision.repair(model, torch.tensor([[0]]), lambda row: [0], 1, draws=200, generator=seeded(0))
    assert out.item() == model(torch.tensor([[5]])).argmax().item()


# ---- In lessons 6, 9 and 11
def test_what_was_given_stays_in_a_blank(small_model):
    model, _ = small_model
    canvas = torch.randint(model.config.vocab_size, (3, 60), generator=seeded(0))
    given = canvas.clone()
    canvas[:, 20:31] = model.config.vocab_size
    out = blanks.fill(model, canvas, generation.Sampling(steps=9, revise=6), seeded(1))
    same = torch.ones(60, dtype=torch.bool)
    same[20:31] = False
    assert torch.equal(out[:, same], given[:, same]) and out.max() < model.config.vocab_size


def test_couplets_by_the_shipped_model_scan_and_rhyme(tmp_path):
    if not (ROOT / "data" / "tamil.txt").exists():
        pytest.skip("data/tamil.txt is not there")
    code, out, err = run_script("09_generate_tamil.py", "--kural", "--metre", "--rhyme", "--num", 3, "--seed", 1)
    couplets = out.strip().split("\n\n")
    assert code == 0 and len(couplets) == 3, err
    both = [tamil_generation.spoken_metre(each) and tamil_generation.rhymes(each) for each in couplets]
    assert sum(both) >= 2 and (all(both) or "still break what was asked for" in err)


def test_what_does_not_go_together(small_checkpoint, tamil_checkpoint, one_shape, verse):  # noqa: F811
    write = lambda *flags: run_script("06_generate.py", "--checkpoint", small_checkpoint, "--seed", 1, *flags)  # noqa: E731
    assert_refused(write("--steps", 9, "--revise", 9), 2, "--revise 9", "9 passes")
    assert_refused(write("--steps", 1, "--revise", 1), 2, "--revise 1")
    assert_refused(write("--len", 9, "--revise", 9), 2, "--revise 9")
    assert_refused(write("--revise", -1), 2, "--revise")
    assert_refused(write("--prompt", "Shall", "--len", 5, "--revise", 2), 1, "none to revise")
    tamil = lambda *flags: run_script("09_generate_tamil.py", "--seed", 1, *flags)  # noqa: E731
    for flag in ("--metre", "--rhyme"):
        assert_refused(tamil("--checkpoint", tamil_checkpoint, flag), 2, "--kural")
    assert_refused(tamil("--checkpoint", small_checkpoint, "--kural", "--metre", "--data", verse), 1, "Tamil")
    hard = "--checkpoint", tamil_checkpoint, "--kural", "--metre", "--data", one_shape, "--steps", 200
    code, out, err = tamil(*hard)
    assert code == 0 and out.strip().count("\n") == 1 and "1 of 1 still break what was asked for" in err


def test_the_walk(real_text, tmp_path, monkeypatch):
    monkeypatch.setattr(revision, "PIECES", 2)
    monkeypatch.setattr(revision, "MARKS", (4, 8, 12))
    monkeypatch.setattr(revision, "show_words", lambda writers, judge: revision.word_curves(writers, judge))
    monkeypatch.setattr(revision.tools, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["12_revise.py"])
    revision.main()
    assert (tmp_path / "figures" / "12_revise.png").read_bytes().startswith(b"\x89PNG")
