"""Lesson 7: the GPT's likelihood against enumeration, its cache against none, and what a person gets from it."""

import itertools
import math
import re
from importlib import import_module

import pytest
from conftest import ROOT, VERSE, assert_refused, random_gpt, run_script, seeded

from tools import training_run
from tools.checkpoints import read_checkpoint

import torch

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
training = import_module("05_train")
gpt = import_module("07_train_gpt")


def test_the_likelihoods_of_all_texts_sum_to_one():
    V, L = 3, 4
    model = random_gpt(V, L)
    texts = torch.tensor(list(itertools.product(range(V), repeat=L)))  # [81, 4]
    total = sum(math.exp(-L * gpt.nats_by_position(model, text[None]).mean().item()) for text in texts)
    assert total == pytest.approx(1, abs=1e-5)


def test_nats_by_position_are_averages_over_windows():
    model = random_gpt(5, 6)
    windows = torch.randint(5, (70, 6))  # more than are read at a time
    expected = torch.zeros(6, dtype=torch.float64)
    for window in windows:
        for i in range(6):  # one prefix after the other, each read by itself
            log_p = torch.log_softmax(model(torch.tensor([[5, *window[:i].tolist()]]))[0, -1], dim=0)
            expected[i] -= log_p[window[i]].item() / 70
    torch.testing.assert_close(gpt.nats_by_position(model, windows), expected, atol=1e-5, rtol=0)
    report = gpt.report_exact(model, windows)
    assert f"exact {expected.mean():.4f}" in report and f"{expected[1:].mean():.4f} nats without the first" in report


@pytest.mark.parametrize("parts", [[16], [1] * 16, [5, 1, 7, 3]])
def test_cached_logits_are_those_of_one_reading(parts):
    model, tokens = random_gpt(7, 16), torch.randint(8, (2, 16))
    for _ in range(2):  # each reader begins with an empty cache
        reader, reading = gpt.with_cache(model)
        pieces = [gpt.read_on(reader, reading, part) for part in tokens.split(parts, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), atol=1e-4, rtol=0)
        assert reader.blocks[0].attention.k.shape[2] == 16
    assert {id(p) for p in reader.parameters()} == {id(p) for p in model.parameters()}  # nothing is copied


def recorded(model):
    """[(length of the input, last logits)] of every pass to come, of this model and of readers made from it."""
    passes = []
    model.register_forward_hook(lambda module, inputs, out: passes.append((inputs[0].shape[1], out[:, -1].clone())))
    return passes


@pytest.mark.parametrize("prompt", [0, 3, 12, 20])
def test_writes_the_same_with_and_without_cache_across_drops(prompt):
    tokens = torch.randint(7, (2, prompt), generator=seeded(1))
    texts, lengths, logits = [], [], []
    for cached in (True, False):
        model = random_gpt(7, 12)
        passes = recorded(model)
        texts.append(gpt.continue_text(model, tokens, 33, generator=seeded(), cached=cached))
        lengths.append([length for length, _ in passes])
        logits.append(torch.stack([last for _, last in passes]))
    assert texts[0].shape == (2, 33) and torch.equal(texts[0][:, :prompt], tokens)
    assert torch.equal(*texts)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)
    assert max(lengths[1]) == 12  # never more than the context
    dropped = [i for i, (a, b) in enumerate(itertools.pairwise(lengths[1])) if b < a]
    assert len(dropped) >= 2 and all(lengths[1][i + 1] == 1 + 6 for i in dropped)
    assert set(lengths[0][1:]) == {1, 7}  # cached, only a drop is read as a whole


def test_greedy_writing_takes_the_likeliest_character():
    model = random_gpt(7, 12)
    text = [7]
    for _ in range(8):
        text.append(model(torch.tensor([text]))[0, -1].argmax().item())
    assert gpt.continue_text(model, torch.zeros(1, 0, dtype=torch.long), 8, temperature=0)[0].tolist() == text[1:]


def test_the_model_sees_what_came_before_and_guesses_the_next(small_model):
    inputs, mask = gpt.shift_right(torch.tensor([[3, 1, 2], [0, 0, 4]]), 5)
    assert inputs.tolist() == [[5, 3, 1], [5, 0, 0]] and mask.all() and mask.shape == (2, 3)


