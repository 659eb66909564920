"""Lesson 12: the chain of the toy world, repairs with a known solution, and couplets that scan."""

from importlib import import_module

import pytest
from conftest import ROOT, TableModel, assert_refused, run_script, seeded
from test_06_generate import Flat
from test_08_train_tamil import COUPLETS, verse  # noqa: F401
from test_09_generate_tamil import LovesBreaks, one_shape, tamil_checkpoint  # noqa: F401

from tools import pictures

import torch

diffusion, generation = import_module("04_diffusion"), import_module("06_generate")
tamil_training, tamil_generation = import_module("08_train_tamil"), import_module("09_generate_tamil")
tensors, revision = import_module("01_tensors"), import_module("12_revise")


@pytest.fixture
def world():
    p = torch.softmax(1.5 * torch.randn(4**4, generator=seeded(0)), dim=0)
    return diffusion.ToyWorld(p, V=4, L=4)


# ---- The toy world
def test_a_pass_is_what_enumeration_says(world):
    for count in (1, 2):
        start = world.texts[27].expand(40_000, -1)
        drawn = generation.revise(world, start, 1, count, generator=seeded(count))  # any, in the first pass
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


# ---- Verse
def test_faults_of_the_rhyme_are_the_second_letters():
    good = "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு"
    apart = good.replace("பகவன்", "பதவன்")
    assert revision.rhyme_faults(good) == []
    assert revision.rhyme_faults(apart) == [1, apart.index("த", apart.index("\n"))]


def test_faults_are_named_by_tokens():
    tokenizer = tensors.Tokenizer(["கா", "க", "ா", "\n"])
    faults = revision.faults_of(tokenizer, [lambda text: [2], lambda text: [0, 1]])
    assert faults(torch.tensor(tokenizer.encode("காக\n"))) == [1, 0, 0]


def test_faults_never_grow_where_letters_are_taken_back():
    faults = lambda row: row.nonzero().flatten().tolist()  # noqa: E731
    rows, counts, generator = torch.randint(2, (6, 12), generator=seeded()), [], seeded(1)
    for _ in range(20):
        counts.append([len(faults(row)) for row in rows])
        rows = revision.revise_keeping(Flat(2), rows, 2, faults, generator=generator)
    assert all(b <= a for before, now in zip(counts, counts[1:]) for a, b in zip(before, now))
    assert sum(counts[-1]) < sum(counts[0]) / 2


@pytest.mark.parametrize("passes", [30, 7, 1, 0])
def test_mending_takes_the_passes_it_is_given_and_keeps_the_break(passes):
    tokenizer = tensors.Tokenizer(tamil_training.make_units("", "letters"))
    model, never_kept = LovesBreaks(tokenizer), [lambda couplet: [0]]
    mended = revision.mend_couplets(model, tokenizer, COUPLETS[:1] * 3, never_kept, seeded(), passes)
    assert model.passes == passes // 3 + (passes - passes // 3) // 2 * 2
    shapes = tamil_generation.line_lengths(tokenizer, COUPLETS[:1] * 3)
    assert tamil_generation.line_lengths(tokenizer, mended) == shapes and (passes < 7 or len(set(mended)) == 3)


def test_couplets_by_the_shipped_model_scan_and_rhyme(tmp_path):
    if not (ROOT / "data" / "tamil.txt").exists():
        pytest.skip("data/tamil.txt is not there")
    code, out, err = run_script("12_revise.py", "--kural", "--metre", "--rhyme", "--num", 3, "--seed", 1)
    couplets = out.strip().split("\n\n")
    assert code == 0 and len(couplets) == 3, err
    both = [tamil_generation.spoken_metre(each) and tamil_generation.rhymes(each) for each in couplets]
    assert sum(both) >= 2 and (all(both) or "still break what was asked for" in err)


def test_every_rule_that_is_asked_for_and_the_metre_by_default(tamil_checkpoint, one_shape, monkeypatch):  # noqa: F811
    asked = []
    monkeypatch.setattr(revision, "mend_couplets", lambda *given, **_: asked.append(given[3]) or given[2])
    for flags in [], ["--metre"], ["--rhyme"], ["--metre", "--rhyme"]:
        given = ["--kural", *flags, "--checkpoint", tamil_checkpoint, "--data", one_shape, "--seed", "1", "--temp", "9"]
        monkeypatch.setattr("sys.argv", ["12_revise.py", *map(str, given)])
        revision.main()
    metre, rhyme = revision.RULES.values()
    assert asked == [[metre], [metre], [rhyme], [metre, rhyme]]


def test_what_does_not_go_together(small_checkpoint, tamil_checkpoint, one_shape, verse):  # noqa: F811
    write = lambda *flags: run_script("12_revise.py", "--seed", 1, *flags)  # noqa: E731
    for flag in ("--metre",), ("--rhyme",), ("--num", 3), ("--checkpoint", tamil_checkpoint):
        assert_refused(write(*flag), 2, flag[0], "--kural")
    assert_refused(write("--kural", "--checkpoint", small_checkpoint, "--data", verse), 1, "Tamil")
    assert_refused(write("--kural", "--data", "nowhere.txt"), 1, "nowhere.txt")


def test_what_could_not_be_mended_is_said(tamil_checkpoint, one_shape, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(revision, "mend_couplets", lambda model, tokenizer, couplets, *_, **__: couplets)
    given = ["--kural", "--checkpoint", tamil_checkpoint, "--data", one_shape, "--seed", "1"]
    monkeypatch.setattr("sys.argv", ["12_revise.py", *map(str, given)])
    revision.main()
    out, err = capsys.readouterr()
    assert out.strip().count("\n") == 1 and "1 of 1 still break what was asked for" in err


def test_the_walk(real_text, tmp_path, monkeypatch):
    monkeypatch.setattr(revision, "PIECES", 2)
    monkeypatch.setattr(revision, "MARKS", (4, 8, 12))
    monkeypatch.setattr(revision, "show_words", revision.word_curves)
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["12_revise.py"])
    revision.main()
    assert (tmp_path / "figures" / "12_revise.png").read_bytes().startswith(b"\x89PNG")
