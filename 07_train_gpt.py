"""Lesson 7. What does a GPT do differently?

Surprisingly little. The transformer is that of lesson 3, the loop is that of lesson 5, and so are the data, the
optimizers and the flags. The lines of lessons 2 to 7 that make the difference carry a comment that begins with
"GPT:"; training prints them first. What is left for this file is the objective (guess the next character) and the way of
writing (one character after the other, with a cache that makes it fast).

Builds on:  lessons 1 (text), 2 (KeyValueCache), 3 (the model), 4 (draw_tokens), 5 (the loop) and 6 (flags).
Run:        python 07_train_gpt.py                                 (5 minutes, and what the evaluations take)
            python 07_train_gpt.py --dropout 0.1 --minutes 20 --out checkpoints/gpt20.pt
            python 07_train_gpt.py --evaluate checkpoints/gpt.pt
            python 07_train_gpt.py --generate --prompt "ROMEO:" --len 400
            python 07_train_gpt.py --generate --checkpoint checkpoints/my_gpt_best.pt
Last line:  the command that generates text from what was trained; with --generate, the last line of the text.

The held-out figure is exact: a GPT gives each text a probability, and needs no bound. On little text it soon learns by
heart: --dropout hinders that, and the best held-out weights are kept in NAME_best.pt.

Later lessons take from here: SHIPPED_GPT, continue_text, can_cache, token_nats, report_exact.

Exercises (answers in docs/answers.md; use --preset small --steps 200 --batch 8 --data with a file of the first 50,000 characters of
data/tinyshakespeare.txt, and --out checkpoints/a.pt, then b.pt: a minute each)
  1. Let shift_right return `tokens` instead of `inputs`. How low does the loss fall, and what does the sample look like? Why?
  2. Train without dropout and with --dropout 0.2. Which training loss is lower, which held-out figure, and when do they part?
  3. In continue_text, replace L // 2 by L - 1, to keep as much as fits. How much slower does it write 400 characters, and why?
"""

import math
import os
import re
import sys
from importlib import import_module

import torch
from torch.nn import functional as F

lesson1 = import_module("01_tensors")
attention = import_module("02_attention")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")

SHIPPED_GPT = lesson1.ROOT / "checkpoints" / "gpt.pt"


# ---------------------------------------------------------------------------------------------------------
# The objective: guess the next character


def shift_right(tokens, vocab_size, generator=None):
    """The training input of a GPT: tokens [B, L] moved one place to the right, row V first; and a mask that is all True.

    Position i then sees the tokens before i, and must guess token i: all L of them. Row V of the embedding, in a dLLM the
    mask, stands for the beginning of the window: nothing is known of what came before. Nothing is drawn at random.
    """
    beginning = torch.full_like(tokens[:, :1], vocab_size)  # [B, 1]
    inputs = torch.cat([beginning, tokens[:, :-1]], dim=1)  # GPT: nothing is masked, the answer is one place ahead; [B, L]
    return inputs, torch.ones_like(tokens, dtype=torch.bool)  # GPT: every position is guessed in every step


@torch.inference_mode()
def token_nats(model, tokens):
    """[B, L] the exact -log p(token | those before it in its row) of tokens [B, L].

    By the chain rule, -log p(x) is the sum of these over a row: an exact likelihood, where a dLLM has a bound.
    """
    inputs, _ = shift_right(tokens, model.config.vocab_size)
    logits = model(inputs).float().transpose(1, 2)  # [B, L, V] -> [B, V, L], as cross_entropy has it
    return F.cross_entropy(logits, tokens, reduction="none")


def nats_by_position(model, windows):
    """[L] token_nats, averaged over windows [N, L]."""
    return torch.cat([token_nats(model, part).cpu() for part in windows.split(64)]).double().mean(dim=0)


def report_exact(model, windows):
    """The exact held-out figure over all characters; and over all but each window's first, as nanoGPT's figures are."""
    nats = nats_by_position(model, windows)
    mean, published = nats.mean().item(), nats[1:].mean().item()
    return (
        f"exact {mean:.4f} nats/character ({mean / math.log(2):.3f} bits); {published:.4f} nats without the first "
        f"of each {len(nats)} characters, as nanoGPT counts"
    )


# ---------------------------------------------------------------------------------------------------------
# Writing: one character after the other


