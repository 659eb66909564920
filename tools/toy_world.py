"""A world small enough to know everything about. Lessons 4, 12 and 15 check their claims in it."""

import itertools
from types import SimpleNamespace

import torch
from torch.nn import functional as F


class ToyWorld:
    """All texts of length L over V letters with known probabilities p. It is their perfect denoiser.

    Called as a model on tokens it gives the log p of every letter at every place, given the visible letters.
    """

    def __init__(self, p, V, L):
        self.config, self.p = SimpleNamespace(vocab_size=V), p  # p [V**L]
        self.texts = torch.tensor(list(itertools.product(range(V), repeat=L)))  # [V**L, L]
        canvas = torch.tensor(list(itertools.product(range(V + 1), repeat=L)))[:, None]  # [(V+1)**L, 1, L]
        weights = ((canvas == self.texts) | (canvas == V)).all(dim=2) * p  # [(V+1)**L, V**L], 0 for texts that differ
        weights = weights / weights.sum(dim=1, keepdim=True)
        table = torch.einsum("nx,xla->nla", weights, F.one_hot(self.texts, V).float()).log()  # [(V+1)**L, L, V]
        self.table = table.view((V + 1,) * L + (L, V))

    def __call__(self, tokens):
        return self.table[tuple(tokens.T)]  # [B, L, V]

    def distance(self, tokens):
        """Total variation from tokens [N, L], 0 to 1: half the sum over all texts of |its share of the N - its p|."""
        counts = torch.zeros((self.config.vocab_size,) * tokens.shape[1])
        counts.index_put_(tuple(tokens.T), torch.ones(()), accumulate=True)
        return 0.5 * (counts.flatten() / len(tokens) - self.p).abs().sum().item()
