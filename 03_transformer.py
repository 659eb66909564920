"""Lesson 3. What is a transformer, all of it?

It is a stack of equal blocks between an embedding and a linear head. In each block the positions exchange what they
know (attention, lesson 2). Then every position works by itself (feed-forward). Both add to what is there already
(residual connections). Both see it normalised.

Builds on:  lesson 1 (load_text, Tokenizer), lesson 2 (SelfAttention).
Run:        python 03_transformer.py        (about 10 seconds on a laptop's CPU)
Last line:  the path of a picture, `figures/03_by_heart.png`.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from importlib import import_module

from tools.command_line import Parser, check, run
from tools.pictures import new_figure, save_figure

import torch
from torch import nn
from torch.nn import functional as F

tensors = import_module("01_tensors")
attention = import_module("02_attention")


# ---- The model
@dataclass(frozen=True)
class Config:
    """The shape of a model."""

    vocab_size: int  # V, the number of units; the mask's id is V
    context: int  # T, the most tokens in a training window
    n_layers: int  # how many blocks
    n_heads: int  # H, attention heads in a block
    dim: int  # D, the width of the vector that stands for a token
    causal: bool = False  # GPT: True; a position sees itself and what is to its left
    dropout: float = 0.0  # the share of each residual update set to 0 in training, against learning by heart


PRESETS = {
    "tiny": dict(context=128, n_layers=4, n_heads=4, dim=128),  # for little text: lesson 8
    "small": dict(context=128, n_layers=4, n_heads=4, dim=256),
    "base": dict(context=256, n_layers=6, n_heads=6, dim=384),
}


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)). [B, T, D] -> [B, T, D]"""

    def __init__(self, config):
        super().__init__()
        D = config.dim
        # LayerNorm brings the D numbers of a position to mean 0 and standard deviation 1. Learned factors follow.
        self.norm1 = nn.LayerNorm(D, bias=False)
        self.attention = attention.SelfAttention(D, config.n_heads, config.causal)  # GPT: the switch arrives
        self.norm2 = nn.LayerNorm(D, bias=False)
        self.feed_forward = nn.Sequential(nn.Linear(D, 4 * D, bias=False), nn.GELU(), nn.Linear(4 * D, D, bias=False))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class Transformer(nn.Module):
    """tokens [B, T] -> logits [B, T, V]. T may be any length. Training sees config.context at most.

    The embedding has V + 1 rows. Row V stands for a hidden token, the mask of lesson 4. (In a GPT it stands for the
    beginning of a window.) The head has V outputs, so a mask is never predicted.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size + 1, config.dim)  # GPT: row V is no mask, it begins a window
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        # The head and the last matrix of every residual update start at zero. An untrained model holds all letters
        # equally likely, and each block grows from doing nothing.
        for last in [self.head, *(m for b in self.blocks for m in (b.attention.output, b.feed_forward[-1]))]:
            nn.init.zeros_(last.weight)

    def forward(self, tokens, seen=0.0):
        x = self.embedding(tokens) + seen  # [B, T] -> [B, T, D] (only lesson 14 adds more: the robot's map)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # [B, T, V]


def parameter_count(config):
    """The number of parameters, worked out from the shape."""
    V, D = config.vocab_size, config.dim
    block = 4 * D * D + 2 * D + 8 * D * D + 2 * D  # 4 matrices, 2 biases, feed-forward up and down, 2 norms
    return (V + 1) * D + config.n_layers * block + D + D * V  # embedding, blocks, last norm, head


# ---- Optimizers
ADAMW_LR_RATIO = 0.24  # AdamW's learning rate as a share of Muon's


# Skip the inside of this class on a first reading. Its docstring says what Muon does.
class Muon(torch.optim.Optimizer):
    """An optimizer for the hidden matrices: momentum, orthogonalised (kellerjordan.github.io/posts/muon).

    A matrix stretches some directions and shrinks others. Its singular values say by how much. Muon replaces every
    update by roughly the nearest matrix whose singular values are all 1. So no direction is left behind.
    weight_decay: each step takes the share lr * weight_decay off the matrix. What training does not renew fades.
    dtype: that of the inner products. torch.optim.Muon always takes bfloat16, which many CPUs only emulate.
    """

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.0, dtype=torch.float32):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        """One update of every matrix with a gradient. Those of one shape go together: GPUs like large products."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for (rows, columns), matrices in alike.items():
                ahead = torch.stack([self.look_ahead(matrix, group["momentum"]) for matrix in matrices])  # [K, M, N]
                scale = max(1, rows / columns) ** 0.5  # else the many outputs of a tall matrix would move less
                for matrix, update in zip(matrices, self.orthogonalize(ahead)):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-group["lr"] * scale)

    def look_ahead(self, matrix, momentum):
        """[M, N] the running average of the gradients, one step ahead (Nesterov)."""
        if not self.state[matrix]:
            self.state[matrix]["average"] = torch.zeros_like(matrix)
        average = self.state[matrix]["average"]
        average.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)

    def orthogonalize(self, matrices):
        """[..., M, N] -> [..., M, N]. Five Newton-Schulz iterations bring most singular values to 0.5 to 1.5.

        X <- a X + b (X X^T) X + c (X X^T)^2 X turns each singular value s into a s + b s^3 + c s^5.
        """
        if matrices.shape[-2] > matrices.shape[-1]:
            return self.orthogonalize(matrices.mT).mT  # X X^T is the smaller product then
        a, b, c = 3.4445, -4.7750, 2.0315
        x = matrices.to(self.dtype)
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # no singular value is above 1 now
        for _ in range(5):
            gram = x @ x.mT  # [..., M, M]
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.to(matrices.dtype)


