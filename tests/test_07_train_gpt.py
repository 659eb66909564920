"""Lesson 7: the GPT's likelihood against enumeration, its cache against none, and what a person gets from the script."""

import itertools
import math
import re
from importlib import import_module

import pytest
import torch
from conftest import ROOT, assert_refused, random_gpt, run_script

lesson1 = import_module("01_tensors")
attention = import_module("02_attention")
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
    windows = torch.randint(5, (150, 6))
    expected = torch.zeros(6, dtype=torch.float64)
    for window in windows:
        for i in range(6):  # one prefix after the other, each read by itself
            log_p = torch.log_softmax(model(torch.tensor([[5, *window[:i].tolist()]]))[0, -1], dim=0)
            expected[i] -= log_p[window[i]].item() / 150
    torch.testing.assert_close(gpt.nats_by_position(model, windows), expected, atol=1e-5, rtol=0)
    assert f"exact {expected.mean():.4f}" in gpt.report_exact(model, windows)
    assert f"{expected[1:].mean():.4f} nats without the first" in gpt.report_exact(model, windows)


@pytest.mark.parametrize("parts", [[16], [1] * 16, [5, 1, 7, 3]])
def test_cached_logits_are_those_of_one_reading(parts):
    model, tokens = random_gpt(7, 16), torch.randint(8, (2, 16))
    cache = [attention.KeyValueCache() for _ in model.blocks]
    pieces = [model(part, cache) for part in tokens.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), atol=1e-4, rtol=0)
    assert cache[0].length == 16


