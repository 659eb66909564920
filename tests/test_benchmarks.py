"""The benchmarks: their mathematics in a toy world, and each of them to its end on two tiny models."""

import itertools
import math
import re
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_refused, random_gpt, run_script, seeded

from tools import training_run
from tools.checkpoints import read_checkpoint, save_checkpoint
from tools.command_line import UserError

import torch

diffusion, generation, gpt = import_module("04_diffusion"), import_module("06_generate"), import_module("07_train_gpt")
training, comparison, blanks = import_module("05_train"), import_module("10_compare"), import_module("11_fill_blanks")
sweep, exact = import_module("benchmarks.sweep"), import_module("benchmarks.exact")
blanks_benchmark, tune = import_module("benchmarks.blanks"), import_module("benchmarks.tune")
revise_benchmark, calibrate = import_module("benchmarks.revise"), import_module("benchmarks.calibrate")


@pytest.fixture
def run_main(monkeypatch, capsys, small_checkpoint, gpt_checkpoint, text_file, tmp_path):
    """Runs a benchmark's main with tiny models and pictures in tmp_path, and returns what it prints."""

    def run(module, dllm, *flags):
        given = [dllm, small_checkpoint, "--gpt", gpt_checkpoint, "--data", text_file, "--pictures", tmp_path / "new"]
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, [*given, *flags])])
        module.main()
        return capsys.readouterr().out

    return run


def heldout_windows(text_file, tokenizer):
    """[N, 32] the held-out part of a text in a file."""
    return import_module("01_tensors").split_text(text_file.read_text(encoding="utf-8"), tokenizer, 32)[1]


def pictures(folder):
    """The names of the pictures in a folder."""
    paths = sorted(folder.iterdir())
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    return [path.name for path in paths]


# ---- benchmarks.sweep
def test_all_settings_are_different_and_have_names_of_their_own():
    samplings = sweep.all_samplings(128)
    assert len(set(samplings)) == 13 * 6 + 3
    assert len({comparison.describe(sampling, 128) for sampling in samplings}) == len(samplings)
    assert {sampling.steps for sampling in samplings} == {128, 64, 32, 16, 8, 4}


def test_the_whole_sweep(run_main, monkeypatch, gpt_checkpoint, tmp_path):
    monkeypatch.setattr(sweep, "LETTERS_A_PASS", (1, 4, 16))
    monkeypatch.setattr(sweep, "TEMPERATURES", {"confidence": (1.0,), "certainty": (0.8,), "random": (0.8, 1.0)})
    monkeypatch.setattr(sweep, "SPEED_LENGTH", 64)
    log = "step,seconds,characters,lr,loss,heldout\n1,1.0,64,0.01,2.5,\n2,2.0,128,0.01,2.4,2.45\n"
    gpt_checkpoint.with_suffix(".csv").write_text(log)
    out = run_main(sweep, "--dllm", "--pieces", 2, "--exact-windows", 2, "--seed", 3)
    parts = (
        "| held-out text | bound ", "without the first of each 32 characters", "| as much text from training | bound ",
        "| dLLM, margin | ", "2 held-out windows of 32", "| real, from training |", "| GPT, 1.2 |", "| GPT, 0.8 |",
        "| dLLM, 16 a pass, random, 1.0 |", "dLLM, 1 a pass, certainty, 1.0, top-k 3", "times faster",
        "| dLLM, 4 a pass, random | 16 |", "no log beside the checkpoint of the dLLM",
    )  # fmt: skip
    for part in parts:
        assert part in out, part
    assert pictures(tmp_path / "new") == ["10_curves.png", "10_steps.png"]
    assert "times faster" in out.strip().splitlines()[-1]


def test_the_curves_alone(run_main, gpt_checkpoint, tmp_path):
    gpt_checkpoint.with_suffix(".csv").write_text("step,seconds,characters,lr,loss,heldout\n1,1.0,64,0.01,2.5,2.6\n")
    out = run_main(sweep, "--dllm", "--curves")
    assert "| parameters | " in out and "held-out text" not in out
    assert pictures(tmp_path / "new") == ["10_curves.png"]
    assert out.strip().splitlines()[-1] == str(tmp_path / "new" / "10_curves.png")


