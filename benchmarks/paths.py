"""Robot paths, measured: repair and smoothing on maps that no training saw, beside what Nav2's users have.

Smoothing: a planner's path that hugs the walls. Repair: on the teacher's smooth path lies a disc that the map lacks;
the span around it is to be bent. A success is a path that is free of collision, looked at every 2 cm, and nowhere bent
more sharply than 2.5 1/m; both are measured in the same way for all. The rivals, each from its published definition:

    as it is            the line as it was given (smoothing only)
    offset 0            that line, low-passed (smoothing only)
    Savitzky-Golay      scipy's savgol_filter, window 7, order 3, three times, on the planner's cells
    Nav2 Simple         nav2_smoother's simple smoother with its default settings
    clip rule           to each control point the nearest offset with so much clearance, then smoothed
    replan + Simple     a planner's call on the map with the disc, inflated, then Nav2 Simple
    teacher             dynamic programming: the optimum that the model learned from

Run, from the folder of the project:
            python -m benchmarks.paths                               (7 maps, 100 problems each of both kinds)
            python -m benchmarks.paths --maps depot --num 20         (a quick look)
Last line:  the path of a picture, `14_benchmark.png` in the folder --pictures.

Builds on:  robots (maps, planner, teacher, training), lesson 14.
"""

import time
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from robots.curves import control_points, judge, length_of, low_pass, spline
from robots.grid import KEEP
from robots.maps import SOURCES, download_map, read_map
from robots.pictures import draw_map
from robots.planner import REFINEMENTS, Planner, plan, smooth_simply
from robots.teacher import teach
from robots.training import put_disc, save_arrays, smoothing
from tools.command_line import Parser, SEED, UserError, between, run
from tools.files import ROOT
from tools.pictures import new_figure, save_figure

import torch
from tqdm import tqdm

robot_paths = import_module("14_robot_paths")

NAMES = {Path(name).stem: name for name in SOURCES if not name.endswith(".pgm")}
RESAMPLES = 2000  # of the bootstrap
CLEARANCES = (0.22, 0.35, 0.4)  # m, of the clip rule: the robot's radius, and what proved best on these very maps


# ---- The problems
def rough_path(grid, rng):
    """[N, 2] a shortest path of 4 to 22 m between two random places, which hugs the walls."""
    allowed = np.argwhere(grid.clearances >= KEEP)
    while True:
        start = grid.to_world(allowed[rng.integers(len(allowed))][::-1].astype(float))
        planner = Planner(grid, start, inflated=False, limit=22)
        cells = np.flatnonzero(np.isfinite(planner.costs) & (planner.costs > 4))
        if len(cells):
            return planner.path(grid.to_world(planner.cells[rng.choice(cells)][::-1].astype(float)))


def smoothing_problem(grid, rng):
    """(map, path) to be smoothed."""
    return grid, rough_path(grid, rng)


def repair_problem(grid, rng):
    """(map with a disc, the path that it blocks): the ends stay free, and there still is a way."""
    while True:
        corridor, tokens, _ = smoothing(grid, rough_path(grid, rng))
        curve, _ = spline(corridor.control(tokens))
        blocked, _ = put_disc(rng, grid, curve)
        if blocked is None or robot_paths.faults(corridor, tokens) or judge(curve, blocked)[0]:
            continue
        if (blocked.clearance(curve[[0, -1]]) >= KEEP + 0.05).all() and replan(curve, blocked) is not None:
            return blocked, curve


# ---- The rivals: each [N, 2] path, map -> [M, 2] path, or None
def filter_savgol(path, grid):
    """Savitzky-Golay, as Nav2 has it: the ends stay, and it is applied again, for refinement."""
    from scipy.signal import savgol_filter

    if len(path) < 8:
        return path
    for _ in range(1 + REFINEMENTS):
        smooth = savgol_filter(path, 7, 3, axis=0, mode="nearest")
        path = np.concatenate([path[:1], smooth[1:-1], path[-1:]])
    return path


def replan(path, grid):
    """A new plan from end to end, inflated; None where there is none."""
    try:
        return plan(grid, path[0], path[-1])
    except UserError:
        return None


def replan_and_smooth(path, grid):
    """replan, then Nav2 Simple."""
    return smooth_simply(replan(path, grid), grid)


