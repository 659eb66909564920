"""Lesson 14. Can the model that writes verse bend a robot's path around an obstacle?

A path is a row of tokens, as a text is. A line shows roughly where the path runs. Every half metre along it stands a
control point. A token says how far to the left or right of the line that point is, by one of
31 offsets, 0.1 m apart. A smooth curve (a cubic B-spline) follows the control points.

An obstacle on the path is a blank. The span around it is masked and filled, as in lesson 11. What still collides or
bends too sharply is taken back and drawn again, as lesson 12 repairs verse. One thing is new: the model sees the map.
Two things are added to the embedding of each token: how much room there is across the corridor and how the line turns.

The model learned from 15,000 paths of a teacher on made-up maps (`python -m robots.training`). The teacher is no model.
It finds the exact optimum (robots/teacher.py), about ten times as fast as the model fills. docs/robot_paths.md compares
the two. This lesson shows what infilling is. It claims neither speed nor safety.

Builds on:  lessons 3 (Transformer), 4 (sample) and 12 (repair). robots (maps, curves, planner, pictures, teacher).
Run:        python 14_robot_paths.py                    (a path around an obstacle, pass by pass, in some seconds)
            python 14_robot_paths.py --map FILE.yaml --start 1 2 --goal 5 4 --obstacle 3 3 0.3 --out path.csv
            python 14_robot_paths.py --map FILE.yaml --start 1 2 --goal 5 4 --candidates 3 --out three.png
            python 14_robot_paths.py --map FILE.yaml --bag IN --out OUT --robot-radius 0.3
Last line:  the path of a picture, `figures/14_robot_paths.png`. With --out it is the path of that file.

Others take from here: Corridor, PathModel and load_model. Filling, fill_path and bend_path. faults and around.

Exercises (answers in docs/answers.md)
  1. Set the temperature of `Filling` to 0. Which of the eight fillings differ? Why do they differ at all?
  2. Let `open_bins` allow every bin. What does the model put where the obstacle is? What does repair make of it?
  3. Set PASSES to 1: all offsets of a span are drawn at once. How many of the eight can be driven?
"""

import contextlib
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module

import numpy as np

from robots.command_line import bend_bag, bend_one, parse_paths
from robots.curves import FINE, can_drive, control_points, distances, in_words, is_free, low_pass, spline
from robots.grid import GridMap, Robot, made_up_map
from robots.maps import MAPS, read_map
from robots.pictures import draw_passes
from robots.planner import plan, smooth_simply
from robots.teacher import BENT, NEAR
from tools.checkpoints import load_weights, read_checkpoint
from tools.command_line import UserError, check, run
from tools.files import ROOT, refuse_to_overwrite

import torch
from torch import nn

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
revision = import_module("12_revise")

BINS, BIN = 31, 0.1  # offsets, and m from one to the next
STRAIGHT = BINS // 2  # the offset 0
OFFSETS = (np.arange(BINS) - STRAIGHT) * BIN  # [BINS] m to the left
PAD = BINS  # fills up the shorter rows of a batch. The mask is the token after it
POINTS = 48  # control points that the model sees at once
TURNS = 15  # kinds of turn of the line, 0.2 rad each
MARGIN = 4  # control points that are masked on either side of a collision
MENDED = 4  # fillings that are mended, where none can be driven
NEAREST = 0.18  # about so many m beside the robot the model keeps by itself
PASSES = 8
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

    def known(self, tokens):
        """tokens [..., n] -> control points [..., n, 2], nan where a token is the mask."""
        tokens = np.asarray(tokens)
        return np.where((tokens < BINS)[..., None], self.control(tokens.clip(max=BINS - 1)), np.nan)

    def open_bins(self):
        """[n, BINS] True where a control point may be: where it has the clearance. Where none has, all are True."""
        free = self.clearances >= self.grid.robot.radius
        return free | ~free.any(axis=1, keepdims=True)


