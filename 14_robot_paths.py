"""Lesson 14. Can the model that writes verse bend a robot's path around an obstacle?

A path is a row of tokens, as a text is. Along a line that shows roughly where the path runs stands a control point
every half metre; a token says how far to the left or right of the line it is, in 31 steps of 0.1 m, and a smooth curve
(a cubic B-spline) follows the control points. An obstacle on the path is then a blank: the span around it is masked and
filled, its two sides given, as in lesson 11; and what still collides, or bends more sharply than the robot can, is
taken back and drawn again, as lesson 12 repairs verse. All that is new is that the model also sees the map: to the
embedding of each token is added how much room there is across the corridor at that point, and how the line turns.

The teacher is an exact optimum (robots/teacher.py), and about ten times as fast. docs/robot_paths.md compares the two;
this lesson shows what infilling is, and claims neither speed nor safety.

Builds on:  lessons 3 (Transformer), 4 (sample), 12 (repair); robots (maps, planner, curves, poses, bags, teacher).
            robots/training.py builds on this one: how the model was trained.
Run:        python 14_robot_paths.py                    (an obstacle, passed by pass after pass; some seconds)
            python 14_robot_paths.py --map FILE.yaml --start 1 2 --goal 5 4 --obstacle 3 3 0.3 --out path.csv
            python 14_robot_paths.py --map FILE.yaml --bag IN --out OUT
Last line:  the path of a picture, `figures/14_robot_paths.png`; otherwise the path of the file --out.

Others take from here: Corridor, PathModel, load_model, Filling, infill, bend_path, faults, around, cost.

Exercises (answers in docs/answers.md)
  1. Set TEMPERATURE to 0: the eight samples are one. What becomes of the obstacle in the walk?
  2. Let `open_bins` allow every bin. What does the model put where the obstacle is, and what does repair make of it?
  3. Set PASSES to 1: all offsets of a span are drawn at once. How many of the eight can be driven?
"""

import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from robots.bags import rewrite_bag
from robots.curves import FINE, control_points, distances, judge, length_of, low_pass, spline
from robots.grid import ROBOT, SHARPEST, GridMap, made_up_map
from robots.maps import MAPS, read_map
from robots.pictures import draw_passes
from robots.planner import plan, smooth_simply
from robots.poses import headings, refuse_to_overwrite, save_table, smooth_poses, thin_out
from robots.teacher import BENT, FAR, NEAR
from tools.checkpoints import load_weights, read_checkpoint
from tools.command_line import Parser, SEED, UserError, between, check, run
from tools.files import ROOT

import torch
from torch import nn

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
revision = import_module("12_revise")

BINS, BIN = 31, 0.1  # offsets, and m from one to the next
STRAIGHT = BINS // 2  # the offset 0
OFFSETS = (np.arange(BINS) - STRAIGHT) * BIN  # [BINS] m to the left
PAD = BINS  # fills up the shorter rows of a batch; the mask is the token after it
POINTS = 48  # control points that the model sees at once
TURNS = 15  # kinds of turn of the line, 0.2 rad each
MARGIN = 4  # control points that are masked on either side of a collision
SAMPLES, PASSES, TEMPERATURE, ROUNDS = 8, 8, 1.0, 12
SHIPPED_PATHS = ROOT / "checkpoints" / "paths.safetensors"


# ---- A path as tokens
@dataclass(frozen=True)
class Corridor:
    """The strip along a line in which the path is sought."""

    grid: GridMap
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

    @property
    def places(self):
        """[n, BINS, 2] where each control point may be."""
        return self.line[:, None] + OFFSETS[:, None] * self.left[:, None]

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


def faults(corridor, tokens):
    """The control points, without the ends, next to which the spline of tokens [n] collides or bends too sharply, each
    as often as it does so, every 2 cm; an empty list for a path that can be driven."""
    points, curvatures = spline(corridor.control(np.asarray(tokens)))  # [M, 2], [M]
    wrong = (corridor.grid.clearance(points) < ROBOT) | (curvatures > SHARPEST)
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
    contents = read_checkpoint(path)
    if contents.get("config") != asdict(CONFIG):
        raise UserError(f"{path} is no model of paths; `python -m robots.training` trains one.")
    with torch.device("meta"):
        model = PathModel()
    load_weights(model, contents["model"], path)
    return model.eval()


