"""Reads checkpoints of the older published format of this tutorial, so that they still generate.

That model differs from lesson 3's: learned positions, LayerNorm and feed-forward with bias, one matrix for query, key
and value, and a block in which what attention adds reaches the feed-forward layer and is not carried on. Loaded by
lesson 5's load_checkpoint when it meets such a file; nothing else needs it.
"""

import json
import string
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

lesson1 = import_module("01_tensors")
transformer = import_module("03_transformer")

TINY_SHAKESPEARE_UNITS = [*"\n !$&',-.3:;?", *string.ascii_uppercase, *string.ascii_lowercase]


class OlderBlock(nn.Module):
    """x + feed_forward(norm2(x + attention(norm1(x)))): [B, T, D] -> [B, T, D]. The names are the file's."""

    def __init__(self, dim, n_heads, causal):
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim, bias=False), "out": nn.Linear(dim, dim, bias=False)})
        self.ff = nn.ModuleDict({"net": nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))})

    def attend(self, x):
        """[B, T, D] -> [B, T, D]"""
        B, T, D = x.shape
        q, k, v = self.attn["qkv"](x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # [B, H, T, D/H] each
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.attn["out"](mixed.transpose(1, 2).flatten(2))

    def forward(self, x):
        return x + self.ff["net"](self.norm2(x + self.attend(self.norm1(x))))


class OlderTransformer(nn.Module):
    """tokens [B, T] -> logits [B, T, V], T at most the context."""

    def __init__(self, config, embedding_rows):
        super().__init__()
        self.config = config
        self.token_emb = nn.Embedding(embedding_rows, config.dim)
        self.pos_emb = nn.Embedding(config.context, config.dim)
        self.blocks = nn.ModuleList(
            OlderBlock(config.dim, config.n_heads, config.causal) for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)

    def forward(self, tokens, cache=None):  # it keeps no cache
        if self.config.causal:  # there is no row for the beginning of a text; token 0, a line break, stands for it
            tokens = tokens.masked_fill(tokens == self.config.vocab_size, 0)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_emb(tokens) + self.pos_emb(positions)  # [B, T, D]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def read_units(path, vocab_size):
    """The alphabet: from vocab.json beside the file; without one, 65 entries mean TinyShakespeare's."""
    vocabulary = Path(path).parent / "vocab.json"
    if vocabulary.is_file():
        try:
            id_of = json.loads(vocabulary.read_text(encoding="utf-8"))
            if sorted(id_of.values()) == list(range(vocab_size)) and "" not in id_of:
                return sorted(id_of, key=id_of.get)
        except (ValueError, TypeError, AttributeError):  # not UTF-8, not JSON, not a dict of numbers
            pass
        raise lesson1.UserError(f"{vocabulary} does not list the {vocab_size} letters of {path}.")
    if vocab_size == len(TINY_SHAKESPEARE_UNITS):
        return TINY_SHAKESPEARE_UNITS
    raise lesson1.UserError(f"{path} needs its alphabet of {vocab_size} letters in a file vocab.json beside it.")


def convert(contents, path):
    """The dict of an older checkpoint -> (model in eval mode, tokenizer, info), as load_checkpoint returns them.

    Raises UserError when the file lacks a part or its parts do not fit together.
    """
    try:
        state = {name: value for name, value in contents["model"].items() if not name.endswith("attn.mask")}
        V, rows = contents["vocab_size"], len(state["token_emb.weight"])
        causal = rows == V  # a GPT has no row for the mask, and its head is tied to the embedding
        config = transformer.Config(
            V, contents["seq_len"], contents["n_layers"], contents["n_heads"], contents["hidden"], causal
        )
        model = OlderTransformer(config, rows)
        model.load_state_dict(state)
        if config.dim % config.n_heads:
            raise ValueError("the heads cannot share the width evenly")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as problem:
        raise lesson1.UserError(f"{path} is not a whole checkpoint of the older format ({type(problem).__name__}).")
    return model.eval(), lesson1.Tokenizer(read_units(path, V)), {"step": contents.get("step")}