def make_optimizers(model, lr, dtype, weight_decay=0.0):
    """Returns [Muon, AdamW]. Muon, with weight decay, has the matrices inside the blocks, which turn vectors into
    vectors. AdamW, without, has the rest: biases, norms, and embedding and head, whose rows belong to single tokens."""
    hidden = [p for p in model.blocks.parameters() if p.ndim == 2]
    # `is` compares the objects. `p in hidden` would compare the tensors' values.
    others = [p for p in model.parameters() if not any(p is matrix for matrix in hidden)]
    return [
        Muon(hidden, lr, weight_decay=weight_decay, dtype=dtype),
        torch.optim.AdamW(others, lr * ADAMW_LR_RATIO, betas=(0.9, 0.95), weight_decay=0),
    ]


# ---- The lesson
def show_parameters():
    """The presets' parameters, counted and by the formula."""
    print("\n1. The presets, for the 65 letters of TinyShakespeare")
    for name, shape in PRESETS.items():
        config = Config(vocab_size=65, **shape)
        counted = sum(p.numel() for p in Transformer(config).parameters())
        shape = f"{config.n_layers} layers, {config.n_heads} heads, width {config.dim}, context {config.context}"
        print(f"  {name:6} {shape}: {counted:,}")
        check(f"the formula says {parameter_count(config):,} too", counted == parameter_count(config))


def show_untrained_loss(model, tokens):
    """An untrained model knows nothing. Its loss is ln V."""
    print("\n2. Untrained")
    V = model.config.vocab_size
    loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).item()
    print(f"  loss {loss:.4f}, ln V {math.log(V):.4f}")
    check("untrained, the loss is ln V", abs(loss - math.log(V)) < 1e-3)


def show_update():
    """What Muon makes of an update whose singular values lie far apart."""
    print("\n3. The singular values of an update of 256 x 64 numbers, and of what Muon makes of it")
    update = nn.Parameter(torch.randn(256, 64) * torch.logspace(0, -2, 64))  # [M, N]
    singular = torch.linalg.svdvals(update), torch.linalg.svdvals(Muon([update], lr=0.1).orthogonalize(update))
    for name, values in zip(("as it is", "Muon's"), singular):
        print(f"  {name:9} from {values.min():.2f} to {values.max():.2f}")
    check("all of Muon's are between 0.5 and 1.5", ((singular[1] > 0.5) & (singular[1] < 1.5)).all())


def learn_by_heart(model, tokens, optimizers, steps=100):
    """Trains on one batch [B, T] with every second letter hidden. Returns the losses."""
    hidden = torch.arange(tokens.shape[1]) % 2 == 0  # [T]
    inputs = torch.where(hidden, model.config.vocab_size, tokens)  # [B, T]
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(inputs)[:, hidden].flatten(0, 1), tokens[:, hidden].flatten())  # of [B, T/2, V]
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses


def show_by_heart(config, tokens):
    """One batch learned by heart, with two kinds of optimizer. This test catches most wiring mistakes."""
    print(f"\n4. One batch by heart ({tokens.shape[0]} pieces of {tokens.shape[1]} letters, every second one hidden)")
    alone = lambda model: [torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)]  # noqa: E731
    both = lambda model: make_optimizers(model, 0.04, torch.float32)  # noqa: E731
    curves = {}
    for name, optimizers_of in (("AdamW alone", alone), ("Muon and AdamW", both)):
        torch.manual_seed(0)
        model = Transformer(config)
        losses = curves[name] = learn_by_heart(model, tokens, optimizers_of(model))
        print(f"  {name:14}  loss " + ", ".join(f"{losses[step]:.3f} at step {step}" for step in (0, 25, 50, 99)))
        check("the model has learned the batch by heart", losses[-1] < 0.1)
    return curves


def draw_by_heart(curves):
    """Saves the loss curves, {name: losses}."""
    figure, axes = new_figure(figsize=(7, 4))
    for name, losses in curves.items():
        axes.semilogy(losses, label=name)
    axes.set(xlabel="step", ylabel="nats per hidden letter", title="One batch by heart")
    axes.legend()
    save_figure(figure, "03_by_heart.png")


def demo():
    """Walks through the lesson."""
    torch.manual_seed(0)
    text = tensors.load_text()
    tokenizer = tensors.Tokenizer(sorted(set(text)))
    tokens = torch.tensor(tokenizer.encode(text[: 8 * 64])).view(8, 64)  # [B, T]
    config = Config(tokenizer.vocab_size, context=64, n_layers=2, n_heads=4, dim=128)
    show_parameters()
    show_untrained_loss(Transformer(config), tokens)
    show_update()
    curves = show_by_heart(config, tokens)
    print("""
Exercises (answers in docs/answers.md). Where a change makes a check fail, turn that check into a comment.
  1. Remove both residual connections. Why is nothing learned? Now let only the head start at zero. Do 2 layers learn?
     Do 4?
  2. Start the last matrices at nn.Linear's own random values. What is the untrained loss? Does depth matter to it?
  3. Where are most of the parameters? Double the width, then the depth: which count doubles, which quadruples?
""")
    draw_by_heart(curves)


if __name__ == "__main__":
    Parser(__doc__).parse_args()
    run(demo)
