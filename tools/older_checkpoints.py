"""Checkpoints of the older published format (.pt) still generate. Lesson 5's load_checkpoint alone needs this file.

The older model has learned positions. Its LayerNorm and its feed-forward layer have biases. One matrix makes query, key
and value. In its block the feed-forward layer alone reads what attention adds. The sum that goes on lacks it.
"""

import json
import string
from pathlib import Path

from tools.checkpoints import check_count, check_fields, checked_units, load_weights, unfit
from tools.command_line import UserError

import torch
from torch import nn
from torch.nn import functional as F

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

    def forward(self, tokens):
        if self.config.causal:  # no row stands for the beginning of a text, so token 0, a line break, does
            tokens = tokens.masked_fill(tokens == self.config.vocab_size, 0)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_emb(tokens) + self.pos_emb(positions)  # [B, T, D]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


FIELDS = dict(
    vocab_size=(int, 1, 10**5), seq_len=(int, 2, 10**5), n_layers=(int, 1, 200), n_heads=(int, 1, 256),
    hidden=(int, 1, 10**4),
)  # fmt: skip
MAX_VOCABULARY = 2**20  # bytes of vocab.json


def read_units(path, vocab_size):
    """The alphabet, from vocab.json beside the file. Without that file 65 entries mean TinyShakespeare's."""
    vocabulary = Path(path).parent / "vocab.json"
    if not vocabulary.is_file():
        if vocab_size == len(TINY_SHAKESPEARE_UNITS):
            return TINY_SHAKESPEARE_UNITS
        raise UserError(f"{path} needs its alphabet of {vocab_size} letters in a file vocab.json beside it.")
    try:
        if vocabulary.stat().st_size > MAX_VOCABULARY:
            raise ValueError
        pairs = json.loads(vocabulary.read_text(encoding="utf-8"), object_pairs_hook=list)  # a dict would hide doubles
        ids = [number for _, number in pairs]
        if any(type(number) is not int for number in ids) or sorted(ids) != list(range(vocab_size)):
            raise ValueError
        return checked_units([unit for unit, _ in sorted(pairs, key=lambda pair: pair[1])], vocab_size, path)
    except (ValueError, TypeError, RecursionError):  # not UTF-8, not JSON, not pairs of a letter and its number
        raise UserError(f"{vocabulary} does not list the {vocab_size} letters of {path}.")


def convert(contents, path, Config):
    """The dict of an older checkpoint -> (model, units). Config: lesson 3's. Raises UserError unless all fits."""
    shape = {name: contents.get(name) for name in FIELDS}
    check_fields(shape, FIELDS, path)
    V, T, n_layers, n_heads, D = shape.values()
    weights = {name: value for name, value in contents["model"].items() if not str(name).endswith("attn.mask")}
    embedding = weights["token_emb.weight"]
    causal = isinstance(embedding, torch.Tensor) and embedding.shape == (V, D)  # a GPT has no row for the mask
    rows = V if causal else V + 1
    if D % n_heads:
        raise unfit(path, f"{n_heads} heads do not share {D}")
    check_count(weights, (rows + T + V) * D + n_layers * (12 * D * D + 9 * D) + 2 * D, path)
    with torch.device("meta"):
        model = OlderTransformer(Config(V, T, n_layers, n_heads, D, causal), rows)
    load_weights(model, weights, path)
    return model, read_units(path, V)