def faults(corridor, tokens):
    """The control points, never an end, beside which the spline of tokens [n] collides or bends too sharply.
    The spline is looked at every 2 cm. A control point comes once for each fault."""
    points, curvatures = spline(corridor.control(np.asarray(tokens)))  # [M, 2], [M]
    robot = corridor.grid.robot
    wrong = (corridor.grid.clearance(points) < robot.radius) | (curvatures > robot.sharpest)
    return np.rint(np.flatnonzero(wrong) / FINE).astype(int).clip(1, len(tokens) - 2).tolist()


def around(places, n, margin):
    """[n] True at places and up to `margin` on either side of each. The ends stay False."""
    masked = np.zeros(n, dtype=bool)
    for place in set(places):
        masked[max(1, place - margin) : min(n - 1, place + margin + 1)] = True
    return masked


# ---- The model: lesson 3's. It also sees where the obstacles are
CONFIG = transformer.Config(vocab_size=BINS + 1, context=POINTS, n_layers=5, n_heads=4, dim=128)


class PathModel(transformer.Transformer):
    """tokens [B, n], clearances [B, n, BINS] in m, turns [B, n] -> logits [B, n, V]. Each token comes with the map."""

    def __init__(self, config=CONFIG):
        super().__init__(config)
        self.see = nn.Linear(BINS, config.dim)
        self.turn = nn.Embedding(TURNS, config.dim)

    def forward(self, tokens, clearances, turns):
        """See the class."""
        seen = self.see(2 * clearances.clamp(max=1) - 1) + self.turn(turns)  # [B, n, D]. Beyond 1 m all is far
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
    """How paths are filled in."""

    samples: int = 8  # at once. The cheapest that can be driven is kept
    temperature: float = 1.0
    room: float = 0.48  # m beside the robot that it keeps where there is so much
    rounds: int = 18  # of repair
    seconds: float = 3.0  # of repair, at most
    fallbacks: tuple = ("a new plan", "simple smoother", "as it was")  # for what the model cannot fill


class Viewer:
    """A PathModel in a corridor, called as lesson 4's sampler calls a model: tokens [B, n] -> logits [B, n, V].

    Row b sees every obstacle farther[b] m nearer than it is, and so keeps away from it. One number serves all rows. A
    robot wider than the model's own sees them nearer by the difference. The true clearance says what is ruled out."""

    def __init__(self, model, corridor, farther):
        self.model, self.config = model, model.config
        shifts = (corridor.grid.robot.wider + np.asarray(farther))[:, None, None]
        self.clearances = torch.from_numpy((corridor.clearances - shifts).clip(0)).float()  # [B or 1, n, BINS]
        self.turns = torch.from_numpy(corridor.turns).long()  # [n]
        closed = np.pad(~corridor.open_bins(), ((0, 0), (0, 1)), constant_values=True)  # PAD is closed everywhere
        self.closed = torch.from_numpy(closed)  # [n, V]

    def __call__(self, tokens):
        B = len(tokens)
        logits = self.model(tokens, self.clearances.expand(B, -1, -1), self.turns.expand(B, -1))
        return logits.masked_fill(self.closed, -1e4)


def cost(corridor, tokens, room):
    """[B] what the splines of tokens [B, n] cost in m: their length and fines for bends and for what is near.
    The teacher minimises nearly the same, with less room (`Costs` of robots/teacher.py)."""
    points, curvatures = spline(corridor.control(tokens))  # [B, M, 2], [B, M]
    lengths = np.hypot(*np.moveaxis(np.diff(points, axis=1), -1, 0)).sum(axis=1)
    near = (corridor.grid.robot.radius + room - corridor.grid.clearance(points)).clip(0)
    return lengths * (1 + BENT * (curvatures**2).mean(axis=1) + NEAR * (near**2).mean(axis=1))