def test_the_differences_are_listed_by_line():
    code, out, err = run_script("07_train_gpt.py", "--differences")
    assert (code, err) == (0, "")
    must, faster = out.split("What only makes it write faster:\n")
    assert must.startswith("What must change")
    for group, mark, files in ((must, "GPT: ", "02 03 05 07"), (faster, "GPT, for speed: ", "07")):
        lines = [re.fullmatch(r"  (\S+):(\d+): (.+)", line) for line in group.splitlines() if re.match(r"  \S", line)]
        assert {line[1][:2] for line in lines} >= set(files.split(" "))
        for line in lines:
            source = (ROOT / line[1]).read_text(encoding="utf-8").splitlines()[int(line[2]) - 1]
            assert source.endswith(f"# {mark}{line[3]}")
            assert source.split("#")[0].strip(" )") != "", source  # the mark stands beside code


def test_a_whole_run_trains_a_causal_model(tmp_path, text_file, monkeypatch):
    monkeypatch.setattr(training_run, "EVALUATIONS", 2)
    monkeypatch.setitem(transformer.PRESETS, "tiny", dict(context=128, n_layers=1, n_heads=2, dim=32))
    out = tmp_path / "run.safetensors"
    flags = ["--data", text_file, "--preset", "tiny", "--batch", 2, "--steps", 6, "--dropout", 0.1]
    code, printed, err = run_script("07_train_gpt.py", *flags, "--out", out)
    assert code == 0 and "held-out exact" in err, err
    assert printed.strip() == f"python 07_train_gpt.py --generate --checkpoint {tmp_path / 'run_best.safetensors'}"
    model, tokenizer, info = training.load_checkpoint(tmp_path / "run_best.safetensors")
    assert model.config.causal and model.config.dropout == 0.1
    _, windows = tensors.split_text(text_file.read_text(), tokenizer, 128)
    assert gpt.nats_by_position(model, windows).mean().item() == pytest.approx(info["heldout"], abs=1e-4)
    generate = ["--generate", "--checkpoint", tmp_path / "run_best.safetensors", "--len", 150]
    code, printed, err = run_script("07_train_gpt.py", *generate)
    assert code == 0 and 100 < len(printed) <= 150 - 2 + 1, err
    evaluated = run_script("07_train_gpt.py", "--evaluate", tmp_path / "run_best.safetensors", "--data", text_file)
    assert evaluated[0] == 0
    figure = float(re.search(r"exact (\S+) nats", evaluated[1]).group(1))
    assert figure == pytest.approx(info["heldout"], abs=1e-4)
    assert_refused(run_script("05_train.py", "--resume", "--steps", 12, "--out", out), 1, "another kind")


def test_dropout_makes_training_but_not_writing_random():
    model = transformer.Transformer(transformer.Config(5, 8, 1, 1, 16, causal=True, dropout=0.5))
    for matrix in (p for p in model.parameters() if p.ndim == 2):
        torch.nn.init.normal_(matrix, std=0.3)
    tokens = torch.randint(5, (1, 8))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_same_seed_same_text_and_only_the_text_on_standard_output(gpt_checkpoint):
    flags = ["--generate", "--checkpoint", gpt_checkpoint, "--len", 60, "--prompt", "Shall", "--num", 2]
    first, second = (run_script("07_train_gpt.py", *flags, "--seed", 7) for _ in range(2))
    assert first[0] == 0 and first[1] == second[1] and first[2] == ""
    texts = first[1].removesuffix("\n").split("\n\n---\n\n")
    assert [len(text) for text in texts] == [60, 60] and all(text.startswith("Shall") for text in texts)
    drawn = run_script("07_train_gpt.py", *flags)
    assert drawn[1] != first[1] and drawn[2].startswith("seed ")


GIVEN = dict(prompt="Sh", len=60, num=2, temp=0.9, topk=9, seed=3)
CHANGES = dict(prompt="Th", len=20, num=1, temp=0.3, topk=2, seed=4)


@pytest.fixture
def written(gpt_checkpoint):
    """Returns write(settings) -> what --generate prints, which is what continue_text gives for them."""
    units = sorted(set(VERSE))
    model, tokenizer = random_gpt(len(units), 32), tensors.Tokenizer(units)

    def write(settings):
        flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
        code, out, err = run_script("07_train_gpt.py", "--generate", "--checkpoint", gpt_checkpoint, *flags)
        assert code == 0, err
        prompt = torch.tensor([tokenizer.encode(settings["prompt"])] * settings["num"])
        length, *how = (settings[name] for name in ("len", "temp", "topk"))
        tokens = gpt.continue_text(model, prompt, length, *how, seeded(settings["seed"]))
        assert out == "\n\n---\n\n".join(tokenizer.decode(row).strip("\n") for row in tokens) + "\n"
        return out

    return write


