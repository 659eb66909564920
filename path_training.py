"""Where do the paths come from that lesson 14 learns, and how does its model learn them?

From an exact teacher, on maps that are made up. In the corridor along a rough path, dynamic programming finds the one
row of tokens, of all 31^n, that costs least: length, curvature and nearness to obstacles, of which collision and too
sharp a bend cost so much that they are avoided wherever they can be. The curvature at a control point depends on three
tokens, so that what is to be remembered is a pair of them: "second-order", 31^3 sums for each control point at most.

Two thirds of the problems are whole paths to be smoothed. The others are repairs: a disc is put in the way of a path
that was solved, and the span around it solved again, what is outside fixed. The model then learns to guess the
teacher's tokens.

Run:        python path_training.py                   (15,000 problems, 5 minutes on a core; then 15 of training on two)
            python path_training.py --number 1000 --minutes 1 --out checkpoints/few_paths.safetensors
Builds on:  lessons 3 (optimizers), 4 (the loss), 5 (get_lr), 14 (Corridor, PathModel); robot_maps.py.
Last line:  the path of the checkpoint.

The problems are solved once, part by part, and kept in data/robot_paths/: a run that was stopped goes on with them. It
is no part of lesson 14, since the model that it makes comes with the project, and the teacher is not needed to use it.
"""

import io
import sys
import time
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

import path_files
import robot_maps
from tools.checkpoints import save_checkpoint
from tools.command_line import Parser, StopRequest, between, run
from tools.files import ROOT, write_safely
from robot_maps import KEEP

import torch
from torch import nn
from tqdm import tqdm

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
robot_paths = import_module("14_robot_paths")

DATA = ROOT / "data" / "robot_paths"  # where the problems are kept
FORBIDDEN = 1000.0  # for a collision, and for each 1/m of curvature over
SHARP = robot_paths.SHARPEST - 0.3  # 1/m; between control points the curve may be a little more bent than at them


# ---- The teacher
class Costs:
    """The costs of a corridor, piece by piece."""

    def __init__(self, corridor):
        self.places = corridor.line[:, None] + robot_paths.OFFSETS[:, None] * corridor.left[:, None]
        self.places = corridor.grid.to_cells(self.places).astype(np.float32)  # [n, BINS, 2], in cells
        field, self.cell = corridor.grid.clearances, corridor.grid.resolution
        self.spacing = np.hypot(*np.diff(corridor.line, axis=0).T).mean()
        price = robot_paths.NEAR * (robot_paths.FAR - field).clip(0) ** 2 + FORBIDDEN * (field < KEEP)
        self.price = np.pad(price, 1, constant_values=2 * FORBIDDEN).astype(np.float32)  # a metre's, in every cell

    def nearness(self, x, y):
        """What a metre costs at points, given in cells."""
        height, width = self.price.shape
        return self.price[(y + 1.5).astype(np.int32).clip(0, height - 1), (x + 1.5).astype(np.int32).clip(0, width - 1)]

    def step(self, i, a, b):
        """[A, B] the cost of going from place i, bins a [A], to place i + 1, bins b [B]."""
        here, there = self.places[i, a][:, None], self.places[i + 1, b][None]
        length = np.hypot(*np.moveaxis(there - here, -1, 0)) * self.cell
        middle = np.moveaxis(here + there, -1, 0) / 2
        return length + self.spacing / 2 * self.nearness(*middle)

    def bend(self, i, a, b, c):
        """[A, B, C] the cost of the curve near place i, bins b, between bins a of place i - 1 and c of place i + 1."""
        (ax, ay), (cx, cy) = (self.places[i - 1, a].T[:, :, None, None], self.places[i + 1, c].T[:, None, None])
        bx, by = self.places[i, b].T[:, None, :, None]
        slope_x, slope_y = (cx - ax) / 2, (cy - ay) / 2  # [A, 1, C], of the spline
        middle_x, middle_y = ax + cx, ay + cy
        turning = slope_x * (middle_y - 2 * by) - slope_y * (middle_x - 2 * bx)  # [A, B, C]
        speed = np.hypot(slope_x, slope_y) + 1e-3
        curvature = np.abs(turning) * (1 / speed**3 / self.cell)
        cost = robot_paths.BENT * self.spacing * curvature**2 + FORBIDDEN * (curvature - SHARP).clip(0)
        return cost + self.spacing / 2 * self.nearness((middle_x + 4 * bx) / 6, (middle_y + 4 * by) / 6)


