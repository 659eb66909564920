"""Lesson 2. How do the positions of a text learn from each other?

By attention: every position asks a question (query), every position offers a label (key) and a content (value),
and each one takes home a mixture of the contents whose labels fit its question. This lesson builds it, gives it a
sense of position (RoPE), and measures each choice: the scale, the direction, the positions, and what a head looks at
before training.

Builds on:  lesson 1 (nn.Module, the training loop).
Run:        python 02_attention.py        (about 20 seconds on a laptop's CPU)
Last line:  the path of a picture, `figures/02_maps.png`.

A comment that begins "GPT:" marks, here and later, a line that is there for a GPT, the left-to-right model of lesson 7.

Later lessons take from here: SelfAttention.
"""

import math
import time

from tools.command_line import Parser, check, run
from tools.pictures import new_figure, save_figure

import torch
from torch import nn
from torch.nn import functional as F

ROPE_BASE = 100.0  # suits letters; long texts of words take 10,000 (see `rotate`, and docs/tuning.md)
START_STRENGTH = 6.0  # how firmly a head looks at its neighbour before any training


# ---------------------------------------------------------------------------------------------------------
# The parts


def attend(q, k, v, causal=False):
    """Attention written out ("Attention Is All You Need", arXiv 1706.03762): q, k, v [B, H, T, d] -> [B, H, T, d].

        attend(q, k, v) = softmax(q k^T / sqrt(d)) v

    H heads look side by side, each by its own d = D/H numbers: one can look left while another looks right.

    causal=True forbids looking to the right. SelfAttention uses `attend_fused`, which is faster.
    """
    T, d = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(d)  # [B, H, T, T], row i: what position i asks of each j
    if causal:
        future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)  # True where j > i
        scores = scores.masked_fill(future, -torch.inf)
    weights = torch.softmax(scores, dim=-1)  # each row sums to 1
    return weights @ v  # [B, H, T, d]