def corridor_of(path, grid, whole):
    """(corridor, what is masked [n]), as lesson 14's `bend_path` has them."""
    corridor = robot_paths.Corridor.along(control_points(low_pass(path) if whole else path), grid)
    n = len(corridor.line)
    bad = range(n) if whole else robot_paths.faults(corridor, np.full(n, robot_paths.STRAIGHT))
    return corridor, robot_paths.around(bad, n, 0 if whole else robot_paths.MARGIN)


def clip_rule(path, grid, whole, clearance):
    """The nearest offset with a clearance, or the nearest that is free, for each control point that is masked; then
    smoothed once."""
    corridor, masked = corridor_of(path, grid, whole)
    good = corridor.clearances >= clearance
    good = np.where(good.any(axis=1, keepdims=True), good, corridor.open_bins())
    offsets = robot_paths.OFFSETS[np.where(good, np.abs(robot_paths.OFFSETS), np.inf).argmin(axis=1)] * masked
    offsets = np.convolve(np.pad(offsets, 1), [0.25, 0.5, 0.25], mode="valid") * masked
    return spline(corridor.line + offsets[:, None] * corridor.left)[0]


def offset_zero(path, grid, whole):
    """The line itself."""
    return spline(corridor_of(path, grid, whole)[0].line)[0]


def ask_teacher(path, grid, whole):
    """The optimum over the same tokens."""
    corridor, masked = corridor_of(path, grid, whole)
    tokens = np.full(len(masked), robot_paths.STRAIGHT)
    return spline(corridor.control(teach(corridor, tokens, masked)))[0]


def asking(model, whole, **off):
    """The function that asks the model, with some of its ways turned off."""
    how = robot_paths.Filling(**off)

    def ask(path, grid):
        return robot_paths.bend_path(model, path, grid, whole, how, torch.Generator().manual_seed(0))[0]

    return ask


def methods(model, whole):
    """{name: function(path, grid) -> path or None}"""
    ways = {
        f"clip rule, {clearance} m": partial(clip_rule, whole=whole, clearance=clearance) for clearance in CLEARANCES
    }
    if whole:
        ways |= {"as it is": lambda path, grid: path, "Savitzky-Golay": filter_savgol, "Nav2 Simple": smooth_simply}
        ways["offset 0"] = partial(offset_zero, whole=True)
    else:
        ways["replan + Simple"] = replan_and_smooth
    return ways | {"infilling": asking(model, whole), "teacher": partial(ask_teacher, whole=whole)}


def ablations(model, whole):
    """The same for the model with one thing after the other turned off."""
    off = {"no fallback": {}, "no ruling out": dict(rule_out=False), "one sample": dict(samples=1)}
    off["no repair"] = dict(rounds=0)
    return {name: asking(model, whole, **{"fallback": False, **flags}) for name, flags in off.items()}


# ---- Measuring
def measure_all(grid, make, seed, name, ways, number):
    """{way: [number, 3] success, length against the path as given, seconds} on problems of one map."""
    rng, rows = np.random.default_rng(seed), {way: [] for way in ways}
    for _ in tqdm(range(number), desc=name, mininterval=5, disable=None):
        here, path = make(grid, rng)
        for way, bend in ways.items():
            began = time.perf_counter()
            found = bend(path, here)
            seconds = time.perf_counter() - began
            free, sharpest = judge(found, here) if found is not None else (False, 0)
            success = free and sharpest <= robot_paths.SHARPEST
            rows[way].append((success, length_of(found) / length_of(path) if success else np.nan, seconds))
    return {way: np.array(row, dtype=float) for way, row in rows.items()}


class Kept:
    """What was measured already, in a file {"kind/map/way": rows}, so that a long run can be done in pieces."""

    def __init__(self, path):
        self.path, self.rows = path, {}
        if path and path.exists():
            with np.load(path) as rows:
                self.rows = dict(rows)

    def measure(self, grid, make, seed, name, ways, number):
        """measure_all, where it is not there yet."""
        keys = {way: f"{name}/{way}" for way in ways}
        if not all(len(self.rows.get(key, ())) == number for key in keys.values()):
            found = measure_all(grid, make, seed, name, ways, number)
            self.rows |= {keys[way]: rows for way, rows in found.items()}
            if self.path:
                save_arrays(self.rows, self.path)
        return {way: self.rows[key] for way, key in keys.items()}


