"""Trains with some of the lessons' constants changed and prints the held-out bound. docs/tuning.md was made with it.

Run, from the folder of the project:
    python -m benchmarks.tune --steps 128                                        as the lessons have it
    python -m benchmarks.tune START_STRENGTH=0 --steps 128 --lr 0.02             heads start blind
    python -m benchmarks.tune small.n_layers=6 small.dim=208 --steps 128         another shape
    python -m benchmarks.tune positions=learned positions_std=0.02 --steps 800   learned positions instead of RoPE

NAME=VALUE sets a constant of lessons 2 to 5 or of tools/training_run.py, or an entry of a preset. The flags are those
of 05_train.py without --plain, --evaluate, --out and --resume.
"""

import sys
import tempfile
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

from tools import training_run
from tools.checkpoints import read_checkpoint
from tools.command_line import UserError, best_path, run
from tools.settings import settle, training_parser

import torch
from torch import nn

tensors = import_module("01_tensors")
attention = import_module("02_attention")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


def set_constant(name, value):
    """Sets START_STRENGTH=0 or small.dim=208. The value takes the type of the one it replaces. Raises UserError."""
    preset, _, entry = name.partition(".")
    homes = [transformer.PRESETS.get(preset, {})] if entry else []
    homes += [vars(module) for module in (attention, transformer, diffusion, training, training_run)]
    home = next((home for home in homes if type(home.get(entry or name)) in (int, float)), None)
    if home is None:
        raise UserError(f"the lessons have no constant {name} that is a number.")
    home[entry or name] = read_number(type(home[entry or name]), name, value)


def read_number(kind, name, value):
    """The text `value` as int or float. Raises UserError."""
    try:
        return kind(value)
    except ValueError:
        raise UserError(f"{name}={value} is not {'a whole number' if kind is int else 'a number'}.")


def use_learned_positions(deviation):
    """Replaces RoPE by a learned vector for every position, added to the embedding. Heads start blind."""

    class LearnedPositions(transformer.Transformer):
        def __init__(self, config):
            super().__init__(config)
            self.positions = nn.Parameter(deviation * torch.randn(config.context, config.dim))
            self.embedding.register_forward_hook(lambda module, inputs, x: x + self.positions[: x.shape[1]])

    attention.rotate = lambda x, positions: x
    attention.START_STRENGTH = 0.0
    transformer.Transformer = LearnedPositions


def main():
    """The command line of benchmarks.tune."""
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    flags = [word for word in sys.argv[1:] if word not in words]
    parser = training_parser(__doc__, "tune.safetensors", transformer.PRESETS)
    with tempfile.TemporaryDirectory() as folder:
        args = parser.parse_args([*flags, "--out", str(Path(folder) / "tune.safetensors")])
        if args.evaluate is not None or args.resume:
            parser.error("--evaluate and --resume do not go with this script, which always trains")
        changes = dict(word.split("=", 1) for word in words)
        deviation = read_number(float, "positions_std", changes.pop("positions_std", 0.02))
        positions = changes.pop("positions", "rope")
        if positions not in ("rope", "learned"):
            parser.error(f"positions={positions} is not allowed; choose rope or learned")
        if positions == "learned":
            use_learned_positions(deviation)
        training_run.EVALUATIONS = 1  # at the end
        for name, value in changes.items():
            set_constant(name, value)
        with redirect_stdout(sys.stderr):  # the command that it ends with names a file that is deleted here
            settings, text, saved = settle(args, "05_train.py", transformer.PRESETS, tensors.load_text)
            training.train_on_text(settings, text, saved, training.DIFFUSION, "python 06_generate.py")
        if not best_path(args.out).exists():
            raise UserError("it was stopped before it measured anything, so there is no figure.")
        run = read_checkpoint(best_path(args.out))
    figures = f"{run['heldout']:.3f} nats/character, {run['characters']:,} characters, {run['seconds']:.0f} s"
    print(f"{figures}: {' '.join(sys.argv[1:])}")


if __name__ == "__main__":
    run(main)