# ---- benchmarks.exact
@pytest.fixture
def world():
    return diffusion.ToyWorld(torch.softmax(1.5 * torch.randn(4**4, generator=seeded()), dim=0), V=4, L=4)


def average_cost(world, sizes):
    """The expected nats per letter of texts of the world in random order, by enumeration."""
    total = 0.0
    for order in itertools.permutations(range(4)):
        canvas = torch.full_like(world.texts, 4)
        for places in torch.tensor(order).split(sizes):
            log_p = world(canvas)[:, places].gather(2, world.texts[:, places, None]).flatten(1)  # [256, places]
            total -= (log_p.sum(dim=1) * world.p).sum().item() / 4 / math.factorial(4)
            canvas[:, places] = world.texts[:, places]
    return total


def true_curve(world):
    """I(n) by enumeration: over all texts, and all choices of what is visible."""
    curve = torch.zeros(4)
    for n in range(4):
        for visible in itertools.combinations(range(4), n):
            rows = torch.tensor([place not in visible for place in range(4)]).expand(len(world.texts), -1)
            logits = world(torch.where(rows, 4, world.texts))
            losses = diffusion.masked_cross_entropy(logits, world.texts, rows)
            curve[n] += (losses * world.p).sum() / math.comb(4, n)
    return curve


def test_the_curve_tells_what_every_schedule_costs(world):
    curve = true_curve(world)
    assert all(curve[:-1] > curve[1:])  # the more is visible, the less there is to learn
    texts = world.texts[torch.multinomial(world.p, 3000, replacement=True, generator=seeded())]
    estimate = exact.information_curve(world, texts, 2, seeded(1))
    torch.testing.assert_close(estimate, curve, atol=0.04, rtol=0)
    for sizes in ([4], [1, 3], [3, 1], [2, 2], [1, 2, 1], [1, 1, 1, 1]):
        assert exact.expected_nats(curve, sizes) == pytest.approx(average_cost(world, sizes), abs=1e-4)


def test_equal_shares_are_the_samplers(world):
    for letters, passes in ((128, 8), (10, 3), (7, 7)):
        left, count = [], lambda canvas: left.append((canvas == 4).sum().item())  # noqa: B023
        flat = lambda tokens: torch.zeros(*tokens.shape, 4)  # noqa: E731
        flat.config = SimpleNamespace(vocab_size=4)
        diffusion.sample(flat, torch.full((1, letters), 4), passes, order="random", on_step=count)
        assert exact.equal_sizes(letters, passes) == [a - b for a, b in itertools.pairwise(left)]


