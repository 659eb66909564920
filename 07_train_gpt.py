"""Lesson 7. What does a GPT do differently?

Surprisingly little. The transformer is that of lesson 3. The loop, the data, the optimizers and the flags are those of
lesson 5. The lines of lessons 2 to 7 that make the difference carry a comment that begins with "GPT:". Lines that only
make it write faster carry "GPT, for speed:". `--differences` prints both. This file adds the objective (guess the next
letter) and the way of writing (one letter after the other, with a cache).

Builds on:  lessons 1 (text), 2 (attention), 3 (the model), 4 (draw_tokens), 5 (the loop) and 6 (flags).
Run:        python 07_train_gpt.py --differences
            python 07_train_gpt.py                                 (5 minutes and the evaluations)
            python 07_train_gpt.py --dropout 0.1 --minutes 20 --out checkpoints/gpt20.safetensors
            python 07_train_gpt.py --evaluate checkpoints/gpt.safetensors
            python 07_train_gpt.py --generate --prompt "ROMEO:" --len 400
            python 07_train_gpt.py --generate --checkpoint checkpoints/my_gpt_best.safetensors
Last line:  the command that generates text from what was trained. With --generate it is the last line of the text.

The held-out figure is exact, since a GPT gives each text a probability. On little text a GPT soon learns by heart.
--dropout hinders that. NAME_best.safetensors keeps the best held-out weights.

Exercises (answers in docs/answers.md). Use --preset small --steps 200 --batch 8, another --out for each run, and --data
with a file of the first 50,000 letters of data/tinyshakespeare.txt. A run takes a minute.
  1. Let shift_right return `tokens` instead of `inputs`. How low does the loss fall? What is the sample like? Why?
  2. Train without dropout and with --dropout 0.2. Which training loss is lower? Which held-out figure is lower?
  3. In continue_text replace L // 2 by L - 1, to keep as much as fits. How much slower does it write 400 letters?
"""

import copy
import math
from functools import partial
from importlib import import_module
from types import SimpleNamespace

from tools.command_line import print_texts, run, seeded_generator
from tools.files import ROOT
from tools.settings import settle, training_parser

import torch
from torch import nn
from torch.nn import functional as F

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")

SHIPPED_GPT = ROOT / "checkpoints" / "gpt.safetensors"  # `base`
SMALL_GPT = ROOT / "checkpoints" / "gpt_small.safetensors"


# ---- The objective: guess the next letter
def shift_right(tokens, vocab_size, generator=None):
    """The training input of a GPT: (tokens [B, L] moved one place to the right with row V first, a mask that is True).

    Position i sees the tokens before i and must guess token i. Row V of the embedding is the mask in a dLLM. Here it
    stands for the beginning of the window. Nothing is drawn at random.
    """
    beginning = torch.full_like(tokens[:, :1], vocab_size)  # [B, 1]
    inputs = torch.cat([beginning, tokens[:, :-1]], dim=1)  # GPT: nothing is masked, the answer is one ahead; [B, L]
    return inputs, torch.ones_like(tokens, dtype=torch.bool)  # GPT: every position is guessed in every step


@torch.inference_mode()
def token_nats(model, tokens):
    """[B, L] the exact -log p(token | the tokens before it in its row) of tokens [B, L].

    By the chain rule -log p(x) is their sum over a row. So a GPT has an exact likelihood where a dLLM has a bound.
    """
    inputs, _ = shift_right(tokens, model.config.vocab_size)
    logits = model(inputs).float().transpose(1, 2)  # [B, L, V] -> [B, V, L], as cross_entropy has it
    return F.cross_entropy(logits, tokens, reduction="none")


def nats_by_position(model, windows):
    """[L] token_nats, averaged over windows [N, L]."""
    return torch.cat([token_nats(model, part).cpu() for part in windows.split(64)]).double().mean(dim=0)


def report_exact(model, windows):
    """The exact held-out figure over all letters, and over all but each window's first, as nanoGPT counts."""
    nats = nats_by_position(model, windows)
    mean, published = nats.mean().item(), nats[1:].mean().item()
    without = f"{published:.4f} nats without the first of each {len(nats)} characters, as nanoGPT counts"
    return f"exact {mean:.4f} nats/character ({mean / math.log(2):.3f} bits); {without}"


# ---- Writing: one letter after the other
class CachedAttention(nn.Module):  # GPT, for speed: all of it
    """A layer of lesson 2 that reads a text piece by piece and keeps the keys and values of what it has read.

    A piece x [B, T, D] comes after the S tokens that were kept. Nothing to their right changes them in a GPT, so they
    are not computed again. (In a dLLM everything depends on everything.) All layers share `reading`: where the piece
    stands (positions [T]), whom each of it sees (allowed [T, S + T], None for all) and how many tokens to keep (keep).
    """

    def __init__(self, layer, reading):
        super().__init__()
        self.layer, self.reading, self.k, self.v = layer, reading, None, None

    def forward(self, x):
        q, k, v = self.layer.project(x, self.reading.positions)  # [B, H, T, D/H] each
        if self.k is not None:  # GPT, for speed: what earlier tokens left is used again
            k, v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)  # [B, H, S + T, D/H]
        if self.reading.keep:
            self.k, self.v = k[:, :, : self.reading.keep], v[:, :, : self.reading.keep]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.reading.allowed)  # [B, H, T, D/H]
        return self.layer.merge(mixed)  # [B, T, D]


def with_cache(model):  # GPT, for speed: all of it
    """(reader, reading): a model with the same weights and an empty cache, and what its layers share."""
    reading = SimpleNamespace(positions=None, allowed=None, keep=0)
    shared = {id(p): p for p in model.parameters()}  # deepcopy takes these for copied already
    reader = copy.deepcopy(model, shared)
    for block in reader.blocks:
        block.attention = CachedAttention(block.attention, reading)
    return reader, reading


