"""Lesson 2. How do the positions of a text learn from each other?

They learn by attention. Every position asks a question (query). Every position offers a label (key) and a content
(value). A position takes home a mixture of the contents whose labels fit its question.

This lesson builds attention and gives it a sense of position (RoPE). It measures each choice: the scale, the direction,
the positions, and where a head looks before training.

Builds on:  lesson 1 (nn.Module, the training loop).
Run:        python 02_attention.py        (about 20 seconds on a laptop's CPU)
Last line:  the path of a picture, `figures/02_maps.png`.

A comment that begins "GPT:" marks a line for a GPT, the left-to-right model of lesson 7.
"""

import math
import timeit

from tools.command_line import Parser, check, run
from tools.devices import float32_on_cpu
from tools.pictures import new_figure, save_figure

import torch
from torch import nn
from torch.nn import functional as F

ROPE_BASE = 100.0  # suits letters, where long texts of words take 10,000 (docs/tuning.md)
START_STRENGTH = 6.0  # how firmly a head looks at its neighbour before training


# ---- The parts
def attend(q, k, v, causal=False):
    """softmax(q k^T / sqrt(d)) v, written out (arXiv 1706.03762): q, k, v [B, H, T, d] -> [B, H, T, d].

    H heads look side by side, each with d = D/H numbers of its own. One can look left while another looks right.
    causal=True: no position looks to its right.
    """
    T, d = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(d)  # [B, H, T, T], row i: how well each label j fits question i
    if causal:
        future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)  # True where j > i
        scores = scores.masked_fill(future, -torch.inf)
    weights = torch.softmax(scores, dim=-1)  # each row sums to 1
    return weights @ v  # [B, H, T, d]


