"""Trains with some of the lessons' constants changed, and prints the held-out bound: how docs/tuning.md was made.

    python docs/tune.py --steps 128                                        as the lessons have it
    python docs/tune.py START_STRENGTH=0 --steps 128 --lr 0.02             heads start blind
    python docs/tune.py small.n_layers=6 small.dim=208 --steps 128         another shape
    python docs/tune.py positions=learned positions_std=0.02 --steps 800   learned positions instead of RoPE

NAME=VALUE sets a constant of lessons 2 to 5, or an entry of a preset; the flags are those of 05_train.py.
"""

import sys
import tempfile
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
attention = import_module("02_attention")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


def set_constant(name, value):
    """START_STRENGTH=0, small.dim=208: the value takes the type of the one it replaces."""
    preset, _, entry = name.partition(".")
    if preset in transformer.PRESETS and entry in transformer.PRESETS[preset]:
        transformer.PRESETS[preset][entry] = int(value)
        return
    for module in (attention, transformer, diffusion, training):
        if hasattr(module, name):
            setattr(module, name, type(getattr(module, name))(value))
            return
    sys.exit(f"error: the lessons have no constant {name}.")


def use_learned_positions(deviation):
    """Replaces RoPE by a learned vector for every position, added to the embedding; heads start blind."""

    class LearnedPositions(transformer.Transformer):
        def __init__(self, config):
            super().__init__(config)
            self.positions = nn.Parameter(deviation * torch.randn(config.context, config.dim))
            self.embedding.register_forward_hook(lambda module, inputs, x: x + self.positions[: x.shape[1]])

    attention.SelfAttention.place = lambda self, x, first=0: x
    attention.START_STRENGTH = 0.0
    transformer.Transformer = LearnedPositions


def main():
    """The command line of docs/tune.py."""
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    flags = [word for word in sys.argv[1:] if word not in words]
    changes = dict(word.split("=", 1) for word in words)
    deviation = float(changes.pop("positions_std", 0.02))
    if changes.pop("positions", "rope") == "learned":
        use_learned_positions(deviation)
    training.EVALUATIONS = 1  # at the end
    for name, value in changes.items():
        set_constant(name, value)
    with tempfile.TemporaryDirectory() as folder:
        args = training.training_parser(__doc__, "tune.pt").parse_args([*flags, "--out", str(Path(folder) / "tune.pt")])
        with redirect_stdout(sys.stderr):  # the command that it ends with names a file that is deleted here
            training.train_on_text(args, training.settle(args), training.DIFFUSION, "")
        run = training.read_checkpoint(training.best_path(args.out))
    print(f"{run['heldout']:.3f} nats/character, {run['characters']:,} characters, {run['seconds']:.0f} s: {' '.join(sys.argv[1:])}")


if __name__ == "__main__":
    training.lesson1.run(main)