def attend_fused(q, k, v, causal=False):
    """The same by PyTorch's own version, which never holds all of the scores at once: [B, H, T, d] -> [B, H, T, d].

    In bfloat16 (lesson 5) its gradients are slow on a CPU, so that it computes in float32 there (docs/tuning.md).
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):  # else lesson 5's rounding to bfloat16 would come back here
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=causal)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def rotate(x, positions):
    """Rotary positions, RoPE (arXiv 2104.09864): x [..., T, d], positions [T] -> [..., T, d].

    Takes the d numbers of a vector as d/2 points in a plane, and turns point number m by the angle position * w_m, with
    w_m = ROPE_BASE^(-2m/d). d must be even; point number m is made of the numbers m and m + d/2 (the paper takes
    neighbours: the same up to their order).

    Why the product of a turned query and a turned key depends on the two vectors and on j - i alone, on how far apart
    two letters stand and to which side: in the plane, a product is |q| |k| cos(the angle from q to k), and turning q by
    i * w and k by j * w changes that angle by (j - i) * w, whatever i and j are. The score sums up the d/2 planes.

    Why ROPE_BASE is 100: point 0 turns by 1 radian a letter, a whole turn in 6.3; the slowest of a head of width 64
    takes 544 for one, so that its cosine falls over all of the longest context, 256. What tells most of a letter are
    its next neighbours, so that many points should turn well from one letter to the next. With the 10,000 of the paper,
    half as many points do (section 4 counts them), and the slowest needs some 47,000 letters for a turn.
    """
    d = x.shape[-1]
    frequencies = ROPE_BASE ** (-torch.arange(0, d, 2, device=x.device) / d)  # w [d/2]
    angles = positions[:, None] * frequencies  # [T, d/2]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)  # [T, d/2] each
    first, second = x.chunk(2, dim=-1)  # [..., T, d/2] each: the two coordinates of the points
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)  # [..., T, d]


class SelfAttention(nn.Module):
    """Multi-head self-attention with rotary positions: [B, T, D] -> [B, T, D].

    dim D must be an even multiple of n_heads. causal=True: a position sees only itself and what is to its left.
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

        Lesson 1 showed how much a letter's neighbours tell of it; a head that starts at random must first find them.
        With a constant query c at every i, turned by RoPE to R(i) c, and a constant key R(-offset) c at every j, turned
        to R(j - offset) c, the angles between them are w * (j - offset - i). So the score, |c|^2 / sqrt(d) times the
        mean of their cosines, is greatest at j = i + offset. These are the biases of query and key at the start, which
        training then changes. After half a million letters, `small` (lesson 3) has a loss on unseen text (the bound of
        lesson 4) of 2.56 nats without this start, and of 2.28 with one of strength 3, both at base 10,000; with one of
        strength 7 at base 100, which lets a head point more sharply, it has 2.20 (docs/tuning.md).
        """
        H, d = self.n_heads, self.query.out_features // self.n_heads
        if self.causal:
            offsets = -torch.arange(1, H + 1)  # GPT: all neighbours are to the left: -1, -2, -3, ...
        else:
            offsets = torch.tensor([(h // 2 + 1) * (1 if h % 2 else -1) for h in range(H)])  # -1, 1, -2, 2, ...
        c = torch.cat([torch.full((H, d // 2), START_STRENGTH), torch.zeros(H, d // 2)], dim=1)  # [H, d]
        self.query.bias.copy_(c.flatten())
        self.key.bias.copy_(rotate(c, -offsets).flatten())  # R(-offset) c: in the place of positions, a head's offset

    def split_heads(self, x):
        """[B, T, D] -> [B, H, T, D/H]: every head works on its own share of the width."""
        B, T, D = x.shape
        return x.view(B, T, self.n_heads, D // self.n_heads).transpose(1, 2)

    def project(self, x, positions):
        """x [B, T, D], positions [T] -> queries, keys and values [B, H, T, D/H]."""
        q = rotate(self.split_heads(self.query(x)), positions)
        k = rotate(self.split_heads(self.key(x)), positions)
        return q, k, self.split_heads(self.value(x))

    def merge(self, mixed):
        """[B, H, T, D/H] -> [B, T, D]: what the heads took home, put together."""
        return self.output(mixed.transpose(1, 2).flatten(2))

    def forward(self, x):
        q, k, v = self.project(x, torch.arange(x.shape[1], device=x.device))  # [B, H, T, D/H] each
        return self.merge(attend_fused(q, k, v, self.causal))  # GPT: nobody looks to the right


# ---------------------------------------------------------------------------------------------------------
# The lesson


def show_scale():
    """Without 1/sqrt(d) the scores grow with d until softmax picks a single winner, and hardly a gradient is left to
    change its choice. (`look_at_neighbours` picks winners on purpose: there, they are the right ones to begin with.)"""
    print("\n1. Why divide by sqrt(d)? For random q and k of width d, over 64 positions:")
    print("       d   std of q.k   largest weight: unscaled   scaled")
    unscaled_weights, scaled_weights = [], []
    for d in (4, 64, 1024):
        q, k = torch.randn(500, 1, d), torch.randn(500, 64, d)  # 500 queries, 64 keys for each
        scores = (q * k).sum(dim=-1)  # [500, 64]
        unscaled, scaled = (
            torch.softmax(s, dim=-1).amax(dim=-1).mean().item() for s in (scores, scores / math.sqrt(d))
        )
        unscaled_weights.append(unscaled)
        scaled_weights.append(scaled)
        print(f"    {d:4}   {scores.std().item():10.2f}   {unscaled:24.2f}   {scaled:6.2f}")
    check("unscaled, the widest has a single winner", unscaled_weights[-1] > 0.9)
    check("scaled, the width makes little difference", max(scaled_weights) - min(scaled_weights) < 0.05)


def time_call(function, repeats=10):
    """Seconds of the fastest of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def show_equal_to_pytorch():
    """The version written out equals PyTorch's, which is faster."""
    print("\n2. Written out, and PyTorch's own")
    q, k, v = torch.randn(3, 8, 4, 256, 64)  # [B, H, T, d] each
    for causal in (False, True):
        agree = torch.allclose(attend(q, k, v, causal), attend_fused(q, k, v, causal), atol=1e-5)
        check(f"they agree, causal={causal}", agree)
    ours = time_call(lambda: attend(q, k, v))
    fused = time_call(lambda: attend_fused(q, k, v))
    print(f"  written out {ours * 1000:.1f} ms, fused {fused * 1000:.1f} ms: {ours / fused:.1f} times faster")