# ---- Filling in
@dataclass(frozen=True)
class Filling:
    """How paths are filled in; the benchmark turns one thing after the other off."""

    samples: int = SAMPLES  # at once, of which the best valid one is kept
    rule_out: bool = True  # the bins without clearance
    rounds: int = ROUNDS  # of repair
    fallback: bool = True  # what the model fails at is left to Nav2's smoother


class Eyes:
    """A PathModel in one corridor, called as lesson 4's sampler calls a model: tokens [B, n] -> logits [B, n, V]."""

    def __init__(self, model, corridor, rule_out=True):
        self.model, self.config = model, model.config
        self.seen = torch.from_numpy(corridor.clearances).float(), torch.from_numpy(corridor.turns).long()
        closed = ~corridor.open_bins() if rule_out else np.zeros_like(corridor.clearances, dtype=bool)
        self.closed = torch.from_numpy(np.pad(closed, ((0, 0), (0, 1)), constant_values=True))  # [n, V], PAD too

    def __call__(self, tokens):
        logits = self.model(tokens, *(each.expand(len(tokens), *each.shape) for each in self.seen))
        return logits.masked_fill(self.closed, -1e4)


def cost(corridor, tokens):
    """[B] what the splines of tokens [B, n] cost, in m: length, and what bends and what is near on top. The teacher
    minimises nearly the same, with fines (`Costs` of robots/teacher.py)."""
    points, curvatures = spline(corridor.control(tokens))  # [B, M, 2], [B, M]
    lengths = np.hypot(*np.moveaxis(np.diff(points, axis=1), -1, 0)).sum(axis=1)
    near = (FAR - corridor.grid.clearance(points)).clip(0)
    return lengths * (1 + BENT * (curvatures**2).mean(axis=1) + NEAR * (near**2).mean(axis=1))


def infill(model, corridor, canvas, how, generator, on_step=None):
    """A canvas [n] filled: the cheapest of how.samples fillings to be driven; if there is none, it is mended. [n]"""
    eyes, find = Eyes(model, corridor, how.rule_out), partial(faults, corridor)
    canvas = torch.from_numpy(canvas)
    masked = canvas == model.config.vocab_size
    row = dict(temperature=TEMPERATURE, generator=generator, on_step=on_step)
    tokens = diffusion.sample(eyes, canvas.expand(how.samples, -1), PASSES, order="certainty", **row)
    if how.rounds and all(find(filled) for filled in tokens):
        open_ = torch.from_numpy(around(np.flatnonzero(masked), len(canvas), 2))  # two more on either side
        tokens = revision.repair(eyes, tokens, find, how.rounds, window=5, draws=16, fillable=open_, **row)
    costs = cost(corridor, tokens.numpy()) + [1e6 * bool(find(filled)) for filled in tokens]
    return tokens[costs.argmin()].numpy()