def test_the_whole_price(run_main, monkeypatch, tmp_path, small_model, gpt_checkpoint, text_file):
    monkeypatch.setattr(exact, "LETTERS_A_PASS", (1, 8, 32))
    out = run_main(exact, "--dllm", "--windows", 4)
    assert pictures(tmp_path / "new") == ["10_exact.png"]
    model, tokenizer = small_model
    windows = comparison.spread(heldout_windows(text_file, tokenizer), 4)
    for number in (1, 8, 32):
        [row] = re.findall(rf"^\| {number} \|.*$", out, re.M)
        for order, cell in zip(diffusion.EXACT_ORDERS, row.split(" | ")[1:]):
            nats = diffusion.exact_nats(model, windows, order, 32 // number)
            assert cell == f"{nats.mean():.3f} +- {nats.std() / 4**0.5:.3f}"
    nats = gpt.token_nats(training.load_kind(gpt_checkpoint, True)[0], windows)
    assert f"the GPT's: {nats.mean():.3f}" in out


# ---- benchmarks.blanks
def test_words_at_a_seam():
    judge = SimpleNamespace(words={"the", "cat"})
    assert blanks_benchmark.real_words(judge, ["the cat", "the cot", "the  x"], 4).tolist() == [1, 0]
    assert blanks_benchmark.real_words(judge, ["the cat"], 3).tolist() == [1]
    judge = SimpleNamespace(words={"கொக்கு"})  # its signs are no letters
    assert blanks_benchmark.real_words(judge, ["கொக்கு மீன்"], 4).tolist() == [1]


def test_the_gpt_chooses_the_filling_after_which_the_right_side_is_likeliest(monkeypatch):
    monkeypatch.setattr(blanks_benchmark, "CONTINUATIONS", 40)
    V, model = 4, random_gpt(4, 12, std=0.6)
    generator = seeded()
    windows = torch.randint(V, (3, 12), generator=generator)
    writers, sampling = SimpleNamespace(gpt=model, caches=True), generation.Sampling.for_letters(1, 1.0)
    first, best = blanks_benchmark.gpt_fillings(writers, windows, 5, 6, sampling, generator)
    for window, chosen in zip(windows, best):  # with 40 draws of one of 4 letters, the likely ones are among them
        assert torch.equal(chosen[:5], window[:5]) and torch.equal(chosen[6:], window[6:])
        rows = torch.stack([torch.cat([window[:5], torch.tensor([letter]), window[6:]]) for letter in range(V)])
        nats = gpt.token_nats(model, rows)[:, 6:].sum(dim=1)
        own = gpt.token_nats(model, chosen[None])[:, 6:].sum()
        assert own <= nats.sort().values[1] + 1e-4
    assert torch.equal(first[:, :5], windows[:, :5])


def test_both_models_fill_as_they_are_told(small_model):
    model, tokenizer = small_model
    windows = torch.randint(tokenizer.vocab_size, (8, 32), generator=seeded(0))
    writers = SimpleNamespace(dllm=model, gpt=random_gpt(tokenizer.vocab_size, 32), caches=True)
    by_gpt = lambda *settings: blanks_benchmark.gpt_fillings(writers, *settings)[0]  # noqa: E731
    by_dllm = lambda *settings: blanks_benchmark.dllm_fillings(writers, *settings)  # noqa: E731
    for fill in (by_gpt, by_dllm):
        for (temperature, top_k), same in (((9.0, 99), False), ((0.0, 99), True), ((1.0, 1), True)):
            sampling = generation.Sampling.for_letters(1, temperature, top_k)
            one, other = (fill(windows, 8, 9, sampling, seeded(seed)) for seed in (0, 1))
            assert torch.equal(one, other) == same
            assert torch.equal(one[:, :8], windows[:, :8]) and torch.equal(one[:, 9:], windows[:, 9:])


def test_the_whole_measurement_of_blanks(run_main, monkeypatch, tmp_path):
    for name, value in dict(SIZES=(1, 4, 8), RANGE=blanks.Blank(1, 3), CONTINUATIONS=4).items():
        monkeypatch.setattr(blanks_benchmark, name, value)
    monkeypatch.setattr(blanks, "DRAWS", 8)
    out = run_main(blanks_benchmark, "--checkpoint", "--num", 4, "--seed", 1, "--len", 24)
    rows = (
        "GPT", "n-gram judge", "dLLM, left to right", "dLLM, certainty", "GPT minus dLLM, left to right",
        "GPT minus dLLM, certainty",
        "GPT, best of 32", "dLLM minus GPT, best of 32", "dLLM at temperature 0", "found",
    )  # fmt: skip
    for row in rows:
        assert f"| {row} | " in out, row
    assert "| the text itself | 100.0% +- 0.0%" in out and "4 held-out windows of 24" in out
    figures = {row: re.search(rf"^\| {re.escape(row)} \| (-?\d\.\d\d)", out, re.M).group(1) for row in rows[:6]}
    assert figures["dLLM, left to right"] == figures["dLLM, certainty"]  # of one letter
    gap = float(figures["GPT"]) - float(figures["dLLM, certainty"])
    assert float(figures["GPT minus dLLM, certainty"]) == pytest.approx(gap, abs=0.02)
    assert pictures(tmp_path / "new") == ["11_blanks.png"]
    alone = run_main(blanks_benchmark, "--checkpoint", "--num", 4, "--len", 24, "--exact")
    assert "| blank of 4 |\n" in alone and "blank of 8" not in alone
    rows = [line.removesuffix(" |") for line in alone.splitlines() if line.startswith("| GPT")]
    assert len(rows) == 3 and all(row in out for row in rows)


# ---- benchmarks.revise
def test_places_apart_are_the_best_that_are_no_neighbours():
    scores = torch.tensor([[0.9, 0.8, 0.1, 0.7, 0.6, 0.5], [0.1, 0.2, 0.3, 0.9, 0.1, 0.8]])
    allowed = torch.tensor([[True] * 6, [True, True, True, False, True, True]])
    chosen = revise_benchmark.apart(scores, allowed, torch.tensor([3, 2]), 2, seeded())
    assert chosen.nonzero().tolist() == [[0, 0], [0, 3], [0, 5], [1, 2], [1, 5]]


def test_rules_that_choose_how_many():
    p = torch.tensor([[[0.98, 0.01, 0.01], [0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.99, 0.0, 0.01]]])
    masked = torch.tensor([[True, True, True, False]])
    entropy = torch.special.entr(p).sum(dim=-1)[0]
    bounded = lambda limit: revise_benchmark.entropy_bounded(p, masked, limit)[0].tolist()  # noqa: E731
    assert bounded(0.0) == [True, False, False, False]
    assert bounded(entropy[0].item() + 1e-4) == [True, True, False, False]
    assert bounded(9.0) == [True, True, True, False]
    above = lambda limit: revise_benchmark.above_threshold(p, masked, limit)[0].tolist()  # noqa: E731
    assert above(1.0) == above(0.9) == [True, False, False, False] and above(0.5) == [True, True, False, False]


def test_figures_at_a_diversity_lie_on_the_line_through_the_temperatures():
    verdicts = [
        comparison.Verdict("", nats=(nats, 0.1), words=(words, 0.02), distinct=(distinct, 0), longest=0, pieces=[])
        for distinct, words, nats in ((0.5, 0.95, 1.2), (0.6, 0.9, 1.4), (0.7, 0.8, 1.8))
    ]
    found, fit = revise_benchmark.at_diversity(verdicts, 0.625), np.polynomial.Polynomial.fit
    assert found["words"][0] == pytest.approx(fit([0.5, 0.6, 0.7], [0.95, 0.9, 0.8], 1)(0.625))
    assert found["nats"][0] == pytest.approx(fit([0.5, 0.6, 0.7], [1.2, 1.4, 1.8], 1)(0.625))
    assert revise_benchmark.at_diversity(verdicts, 0.71) is revise_benchmark.at_diversity(verdicts, 0.4) is None
    rng = np.random.default_rng(0)  # the error, against repeating the measurement with noise
    noisy = rng.normal([0.5, 0.6, 0.7], 0.012, (4000, 3)), rng.normal([0.95, 0.9, 0.8], 0.01, (4000, 3))
    spread = np.std([fit(x, y, 1)(0.625) for x, y in zip(*noisy)])
    for verdict in verdicts:
        verdict.distinct, verdict.words = (verdict.distinct[0], 0.012), (verdict.words[0], 0.01)
    assert revise_benchmark.at_diversity(verdicts, 0.625)["words"][1] == pytest.approx(spread, rel=0.1)
    one = verdicts[:1]  # a single temperature, exactly there
    assert revise_benchmark.at_diversity(one, 0.5)["words"] == pytest.approx((0.95, 0.01))


def test_the_whole_dial_and_the_rivals(run_main, monkeypatch, tmp_path):
    small = dict(REVISED={(8, 12): (4, (1.0, 2.0))}, WRITTEN={4: ("random", (0.8,))}, RIVAL_PASSES=8, APART=2)
    for name, value in small.items():
        monkeypatch.setattr(revise_benchmark, name, value)
    out = run_main(revise_benchmark, "--dllm", "--pieces", 2)
    for row in "real, held out", "GPT, 0.9", "4 passes, written, random, 0.8", "12 passes, 4 of them write, 2.0":
        assert f"| {row} |" in out, row
    assert all(re.search(rf"^\| {passes} (\| [^|]+){{4}}\|$", out, re.M) for passes in (4, 8, 12))
    assert pictures(tmp_path / "new") == ["12_passes.png"]
    assert re.search(r"three in four revising, take [\d.]+ times as long as", out)
    out = run_main(revise_benchmark, "--dllm", "--pieces", 2, "--default")
    assert [row.split(" | ")[0] for row in out.splitlines()[2:]] == [
        f"| lesson 6's default, {heat}" for heat in (0.6, 0.7, 0.8)
    ]
    out = run_main(revise_benchmark, "--dllm", "--pieces", 2, "--rivals")
    for row in "revised: doubted, 1.0", "revised: any place, 0.8", "written: random, 1.0":
        assert f"| {row} |" in out, row
    assert re.search(r"written: entropy-bounded \(\d\.\d\d; \d+ passes\), 0.8", out)


# ---- benchmarks.tune
def test_tuning_changes_what_it_is_told(monkeypatch):
    transformer = import_module("03_transformer")
    monkeypatch.setattr(diffusion, "BELL_WIDTH", diffusion.BELL_WIDTH)
    monkeypatch.setattr(training_run, "LOG_ROWS", training_run.LOG_ROWS)
    monkeypatch.setitem(transformer.PRESETS, "small", dict(transformer.PRESETS["small"]))
    for name, value in (("BELL_WIDTH", "0.5"), ("LOG_ROWS", "7"), ("small.dim", "64")):
        tune.set_constant(name, value)
    assert (diffusion.BELL_WIDTH, training_run.LOG_ROWS, transformer.PRESETS["small"]["dim"]) == (0.5, 7, 64)
    wrong = ("NOWHERE", "1", "NOWHERE"), ("small.nothing", "1", "nothing"), ("LOG_ROWS", "x", "LOG_ROWS=x")
    for name, value, word in wrong:
        with pytest.raises(UserError, match=word):
            tune.set_constant(name, value)


@pytest.mark.parametrize("extra, measured", [([], 1), (["EVALUATIONS=2"], 2)])
def test_a_short_tuning_run(text_file, monkeypatch, extra, measured):
    """With learned positions, and all that they replace."""
    attention, transformer = import_module("02_attention"), import_module("03_transformer")
    changed = (attention, "START_STRENGTH"), (attention, "rotate"), (transformer, "Transformer")
    for home, name in (*changed, (training_run, "EVALUATIONS")):
        monkeypatch.setattr(home, name, getattr(home, name))  # put back afterwards
    monkeypatch.setitem(transformer.PRESETS, "small", dict(transformer.PRESETS["small"]))
    shape = "small.n_layers=1", "small.dim=32", "small.context=32"
    words = "START_STRENGTH=3", *shape, "positions=learned", "positions_std=1", *extra
    flags = "--preset", "small", "--steps", 3, "--batch", 2, "--dtype", "float32", "--data", text_file
    code, out, err = run_script("benchmarks/tune.py", *words, *flags)
    assert code == 0, err
    assert re.fullmatch(r"\d\.\d{3} nats/character, 192 characters, \d+ s: START_STRENGTH=3 .*\n", out)
    assert err.count(": held-out bound") == measured and attention.START_STRENGTH == 3
    parameters = 25 * 32 + 32 * 32 + 24 * 32  # embedding, positions, head; then a block and the norms
    assert f"{parameters + 12 * 32 * 32 + 5 * 32:,} parameters" in err
    model = transformer.Transformer(transformer.Config(5, 8, n_layers=1, n_heads=1, dim=8)).eval()
    torch.nn.init.normal_(model.head.weight)
    with torch.inference_mode():
        equal = model(torch.zeros(1, 8, dtype=torch.long))[0]  # [8, 5] of equal tokens, told apart by their positions
    assert not torch.allclose(equal[0], equal[1], atol=0.01)


# ---- benchmarks.calibrate
def test_the_mean_has_the_shares_it_is_told(small_model):
    model, _ = small_model
    other = type(model)(model.config).eval()
    other.load_state_dict({name: 5 * value for name, value in model.state_dict().items()})
    mean = calibrate.mean_of([model, other], [3, 1])
    for name, weight in mean.state_dict().items():  # (3 x 1 + 1 x 5) / 4 = 2
        assert torch.allclose(weight, 2 * model.state_dict()[name], atol=1e-6)


def test_each_half_chooses_for_the_other(capsys):
    figures = torch.full((len(calibrate.TEMPERATURES), 2), 2.0)
    figures[0] = torch.tensor([1.9, 1.85])
    figures[3] = torch.tensor([1.5, 1.7])  # the best for the even windows, and for all
    figures[5] = torch.tensor([1.8, 1.6])  # the best for the odd ones
    assert calibrate.choose_temperature(figures) == 1.15
    out = capsys.readouterr().out
    assert "even windows choose 1.15, which gains 0.1500 on the odd" in out
    assert "odd windows choose 1.25, which gains 0.1000 on the even" in out
    assert "| 1.15 | 1.5000 | 1.7000 | 1.6000 |" in out and "largest" not in out
    figures[-1] = 1.0
    assert calibrate.choose_temperature(figures) == 1.5
    assert "1.5 is the largest number tried" in capsys.readouterr().out


def test_the_figures_are_those_of_divided_logits(gpt_checkpoint, text_file):
    """Against PyTorch's own cross-entropy of a GPT's logits."""
    model, tokenizer, _ = training.load_checkpoint(gpt_checkpoint)
    windows, before = heldout_windows(text_file, tokenizer), model.head.weight.clone()
    figures = calibrate.measure_halves(model, gpt.NEXT_TOKEN, windows)
    assert torch.equal(model.head.weight, before)
    inputs = torch.cat([torch.full_like(windows[:, :1], tokenizer.vocab_size), windows[:, :-1]], dim=1)
    with torch.inference_mode():
        logits = model(inputs)
    for temperature, row in zip(calibrate.TEMPERATURES, figures):
        for half, figure in zip((slice(0, None, 2), slice(1, None, 2)), row):
            divided = logits[half].flatten(0, 1) / temperature
            assert abs(figure - torch.nn.functional.cross_entropy(divided, windows[half].flatten())) < 1e-5


@pytest.mark.parametrize("kind, evaluate", [("dllm", "05_train.py"), ("gpt", "07_train_gpt.py")])
def test_what_is_written_is_less_sure(kind, evaluate, small_checkpoint, gpt_checkpoint, text_file, tmp_path):
    given, out = small_checkpoint if kind == "dllm" else gpt_checkpoint, tmp_path / "new" / "milder.safetensors"
    out.parent.mkdir()
    contents = read_checkpoint(given)
    contents["model"]["head.weight"] *= 2  # too sure
    save_checkpoint(contents, given)
    for name in ("verse.txt", "weights.pt", given.name):  # there already, or of another kind
        refused = run_script("benchmarks/calibrate.py", given, "--data", text_file, "--out", given.with_name(name))
        assert_refused(refused, 2, "must end in .safetensors, and must not be there yet")
    code, printed, err = run_script("benchmarks/calibrate.py", given, "--data", text_file, "--out", out)
    assert code == 0, err
    milder = read_checkpoint(out)
    assert milder["model"]["head.weight"].dtype == torch.bfloat16 and milder["config"] == contents["config"]
    expected = contents["model"]["head.weight"] / calibrate.TEMPERATURES[-1]  # of random logits, the smaller the better
    assert torch.allclose(milder["model"]["head.weight"].float(), expected, rtol=0.01)
    code, judged, err = run_script(evaluate, "--evaluate", out, "--data", text_file)
    assert code == 0 and judged.split(": ")[1] == printed.splitlines()[-1].split(": ")[1] + "\n", err
    assert [path.name for path in out.parent.iterdir()] == ["milder.safetensors"]


def test_a_dllm_is_measured_by_the_same_masks_each_time(small_model, text_file):
    model, tokenizer = small_model
    windows = heldout_windows(text_file, tokenizer)
    figures = calibrate.measure_halves(model, training.DIFFUSION, windows)
    for row, temperature in ((0, 1), (-1, calibrate.TEMPERATURES[-1])):
        divided = calibrate.tempered(model, temperature)
        for half, figure in enumerate(figures[row]):
            assert abs(figure - training.heldout_bound(divided, windows[half::2])[0]) < 1e-6


def test_two_checkpoints_become_one(small_checkpoint, text_file, tmp_path):
    """In the shares that are asked for; what is recorded is of the one that has come farther."""
    far, out = tmp_path / "far.safetensors", tmp_path / "mean.safetensors"
    contents = read_checkpoint(small_checkpoint)
    twice = {name: 2 * value for name, value in contents["model"].items()}
    save_checkpoint(contents | dict(model=twice, step=7, characters=70, seconds=1.5), far)
    flags = "--shares", 1, 3, "--data", text_file, "--out", out
    code, printed, err = run_script("benchmarks/calibrate.py", far, small_checkpoint, *flags)
    assert code == 0, err
    mean, name = read_checkpoint(out), "blocks.0.attention.query.weight"
    assert torch.allclose(mean["model"][name].float(), 1.25 * contents["model"][name], rtol=0.01)
    assert (mean["step"], mean["characters"], mean["seconds"]) == (7, 70, 1.5)
    assert abs(mean["heldout"] - float(re.search(r": bound (\S+)", printed)[1])) < 0.1


def test_checkpoints_that_do_not_go_together(small_checkpoint, gpt_checkpoint, text_file):
    script, other = "benchmarks/calibrate.py", small_checkpoint.with_name("other.safetensors")
    contents = read_checkpoint(small_checkpoint)
    save_checkpoint(contents | dict(units=contents["units"][::-1]), other)
    assert_refused(run_script(script, small_checkpoint, other, "--data", text_file), 1, "other.safetensors", "alphabet")
    assert_refused(run_script(script, small_checkpoint, gpt_checkpoint, "--data", text_file), 1, "gpt.safetensors")
    assert_refused(run_script(script, small_checkpoint, "--shares", 1, 2, "--data", text_file), 2, "--shares")
    assert_refused(run_script(script, "--data", text_file), 2, "FILE")
    short = text_file.with_name("short.txt")
    short.write_text(text_file.read_text(encoding="utf-8")[:400], encoding="utf-8")
    assert_refused(run_script(script, small_checkpoint, "--data", short), 1, "one held-out window")


def test_wrong_flags_are_one_sentence(small_checkpoint, gpt_checkpoint, text_file, monkeypatch):
    monkeypatch.setattr(training_run, "EVALUATIONS", training_run.EVALUATIONS)  # the last command sets it
    flags = "--gpt", gpt_checkpoint, "--data", text_file
    assert_refused(run_script("benchmarks/sweep.py", "--dllm", small_checkpoint, *flags, "--pieces", 999), 1, "999")
    many = run_script("benchmarks/sweep.py", "--dllm", small_checkpoint, *flags, "--pieces", 2, "--exact-windows", 999)
    assert_refused(many, 1, "--exact-windows 999")
    assert_refused(run_script("benchmarks/exact.py", "--windows", "3"), 2, "--windows")
    many = run_script("benchmarks/exact.py", "--dllm", small_checkpoint, *flags, "--windows", 999)
    assert_refused(many, 1, "--windows")
    assert_refused(run_script("benchmarks/blanks.py", "--num", "1"), 2, "--num")
    assert_refused(run_script("benchmarks/tune.py", "NOWHERE=1", "--steps", 1, "--preset", "small"), 1, "NOWHERE")