def interval(differences, rng):
    """(mean, low, high) of [N] differences: the middle 95% of the means of bootstrap samples of the problems."""
    means = differences[rng.integers(0, len(differences), (RESAMPLES, len(differences)))].mean(axis=1)
    return differences.mean(), *np.percentile(means, [2.5, 97.5])


def print_tables(results, title):
    """Prints {map: {way: [N, 3]}}: success, length against the path that was given, time; a column for each map."""
    columns = ["successes", "length", "ms"]
    forms = [lambda x: f"{x[:, 0].mean():.2f}", lambda x: f"{np.nanmean(x[:, 1]):.3f}" if x[:, 0].any() else "-"]
    forms.append(lambda x: f"{np.median(x[:, 2]) * 1000:.0f}")
    for what, form in zip(columns, forms):
        print(f"\n| {title}: {what} | {' | '.join(results)} |\n|---|{'---|' * len(results)}")
        for way in next(iter(results.values())):
            print(f"| {way} | {' | '.join(form(rows[way]) for rows in results.values())} |")


def print_gaps(results, one, others):
    """Prints, over all maps, how much more often `one` succeeds, and how much longer it is where both do, problem by
    problem, with 95% intervals."""
    rng = np.random.default_rng(0)
    print(f"\n| {one}, against | successes | length, where both succeed |\n|---|---|---|")
    for other in others:
        a, b = (np.concatenate([rows[way] for rows in results.values()]) for way in (one, other))
        gain = interval(a[:, 0] - b[:, 0], rng)
        both = (a[:, 0] * b[:, 0]).astype(bool)
        longer = interval(a[both, 1] / b[both, 1] - 1, rng) if both.any() else None
        cells = ["{:+.1%} ({:+.1%} to {:+.1%})".format(*figures) if figures else "-" for figures in (gain, longer)]
        print(f"| {other} | {' | '.join(cells)} |")


def draw_examples(model, grids, seed, folder):
    """Saves a panel for each {name: map} with its first problem of repair, and what three ways make of it."""
    figure, axes = new_figure(1, len(grids), figsize=(4 * len(grids), 4), squeeze=False)
    for panel, (name, grid) in zip(axes[0], grids.items()):
        blocked, path = repair_problem(grid, np.random.default_rng(seed))
        draw_map(panel, blocked, path)
        panel.plot(*path.T, "k:", label="given")
        for way, bend in methods(model, False).items():
            if way in ("replan + Simple", "infilling", "teacher") and (found := bend(path, blocked)) is not None:
                panel.plot(*found.T, label=way)
        panel.set_title(name)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=4)
    save_figure(figure, folder / "14_benchmark.png")


def main():
    """The command line of benchmarks.paths."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--maps", nargs="+", choices=list(NAMES), default=list(NAMES), help="default: all")
    add("--num", type=between(int, 2, 10_000), default=100, help="problems of each kind (default: 100)")
    add("--seed", type=SEED, default=0, help="default: 0")
    add(
        "--checkpoint",
        default=str(robot_paths.SHIPPED_PATHS),
        metavar="FILE",
        help="default: checkpoints/paths.safetensors",
    )
    add("--keep", type=Path, metavar="FILE", help="an .npz file: keep there what was measured, do not measure it again")
    add("--pictures", type=Path, default=ROOT / "figures", metavar="FOLDER", help="default: figures")
    args = parser.parse_args()
    model = robot_paths.load_model(args.checkpoint)
    print(f"{args.num} problems of each kind on each map; length: mean, over successes, against the path as given")
    grids = {name: read_map(download_map(NAMES[name])) for name in args.maps}
    kept = Kept(args.keep)
    for title, whole, make in (("smoothing", True, smoothing_problem), ("repair", False, repair_problem)):
        results, parts = {}, {}
        for name, grid in grids.items():
            how = grid, make, args.seed, f"{title}/{name}/{args.seed}/{Path(args.checkpoint).stem}"
            results[name] = kept.measure(*how, methods(model, whole), args.num)
            parts[name] = kept.measure(*how, ablations(model, whole), max(2, args.num // 4))
        print_tables(results, title)
        print_tables(parts, f"{title}, the first quarter of the problems")
        rivals = [f"clip rule, {clearance} m" for clearance in CLEARANCES]
        print_gaps(results, "infilling", [*rivals, "Nav2 Simple" if whole else "replan + Simple", "teacher"])
    draw_examples(model, grids, args.seed, args.pictures.resolve())


if __name__ == "__main__":
    run(main)
