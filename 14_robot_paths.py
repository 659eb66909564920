"""Lesson 14. Can the model that writes verse bend a robot's path around an obstacle?

A path is a row of tokens as a text is. Put a line roughly where the path runs, and a point every half metre along it;
a token says how far to the left or right of the line the path passes there, in one of 31 steps of 0.1 m.
"""

import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module

import numpy as np

import robot_maps
import tools
from robot_maps import KEEP, ROBOT
from tools import ROOT, UserError

import torch
from torch import nn

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")

BINS, BIN = 31, 0.1  # offsets, and m from one to the next
STRAIGHT = BINS // 2  # the offset 0
OFFSETS = (np.arange(BINS) - STRAIGHT) * BIN  # [BINS] m to the left
PAD = BINS  # fills up the shorter rows of a batch; the mask is the token after it
POINTS = 48  # control points that the model sees at once
SPACING = 0.5  # m between two of them, at most
FINE = 25  # a spline is looked at so often from one control point to the next: every 2 cm
TURNS = 15  # kinds of turn of the line, 0.2 rad each
DATA = ROOT / "data" / "robot_paths.npz"  # what path_dataset.py makes
SHARPEST = 2.5  # 1/m, the largest curvature that the robot can drive: a turning radius of 0.4 m


# ---- A path as tokens
def resample(points, step):
    """[N, 2] -> [n, 2] points along the same line, equally far apart, `step` or a little less; the ends stay."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0], np.cumsum(lengths)])
    n = max(4, math.ceil(along[-1] / step - 1e-9) + 1)
    places = np.linspace(0, along[-1], n)
    return np.stack([np.interp(places, along, column) for column in points.T], axis=1)


def low_pass(points, sigma=0.4, step=0.1):
    """[N, 2] -> [M, 2] the same way without its corners, which it may cut; the ends stay."""
    points, reach = resample(points, step), round(3 * sigma / step)
    reach = min(reach, len(points) - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / sigma) ** 2)
    padded = np.pad(points, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")  # keeps the ends in place
    return np.stack([np.convolve(column, weights / weights.sum(), mode="valid") for column in padded.T], axis=1)


def control_points(points):
    """[N, 2] -> [n, 2] the control points of a cubic B-spline that passes through points of this line, equally far
    apart, SPACING or less; the first and the last are its ends."""
    through = resample(points, SPACING)
    n = len(through)
    matrix = np.eye(n)
    for i in range(1, n - 1):
        matrix[i, i - 1 : i + 2] = np.array([1, 4, 1]) / 6
    return np.linalg.solve(matrix, through)


T = np.arange(FINE) / FINE
WEIGHTS = np.stack([(1 - T) ** 3, 3 * T**3 - 6 * T**2 + 4, -3 * T**3 + 3 * T**2 + 3 * T + 1, T**3]) / 6  # [4, FINE]
SLOPES = np.stack([-((1 - T) ** 2), 3 * T**2 - 4 * T, -3 * T**2 + 2 * T + 1, T**2]) / 2  # its first derivative
BENDS = np.stack([1 - T, 3 * T - 2, 1 - 3 * T, T])  # and its second


def spline(control):
    """[..., n, 2] control points -> the curve [..., M, 2] and its curvatures [..., M] in 1/m, M = (n - 1) FINE + 1."""
    first, last = 2 * control[..., :1, :] - control[..., 1:2, :], 2 * control[..., -1:, :] - control[..., -2:-1, :]
    ends = np.concatenate([first, control, last, 2 * last - control[..., -1:, :]], axis=-2)
    four = np.stack([ends[..., k : k + control.shape[-2], :] for k in range(4)], axis=-1)  # [..., n, 2, 4]
    curves = []
    for weights in (WEIGHTS, SLOPES, BENDS):
        values = np.moveaxis(four @ weights, -1, -2)  # [..., n, FINE, 2]
        curves.append(values.reshape(*values.shape[:-3], -1, 2)[..., : 1 - FINE, :])
    points, slope, bend = curves
    turning = slope[..., 0] * bend[..., 1] - slope[..., 1] * bend[..., 0]
    return points, np.abs(turning) / np.maximum(np.hypot(slope[..., 0], slope[..., 1]), 1e-3) ** 3


@dataclass(frozen=True)
class Corridor:
    """The strip along a line in which the path is sought."""

    grid: robot_maps.GridMap
    line: np.ndarray  # [n, 2] its control points
    left: np.ndarray  # [n, 2] the direction to the left of it
    clearances: np.ndarray  # [n, BINS] m, of every place where a control point may be
    turns: np.ndarray  # [n] whole numbers below TURNS: how the line turns there

    @classmethod
    def along(cls, line, grid):
        """The corridor of control points [n, 2] on a map."""
        steps = np.diff(line, axis=0)
        ahead = np.concatenate([steps[:1], steps[:-1] + steps[1:], steps[-1:]])
        ahead /= np.maximum(np.hypot(*ahead.T)[:, None], 1e-9)
        left = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
        headings = np.unwrap(np.arctan2(*steps.T[::-1]))
        turns = np.zeros(len(line), dtype=int)
        turns[1:-1] = np.rint(np.diff(headings) / 0.2)
        clearances = grid.clearance(line[:, None] + OFFSETS[:, None] * left[:, None])
        return cls(grid, line, left, clearances, (turns + TURNS // 2).clip(0, TURNS - 1))

    def part(self, start, end):
        """The corridor from one control point to before another."""
        arrays = (array[start:end] for array in (self.line, self.left, self.clearances, self.turns))
        return Corridor(self.grid, *arrays)

    def control(self, tokens):
        """tokens [..., n] -> control points [..., n, 2]"""
        return self.line + OFFSETS[tokens][..., None] * self.left

    def open_bins(self):
        """[n, BINS] True where a control point may be: where it has the clearance, or anywhere where no place has."""
        free = self.clearances >= ROBOT
        return free | ~free.any(axis=1, keepdims=True)


def check_curve(points, curvatures, grid):
    """[..., M] True where a curve collides, or bends more sharply than the robot can."""
    return (grid.clearance(points) < ROBOT) | (curvatures > SHARPEST)


def faults(corridor, tokens):
    """The control points, without the ends, next to which the spline of tokens [n] collides or bends too sharply, each
    as often as it does so, every 2 cm; an empty list for a path that can be driven."""
    wrong = check_curve(*spline(corridor.control(np.asarray(tokens))), corridor.grid)  # [M]
    return np.rint(np.flatnonzero(wrong) / FINE).astype(int).clip(1, len(tokens) - 2).tolist()


def around(places, n, margin):
    """[n] True at places and up to `margin` on either side of each, never at the ends."""
    masked = np.zeros(n, dtype=bool)
    for place in set(places):
        masked[max(1, place - margin) : min(n - 1, place + margin + 1)] = True
    return masked


# ---- The model: lesson 3's, which also sees where the obstacles are
CONFIG = transformer.Config(vocab_size=BINS + 1, context=POINTS, n_layers=5, n_heads=4, dim=128)


class PathModel(transformer.Transformer):
    """tokens [B, n], clearances [B, n, BINS] in m, turns [B, n] -> logits [B, n, V]. What a position sees of the map,
    the clearances across the corridor and how the line turns, is added to the embedding of its token."""

    def __init__(self, config=CONFIG):
        super().__init__(config)
        self.see = nn.Linear(BINS, config.dim)
        self.turn = nn.Embedding(TURNS, config.dim)

    def forward(self, tokens, clearances, turns):
        """See the class."""
        seen = self.see(2 * clearances.clamp(max=1) - 1) + self.turn(turns)  # [B, n, D]; what is far is just far
        return super().forward(tokens, seen)


def load_model(path):
    """The PathModel in a checkpoint, in eval mode. Raises UserError."""
    contents, model = tools.read_checkpoint(path), PathModel()
    if contents.get("config") != asdict(CONFIG):
        raise UserError(f"{path} is no model of paths; lesson 14 trains one by --train.")
    tools.check_weights(contents["model"], model, path)
    model.load_state_dict(contents["model"])
    return model.eval()


# ---- Training
def random_batch(data, size, generator):
    """`size` problems of nearly the same length: {tokens [B, L], masked [B, L], clearances [B, L, BINS], turns [B, L]},
    each mirrored, or driven backwards, or both, or neither, by chance: four problems out of one."""
    order = (data["length"] + torch.rand(len(data["length"]), generator=generator)).argsort()
    first = int(torch.randint(len(order) - size + 1, (1,), generator=generator))
    rows = order[first : first + size]
    length = data["length"][rows, None]  # [B, 1]
    places = torch.arange(int(length.max())).expand(size, -1)  # [B, L]
    mirrored, backwards = torch.rand(2, size, 1, generator=generator) < 0.5  # [B, 1] each
    places = torch.where(backwards & (places < length), length - 1 - places, places)
    flipped = mirrored ^ backwards  # who drives backwards has the left on the right
    batch = {name: data[name][rows[:, None], places] for name in ("tokens", "masked", "clearances", "turns")}
    tokens, turns, clearances = batch["tokens"].long(), batch["turns"].long(), batch["clearances"].float()
    batch["tokens"] = torch.where(flipped & (tokens != PAD), BINS - 1 - tokens, tokens)
    batch["turns"] = torch.where(flipped, TURNS - 1 - turns, turns)
    batch["clearances"] = torch.where(flipped[..., None], clearances.flip(2), clearances)
    return batch


def hide_path(tokens, masked, generator):
    """(inputs, mask) [B, L] each: half the rows hide some of the places `masked` [B, L], anywhere; the others a span of
    them, or, three times in ten, all."""
    B, L = tokens.shape
    count = masked.sum(dim=1, keepdim=True)  # [B, 1]
    draw = partial(torch.rand, generator=generator)
    lottery = draw(B, L).masked_fill(~masked, 2).argsort(dim=1).argsort(dim=1)  # [B, L] the ranks
    somewhere = lottery < 1 + (draw(B, 1) * count).long()
    rank = masked.cumsum(dim=1) - 1  # [B, L] of the places, from left to right
    width = 1 + (draw(B, 1) * count).long()
    start = (draw(B, 1) * (count - width + 1)).long()
    span = ((start <= rank) & (rank < start + width)) | (draw(B, 1) < 0.3)
    mask = masked & torch.where(draw(B, 1) < 0.5, somewhere, span)
    return tokens.masked_fill(mask, CONFIG.vocab_size), mask


def loss_of(model, batch, generator):
    """[B] nats per hidden token."""
    inputs, mask = hide_path(batch["tokens"], batch["masked"], generator)
    logits = model(inputs, batch["clearances"], batch["turns"])
    return diffusion.masked_cross_entropy(logits, batch["tokens"], mask)


def train(data, out, minutes, size=96, lr=0.025):
    """Lesson 5's loop, on rows of offsets instead of letters. Writes a checkpoint now and then, and on Ctrl-C."""
    data = {name: torch.from_numpy(array) for name, array in data.items()}
    heldout = {name: array[: len(array) // 20] for name, array in data.items()}
    data = {name: array[len(array) // 20 :] for name, array in data.items()}
    torch.manual_seed(0)
    model, generator, stop = PathModel(), torch.Generator().manual_seed(0), tools.StopRequest()
    optimizers = transformer.make_optimizers(model, lr, torch.float32)
    began, saved, step, progress = time.perf_counter(), 0.0, 0, 0.0
    while progress < 1 and not stop.made:
        for optimizer, ratio in zip(optimizers, (1, transformer.ADAMW_LR_RATIO)):
            optimizer.param_groups[0]["lr"] = lr * ratio * training.get_lr(step, progress)
        loss = loss_of(model, random_batch(data, size, generator), generator).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step, seconds = step + 1, time.perf_counter() - began
        progress = min(1.0, seconds / 60 / minutes)
        if seconds - saved > 60 or progress == 1 or stop.made:
            saved = seconds
            figure = measure(model, heldout)
            print(f"step {step:,}  {seconds:.0f} s  loss {loss.item():.3f}  held-out {figure:.3f}", flush=True)
            weights = {name: value.bfloat16() for name, value in model.state_dict().items()}
            tools.save_checkpoint(dict(model=weights, config=asdict(CONFIG), step=step, seconds=seconds), out)
    print(out)


@torch.inference_mode()
def measure(model, heldout):
    """The held-out nats per hidden token, always with the same things hidden."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([loss_of(model, random_batch(heldout, 32, generator), generator) for _ in range(16)]).mean().item()


def main():
    parser = tools.Parser(__doc__)
    add = parser.add_argument
    add("--train", action="store_true")
    add("--minutes", type=tools.between(float, 0.01, 10**4), default=15)
    add("--out", type=str)
    args = parser.parse_args()
    if args.train:
        with np.load(DATA) as data:
            train(dict(data), args.out, args.minutes)


if __name__ == "__main__":
    tools.run(main)