def solve(corridor, bins):
    """[n] the cheapest of all rows of tokens that have at place i one of bins[i], a list of arrays."""
    costs, n, best = Costs(corridor), len(bins), []
    value = costs.step(0, bins[0], bins[1])  # [A, B] the least cost so far, ending in bins a and b
    for i in range(1, n - 1):
        a, b, c = bins[i - 1 : i + 2]
        total = value[:, :, None] + costs.bend(i, a, b, c)  # [A, B, C]
        best.append(total.argmin(axis=0))  # [B, C] the best a for each b and c
        value = total.min(axis=0) + costs.step(i, b, c)
    before, last = np.unravel_index(value.argmin(), value.shape)
    places = [last, before]
    for choice in reversed(best):
        places.append(choice[places[-1], places[-2]])
    return np.array([each[place] for each, place in zip(bins, reversed(places))])


def teach(corridor, tokens, masked):
    """tokens [n] with those at `masked` [n] replaced by the teacher's."""
    free = corridor.open_bins()
    bins = [np.flatnonzero(free[i]) if masked[i] else tokens[i : i + 1] for i in range(len(tokens))]
    return solve(corridor, bins)


# ---- The problems
def rough_paths(rng):
    """(map, [N, 2] path) after (map, path), without end: on one map, from two starts, ways that hug the walls and ways
    that keep away from them."""
    while True:
        grid = robot_maps.made_up_map(rng)
        allowed = np.argwhere(grid.clearances >= KEEP)
        for inflated in (True, False) if len(allowed) else ():
            start = grid.to_world(allowed[rng.integers(len(allowed))][::-1].astype(float))
            planner = robot_maps.Planner(grid, start, inflated)
            cells = np.flatnonzero(np.isfinite(planner.costs) & (planner.costs > 3) & (planner.costs < 25))
            for at in rng.choice(cells, min(4, len(cells)), replace=False):
                yield grid, planner.path(grid.to_world(planner.cells[at][::-1].astype(float)))


def smoothing(grid, rough):
    """(corridor, tokens, masked) of a path to be smoothed: all but the ends is solved."""
    corridor = robot_paths.Corridor.along(robot_maps.control_points(robot_maps.low_pass(rough)), grid)
    masked = np.ones(len(corridor.line), dtype=bool)
    masked[[0, -1]] = False
    tokens = np.full(len(masked), robot_paths.STRAIGHT)
    return corridor, teach(corridor, tokens, masked), masked


def put_disc(rng, grid, curve):
    """The map with a disc on, or nearly on, the middle part of a curve [M, 2]; None where it would bury its ends."""
    at = curve[int(len(curve) * rng.uniform(0.15, 0.85))] + rng.uniform(-0.3, 0.3, 2)
    radius = rng.uniform(0.1, 0.4)
    far = np.hypot(*(curve[[0, -1]] - at).T) > radius + 1.0
    return (grid.with_disc(*at, radius), (*at, radius)) if far.all() else (None, None)


def repairing(rng, grid, curve):
    """(corridor, tokens, masked) of a path that a disc blocks, the span around the collision solved again, or None."""
    blocked, _ = put_disc(rng, grid, curve)
    if blocked is None:
        return None
    corridor = robot_paths.Corridor.along(robot_maps.control_points(curve), blocked)
    tokens = np.full(len(corridor.line), robot_paths.STRAIGHT)
    masked = robot_paths.around(robot_paths.faults(corridor, tokens), len(tokens), int(rng.integers(2, 7)))
    return (corridor, teach(corridor, tokens, masked), masked) if masked.any() else None


def make_problems(seed, number):
    """Arrays of `number` problems, rows filled up with PAD to POINTS: {tokens, masked, clearances, turns, length}.

    Those that even the teacher cannot solve without collision or too sharp a bend are left out.
    """
    rng, kept = np.random.default_rng(seed), []
    with tqdm(total=number, desc=f"part {seed + 1}", mininterval=1, file=sys.stderr) as bar:
        for grid, rough in rough_paths(rng):
            corridor, tokens, masked = smoothing(grid, rough)
            if len(tokens) > robot_paths.POINTS or robot_paths.faults(corridor, tokens):
                continue
            curve, _ = robot_maps.spline(corridor.control(tokens))
            found = [(corridor, tokens, masked), repairing(rng, grid, curve)]
            if found[1] and (len(found[1][1]) > robot_paths.POINTS or robot_paths.faults(*found[1][:2])):
                found.pop()
            kept += [problem for problem in found if problem]
            bar.update(min(number, len(kept)) - bar.n)
            if len(kept) >= number:
                break
    return pack(kept[:number])