@torch.no_grad()
def show_direction():
    """Which outputs move when one token changes."""
    print("\n3. Causal and bidirectional: the token at position 5 changes; which outputs move?")
    x = torch.randn(1, 12, 32, dtype=torch.float64)  # [B, T, D]; float32 would round away the faintest glances
    changed = x.clone()
    changed[0, 5] += 1
    moved = {}
    for causal in (True, False):
        layer = SelfAttention(32, 4, causal).double()
        moved[causal] = (layer(x) != layer(changed))[0].any(dim=1)  # [T]
        print(
            f"  {'causal       ' if causal else 'bidirectional'}  " + "".join("#" if m else "." for m in moved[causal])
        )
    check("causal: position 5 and those to its right", moved[True].tolist() == [i >= 5 for i in range(12)])
    check("bidirectional: all of them", moved[False].all())


class WithoutPositions(SelfAttention):
    """Attention that cannot tell where anything stands."""

    def project(self, x, positions):
        """Queries and keys without positions: as if all stood at place 0, where nothing is turned."""
        return super().project(x, torch.zeros_like(positions))


@torch.no_grad()
def show_order():
    """Without positions, attention treats a text as a bag of letters; with RoPE, distance counts and place does not."""
    print("\n4. Positions")
    x = torch.randn(1, 12, 32)  # [B, T, D]
    shuffle = torch.randperm(12)
    blind, layer = WithoutPositions(32, 4), SelfAttention(32, 4)
    layer.load_state_dict(blind.state_dict())
    same = torch.allclose(blind(x)[:, shuffle], blind(x[:, shuffle]), atol=1e-5)
    check("without positions, shuffling the letters only shuffles the outputs", same)
    differs = not torch.allclose(layer(x)[:, shuffle], layer(x[:, shuffle]), atol=1e-2)
    check("with RoPE, it changes them", differs)
    q, k, here = torch.randn(12, 32), torch.randn(12, 32), torch.arange(12)  # [T, d], [T, d], [T]
    scores, moved = (rotate(q, here + shift) @ rotate(k, here + shift).T for shift in (0, 100))
    check("moving a text by 100 positions changes no score", torch.allclose(scores, moved, atol=1e-3))
    m = torch.arange(32)  # the points of a head of width 64
    quick = {base: (base ** (-m / 32) >= 0.1).float().mean().item() for base in (ROPE_BASE, 10_000)}
    shares = ", ".join(f"{share:.0%} with a base of {base:,.0f}" for base, share in quick.items())
    print(f"  points that turn by 0.1 or more from one letter to the next: {shares}")
    check("with a base of 100 they are nearly twice as many as with 10,000", quick[ROPE_BASE] > 1.8 * quick[10_000])


class LeftNeighbour(nn.Module):
    """The smallest model that can name the letter to its left: embedding, attention, head. [B, T] -> [B, T, V]"""

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
    """Learned positions must be learned one by one; RoPE knows distances from the start."""
    print(f"\n5. Which letter stands to my left? (random letters, 128 of them, {steps} steps)")
    results = {
        kind: learn_left_neighbour(kind, steps) for kind in ("learned positions", "RoPE", "RoPE, looking at neighbours")
    }
    for kind, (losses, _) in results.items():
        halfway = f"{losses[steps // 2 - 1]:.2f} after {steps // 2} steps"
        print(f"  {kind:28} loss {losses[0]:.2f} at first, {halfway}, {losses[-1]:.2f} after {steps}")
    final = [losses[-1] for losses, _ in results.values()]
    check(
        "RoPE learns it faster than learned positions, and looking at neighbours faster still",
        final[2] < final[1] < final[0] / 2,
    )
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
    """Saves the attention maps of two layers on one text: as training begins, and trained on the left neighbour."""
    tokens = torch.randint(24, (1, 24))
    figure, rows = new_figure(2, 4, figsize=(11, 5.6), layout="constrained")
    trained = results["RoPE, looking at neighbours"][1]
    for row, label, layer in zip(rows, ("at the start", "trained"), (SelfAttention(32, 4), trained.attention)):
        x = trained.embedding(tokens)  # [1, T, D]
        q, k, _ = layer.project(x, torch.arange(x.shape[1]))  # [1, H, T, d] each
        weights = attend(q, k, torch.eye(24))[0]  # [H, T, T]: with the identity as values, out come the weights
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
Exercises (answers in docs/answers.md; a change may make a check fail: turn that one into a comment to go on)
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