@float32_on_cpu  # speed alone: bfloat16 comes in lesson 5
def attend_fused(q, k, v, causal=False):
    """The same by PyTorch's faster version, which never holds all scores at once: [B, H, T, d] -> [B, H, T, d]."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


# Why RoPE tells distances. In a plane the product of q and k is |q| |k| cos(the angle from q to k). Turning q by i * w
# and k by j * w changes that angle by (j - i) * w. So the product depends on the vectors and on j - i, the distance and
# its side. A score is the sum over d/2 planes.
#
# Why the base is 100. The next neighbours tell most about a letter, so many points should turn well from one letter to
# the next. The slowest point of a head of width 64 turns once in 544 letters. Its cosine falls over the whole of the
# longest context, 256. With the paper's base of 10,000 half as many points turn well (section 4), and the slowest turns
# once in some 47,000 letters.
def rotate(x, positions):
    """Rotary positions, RoPE (arXiv 2104.09864): x [..., T, d], positions [T] -> [..., T, d]. d must be even.

    A vector's d numbers are d/2 points in a plane. Point m is made of the numbers m and m + d/2 (in the paper: of two
    neighbours). It turns by the angle position * w_m, where w_m = ROPE_BASE^(-2m/d).
    """
    d = x.shape[-1]
    frequencies = ROPE_BASE ** (-torch.arange(0, d, 2, device=x.device) / d)  # w [d/2]
    angles = positions[:, None] * frequencies  # [T, d/2]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)  # [T, d/2] each
    first, second = x.chunk(2, dim=-1)  # [..., T, d/2] each: the two coordinates of the points
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)  # [..., T, d]


class SelfAttention(nn.Module):
    """Multi-head self-attention with rotary positions: [B, T, D] -> [B, T, D].

    dim D must be an even multiple of n_heads. causal=True: a position sees itself and what is to its left.
    """

    def __init__(self, dim, n_heads, causal=False):
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.look_at_neighbours()

    @torch.no_grad()
    def look_at_neighbours(self):
        """Starts every head looking at one neighbour: 1 to the left, 1 to the right, 2 to the left, ...

        Neighbours tell most about a letter (lesson 1), and a head that starts at random must first find them.
        The biases of query and key do it. Every query begins as the same vector c, every key as c turned back by the
        head's offset. RoPE turns the query at i by i and the key at j by j - offset. They point the same way where
        j = i + offset. There the score is greatest. Training changes the biases like any other parameter.
        At base 10,000 this start (strength 3) takes a short run of `small` from 2.56 to 2.28 nats (docs/tuning.md).
        """
        H, d = self.n_heads, self.query.out_features // self.n_heads
        if self.causal:
            offsets = -torch.arange(1, H + 1)  # GPT: all neighbours are to the left: -1, -2, -3, ...
        else:
            offsets = torch.tensor([(h // 2 + 1) * (1 if h % 2 else -1) for h in range(H)])  # -1, 1, -2, 2, ...
        c = torch.cat([torch.full((H, d // 2), START_STRENGTH), torch.zeros(H, d // 2)], dim=1)  # [H, d]
        self.query.bias.copy_(c.flatten())
        self.key.bias.copy_(rotate(c, -offsets).flatten())  # head h turns by -offsets[h], as if that were a position

    def split_heads(self, x):
        """[B, T, D] -> [B, H, T, D/H]. Every head works on its own share of the width."""
        B, T, D = x.shape
        return x.view(B, T, self.n_heads, D // self.n_heads).transpose(1, 2)

    def project(self, x, positions):
        """x [B, T, D], positions [T] -> queries, keys and values [B, H, T, D/H]."""
        q = rotate(self.split_heads(self.query(x)), positions)
        k = rotate(self.split_heads(self.key(x)), positions)
        return q, k, self.split_heads(self.value(x))

    def merge(self, mixed):
        """[B, H, T, D/H] -> [B, T, D]. Puts together what the heads took home."""
        return self.output(mixed.transpose(1, 2).flatten(2))

    def forward(self, x):
        q, k, v = self.project(x, torch.arange(x.shape[1], device=x.device))  # [B, H, T, D/H] each
        return self.merge(attend_fused(q, k, v, self.causal))  # GPT: nobody looks to the right


# ---- The lesson
def show_scale():
    """Without 1/sqrt(d) the scores grow with d until softmax picks a single winner. Then hardly a gradient is left."""
    print("\n1. Why divide by sqrt(d)? For random q and k of width d, over 64 positions:")
    print("       d   std of q.k   largest weight: unscaled   scaled")
    largest = []
    for d in (4, 64, 1024):
        q, k = torch.randn(500, 1, d), torch.randn(500, 64, d)  # 500 queries, 64 keys for each
        scores = (q * k).sum(dim=-1)  # [500, 64]
        largest.append([torch.softmax(s, -1).amax(-1).mean().item() for s in (scores, scores / math.sqrt(d))])
        print(f"    {d:4}   {scores.std().item():10.2f}   {largest[-1][0]:24.2f}   {largest[-1][1]:6.2f}")
    unscaled, scaled = zip(*largest)
    check("unscaled, the widest has a single winner", unscaled[-1] > 0.9)
    check("scaled, the width makes little difference", max(scaled) - min(scaled) < 0.05)


def show_equal_to_pytorch():
    """The version written out equals PyTorch's. PyTorch's is faster."""
    print("\n2. Written out, and PyTorch's own")
    q, k, v = torch.randn(3, 8, 4, 256, 64)  # [B, H, T, d] each
    for causal in (False, True):
        agree = torch.allclose(attend(q, k, v, causal), attend_fused(q, k, v, causal), atol=1e-5)
        check(f"they agree, causal={causal}", agree)
    ours, fused = (min(timeit.repeat(lambda: call(q, k, v), number=1, repeat=10)) for call in (attend, attend_fused))
    print(f"  written out {ours * 1000:.1f} ms, fused {fused * 1000:.1f} ms: {ours / fused:.1f} times faster")


@torch.no_grad()
def show_direction():
    """Which outputs move when one token changes."""
    print("\n3. Causal and bidirectional: the token at position 5 changes. Which outputs move?")
    x, moved = torch.randn(1, 12, 32, dtype=torch.float64), {}  # [B, T, D]; float32 would round faint influences away
    changed = x.clone()
    changed[0, 5] += 1
    for causal in (True, False):
        layer = SelfAttention(32, 4, causal).double()
        moved[causal] = (layer(x) != layer(changed))[0].any(dim=1)  # [T]
        name = "causal" if causal else "bidirectional"
        print(f"  {name:13}  " + "".join("#" if m else "." for m in moved[causal]))
    check("causal: position 5 and all to its right", moved[True].tolist() == [i >= 5 for i in range(12)])
    check("bidirectional: all of them", moved[False].all())


class WithoutPositions(SelfAttention):
    """Attention that cannot tell where anything stands."""

    def project(self, x, positions):
        """Queries and keys as if all stood at position 0, where nothing is turned."""
        return super().project(x, torch.zeros_like(positions))


@torch.no_grad()
def show_order():
    """Without positions a text is a bag of letters. With RoPE distances count and places do not."""
    print("\n4. Positions")
    x, shuffle = torch.randn(1, 12, 32), torch.randperm(12)  # [B, T, D], [T]
    blind, layer = WithoutPositions(32, 4), SelfAttention(32, 4)
    layer.load_state_dict(blind.state_dict())
    same = torch.allclose(blind(x)[:, shuffle], blind(x[:, shuffle]), atol=1e-5)
    check("without positions, shuffling the letters only shuffles the outputs", same)
    differs = not torch.allclose(layer(x)[:, shuffle], layer(x[:, shuffle]), atol=1e-2)
    check("with RoPE, shuffling changes the outputs", differs)
    q, k, here = torch.randn(12, 32), torch.randn(12, 32), torch.arange(12)  # [T, d], [T, d], [T]
    scores, moved = (rotate(q, here + shift) @ rotate(k, here + shift).T for shift in (0, 100))
    check("moving a text by 100 positions changes no score", torch.allclose(scores, moved, atol=1e-3))
    m = torch.arange(32)  # the points of a head of width 64
    quick = {base: (base ** (-m / 32) >= 0.1).float().mean().item() for base in (ROPE_BASE, 10_000)}
    shares = ", ".join(f"{share:.0%} with a base of {base:,.0f}" for base, share in quick.items())
    print(f"  points that turn by 0.1 or more from one letter to the next: {shares}")
    check("with a base of 100 they are nearly twice as many as with 10,000", quick[ROPE_BASE] > 1.8 * quick[10_000])


class LeftNeighbour(nn.Module):
    """Names the letter to the left of each: embedding, attention, head. [B, T] -> [B, T, V]"""

    def __init__(self, attention, context, V, D, learned_positions):
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.positions = nn.Parameter(torch.randn(context, D)) if learned_positions else 0
        self.attention = attention
        self.head = nn.Linear(D, V)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions  # [B, T] -> [B, T, D]
        return self.head(self.attention(x))  # [B, T, V]


def learn_left_neighbour(kind, steps, context=128, V=24, D=32):
    """Trains a LeftNeighbour of one kind on random letters. Returns (losses, model)."""
    torch.manual_seed(1)
    layer = WithoutPositions(D, 4) if kind == "learned positions" else SelfAttention(D, 4)
    if kind != "RoPE, looking at neighbours":
        nn.init.zeros_(layer.query.bias)
        nn.init.zeros_(layer.key.bias)
    model = LeftNeighbour(layer, context, V, D, kind == "learned positions")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        tokens = torch.randint(V, (32, context))  # [B, T]
        logits = model(tokens)[:, 1:]  # [B, T-1, V]: the first letter has no left neighbour
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, :-1].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def show_left_neighbour(steps=150):
    """Learned positions are learned one by one. RoPE knows distances from the start."""
    print(f"\n5. Which letter stands to my left? (texts of 128 random letters, {steps} steps)")
    kinds = ("learned positions", "RoPE", "RoPE, looking at neighbours")
    results = {kind: learn_left_neighbour(kind, steps) for kind in kinds}
    for kind, (losses, _) in results.items():
        halfway = f"{losses[steps // 2 - 1]:.2f} after {steps // 2} steps"
        print(f"  {kind:28} loss {losses[0]:.2f} at first, {halfway}, {losses[-1]:.2f} after {steps}")
    learned, rope, looking = (losses[-1] for losses, _ in results.values())
    check("RoPE learns it faster than learned positions", rope < learned / 2)
    check("heads that look at neighbours learn it faster still", looking < rope)
    return results


def draw_left_neighbour(results):
    """Saves the loss curves."""
    figure, axes = new_figure(figsize=(7, 4))
    for kind, (losses, _) in results.items():
        axes.plot(losses, label=kind)
    axes.set(xlabel="step", ylabel="nats per letter", title="Which letter stands to my left?")
    axes.legend()
    save_figure(figure, "02_left_neighbour.png")


@torch.no_grad()
def draw_maps(results):
    """Saves the attention maps of two layers on one text: before training, and trained on the left neighbour."""
    tokens = torch.randint(24, (1, 24))
    figure, rows = new_figure(2, 4, figsize=(11, 5.6), layout="constrained")
    trained = results["RoPE, looking at neighbours"][1]
    for row, label, layer in zip(rows, ("at the start", "trained"), (SelfAttention(32, 4), trained.attention)):
        x = trained.embedding(tokens)  # [1, T, D]
        q, k, _ = layer.project(x, torch.arange(x.shape[1]))  # [1, H, T, d] each
        weights = attend(q, k, torch.eye(24))[0]  # [H, T, T]; with the identity as values the output is the weights
        for head, axes in enumerate(row):
            axes.imshow(weights[head], cmap="Blues", vmin=0)
            axes.set(title=f"head {head + 1}, {label}", xticks=[], yticks=[])
    figure.supxlabel("position looked at")
    figure.supylabel("position that looks")
    save_figure(figure, "02_maps.png")


def demo():
    """Walks through the lesson."""
    torch.manual_seed(0)
    show_scale()
    show_equal_to_pytorch()
    show_direction()
    show_order()
    results = show_left_neighbour()
    print("""
Exercises (answers in docs/answers.md). Where a change makes a check fail, turn that check into a comment.
  1. Pass scale=1.0 to PyTorch's attention in the last line of attend_fused. Does section 5 still learn?
     And at D = 1,024 with lr=3e-4 (8 texts of 32 letters, 100 steps), with the scale and without?
  2. Ask for the letter 5 to the left instead. Which of the three kinds suffers? Does it recover within 600 steps?
  3. Call the trained "RoPE" model on texts of 256, 512 and 1,024 letters. How far does it stretch? Learned positions?
""")
    draw_left_neighbour(results)
    draw_maps(results)


if __name__ == "__main__":
    Parser(__doc__).parse_args()
    run(demo)
