"""Where do the paths come from that lesson 14 learns?

From an exact teacher, on maps that are made up. In the corridor along a rough path, dynamic programming finds the one
row of tokens, of all 31^n, that costs least: length, curvature and nearness to obstacles, of which collision and too
sharp a bend cost so much that they are avoided wherever they can be. The curvature at a control point depends on three
tokens, so that what is to be remembered is a pair of them: "second-order", 31^3 sums for each control point.

Half of the problems are whole paths to be smoothed. The others are repairs: a disc is put on a path that was solved,
and the span around it solved again, what is outside fixed.

Run:        python path_dataset.py                    (15,000 problems; about NN minutes on one core; goes on if stopped)
            python path_dataset.py --number 1000 --out data/few_paths.npz
Builds on:  robot_maps.py, lesson 14 (the corridor, the spline).
Last line:  the path of the file, `data/robot_paths.npz`.
"""

import io
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
from tqdm import tqdm

import robot_maps
import tools
from robot_maps import KEEP

robot_paths = import_module("14_robot_paths")

BENT, NEAR = 0.1, 4.0  # what costs as much as a metre: curvature squared (1/m^2), and (0.5 m - clearance) squared, over 1 m
FAR = 0.5  # m, a clearance with which nothing is near
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
        price = NEAR * (FAR - field).clip(0) ** 2 + FORBIDDEN * (field < KEEP)
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
        cost = BENT * self.spacing * curvature**2 + FORBIDDEN * (curvature - SHARP).clip(0)
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
    corridor = robot_paths.Corridor.along(robot_paths.control_points(robot_paths.low_pass(rough)), grid)
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
    corridor = robot_paths.Corridor.along(robot_paths.control_points(curve), blocked)
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
            curve, _ = robot_paths.spline(corridor.control(tokens))
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
    tools.write_safely(path, buffer.getbuffer())


PART = 1000  # problems that are solved, and saved, at once


def main():
    """The command line of path_dataset.py."""
    parser = tools.Parser(__doc__)
    add = parser.add_argument
    add("--number", type=tools.between(int, 1, 10**6), default=15_000, help="problems (default: %(default)s)")
    add("--out", type=Path, default=robot_paths.DATA, metavar="FILE", help="default: data/robot_paths.npz")
    args = parser.parse_args()
    parts = []
    for seed, first in enumerate(range(0, args.number, PART)):
        size = min(PART, args.number - first)
        cache = args.out.with_name(f"{args.out.stem}_parts") / f"{seed}_{size}.npz"
        if not cache.exists():
            save_arrays(make_problems(seed, size), cache)
        with np.load(cache) as part:
            parts.append(dict(part))
    save_arrays({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, args.out)
    print(args.out)


if __name__ == "__main__":
    tools.run(main)
