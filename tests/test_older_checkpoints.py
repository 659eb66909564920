"""The older published format still loads and computes what it did."""

from importlib import import_module

import pytest
import torch
from conftest import ROOT, assert_refused, run_script

tensors = import_module("01_tensors")
training = import_module("05_train")
FOLDER = ROOT / "data" / "older_checkpoint"
needs_data = pytest.mark.skipif(not FOLDER.exists(), reason="data/older_checkpoint is not there")


@needs_data
@pytest.mark.parametrize(
    "file, expected", [("dllm_step300", "expected_dllm_logits"), ("gpt_step150", "expected_gpt_logits")]
)
def test_logits_are_those_of_the_older_code(file, expected):
    model, tokenizer, info = training.load_checkpoint(FOLDER / f"{file}.pt")
    known = torch.load(FOLDER / f"{expected}.pt")
    torch.testing.assert_close(model(known["tokens"]), known["logits"], atol=1e-5, rtol=0)
    assert tokenizer.vocab_size == 65 and tokenizer.encode("A") == [13]
    assert info["step"] == int(file.split("step")[1])


@needs_data
def test_it_generates(tmp_path):
    code, out, err = run_script("06_generate.py", "--checkpoint", FOLDER / "dllm_step300.pt", "--len", 100, "--seed", 1)
    assert code == 0 and 80 < len(out) <= 101, err
    gpt = run_script("06_generate.py", "--checkpoint", FOLDER / "gpt_step150.pt")
    assert_refused(gpt, 1, "GPT")


def older_file(path, V=65, D=8):
    """A made-up checkpoint of the older format, one layer."""
    older, transformer = import_module("older_checkpoints"), import_module("03_transformer")
    model = older.OlderTransformer(transformer.Config(V, 16, 1, 2, D), V + 1)
    shape = dict(vocab_size=V, hidden=D, n_layers=1, n_heads=2, seq_len=16)
    torch.save(dict(model=model.state_dict(), step=3, **shape), path)
    return model


def test_without_a_vocabulary_file_65_letters_are_tinyshakespeares(tmp_path, request):
    model = older_file(tmp_path / "a.pt")
    loaded, tokenizer, _ = training.load_checkpoint(tmp_path / "a.pt")
    tokens = torch.randint(66, (2, 16))
    torch.testing.assert_close(loaded(tokens), model(tokens))
    real_text = request.getfixturevalue("real_text")
    assert tokenizer.units == sorted(set(real_text))


def test_an_alphabet_is_needed_for_any_other_size(tmp_path):
    older_file(tmp_path / "a.pt", V=3)
    with pytest.raises(tensors.UserError, match="vocab.json"):
        training.load_checkpoint(tmp_path / "a.pt")
    (tmp_path / "vocab.json").write_text('{"b": 1, "a": 0, "c": 2}')
    assert training.load_checkpoint(tmp_path / "a.pt")[1].units == ["a", "b", "c"]
    (tmp_path / "vocab.json").write_text('{"b": 1, "a": 0}')
    with pytest.raises(tensors.UserError, match="does not list"):
        training.load_checkpoint(tmp_path / "a.pt")


def test_an_incomplete_file_is_refused(tmp_path):
    older_file(tmp_path / "a.pt")
    contents = torch.load(tmp_path / "a.pt")
    del contents["model"]["norm.bias"]
    torch.save(contents, tmp_path / "a.pt")
    with pytest.raises(tensors.UserError, match="not a whole checkpoint"):
        training.load_checkpoint(tmp_path / "a.pt")