class Recording(torch.nn.Module):
    """Keeps the last logits of every pass, and the longest context."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.blocks, self.logits, self.shapes = model, model.config, model.blocks, [], []

    def forward(self, tokens, cache=None):
        logits = self.model(tokens, cache)
        self.logits.append(logits[:, -1])
        self.shapes.append(tokens.shape[1])
        return logits


@pytest.mark.parametrize("prompt", [0, 3, 12, 20])
def test_writes_the_same_with_and_without_cache_across_drops(prompt):
    model = random_gpt(7, 12)
    tokens = torch.randint(7, (2, prompt), generator=torch.Generator().manual_seed(1))
    texts, runs = [], []
    for cached in (True, False):
        recording = Recording(model)
        generator = torch.Generator().manual_seed(0)
        texts.append(gpt.continue_text(recording, tokens, 33, generator=generator, cached=cached))
        runs.append(recording)
    assert texts[0].shape == (2, 33) and torch.equal(texts[0][:, :prompt], tokens)
    assert torch.equal(*texts)
    torch.testing.assert_close(torch.stack(runs[0].logits), torch.stack(runs[1].logits), atol=1e-4, rtol=0)
    assert max(runs[1].shapes) == 12  # never more than the context
    dropped = [i for i, (a, b) in enumerate(itertools.pairwise(runs[1].shapes)) if b < a]
    assert len(dropped) >= 2 and all(runs[1].shapes[i + 1] == 1 + 6 for i in dropped)
    assert set(runs[0].shapes[1:]) == {1, 7}  # cached, only a drop is read as a whole


def test_greedy_writing_takes_the_likeliest_character():
    model = random_gpt(7, 12)
    text = [7]
    for _ in range(8):
        text.append(model(torch.tensor([text]))[0, -1].argmax().item())
    assert gpt.continue_text(model, torch.zeros(1, 0, dtype=torch.long), 8, temperature=0)[0].tolist() == text[1:]


def test_a_whole_run_trains_a_causal_model_and_lists_the_differences(tmp_path, text_file):
    out = tmp_path / "run.pt"
    flags = ["--data", text_file, "--preset", "small", "--batch", 2, "--steps", 10, "--out", out, "--dropout", 0.1]
    code, printed, err = run_script("07_train_gpt.py", *flags)
    assert code == 0 and "held-out exact" in err, err
    assert printed.strip() == f"python 07_train_gpt.py --generate --checkpoint {tmp_path / 'run_best.pt'}"
    for place in ("02_attention.py", "03_transformer.py", "05_train.py", "07_train_gpt.py"):
        assert f"  {place}:" in err
    model, tokenizer, info = training.load_checkpoint(tmp_path / "run_best.pt")
    assert model.config.causal and model.config.dropout == 0.1
    _, windows = lesson1.split_text(text_file.read_text(), tokenizer, 128)
    assert gpt.nats_by_position(model, windows).mean().item() == pytest.approx(info["heldout"], abs=1e-4)
    code, printed, err = run_script("07_train_gpt.py", "--generate", "--checkpoint", tmp_path / "run_best.pt", "--len", 150)
    assert code == 0 and len(printed) == 151, err
    evaluated = run_script("07_train_gpt.py", "--evaluate", tmp_path / "run_best.pt", "--data", text_file)
    assert evaluated[0] == 0
    assert float(re.search(r"exact (\S+) nats", evaluated[1]).group(1)) == pytest.approx(info["heldout"], abs=1e-4)
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


def test_the_other_kind_of_checkpoint_is_one_sentence(gpt_checkpoint, small_checkpoint):
    assert_refused(run_script("07_train_gpt.py", "--generate", "--checkpoint", small_checkpoint), 1, "is a dLLM;")
    assert_refused(run_script("07_train_gpt.py", "--evaluate", small_checkpoint), 1, "is a dLLM;")
    assert_refused(run_script("06_generate.py", "--checkpoint", gpt_checkpoint), 1, "is a GPT;")
    assert_refused(run_script("05_train.py", "--evaluate", gpt_checkpoint), 1, "is a GPT;")


@pytest.mark.parametrize(
    "flags, word",
    [(["--generate", "--len", "0"], "--len"), (["--generate", "--topk", "9999"], "--topk"), (["--prompt", "To"], "--generate"),
     (["--generate", "--steps", "3"], "--steps"),
     (["--dropout", "1"], "--dropout"), (["--generate", "--temp", "-1"], "--temp")],
)  # fmt: skip
def test_wrong_values_are_one_sentence(gpt_checkpoint, flags, word):
    given = [*flags, "--checkpoint", gpt_checkpoint] if "--generate" in flags else flags
    assert_refused(run_script("07_train_gpt.py", *given), 2, word)


def test_a_run_that_cannot_begin_is_one_sentence(tmp_path):
    assert_refused(run_script("07_train_gpt.py", "--resume", "--out", tmp_path / "none.pt"), 1, "none.pt")


def test_bad_prompts_are_one_sentence(gpt_checkpoint):
    flags = ["--generate", "--checkpoint", gpt_checkpoint]
    assert_refused(run_script("07_train_gpt.py", *flags, "--prompt", "Sh#ll"), 1, "'#' at position 3")
    assert_refused(run_script("07_train_gpt.py", *flags, "--prompt", "Shall", "--len", 2), 1, "--len 2")
    assert_refused(run_script("07_train_gpt.py", "--generate", "--checkpoint", "nowhere.pt"), 1, "nowhere.pt")


needs_older = pytest.mark.skipif(not (ROOT / "data" / "older_checkpoint").exists(), reason="data/older_checkpoint is not there")


@needs_older
def test_an_older_gpt_writes():
    path = ROOT / "data" / "older_checkpoint" / "gpt_step150.pt"
    code, out, err = run_script("07_train_gpt.py", "--generate", "--checkpoint", path, "--len", 300, "--seed", 1)
    assert code == 0 and len(out) == 301, err


def test_the_shipped_model_writes_from_any_folder(tmp_path):
    code, out, err = run_script("07_train_gpt.py", "--generate", "--seed", 1, "--len", 100, "--prompt", "ROMEO:", cwd=tmp_path)
    assert code == 0 and len(out) == 101 and out.startswith("ROMEO:"), err
    contents = torch.load(ROOT / "checkpoints" / "gpt.pt", weights_only=True)
    assert "optimizers" not in contents and contents["config"]["causal"] and contents["heldout"] < 1.62