def pack(problems):
    """A list of (corridor, tokens, masked) as arrays."""
    n, size = len(problems), robot_paths.POINTS
    arrays = dict(
        tokens=np.full((n, size), robot_paths.PAD, dtype=np.uint8), masked=np.zeros((n, size), dtype=bool),
        clearances=np.zeros((n, size, robot_paths.BINS), dtype=np.float16), turns=np.zeros((n, size), dtype=np.uint8),
        length=np.array([len(tokens) for _, tokens, _ in problems]),
    )  # fmt: skip
    for i, (corridor, tokens, masked) in enumerate(problems):
        L = len(tokens)
        arrays["tokens"][i, :L], arrays["masked"][i, :L] = tokens, masked
        arrays["clearances"][i, :L], arrays["turns"][i, :L] = corridor.clearances, corridor.turns
    return arrays


def save_arrays(arrays, path):
    """Writes arrays as an .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_safely(path, buffer.getbuffer())


# ---- The training
def random_batch(data, size, generator):
    """`size` problems of nearly the same length: {tokens [B, L], masked [B, L], clearances [B, L, BINS], turns [B, L]},
    in a mirror, or driven from its end, or both, or neither, by chance: four problems out of one."""
    order = (data["length"] + torch.rand(len(data["length"]), generator=generator)).argsort()
    first = int(torch.randint(len(order) - size + 1, (1,), generator=generator))
    rows = order[first : first + size]
    length = data["length"][rows, None]  # [B, 1]
    places = torch.arange(int(length.max())).expand(size, -1)  # [B, L]
    flipped, backwards = torch.rand(2, size, 1, generator=generator) < 0.5  # [B, 1] each
    places = torch.where(backwards & (places < length), length - 1 - places, places)
    # flipped alone is the path in a mirror; backwards and flipped is the path from its end, where left is right
    batch = {name: data[name][rows[:, None], places] for name in ("tokens", "masked", "clearances", "turns")}
    tokens, turns, clearances = batch["tokens"].long(), batch["turns"].long(), batch["clearances"].float()
    batch["tokens"] = torch.where(flipped & (tokens != robot_paths.PAD), robot_paths.BINS - 1 - tokens, tokens)
    batch["turns"] = torch.where(flipped, robot_paths.TURNS - 1 - turns, turns)
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
    return tokens.masked_fill(mask, robot_paths.CONFIG.vocab_size), mask


def loss_of(model, batch, generator):
    """[B] nats per hidden token."""
    inputs, mask = hide_path(batch["tokens"], batch["masked"], generator)
    logits = model(inputs, batch["clearances"], batch["turns"])
    return diffusion.masked_cross_entropy(logits, batch["tokens"], mask)


def train_paths(data, out, minutes, size=96, lr=0.025):
    """Lesson 5's loop, on rows of offsets instead of letters. Writes a checkpoint now and then, and on Ctrl-C."""
    heldout = {name: array[: len(array) // 20] for name, array in data.items()}
    data = {name: array[len(array) // 20 :] for name, array in data.items()}
    torch.manual_seed(0)
    model, generator, stop = robot_paths.PathModel(), torch.Generator().manual_seed(0), StopRequest()
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
            save_checkpoint(dict(model=weights, config=asdict(robot_paths.CONFIG), step=step, seconds=seconds), out)
    print(out)


@torch.inference_mode()
def measure(model, heldout):
    """The held-out nats per hidden token, always with the same things hidden."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([loss_of(model, random_batch(heldout, 32, generator), generator) for _ in range(16)]).mean().item()


# ---- The command line
PART = 1000  # problems that are solved, and saved, at once


def load_problems(number):
    """{name: tensor} of `number` problems, of which those are solved that are not there yet."""
    parts = []
    for seed, first in enumerate(range(0, number, PART)):
        size = min(PART, number - first)
        cache = DATA / f"{seed}_{size}.npz"
        if not cache.exists():
            save_arrays(make_problems(seed, size), cache)
        with np.load(cache) as part:
            parts.append(dict(part))
    return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}


def main():
    """The command line of path_training.py."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--number", type=between(int, 1000, 10**6), default=15_000, help="problems (default: %(default)s)")
    add("--minutes", type=between(float, 0.01, 10**4), default=15, help="of training (default: %(default)s)")
    out = ROOT / "checkpoints" / "my_paths.safetensors"
    add("--out", type=Path, default=out, metavar="FILE", help="default: checkpoints/my_paths.safetensors")
    args = parser.parse_args()
    path_files.refuse_existing(args.out)
    train_paths(load_problems(args.number), args.out, args.minutes)


if __name__ == "__main__":
    run(main)
