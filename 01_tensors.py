"""Lesson 1. How does text become numbers, and how do numbers learn?

Everything later stands on four things: text as a tensor of token ids, gradients, `nn.Module` and the training loop.
This lesson builds all four. It trains the smallest model that does what the whole project is about. The model guesses a
hidden letter from the letters on both sides.

Shapes: B texts in a batch, T tokens in a text, V different tokens, D numbers that stand for a token. A letter is any
character of a text. Spaces and line breaks are letters.

Builds on:  nothing. The folder tools/ holds what no lesson is about. You need not read it. `check(claim, holds)` prints
            a claim that holds and stops the lesson at one that does not.
Run:        python 01_tensors.py        (about 10 seconds on a laptop's CPU)
Last line:  the path of a picture, `figures/01_loss.png`.
"""

import math
import re
import unicodedata

from tools.command_line import Parser, UserError, check, run
from tools.files import ROOT, download, read_text
from tools.pictures import new_figure, save_figure

import torch
from torch import nn
from torch.nn import functional as F


# ---- Text, and tokens
def show_shapes(text, tokenizer):
    """Text -> ids -> a batch [B, T] -> an embedded batch [B, T, D]."""
    print("\n1. Text as tensors")
    line = text[:32]
    ids = tokenizer.encode(line)
    print(f"  {line!r}\n  becomes {ids}")
    check("decoding gives the text back", tokenizer.decode(ids) == line)
    tokens = torch.tensor(ids).view(4, 8)  # [32] -> [B, T], 4 pieces of 8 tokens
    embedding = nn.Embedding(tokenizer.vocab_size, 6)  # [V, D], a row of 6 numbers for each token
    x = embedding(tokens)  # [B, T] -> [B, T, D]
    print(f"  tokens {list(tokens.shape)} = [B, T], embedded {list(x.shape)} = [B, T, D]")
    check("the vector of a token is its row of the embedding", torch.equal(x[0, 2], embedding.weight[ids[2]]))


TINY_SHAKESPEARE = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/"
    "tinyshakespeare/input.txt"
)
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"  # zero-width signs, the soft hyphen


def load_text(path=None):
    """Returns the text in the file `path`, or TinyShakespeare, downloaded once into data/. Raises UserError."""
    if path is None:
        path = download(TINY_SHAKESPEARE, TINY_SHAKESPEARE_SHA256, ROOT / "data" / "tinyshakespeare.txt")
    return read_text(path)


class Tokenizer:
    """Turns text into token ids and back. Unit number i of `units` has the id i.

    A unit is a string. Here it is one character. In Tamil (lesson 8) it is a letter of several code points. Where
    several units fit, the longest wins. Text that no unit covers is refused.
    """

    def __init__(self, units):
        if not units or len(set(units)) != len(units) or "" in units:
            raise ValueError("units must be different, non-empty strings, at least one.")
        self.units = list(units)
        self.vocab_size = len(self.units)
        self.id_of = {unit: i for i, unit in enumerate(self.units)}
        longest_first = sorted(self.units, key=len, reverse=True)
        self.pattern = re.compile("|".join(re.escape(unit) for unit in longest_first))

    def encode(self, text, position=0):
        """str -> list of ids. Raises UserError for the first character that no unit covers.

        The error names the character's place in a longer text, in which this one begins at `position`.
        """
        ids, end = [], 0
        for match in self.pattern.finditer(text):
            if match.start() != end:
                break
            ids.append(self.id_of[match.group()])
            end = match.end()
        if end < len(text):
            place, why = f"at position {position + end + 1}", ""
            if len(self.units) <= 100:
                why = f", which has {''.join(sorted(self.units)).strip()}"
            if "\ud800" <= text[end] <= "\udfff":
                why = "; it is half a character, since the terminal's locale is not UTF-8: try LANG=C.UTF-8"
            raise UserError(f"the character {text[end]!r} {place} is not in the model's alphabet{why}.")
        return ids

    def encode_typed(self, text, position=0):
        """encode for what a person typed. Takes composed (NFC) and decomposed (NFD) letters for the same, and drops
        invisible signs that the alphabet lacks, where the text does not fit as it is. Raises UserError."""
        if re.search(r"[^\w\s!-~]{100}", text):  # NFD takes quadratic time on a long run of signs
            return self.encode(text, position)
        apart = {unicodedata.normalize("NFD", unit): unit for unit in self.units}
        pattern = re.compile("|".join(map(re.escape, sorted(apart, key=len, reverse=True))))
        foreign = str.maketrans("", "", "".join(sign for sign in INVISIBLE if sign not in self.id_of))
        for form in (text, text.translate(foreign)):
            for pieces, whole in ((self.pattern, form), (pattern, unicodedata.normalize("NFD", form))):
                found = pieces.findall(whole)
                if sum(map(len, found)) == len(whole):
                    return self.encode("".join(apart[piece] if pieces is pattern else piece for piece in found))
        return self.encode(text, position)

    def decode(self, ids):
        """Iterable of ids (integers or a 1-D tensor) -> str."""
        return "".join(self.units[int(i)] for i in ids)


