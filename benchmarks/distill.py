"""What else can be got out of one megabyte? Trains on text that a GPT wrote, too, and with softer answers.

A model that reads the same text hundreds of times learns it by heart. Two things work against that. A GPT that was
trained on the text, the writer, makes more of the kind: half of the windows in a step are its own. And what stood at a
hidden place is only half of the answer there; the other half is how likely teachers hold each letter, trained models of
the same kind, their mean if there are several (distillation: Hinton et al. 2015, arXiv 1503.02531; of several teachers
where text is short: Kim et al. 2025, arXiv 2509.14786). Of text there is nothing behind either but the training text.
GPTs as teachers have a GPT for a pupil. A pupil that begins as its own teacher (--start) is held back by it from
learning the text by heart.

Run, from the folder of the project; the flags are those of 05_train.py but --plain and --evaluate, and these:
            python -m benchmarks.distill --preset small --teachers checkpoints/small.pt --writer checkpoints/gpt.pt
            python -m benchmarks.distill --preset small --teachers checkpoints/small.pt --writer checkpoints/gpt.pt
                --start checkpoints/small.pt --lr 0.01 --minutes 60 --out checkpoints/taught.pt    (all in one line)
Last line:  the command that generates text from what was trained.

First the writer writes, before the clock of --minutes runs: on two cores some 700 characters/s where it has the size of
`base`, so that 20,000 windows of 256 take two hours; fewer do (--windows), and a GPU is quicker. With --resume, give
teachers, writer and --windows as before; they are not recorded.

Builds on:  lessons 1 (text), 4 (the loss), 5 (the loop) and 7 (the writer).
"""

import os
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import tools
from tools import UserError

import torch
from tqdm import tqdm

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt = import_module("07_train_gpt")

OWN = dict(dropout=0.05, weight_decay=0.1)  # the defaults that are not lesson 5's; not tuned
WRITTEN = 0.5  # the share of the writer's windows in a step
TRUTH = 0.5  # the share of an answer that is the letter which stood there; the rest is the teachers'


# ---- The text
def write_windows(writer, count, length, generator):
    """[count, length] by a GPT at temperature 1. Each begins in mid-text, as the windows that it was trained on did."""
    parts, device = [], writer.head.weight.device
    size = 1024 if device.type == "cuda" else 256  # at once; `base` keeps 4.7 MB of keys and values for each
    for first in tqdm(range(0, count, size), desc="the writer writes", leave=False, disable=None):
        nothing = torch.zeros(min(size, count - first), 0, dtype=torch.long, device=device)  # [B, 0]
        tokens = gpt.continue_text(writer, nothing, length, generator=generator, cached=gpt.can_cache(writer))
        parts.append(tokens.cpu())  # [B, length]
    return torch.cat(parts)


def mixed_windows(text, written, batch):
    """Returns draw(generator) -> [batch, L]: windows of the tokens [N] of a text, and of those written, [M, L]."""
    count = round(batch * WRITTEN)
    draw_text = tensors.random_windows(text, written.shape[1], batch - count)

    def draw(generator):
        chosen = torch.randint(len(written), (count,), generator=generator)
        return torch.cat([draw_text(generator), written[chosen]])

    return draw


# ---- The answers
@torch.no_grad()
def expected_by(teachers, inputs):
    """[B, L, V] the mean of the probabilities that the teachers give for inputs [B, L]."""
    return sum(torch.softmax(teacher(inputs).float(), dim=-1) for teacher in teachers) / len(teachers)


def soft_cross_entropy(logits, expected, tokens, mask):
    """[B] each row's mean, over its masked places, of the cross-entropy with the answer: TRUTH of it is the letter of
    tokens [B, L], the rest is spread as in expected [B, L, V]. logits [B, L, V]; mask [B, L]."""
    hard = diffusion.masked_cross_entropy(logits, tokens, mask)  # [B]
    losses = -(expected * torch.log_softmax(logits, dim=-1)).sum(dim=-1) * mask  # [B, L]
    soft = losses.sum(dim=1) / mask.sum(dim=1)  # [B]
    return TRUTH * hard + (1 - TRUTH) * soft