@torch.inference_mode()
def continue_text(model, tokens, length, temperature=1.0, top_k=None, generator=None, cached=True):
    """Continues tokens [B, P] to [B, length], P from 0 to length, one token a pass.

    cached: keep the keys and values of what was read, so that a pass reads one token instead of all. That is possible
    since nothing to the left of a position depends on it; in a dLLM everything depends on everything.
    When the context is full, the older half is dropped and the rest read again as a window of its own, cached or not.
    """
    L, V = model.config.context, model.config.vocab_size
    beginning = tokens.new_full((len(tokens), 1), V)  # [B, 1]
    start, cache = 0, None  # the model sees tokens[:, start:]
    while tokens.shape[1] < length:
        if 1 + tokens.shape[1] - start > L:  # with row V, it no longer fits
            start, cache = tokens.shape[1] - L // 2, None  # GPT: places count from row V again, so old keys are of no use
        if cache is None:
            inputs = torch.cat([beginning, tokens[:, start:]], dim=1)  # [B, 1 + what is seen]
            cache = [attention.KeyValueCache() for _ in model.blocks] if cached else None
        else:
            inputs = tokens[:, -1:]  # GPT: all else is in the cache; [B, 1]
        logits = model(inputs, cache)[:, -1:]  # GPT: only the last position is asked; [B, 1, V]
        drawn = diffusion.draw_tokens(logits.float(), temperature, top_k, generator)  # [B, 1]
        tokens = torch.cat([tokens, drawn], dim=1)
    return tokens


def can_cache(model):
    """Whether the model keeps a cache; those of older checkpoints do not."""
    return isinstance(model, transformer.Transformer)


def write_gpt_sample(model, tokenizer):
    """A few lines from the model as it is, as many letters as lesson 5's sample has."""
    start = torch.zeros(1, 0, dtype=torch.long, device=model.head.weight.device)
    generator = torch.Generator().manual_seed(0)
    tokens = continue_text(model, start, model.config.context, 0.8, generator=generator, cached=can_cache(model))
    return tokenizer.decode(tokens[0])


def mean_nats(model, windows):
    """The exact held-out figure: nats per token, over all positions."""
    return nats_by_position(model, windows).mean().item()


NEXT_TOKEN = training.Objective(
    causal=True, label="exact", prepare=shift_right, heldout=mean_nats, report=report_exact, write=write_gpt_sample
)


# ---------------------------------------------------------------------------------------------------------
# The walk-through, and the command line

WRITING = ("checkpoint", "prompt", "len", "temp", "topk", "num")
TRAINING = ("data", "preset", "steps", "minutes", "batch", "lr", "dropout", "out", "resume", "evaluate")


def list_differences():
    """Prints every line of the lessons where a GPT differs, as FILE:LINE: why."""
    print("Where a GPT differs from the dLLM of the lessons before:", file=sys.stderr)
    for path in sorted(lesson1.ROOT.glob("0[2-7]_*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if found := re.search(r"# GPT: ([^(].*)", line):  # "(" would be this very line
                print(f"  {path.name}:{number}: {found.group(1)}", file=sys.stderr)


def write(parser, args):
    """Writes --num texts with --checkpoint."""
    model, tokenizer = generation.load_generator(parser, args, causal=True)
    ids = tokenizer.encode(args.prompt)
    canvas = generation.make_canvas(ids, args.len, args.num, model.config.vocab_size, model.head.weight.device)
    generator = generation.seeded_generator(args.seed)
    prompt = canvas[:, : len(ids)]  # [num, P]: no masks, the text grows from here
    tokens = continue_text(model, prompt, args.len, args.temp, args.topk, generator, can_cache(model))
    generation.print_texts(tokenizer.decode(row) for row in tokens)


def main():
    """The command line of 07_train_gpt.py."""
    parser = training.training_parser(__doc__, "my_gpt.pt")
    parser.add_argument("--generate", action="store_true", help="train nothing: write text with --checkpoint")
    generation.add_text_flags(parser.add_argument_group("with --generate"), SHIPPED_GPT)
    args = parser.parse_args()
    for name in TRAINING if args.generate else WRITING:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} does not go with --generate" if args.generate else f"--{name} goes with --generate")
    if args.generate:
        return write(parser, args)
    if args.evaluate:
        return training.print_evaluation(args, NEXT_TOKEN)
    saved = training.settle(args)
    if os.environ.get("RANK", "0") == "0":
        list_differences()
    training.train_on_text(args, saved, NEXT_TOKEN, "python 07_train_gpt.py --generate")


if __name__ == "__main__":
    lesson1.run(main)