@torch.inference_mode()
def read_on(reader, reading, tokens):
    """tokens [B, T], the next ones of a GPT with a cache -> logits [B, T, V]."""
    S, T = reading.keep, tokens.shape[1]
    reading.keep, reading.positions = S + T, torch.arange(S, S + T, device=tokens.device)
    reading.allowed = torch.ones(T, S + T, dtype=torch.bool, device=tokens.device).tril(S)  # nobody looks to the right
    return reader(tokens)


def can_cache(model):
    """Whether the model's attention is that of lesson 2. In older checkpoints it is another one."""
    return isinstance(model, transformer.Transformer)


@torch.inference_mode()
def continue_text(model, tokens, length, temperature=1.0, top_k=None, generator=None, cached=True):
    """Continues tokens [B, P] to [B, length], one token a pass. P may be 0.

    cached: keep the keys and values of what was read. Then a pass reads one token instead of all. When the context is
    full, the older half is dropped, and the rest is read again as a window of its own.
    """
    L, V = model.config.context, model.config.vocab_size
    beginning = tokens.new_full((len(tokens), 1), V)  # [B, 1]
    start, reader = 0, None  # the model sees tokens[:, start:]
    while tokens.shape[1] < length:
        if 1 + tokens.shape[1] - start > L:  # with row V it no longer fits
            start, reader = tokens.shape[1] - L // 2, None  # positions count from row V again, so old keys are useless
        if reader is None:
            inputs = torch.cat([beginning, tokens[:, start:]], dim=1)  # [B, 1 + what is seen]
            reader = partial(read_on, *with_cache(model)) if cached else None  # GPT, for speed: a new cache
        else:
            inputs = tokens[:, -1:]  # GPT, for speed: all else is in the cache; [B, 1]
        logits = (reader or model)(inputs)[:, -1:]  # GPT: only the last position is asked; [B, 1, V]
        drawn = diffusion.draw_tokens(logits.float(), temperature, top_k, generator)  # [B, 1]
        tokens = torch.cat([tokens, drawn], dim=1)
    return tokens


def write_gpt_sample(model, tokenizer):
    """A few lines from the model, as many letters as lesson 5's sample has."""
    start = torch.zeros(1, 0, dtype=torch.long, device=model.head.weight.device)
    generator = torch.Generator().manual_seed(0)
    tokens = continue_text(model, start, model.config.context, 0.8, generator=generator, cached=can_cache(model))
    return tokenizer.decode(tokens[0])


def mean_nats(model, windows):
    """The exact held-out figure, in nats per token."""
    return nats_by_position(model, windows).mean().item()


NEXT_TOKEN = training.Objective(True, "exact", shift_right, mean_nats, report_exact, write_gpt_sample)  # GPT: all of it


# ---- The walk-through, and the command line
WRITING = ("checkpoint", "prompt", "len", "temp", "topk", "num")
TRAINING = ("data", "preset", "steps", "minutes", "batch", "lr", "dropout", "weight_decay", "dtype", "no_compile",
            "out", "resume", "evaluate")  # fmt: skip


def list_differences():
    """Prints every line of the lessons where a GPT differs, in two groups, as FILE:LINE: why, and the line itself."""
    must, faster = "What must change to make a GPT of the dLLM:", "What only makes it write faster:"
    for mark, title in ("GPT", must), ("GPT, for speed", faster):
        print(title)
        for path in sorted(ROOT.glob("0[2-7]_*.py")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                code, found, why = line.partition(f"  # {mark}: ")
                if found:
                    print(f"  {path.name}:{number}: {why}\n      {code.strip()}")


def write(parser, args):
    """Writes --num texts with --checkpoint."""
    model, tokenizer = generation.load_writer(parser, args, causal=True)
    canvas = generation.make_canvas(tokenizer, args.prompt, "", args.len, args.num, model.head.weight.device)
    generator = seeded_generator(args.seed)
    prompt = canvas[:, canvas[0] != model.config.vocab_size]  # [num, P] without masks; the text grows from here
    tokens = continue_text(model, prompt, args.len, args.temp, args.topk, generator, can_cache(model))
    print_texts(tokenizer.decode(row).strip("\n") for row in tokens)


def main():
    """The command line of 07_train_gpt.py."""
    parser = training_parser(__doc__, "my_gpt.safetensors", transformer.PRESETS)
    parser.add_argument("--differences", action="store_true", help="train nothing: print the lines that make a GPT")
    parser.add_argument("--generate", action="store_true", help="train nothing: write text with --checkpoint")
    seeded = "the same --seed and flags give the same text (default: drawn and printed)"
    generation.add_text_flags(parser.add_argument_group("with --generate", seeded), SHIPPED_GPT)
    args = parser.parse_args()
    if args.differences:
        if parser.changed(args, vars(args).keys() - {"differences"}):
            parser.error("--differences goes alone")
        return list_differences()
    for flag in parser.changed(args, TRAINING if args.generate else WRITING):
        parser.error(f"{flag} does not go with --generate" if args.generate else f"{flag} goes with --generate")
    if args.generate:
        return write(parser, args)
    if args.evaluate is not None:
        return training.print_evaluation(args, NEXT_TOKEN)
    settings, text, saved = settle(args, "07_train_gpt.py", transformer.PRESETS, tensors.load_text)
    training.train_on_text(settings, text, saved, NEXT_TOKEN, "python 07_train_gpt.py --generate")


if __name__ == "__main__":
    run(main)