def bend_path(model, points, grid, whole, how, generator, on_step=None):
    """Bends a path [N, 2] on a map; whole: smooths all of it; else bends what collides or is too sharp, and refits the
    rest by a spline, which moves it by about a centimetre where it was smooth.

    Returns ([M, 2], by whom): "model"; where that fails, "simple smoother" or "as it was", if these can be driven or at
    least are free; else (None, "nobody"). A path longer than POINTS is filled window by window, a part of each seen
    before. on_step(corridor of the window, tokens [samples, n]) is called before a window's first pass and after each.
    """
    line = control_points(low_pass(points) if whole else points)
    corridor, n = Corridor.along(line, grid), len(line)
    tokens = np.full(n, STRAIGHT)
    masked = around(range(n) if whole else faults(corridor, tokens), n, 0 if whole else MARGIN)
    while masked.any():
        start = max(0, min(np.flatnonzero(masked)[0] - POINTS // 4, n - POINTS))
        end = min(n, start + POINTS)
        part, canvas = corridor.part(start, end), np.where(masked, model.config.vocab_size, tokens)[start:end]
        if end < n and masked[end - 1]:  # a window's end is given: here for the time being, where the line is free
            canvas[-1] = min(np.flatnonzero(part.open_bins()[-1]), key=lambda token: abs(token - STRAIGHT))
        tokens[start:end] = infill(model, part, canvas, how, generator, on_step and partial(on_step, part))
        masked[: end if end == n else end - POINTS // 4] = False
    if not faults(corridor, tokens):
        return spline(corridor.control(tokens))[0], "model"
    simple = smooth_simply(points, grid) if how.fallback else points
    for path, name in ((simple, "simple smoother"), (points, "as it was")) if how.fallback else ():
        free, sharpest = judge(path, grid)
        if free and (sharpest <= SHARPEST or name == "as it was"):
            return path, name
    return None, "nobody"


# ---- The lesson
def made_up_problem():
    """(map, rough path) for the walk: Nav2's depot, where it was downloaded, else a map that is made up."""
    path = MAPS / "nav2" / "depot.yaml"
    if path.exists():
        grid, start, goal = read_map(path), (2.0, 2.0), (12.0, 8.0)
    else:
        grid, start, goal = made_up_map(np.random.default_rng(26)), (1.0, 1.0), (10.5, 9.5)
    return grid, plan(grid, start, goal, inflated=False)


def show(name, path, grid):
    """Prints a row on a path, and returns whether it can be driven."""
    free, sharpest = judge(path, grid)
    nearest = grid.clearance(path).min()
    print(f"  {name:22} {length_of(path):6.2f} m   clearance {nearest:5.2f} m   sharpest bend {sharpest:5.2f} 1/m")
    return free and sharpest <= SHARPEST


def demo(model, generator):
    """Walks through the lesson: smooth a path, put an obstacle on it, bend it, drawn pass by pass."""
    grid, rough = made_up_problem()
    print("1. A planner's path, and smoothed: every offset masked but those of the ends, and filled in 8 passes")
    show("the planner's", rough, grid)
    show("Nav2's simple smoother", smooth_simply(rough, grid), grid)
    smooth, by = bend_path(model, rough, grid, True, Filling(), generator)
    check(f"smoothed by the {by}, it can be driven", show("smoothed", smooth, grid))

    disc, frames = (*smooth[len(smooth) // 2], 0.3), []
    blocked = grid.with_disc(*disc)
    print(f"\n2. A round obstacle of {disc[2]} m on it, at ({disc[0]:.2f}, {disc[1]:.2f}) m")
    check("the path collides now", not show("the old path", smooth, blocked))
    began = time.perf_counter()
    bent, by = bend_path(model, smooth, blocked, False, Filling(), generator, lambda *frame: frames.append(frame))
    seconds = time.perf_counter() - began
    corridor, filled = frames[PASSES]
    good = sum(not faults(corridor, row) for row in filled)  # before any repair
    check(f"bent by the {by}, it can be driven", bent is not None and show("bent", bent, blocked))
    apart = distances(np.concatenate([bent[: 2 * FINE], bent[-2 * FINE :]]), smooth).max()
    check(f"where nothing was masked it is the old path, to {apart * 1000:.0f} mm", apart < 0.02)
    print(f"  {seconds:.2f} s: {len(frames) - 1} passes; of {len(filled)} fillings at once {good} could be driven")
    picture = ROOT / "figures" / "14_robot_paths.png"
    draw_passes(blocked, smooth, disc, as_points(frames), bent, picture)
    print(picture)


def as_points(frames):
    """[(corridor, tokens [B, n])] -> [[B, n, 2]] the control points, nan where a token is masked."""
    rows = [(corridor, tokens.numpy(), tokens.numpy() < BINS) for corridor, tokens in frames]
    return [np.where(known[..., None], each.control(row * known), np.nan) for each, row, known in rows]


# ---- The command line
def bend_piece(model, generator, grid, whole, points):
    """[N, 2] -> [M, 2] a piece of a path bent, its points STEP apart; None where that fails."""
    path, by = bend_path(model, points, grid, whole, Filling(), generator)
    print(f"a piece of {length_of(points):.2f} m, by: {by}", file=sys.stderr)
    return path if path is None else thin_out(path)


def bend_one(model, args, generator):
    """--start and --goal: plans, smooths, bends around --obstacle, writes --out. Raises UserError where it fails."""
    grid, frames = read_map(args.map), []
    rough = plan(grid, args.start, args.goal)
    keep = lambda *frame: frames.append(frame)  # noqa: E731
    path, by = bend_path(model, rough, grid, True, Filling(), generator, None if args.obstacle else keep)
    old = rough
    if args.obstacle and path is not None:
        grid, old = grid.with_disc(*args.obstacle), path
        path, by = bend_path(model, old, grid, False, Filling(), generator, keep)
    if path is None:
        raise UserError("no path was found that the robot can drive; plan anew, or move the goal.")
    print(f"{length_of(path):.2f} m, by: {by}", file=sys.stderr)
    path = thin_out(path)
    if args.out.suffix == ".csv":
        save_table(args.out, np.column_stack([path, headings(path)]))
    else:
        draw_passes(grid, old, args.obstacle, as_points(frames), path, args.out.resolve())


def bend_bag(model, args, generator):
    """--bag: bends every Path of a rosbag2 around --obstacle; without one, smooths it. Raises UserError."""
    grid = read_map(args.map)
    grid = grid.with_disc(*args.obstacle) if args.obstacle else grid
    bend = partial(bend_piece, model, generator, grid, not args.obstacle)

    def change(points):
        if not grid.on_map(points).all():
            raise UserError(f"a path in {args.bag} leaves the map {args.map}.")
        return smooth_poses(points, bend)

    count = rewrite_bag(args.bag, args.out, change)
    print(f"paths: {count}", file=sys.stderr)


def main():
    """The command line of 14_robot_paths.py."""
    parser = Parser(__doc__)
    add, metres = parser.add_argument, between(float, -(10**5), 10**5)
    add("--map", type=Path, metavar="FILE", help="the map: Nav2's .yaml beside its image, or MovingAI's .map")
    add("--start", type=metres, nargs=2, metavar=("X", "Y"), help="in m, in the map's frame")
    add("--goal", type=metres, nargs=2, metavar=("X", "Y"), help="the same")
    add("--obstacle", type=metres, nargs=3, metavar=("X", "Y", "RADIUS"), help="a disc that is not on the map")
    add("--bag", type=Path, metavar="IN", help="bend every nav_msgs/msg/Path of this rosbag2")
    add("--out", type=Path, metavar="OUT", help=".csv (x, y, yaw), .png or .gif; with --bag a bag")
    add("--checkpoint", default=str(SHIPPED_PATHS), metavar="FILE", help="default: checkpoints/paths.safetensors")
    add("--seed", type=SEED, default=0, help="default: 0")
    args = parser.parse_args()
    if bool(args.bag or args.start or args.goal) != bool(args.out):
        parser.error("--out goes with --bag, or with --start and --goal, and these with --out")
    if bool(args.out) != bool(args.map) or bool(args.start) != bool(args.goal) or (args.bag and args.start):
        parser.error("give --map FILE with --bag, or with --start X Y and --goal X Y, not with all three")
    if args.obstacle and not (args.out and args.obstacle[2] > 0):
        parser.error("--obstacle goes with --map and --out, and its radius must be above 0")
    if args.start and args.out.suffix not in (".csv", ".png", ".gif"):
        parser.error(f"--out {args.out} must end in .csv, .png or .gif")
    generator = torch.Generator().manual_seed(args.seed)
    if not args.out:
        return demo(load_model(args.checkpoint), generator)
    refuse_to_overwrite(args.out)
    (bend_bag if args.bag else bend_one)(load_model(args.checkpoint), args, generator)
    print(args.out)


if __name__ == "__main__":
    run(main)