def split_text(text, tokenizer, context):
    """(training tokens [N], held-out windows [M, context]) of a text. Training gets the first 90%.

    The held-out rest is kept from training, to measure on. A window has as many tokens as a model sees at once. Raises
    UserError for a short text and for a character outside the alphabet.
    """
    try:
        tokens = torch.tensor(tokenizer.encode(text))
    except UserError as problem:
        raise UserError(f"in the text (--data), {problem}")
    training, heldout = tokens[: len(tokens) * 9 // 10], tokens[len(tokens) * 9 // 10 :]
    if len(heldout) < context:
        raise UserError(f"the text has {len(text):,} characters; this model needs {10 * context:,} or more.")
    return training, consecutive_windows(heldout, context)


def consecutive_windows(tokens, context):
    """Tokens [N] -> [N // context, context]. The remainder at the end is left out."""
    return tokens[: len(tokens) // context * context].view(-1, context)


def random_windows(tokens, context, batch):
    """Returns draw(generator) -> [batch, context]: windows of the tokens [N], from random places."""
    offsets = torch.arange(context)

    def draw(generator):
        starts = torch.randint(len(tokens) - context + 1, (batch, 1), generator=generator)  # [batch, 1]
        return tokens[starts + offsets]  # [batch, context]

    return draw


# ---- A gradient, a model, a training loop
class NeighbourGuesser(nn.Module):
    """Guesses a hidden token from its left and its right neighbour: an embedding and two linear layers.

    An nn.Module finds the parameters of all layers that __init__ sets. Calling model(x) calls forward(x).
    """

    def __init__(self, vocab_size, dim=32):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)  # V rows of D numbers, learned
        self.hidden = nn.Linear(2 * dim, 4 * dim)  # GELU follows, a smooth max(0, x). Without it two layers equal one
        self.head = nn.Linear(4 * dim, vocab_size)  # a logit for each of the V tokens (see show_gradient)
        nn.init.zeros_(self.head.weight)  # equal logits: an untrained model says "I don't know"
        nn.init.zeros_(self.head.bias)

    def forward(self, neighbours):
        """neighbours [B, 2] -> logits [B, V]"""
        x = self.embedding(neighbours)  # [B, 2, D]
        x = x.flatten(1)  # [B, 2D]
        return self.head(F.gelu(self.hidden(x)))  # [B, V]


def show_gradient():
    """The gradient of the loss that trains every model here, worked out by hand and by PyTorch.

    Logits z are scores of any size. Softmax makes probabilities of them: p_i = e^z_i / sum_j e^z_j. Cross-entropy is
    the loss -log p_y of the right answer y, in nats (natural logarithm). A loss of ln n is as unsure as n equally
    likely letters.
        d loss / d z = p - onehot(y)
    A step against it raises z_y and lowers each other z_i by its p_i. With z = W x the chain rule gives
        d loss / d W = (p - onehot(y)) x^T
    """
    print("\n2. Gradients")
    torch.manual_seed(0)
    x, answer = torch.randn(5), 2
    W = torch.randn(3, 5, requires_grad=True)
    loss = F.cross_entropy((W @ x)[None], torch.tensor([answer]))  # [3] -> [1, 3], a batch of one
    loss.backward()

    with torch.no_grad():
        p = torch.softmax(W @ x, dim=0)  # [3]
        by_hand = torch.outer(p - F.one_hot(torch.tensor(answer), 3), x)  # [3, 5]
    print(f"  loss {loss.item():.4f}, the gradient by hand, first row: {by_hand[0].numpy().round(3)}")
    check("it equals what .backward() computes", torch.allclose(W.grad, by_hand, atol=1e-6))
    with torch.no_grad():
        W -= 0.1 * W.grad  # one step of gradient descent
        after = F.cross_entropy((W @ x)[None], torch.tensor([answer]))
    check(f"one step downhill lowers the loss, to {after.item():.4f}", after < loss)


def unigram_entropy(ids, vocab_size):
    """The loss of the best guesser that ignores the neighbours: -sum p log p over the ids' shares p, in nats."""
    p = torch.bincount(ids, minlength=vocab_size).double() / len(ids)
    return -torch.special.xlogy(p, p).sum().item()


def train_guesser(model, ids, steps=1500, batch=512, lr=3e-3):
    """The training loop of all later lessons: batch, loss, backward, step. Returns the losses."""
    # AdamW steps along a running mean of the gradients, divided by their running size
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        places = torch.randint(1, len(ids) - 1, (batch,))  # [B] of the letters to guess
        neighbours = torch.stack([ids[places - 1], ids[places + 1]], dim=1)  # [B, 2]
        loss = F.cross_entropy(model(neighbours), ids[places])
        optimizer.zero_grad()  # forgets the old gradients, since backward() adds to them
        loss.backward()  # puts d loss / d parameter into each parameter's .grad
        optimizer.step()  # moves each parameter against its gradient
        losses.append(loss.item())
    return losses


def draw_losses(losses, levels):
    """Saves the loss curve with horizontal lines at `levels`, a dict of name -> nats."""
    figure, axes = new_figure(figsize=(7, 4))
    axes.plot(losses, linewidth=0.6, label="loss of each batch")
    for (name, level), style in zip(levels.items(), ("--", ":")):
        axes.axhline(level, color="black", linestyle=style, linewidth=1, label=f"{name}: {level:.2f}")
    axes.set(xlabel="step", ylabel="nats per letter", title="Guessing a letter from its two neighbours")
    axes.legend()
    save_figure(figure, "01_loss.png")


def demo():
    """Walks through the lesson."""
    text = load_text()
    tokenizer = Tokenizer(sorted(set(text)))
    V = tokenizer.vocab_size
    print(f"TinyShakespeare: {len(text):,} letters, V = {V} different ones:\n  {''.join(tokenizer.units)!r}")
    show_shapes(text, tokenizer)
    show_gradient()

    print("\n3. A model that learns")
    torch.manual_seed(0)
    ids = torch.tensor(tokenizer.encode(text))
    model = NeighbourGuesser(V)
    unigram = unigram_entropy(ids, V)
    losses = train_guesser(model, ids)
    first, last = losses[0], sum(losses[-200:]) / 200
    print(f"  parameters: {sum(p.numel() for p in model.parameters()):,}")
    print(f"  loss at the first step          {first:.3f} nats per letter")
    print(f"  ln V, knowing nothing           {math.log(V):.3f}")
    print(f"  unigram entropy, no neighbours  {unigram:.3f}")
    print(f"  loss over the last 200 steps    {last:.3f}")
    check("untrained, the loss is ln V", abs(first - math.log(V)) < 1e-3)
    check("trained, it is far below the unigram entropy", last < unigram - 0.8)

    print("\n4. What it learned: its three best guesses for the gap")
    for left, right in ("qe", "tn", "hd"):
        neighbours = torch.tensor([tokenizer.encode(left + right)])  # [1, 2]
        p, best = torch.softmax(model(neighbours)[0], dim=0).topk(3)  # [1, V] -> [V], of which the top 3
        guesses = ", ".join(f"{tokenizer.units[i]!r} {share:.0%}" for i, share in zip(best, p.tolist()))
        print(f"  {left}_{right}:  {guesses}")

    print("""
Exercises (answers in docs/answers.md). Where a change makes a check fail, turn that check into a comment.
  1. Train the model on the left neighbour only, given twice. How much of the gain is lost? (Ignore section 4.)
  2. Start the head at nn.Linear's own random values instead of zero. What is the first loss, and the last?
  3. Raise the learning rate tenfold, then a hundredfold. What does the curve look like?
""")
    draw_losses(losses, {"ln V": math.log(V), "unigram entropy": unigram})


if __name__ == "__main__":
    Parser(__doc__).parse_args()
    run(demo)