@dataclass(frozen=True)
class Taught(training.Objective):
    """An Objective of lesson 5 with softer answers: the teachers see what the model sees."""

    teachers: tuple = ()

    def loss(self, logits, inputs, tokens, mask):
        """[B] what training lowers, for logits [B, L, V]; inputs, tokens, mask [B, L] each."""
        return soft_cross_entropy(logits, expected_by(self.teachers, inputs), tokens, mask)


# ---- The command line
def load_trained(path, causal, tokenizer, device="cpu"):
    """The model of a checkpoint, a GPT if causal, else a dLLM, whose weights stay as they are. Raises UserError for
    another kind, and for another alphabet than the text's."""
    model, other, _ = training.load_kind(path, causal, device)
    if other.units != tokenizer.units:
        raise UserError(f"{path} has another alphabet than the text; give a model that was trained on it.")
    return model.requires_grad_(False)


def first_weights(path, config, tokenizer):
    """The weights of the checkpoint that the pupil begins with. Raises UserError for another kind or shape."""
    model = load_trained(path, config.causal, tokenizer)
    if replace(model.config, dropout=config.dropout) != config:
        raise UserError(f"{path} has another shape than the pupil; --preset names the pupil's.")
    return model.state_dict()


def read_models(args, settings, tokenizer):
    """(teachers, writer, the pupil's Config, the weights that it begins with, or None). Raises UserError."""
    device = tools.pick_device(settings.device)
    causal = training.load_checkpoint(args.teachers[0])[0].config.causal
    shape = transformer.PRESETS[settings.preset]
    config = transformer.Config(tokenizer.vocab_size, **shape, causal=causal, dropout=settings.dropout)
    teachers = tuple(load_trained(path, causal, tokenizer, device) for path in args.teachers)
    for path, teacher in zip(args.teachers, teachers):
        if teacher.config.context < config.context:
            raise UserError(f"{path} reads {teacher.config.context} letters, its pupil {config.context}; see --preset.")
    writer = load_trained(args.writer, True, tokenizer, device)
    return teachers, writer, config, first_weights(args.start, config, tokenizer) if args.start else None


def main():
    """The command line of benchmarks.distill."""
    parser = tools.training_parser(__doc__, "my_taught.pt", transformer.PRESETS, **OWN)
    add = parser.add_argument
    add("--teachers", nargs="+", type=Path, required=True, metavar="FILE", help="dLLMs, or GPTs: so is the pupil")
    add("--writer", type=Path, required=True, metavar="FILE", help="a GPT")
    add("--windows", type=tools.between(int, 1, 10**6), default=20_000, help="how many it writes (default: 20,000)")
    add("--start", type=Path, metavar="FILE", help="the checkpoint that the pupil begins with (default: as untrained)")
    args = parser.parse_args()
    if args.evaluate:
        parser.error("a pupil is measured by 05_train.py --evaluate, or 07_train_gpt.py --evaluate")
    if "LOCAL_RANK" in os.environ:
        parser.error("this runs in one process, not by torchrun")
    settings, saved = tools.settle(args, "benchmarks.distill", transformer.PRESETS, **OWN)
    text = tensors.load_text(settings.data or None)
    settings, tokenizer = tools.with_text(settings, text), tensors.Tokenizer(sorted(set(text)))
    teachers, writer, config, weights = read_models(args, settings, tokenizer)
    tokens, windows = tensors.split_text(text, tokenizer, config.context)
    written = write_windows(writer, args.windows, config.context, torch.Generator().manual_seed(settings.seed))
    draw = mixed_windows(tokens, written, settings.batch)
    objective = Taught(**vars(gpt.NEXT_TOKEN if config.causal else training.DIFFUSION), teachers=teachers)
    training.train(settings, objective, tokenizer, config, draw, windows, saved, weights)
    tools.print_command("python 07_train_gpt.py --generate" if config.causal else "python 06_generate.py", settings.out)


if __name__ == "__main__":
    tools.run(main)