def infill(model, corridor, canvas, filling, generator, on_step=None):
    """Fills the rows of a canvas [B, n] and returns those that can be driven, tokens [0 to B, n].
    If none can be driven, the best are mended until one can. Each row keeps farther from obstacles than the last."""
    find, canvas = partial(faults, corridor), torch.from_numpy(canvas)
    row = dict(temperature=filling.temperature, generator=generator, on_step=on_step)
    farther = np.linspace(0, max(0, filling.room - NEAREST), len(canvas))
    tokens = diffusion.sample(Viewer(model, corridor, farther), canvas, PASSES, order="certainty", **row)
    wrong = np.array([len(find(filled)) for filled in tokens])
    masked = (canvas == model.config.vocab_size).any(dim=0)  # [n]
    wider = torch.from_numpy(around(np.flatnonzero(masked), len(masked), 2))  # two more on either side
    viewer, end = Viewer(model, corridor, [0.0]), time.monotonic() + filling.seconds
    for _ in range(filling.rounds):
        if not wrong.all() or time.monotonic() > end:
            break
        tokens = tokens[wrong.argsort(kind="stable")[:MENDED]]
        tokens = revision.repair(viewer, tokens, find, 1, window=7, draws=16, fillable=wider, **row)
        wrong = np.array([len(find(filled)) for filled in tokens])
    return tokens.numpy()[wrong == 0]


def fill_path(model, points, grid, whole, filling, generator, on_step=None):
    """Fillings [[M, 2]] of a path [N, 2] that can be driven on a map, the cheapest first. There may be none.
    whole: all of the path is filled. Otherwise only what collides or is too sharp is filled. The rest is refitted by a
    spline, which moves a smooth part by about a centimetre. on_step: see fill_windows."""
    line = control_points(low_pass(points) if whole else points)
    corridor, n = Corridor.along(line, grid), len(line)
    masked = around(range(n), n, 0) if whole else around(faults(corridor, np.full(n, STRAIGHT)), n, MARGIN)
    tokens = fill_windows(model, corridor, masked, filling, generator, on_step)
    good = [row for row in tokens if not faults(corridor, row)]
    if not good:
        return []
    tokens = np.unique(good, axis=0)
    return [spline(corridor.control(tokens[rank]))[0] for rank in cost(corridor, tokens, filling.room).argsort()]


