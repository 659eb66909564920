"""The older published format still loads and computes what it did. (test_hostile.py has damaged ones.)"""

from importlib import import_module

import pytest
from conftest import ROOT, assert_refused, run_script

from tools import older_checkpoints as older

import torch

transformer = import_module("03_transformer")
training = import_module("05_train")
FOLDER = ROOT / "data" / "older_checkpoint"
needs_data = pytest.mark.skipif(not FOLDER.exists(), reason="data/older_checkpoint is not there")


@needs_data
@pytest.mark.parametrize("kind, step", [("dllm", 300), ("gpt", 150)])
def test_logits_are_those_of_the_older_code(kind, step):
    model, tokenizer, info = training.load_checkpoint(FOLDER / f"{kind}_step{step}.pt")
    known = torch.load(FOLDER / f"expected_{kind}_logits.pt")
    torch.testing.assert_close(model(known["tokens"]), known["logits"], atol=1e-5, rtol=0)
    assert tokenizer.vocab_size == 65 and tokenizer.encode("A") == [13]
    assert info["step"] == step


@needs_data
def test_it_generates():
    code, out, err = run_script("06_generate.py", "--checkpoint", FOLDER / "dllm_step300.pt", "--len", 100, "--seed", 1)
    assert code == 0 and 80 < len(out) <= 101, err
    assert_refused(run_script("06_generate.py", "--checkpoint", FOLDER / "gpt_step150.pt"), 1, "GPT")


def older_file(path, V=65, D=8):
    """A made-up checkpoint of the older format, one layer, as it was saved: with the state of an optimizer."""
    model = older.OlderTransformer(transformer.Config(V, 16, 1, 2, D), V + 1)
    shape = dict(vocab_size=V, hidden=D, n_layers=1, n_heads=2, seq_len=16)
    torch.save(dict(model=model.state_dict(), step=3, optimizer={}, **shape), path)
    return model


def test_without_a_vocabulary_file_65_letters_are_tinyshakespeares(tmp_path, real_text):
    model = older_file(tmp_path / "a.pt")
    loaded, tokenizer, _ = training.load_checkpoint(tmp_path / "a.pt")
    tokens = torch.randint(66, (2, 16))
    torch.testing.assert_close(loaded(tokens), model(tokens))
    assert tokenizer.units == sorted(set(real_text))


def test_an_alphabet_is_needed_for_any_other_size(tmp_path):
    older_file(tmp_path / "a.pt", V=3)
    with pytest.raises(training.UserError, match="vocab.json"):
        training.load_checkpoint(tmp_path / "a.pt")
    (tmp_path / "vocab.json").write_text('{"b": 1, "a": 0, "c": 2}')
    assert training.load_checkpoint(tmp_path / "a.pt")[1].units == ["a", "b", "c"]