@pytest.mark.parametrize("name", GIVEN)
def test_every_setting_reaches_the_writing(written, name):
    assert written(GIVEN | {name: CHANGES[name]}) != written(GIVEN)


def test_next_to_no_temperature_is_none(written):
    assert written(GIVEN | dict(temp=1e-39)) == written(GIVEN | dict(temp=0))


@pytest.mark.parametrize("temperature, top_k", [(0.5, None), (1.0, 2)])
def test_writing_draws_by_temperature_and_among_the_top_k(temperature, top_k):
    model = random_gpt(5, 8)
    logits = model(torch.tensor([[5]]))[0, -1]
    first = gpt.continue_text(model, torch.zeros(20_000, 0, dtype=torch.long), 1, temperature, top_k)
    kept = torch.where(logits >= logits.topk(top_k or 5).values[-1], logits, -torch.inf)
    expected = torch.softmax(kept / temperature, dim=0)
    torch.testing.assert_close(torch.bincount(first[:, 0], minlength=5) / 20_000, expected, atol=0.015, rtol=0)


def test_the_other_kind_of_checkpoint_is_one_sentence(gpt_checkpoint, small_checkpoint):
    assert_refused(run_script("07_train_gpt.py", "--generate", "--checkpoint", small_checkpoint), 1, "is a dLLM;")
    assert_refused(run_script("07_train_gpt.py", "--evaluate", small_checkpoint), 1, "is a dLLM;")
    assert_refused(run_script("06_generate.py", "--checkpoint", gpt_checkpoint), 1, "is a GPT;")
    assert_refused(run_script("05_train.py", "--evaluate", gpt_checkpoint), 1, "is a GPT;")


HUGE = "1" + 30 * "0"


@pytest.mark.parametrize(
    "status, flags, word",
    [(2, "--generate --len 0", "--len"), (2, "--generate --topk 9999", "--topk"), (2, "--prompt To", "--generate"),
     (2, "--temp 0.5", "--generate"), (2, "--generate --steps 3", "--steps"), (2, "--dropout 1", "--dropout"),
     (2, "--generate --no-compile", "--no-compile"), (2, "--generate --dtype bfloat16", "--dtype"),
     (2, "--generate --temp -1", "--temp"), (2, f"--batch {HUGE}", "--batch"), (2, "--lr 1e100", "--lr"),
     (2, f"--generate --len {HUGE}", "--len"), (2, f"--generate --num {HUGE}", "--num"),
     (2, "--generate --temp 1e100", "--temp"), (2, f"--generate --topk {HUGE}", "--topk"),
     (2, f"--generate --seed {HUGE}", "--seed"), (1, "--generate --prompt Sh#ll", "'#' at position 3"),
     (1, "--generate --prompt Shall --len 2", "--len 2"), (1, "--resume --out none.safetensors", "none.safetensors"),
     (1, "--generate --checkpoint nowhere.safetensors", "nowhere.safetensors")],
)  # fmt: skip
def test_what_will_not_do_is_one_sentence(gpt_checkpoint, tmp_path, monkeypatch, status, flags, word):
    monkeypatch.chdir(tmp_path)
    given = ["--checkpoint", gpt_checkpoint] if "--generate" in flags else []
    assert_refused(run_script("07_train_gpt.py", *given, *flags.split()), status, word)  # of two, the last one counts


OLDER = ROOT / "data" / "older_checkpoint" / "gpt_step150.pt"


@pytest.mark.skipif(not OLDER.exists(), reason="data/older_checkpoint is not there")
def test_an_older_gpt_writes():
    flags = "--generate", "--checkpoint", OLDER, "--len", 300, "--seed", 1
    code, out, err = run_script("07_train_gpt.py", *flags)
    assert code == 0 and 250 < len(out) <= 301, err


def test_the_shipped_model_writes_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_script("07_train_gpt.py", "--generate", "--seed", 1, "--len", 100, "--prompt", "ROMEO:")
    assert code == 0 and 80 < len(out) <= 101 and out.startswith("ROMEO:"), err
    for path in (gpt.SHIPPED_GPT, gpt.SMALL_GPT):
        contents = read_checkpoint(path)
        assert "optimizers" not in contents and contents["config"]["causal"] and contents["heldout"] < 1.62