def fill_windows(model, corridor, masked, filling, generator, on_step=None):
    """tokens [B, n] filled at `masked` [n], window by window. A window that cannot be filled ends it: no rows then.
    A window has POINTS control points. It begins a quarter of a window before the first that is still masked. Its last
    quarter is filled again by the next one. `masked` is changed.
    on_step(corridor of the window, tokens [B, L]) is called before a window's first pass and after each."""
    n = len(masked)
    tokens = np.full((filling.samples, n), STRAIGHT)
    while masked.any():
        start = max(0, min(np.flatnonzero(masked)[0] - POINTS // 4, n - POINTS))
        end = min(n, start + POINTS)
        part, canvas = corridor.part(start, end), np.where(masked, model.config.vocab_size, tokens)[:, start:end]
        if end < n and masked[end - 1]:  # a window needs an end. For now it is the free bin nearest to the line
            canvas[:, -1] = min(np.flatnonzero(part.open_bins()[-1]), key=lambda token: abs(token - STRAIGHT))
        good = infill(model, part, canvas, filling, generator, on_step and partial(on_step, part))
        if not len(good):
            return good
        tokens[:, start:end] = np.resize(good, canvas.shape)  # good rows take the place of bad ones
        masked[: end if end == n else end - POINTS // 4] = False
    return tokens


def bend_path(model, points, grid, whole, filling, generator, on_step=None):
    """`fill_path`, as (paths, "the model"). Where that finds none, the first of filling.fallbacks that finds one.
    These are the model on a new plan, Nav2's simple smoother and the path as it was, if that is free. Without any it
    is ([], "nobody")."""
    if found := fill_path(model, points, grid, whole, filling, generator, on_step):
        return found, "the model"
    for name in filling.fallbacks:
        if name == "a new plan":
            with contextlib.suppress(UserError):  # there is no way
                planned = plan(grid, points[0], points[-1])
                if found := fill_path(model, planned, grid, True, filling, generator):
                    return found, "the model, on a new plan"
        else:
            path = smooth_simply(points, grid) if name == "simple smoother" else points
            if can_drive(path, grid) or (name == "as it was" and is_free(path, grid)):
                return [path], name
    return [], "nobody"


# ---- The lesson
def made_up_problem():
    """(map, rough path) for the walk: Nav2's depot if it was downloaded, otherwise a map that is made up."""
    path = MAPS / "nav2" / "depot.yaml"
    if path.exists():
        grid, start, goal = read_map(path), (2.0, 2.0), (12.0, 8.0)
    else:
        grid, start, goal = made_up_map(np.random.default_rng(26)), (1.0, 1.0), (10.5, 9.5)
    return grid, plan(grid, start, goal, inflated=False)


def show(name, path, grid):
    """Prints a row on a path. Returns whether it can be driven."""
    print(f"  {name:22} {in_words(path, grid)}")
    return can_drive(path, grid)


def demo(model, generator, shipped):
    """Walks through the lesson: smooth a path, put an obstacle on it, bend it. shipped: whether it is our own model."""
    grid, rough = made_up_problem()
    print("1. A planner's path, then smoothed: every offset but the ends is masked and filled in 8 passes")
    show("the planner's", rough, grid)
    show("Nav2's simple smoother", smooth_simply(rough, grid), grid)
    found, by = bend_path(model, rough, grid, True, Filling(), generator)
    smooth = found[0] if found else rough
    check(f"smoothed by {by}, it can be driven", show("smoothed", smooth, grid), shipped)

    disc, frames = (*smooth[len(smooth) // 2], 0.3), []
    blocked = grid.with_disc(*disc)
    print(f"\n2. A round obstacle of {disc[2]} m on it, at ({disc[0]:.2f}, {disc[1]:.2f}) m")
    check("the path collides now", not show("the old path", smooth, blocked))
    began = time.perf_counter()
    found, by = bend_path(model, smooth, blocked, False, Filling(), generator, lambda *f: frames.append(f))
    bent = found[0] if found else smooth
    seconds = time.perf_counter() - began
    corridor, filled = frames[PASSES]
    good = sum(not faults(corridor, row) for row in filled)  # before any repair
    check(f"bent by {by}, it can be driven", show("bent", bent, blocked), shipped)
    apart = distances(np.concatenate([bent[: 2 * FINE], bent[-2 * FINE :]]), smooth).max()
    check(f"in its first and last metre it is the old path, to {apart * 1000:.0f} mm", apart < 0.02, shipped)
    print(f"  {seconds:.2f} s, {len(frames) - 1} passes. {good} of {len(filled)} fillings at once could be driven")
    picture = ROOT / "figures" / "14_robot_paths.png"
    draw_passes(blocked, smooth, disc, [corridor.known(tokens) for corridor, tokens in frames], [bent], picture)
    print(picture)


# ---- The command line
def main():
    """The command line of 14_robot_paths.py."""
    args = parse_paths(__doc__, SHIPPED_PATHS)
    generator = torch.Generator().manual_seed(args.seed)
    if not args.out:
        return demo(load_model(args.checkpoint), generator, args.checkpoint.resolve() == SHIPPED_PATHS)
    refuse_to_overwrite(args.out)
    grid = read_map(args.map, Robot(args.robot_radius, args.turning_radius))
    filling = Filling() if args.clearance is None else Filling(room=max(0.0, args.clearance - args.robot_radius))
    several = replace(filling, samples=16 * args.candidates, temperature=2.0) if args.candidates > 1 else filling
    bend = partial(bend_path, load_model(args.checkpoint), generator=generator)
    if args.bag:
        bend_bag(args, grid, partial(bend, filling=filling))
    else:
        bend_one(args, grid, partial(bend, filling=filling), partial(bend, filling=several))
    print(args.out)


if __name__ == "__main__":
    run(main)
