"""Lesson 2: attention against PyTorch's own, and rotary positions against complex numbers."""

import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT

import torch
from torch import nn
from torch.nn import functional as F

attention = import_module("02_attention")


@pytest.mark.parametrize("causal", [False, True])
def test_written_out_equals_fused(causal):
    q, k, v = torch.randn(3, 2, 3, 17, 8)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(attention.attend(q, k, v, causal), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_fused_computes_in_float32_on_a_cpu(causal):
    q, k, v = torch.randn(3, 2, 3, 17, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        fused = attention.attend_fused(q, k, v, causal)
    written_out = attention.attend(q.float(), k.float(), v.float(), causal)
    torch.testing.assert_close(fused, written_out, atol=1e-5, rtol=1e-4)  # bfloat16 itself would be 0.01 off


@pytest.mark.parametrize("causal", [False, True])
def test_equals_pytorchs_module_when_positions_are_left_out(causal):
    ours, theirs = attention.WithoutPositions(24, 3, causal), nn.MultiheadAttention(24, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, torch.zeros(24)]))
        theirs.out_proj.weight.copy_(ours.output.weight)
    x = torch.randn(2, 11, 24)
    future = torch.ones(11, 11, dtype=torch.bool).triu(1) if causal else None
    torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=future)[0], atol=1e-5, rtol=1e-4)


def test_rotation_is_multiplication_by_a_unit_complex_number():
    x, positions = torch.randn(5, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 50, -3])
    turned = attention.rotate(x, positions)
    angles = positions[:, None] * attention.ROPE_BASE ** (-torch.arange(4, dtype=torch.float64) / 4)
    expected = torch.complex(x[:, :4], x[:, 4:]) * torch.exp(1j * angles)
    torch.testing.assert_close(turned, torch.cat([expected.real, expected.imag], dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal, offsets", [(False, [-1, 1, -2, 2, -3, 3]), (True, [-1, -2, -3, -4, -5, -6])])
def test_heads_start_out_looking_at_their_neighbours(causal, offsets):
    layer = attention.SelfAttention(6 * 32, 6, causal)
    x = torch.zeros(1, 21, 6 * 32)  # nothing but the biases speak
    q, k, _ = layer.project(x, torch.arange(x.shape[1]))
    favourite = (q @ k.transpose(-2, -1))[0, :, 10].argmax(dim=-1)  # where position 10 looks
    assert (favourite - 10).tolist() == offsets


def test_numbers_too_small_to_be_quick_become_0_in_every_thread():
    """In a process of its own, since a thread does as the one that started it did at that time."""
    program = """
from importlib import import_module
import torch
import_module("02_attention")
tiny = torch.full((2**20,), 1e-20) * torch.full((2**20,), 1e-20)  # 1e-40; all threads take part
print(torch.set_flush_denormal(True), tiny.view(torch.int32).count_nonzero().item())
"""
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    supported, left = run.stdout.split()
    assert supported == "False" or left == "0"
