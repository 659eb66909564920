"""Lesson 3: the model's size, its start, what depends on what, and its optimizers."""

import copy
import math
from dataclasses import replace
from importlib import import_module

import pytest

import torch
from torch.nn import functional as F

transformer = import_module("03_transformer")
CONFIG = transformer.Config(vocab_size=11, context=16, n_layers=2, n_heads=2, dim=16)


@pytest.mark.parametrize("preset, millions", [("tiny", 0.8), ("small", 3.2), ("base", 10.7)])
def test_presets_have_the_size_they_claim(preset, millions):
    config = transformer.Config(65, **transformer.PRESETS[preset])
    counted = sum(p.numel() for p in transformer.Transformer(config).parameters())
    assert counted == transformer.parameter_count(config)
    assert counted / 1e6 == pytest.approx(millions, abs=0.05)


def test_untrained_model_knows_nothing():
    logits = transformer.Transformer(CONFIG)(torch.randint(12, (2, 16)))
    assert logits.shape == (2, 16, 11)
    loss = -torch.log_softmax(logits, dim=-1)
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(11)))


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_flow_along_the_allowed_directions_only(causal):
    model = transformer.Transformer(replace(CONFIG, causal=causal))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    embedded = []
    model.embedding.register_forward_hook(lambda module, inputs, x: embedded.append(x.retain_grad() or x))
    model(torch.randint(11, (1, 16)))[0, 7].sum().backward()
    reached = embedded[0].grad[0].abs().sum(dim=1) > 0  # [T]
    assert reached.tolist() == [not causal or j <= 7 for j in range(16)]


def test_a_block_adds_to_what_is_there_and_the_last_norm_comes_before_the_head():
    """The whole model once more, from PyTorch's functions and its own weights."""
    model = transformer.Transformer(CONFIG)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    tokens = torch.randint(12, (2, 16))
    norm = lambda x, layer: F.layer_norm(x, (16,), layer.weight)  # noqa: E731
    x = model.embedding.weight[tokens]
    for block in model.blocks:
        x = x + block.attention(norm(x, block.norm1))
        up, down = block.feed_forward[0].weight, block.feed_forward[-1].weight
        x = x + F.gelu(norm(x, block.norm2) @ up.T) @ down.T
    torch.testing.assert_close(model(tokens), norm(x, model.norm) @ model.head.weight.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_muon_follows_pytorchs(weight_decay):
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((24, 40), (40, 24), (24, 40), (24, 24))]
    theirs = copy.deepcopy(ours)
    optimizers = [
        transformer.Muon(ours, 0.04, weight_decay=weight_decay, dtype=torch.bfloat16),
        torch.optim.Muon(theirs, 0.04, weight_decay=weight_decay, adjust_lr_fn="original"),
    ]
    for _ in range(5):
        for one, other in zip(ours, theirs):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)


@pytest.mark.parametrize("shape", [(20, 20), (20, 50), (50, 20)])
def test_orthogonalised_matrix_keeps_its_directions_and_levels_its_singular_values(shape):
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u @ torch.linspace(0.2, 5, 20).diag() @ v
    leveled = u.T @ transformer.Muon([torch.nn.Parameter(matrix)], 0.1).orthogonalize(matrix) @ v.T
    assert (leveled.diagonal() > 0.3).all() and (leveled.diagonal() < 1.5).all()
    assert (leveled - leveled.diagonal().diag()).abs().max() < 1e-4


def test_every_parameter_has_exactly_one_optimizer_and_adamw_its_own_learning_rate():
    model = transformer.Transformer(CONFIG)
    optimizers = transformer.make_optimizers(model, 0.1, torch.float32)
    muon, adamw = ({id(p) for p in optimizer.param_groups[0]["params"]} for optimizer in optimizers)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    assert rates == pytest.approx([0.1, 0.1 * transformer.ADAMW_LR_RATIO]) and transformer.ADAMW_LR_RATIO < 1
    assert not muon & adamw
    assert muon | adamw == {id(p) for p in model.parameters()}
    assert len(muon) == 2 * 6
