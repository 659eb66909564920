"""Robot paths, measured: repair and smoothing on maps that no training saw, beside what Nav2's users have.

In smoothing a planner's path hugs the walls. In repair a disc that the map lacks lies on the teacher's smooth path. A
success is free of collision, looked at every 2 cm. It bends nowhere more sharply than the robot can. All rivals are
measured in the same way. Each is built from its published definition:

    Savitzky-Golay      scipy's savgol_filter, window 7, order 3, three times, on the planner's cells
    Nav2 Simple         nav2_smoother's simple smoother with its default settings
    clip rule           to each control point the nearest offset with 0.4 m clearance, then smoothed
    replan + Simple     a planner's call on the map with the disc, inflated, then Nav2 Simple
    teacher             dynamic programming: the optimum that the model learned from

"infilling" falls back on Nav2's smoother, as the server does. "infilling, new plan" may ask the planner before.

Run, from the folder of the project:
            python -m benchmarks.paths                               (7 maps, 100 problems each of both kinds)
            python -m benchmarks.paths --maps depot --num 20         (a quick look)
Last line:  the path of a picture, `14_benchmark.png` in the folder --pictures.

Builds on:  robots (maps, planner, teacher, training), lesson 14.
"""

import contextlib
import time
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from robots.curves import can_drive, control_points, is_free, length_of, low_pass, nearest, spline
from robots.grid import GridMap, Robot
from robots.maps import SOURCES, download_map, read_map
from robots.pictures import draw_map, draw_scale
from robots.planner import REFINEMENTS, Planner, plan, smooth_simply
from robots.teacher import teach
from robots.training import put_disc, save_arrays, smoothing
from tools.command_line import SEED, Parser, UserError, between, given_path, run
from tools.files import ROOT
from tools.pictures import new_figure, save_figure

import torch
from tqdm import tqdm

robot_paths = import_module("14_robot_paths")

NAMES = {Path(name).stem: name for name in SOURCES if not name.endswith(".pgm")}
TRIES = 200  # at most, to find a problem
RESAMPLES = 2000  # of the bootstrap
CLEARANCE = 0.4  # m, of the clip rule: what proved best on these very maps
ALONE = dict(fallbacks=("simple smoother", "as it was"))  # without the planner
ROOMS = (0.0, 0.28, 0.38, 0.58)  # m beside the robot, besides the default
RADII = (0.15, 0.3, 0.4)  # m, besides the robot for which the model was trained


# ---- The problems
def rough_path(grid, rng):
    """[N, 2] a shortest path of 4 to 22 m between two random places, which hugs the walls. Raises UserError where none
    is found: the map may be too narrow for the robot."""
    allowed = np.argwhere(grid.clearances >= grid.robot.keep)
    for _ in range(TRIES if len(allowed) else 0):
        start = grid.to_world(allowed[rng.integers(len(allowed))][::-1].astype(float))
        planner = Planner(grid, start, inflated=False, limit=22)
        cells = np.flatnonzero(np.isfinite(planner.costs) & (planner.costs > 4))
        if len(cells):
            return planner.path(grid.to_world(planner.cells[rng.choice(cells)][::-1].astype(float)))
    raise UserError(f"no paths for a robot of {grid.robot.radius:g} m radius on this map")


def smoothing_problem(grid, rng):
    """(map, path) to be smoothed."""
    return grid, rough_path(grid, rng)


def repair_problem(grid, rng):
    """(map with a disc, the path that it blocks). The ends stay free and there still is a way.

    Raises UserError where no such problem is found: the map may be too narrow for the robot."""
    for _ in range(TRIES):
        corridor, tokens, _ = smoothing(grid, rough_path(grid, rng))
        curve, _ = spline(corridor.control(tokens))
        blocked, _ = put_disc(rng, grid, curve)
        if blocked is None or robot_paths.faults(corridor, tokens) or is_free(curve, blocked):
            continue
        if (blocked.clearance(curve[[0, -1]]) >= grid.robot.keep + 0.05).all() and replan(curve, blocked) is not None:
            return blocked, curve
    raise UserError(f"no problems of repair for a robot of {grid.robot.radius:g} m radius on this map")


# ---- The rivals: each [N, 2] path, map -> [M, 2] path, or None
def filter_savgol(path, grid):
    """Savitzky-Golay, as Nav2 has it: the ends stay. It is applied again for refinement."""
    from scipy.signal import savgol_filter

    if len(path) < 8:
        return path
    for _ in range(1 + REFINEMENTS):
        smooth = savgol_filter(path, 7, 3, axis=0, mode="nearest")
        path = np.concatenate([path[:1], smooth[1:-1], path[-1:]])
    return path


def replan(path, grid):
    """An inflated new plan from end to end, or None."""
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
    """Each masked control point takes the nearest offset with a clearance, or the nearest free one. Then all are
    smoothed once."""
    corridor, masked = corridor_of(path, grid, whole)
    good = corridor.clearances >= clearance
    good = np.where(good.any(axis=1, keepdims=True), good, corridor.open_bins())
    offsets = robot_paths.OFFSETS[np.where(good, np.abs(robot_paths.OFFSETS), np.inf).argmin(axis=1)] * masked
    offsets = np.convolve(np.pad(offsets, 1), [0.25, 0.5, 0.25], mode="valid") * masked
    return spline(corridor.line + offsets[:, None] * corridor.left)[0]


def ask_teacher(path, grid, whole):
    """The optimum over the same tokens."""
    corridor, masked = corridor_of(path, grid, whole)
    tokens = np.full(len(masked), robot_paths.STRAIGHT)
    return spline(corridor.control(teach(corridor, tokens, masked)))[0]


def asking(model, whole, **settings):
    """The function that asks the model, filling as these settings of lesson 14's Filling say."""
    filling = robot_paths.Filling(seconds=60, **settings)  # a busy machine must not change what is found

    def ask(path, grid):
        found, _ = robot_paths.bend_path(model, path, grid, whole, filling, torch.Generator().manual_seed(0))
        return found[0] if found else None

    return ask


def methods(model, whole):
    """{name: function(path, grid) -> path or None}"""
    ways = {"clip rule": partial(clip_rule, whole=whole, clearance=CLEARANCE)}
    if whole:
        ways |= {"Savitzky-Golay": filter_savgol, "Nav2 Simple": smooth_simply}
    else:
        ways |= {"replan + Simple": replan_and_smooth, "infilling, new plan": asking(model, whole)}
    return ways | {"infilling": asking(model, whole, **ALONE), "teacher": partial(ask_teacher, whole=whole)}


def ablations(model):
    """Ways of repair with one thing after the other changed."""
    settings = {"no fallback": {}, "one sample": dict(samples=1), "no repair": dict(rounds=0)}
    settings |= {f"room {room} m": dict(room=room) for room in ROOMS}
    return {name: asking(model, False, **(dict(fallbacks=()) | each)) for name, each in settings.items()}


class UnseenRobot(Robot):
    """A robot that the model takes for the one for which it was trained."""

    wider = 0.0


def for_robots(model):
    """The ways of repair for robots of other sizes. "unseen": without what lesson 14 does about the radius."""

    def unseen(path, grid):
        robot = UnseenRobot(grid.robot.radius, grid.robot.turning_radius)
        return ask(path, GridMap(grid.free, grid.resolution, grid.origin, robot))

    ask = asking(model, False, **ALONE)
    return {"replan + Simple": replan_and_smooth, "infilling": ask, "infilling, size unseen": unseen}


# ---- Measuring
def measure_all(grid, make, seed, name, ways, number):
    """{way: [number, 4] success, length against the path as given, seconds, least clearance} on problems of one map."""
    rng, rows = np.random.default_rng(seed), {way: [] for way in ways}
    for _ in tqdm(range(number), desc=name, mininterval=5, disable=None):
        here, path = make(grid, rng)
        for way, bend in ways.items():
            began = time.process_time()  # of the processor, so that other work does not count
            found = bend(path, here)
            seconds = time.process_time() - began
            success = found is not None and can_drive(found, here)
            figures = (length_of(found) / length_of(path), nearest(found, here)) if success else (np.nan, np.nan)
            rows[way].append((success, figures[0], seconds, figures[1]))
    return {way: np.array(row, dtype=float) for way, row in rows.items()}


def read_kept(path):
    """What Kept has written. Raises UserError for any other file, which would be lost."""
    rows = {"": np.empty(0)}
    if path.is_file():
        with contextlib.suppress(Exception), np.load(path) as file:  # of many kinds
            rows = dict(file)
    if not all(each.shape[1:] == (4,) for each in rows.values()):
        raise UserError(f"{path} is no file of what was measured here, and is not overwritten; name another one.")
    return rows


class Kept:
    """What was measured already, in a file {"kind/map/way": rows}. So a long run can be done in pieces."""

    def __init__(self, path):
        self.path, self.rows = path, {}
        if path and path.exists():
            self.rows = read_kept(path)

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
    """(mean, low, high) of [N] differences. Between low and high lie 95% of the means of bootstrap samples."""
    means = differences[rng.integers(0, len(differences), (RESAMPLES, len(differences)))].mean(axis=1)
    return differences.mean(), *np.percentile(means, [2.5, 97.5])


def print_successes(results, title):
    """Prints the share of successes of {map: {way: [N, 4]}}, a column for each map."""
    print(f"\n| {title}: successes | {' | '.join(results)} |\n|---|{'---|' * len(results)}")
    for way in next(iter(results.values())):
        print(f"| {way} | {' | '.join(f'{rows[way][:, 0].mean():.2f}' for rows in results.values())} |")


def print_rows(results, title):
    """Prints what came out over all maps, of {map: {way: [N, 4]}}."""
    print(f"\n| {title} | successes | length | clearance | CPU ms, median | 95% |\n|---|---|---|---|---|---|")
    for way in next(iter(results.values())):
        rows = np.concatenate([each[way] for each in results.values()])
        good = rows[:, 0] == 1
        if good.any():
            of_good = f"{rows[good, 1].mean():.3f} | {np.median(rows[good, 3]):.2f} m"
            times = [f"{np.percentile(rows[:, 2], share) * 1000:.0f}" for share in (50, 95)]
            print(f"| {way} | {good.mean():.3f} | {of_good} | {' | '.join(times)} |")


def print_gaps(results, one, others):
    """Prints how much more often `one` succeeds over all maps, and how much longer it is where both do.

    It compares problem by problem, with 95% intervals."""
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
    """Saves a panel for each {name: map}: its first problem of repair and three answers."""
    rows = -(-len(grids) // 4)
    size = dict(figsize=(4 * min(4, len(grids)), 4 * rows + 0.5), layout="constrained")
    figure, axes = new_figure(rows, min(4, len(grids)), squeeze=False, **size)
    for panel in axes.flat[len(grids) :]:
        panel.set_axis_off()
    for panel, (name, grid) in zip(axes.flat, grids.items()):
        blocked, path = repair_problem(grid, np.random.default_rng(seed))
        draw_map(panel, blocked, path)
        panel.plot(*path.T, "k:", label="before")
        for way, bend in methods(model, False).items():
            if way in ("replan + Simple", "infilling", "teacher") and (found := bend(path, blocked)) is not None:
                panel.plot(*found.T, label=way)
        draw_scale(panel)
        panel.set_title(name)
    drawn = {name: line for panel in axes.flat for line, name in zip(*panel.get_legend_handles_labels())}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4)
    save_figure(figure, folder / "14_benchmark.png")


def main():
    """The command line of benchmarks.paths."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--maps", nargs="+", choices=list(NAMES), default=list(NAMES), help="default: all")
    add("--num", type=between(int, 2, 10_000), default=100, help="problems of each kind (default: 100)")
    add("--seed", type=SEED, default=0, help="default: 0")
    shipped = robot_paths.SHIPPED_PATHS
    add("--checkpoint", default=str(shipped), metavar="FILE", help="default: checkpoints/paths.safetensors")
    add("--keep", type=given_path, metavar="FILE", help="an .npz file that keeps what was measured")
    add("--pictures", type=given_path, default=ROOT / "figures", metavar="FOLDER", help="default: figures")
    args = parser.parse_args()
    model, few = robot_paths.load_model(args.checkpoint), max(2, args.num // 4)
    print(f"{args.num} problems of each kind on each map; length: mean, over successes, against the path as given")
    grids = {name: read_map(download_map(NAMES[name])) for name in args.maps}
    kept = Kept(args.keep)
    for title, whole, make in (("repair", False, repair_problem), ("smoothing", True, smoothing_problem)):
        results, parts = {}, {}
        for name, grid in grids.items():
            problems = grid, make, args.seed, f"{title}/{name}/{args.seed}/{Path(args.checkpoint).stem}"
            results[name] = kept.measure(*problems, methods(model, whole), args.num)
            if not whole:
                parts[name] = kept.measure(*problems, ablations(model), few)
        print_successes(results, title)
        print_rows(results, title)
        print_gaps(results, "infilling", ["clip rule", "Nav2 Simple" if whole else "replan + Simple", "teacher"])
        if parts:
            print_rows(parts, f"{title}, {few} problems of each map")
    for radius in RADII:
        results = {}
        for name in args.maps:
            grid = read_map(download_map(NAMES[name]), Robot(radius))
            problems = grid, repair_problem, args.seed, f"{radius}/{name}/{args.seed}/{Path(args.checkpoint).stem}"
            with contextlib.suppress(UserError):
                results[name] = kept.measure(*problems, for_robots(model), few)
        print_rows(results, f"repair, a radius of {radius} m, on {len(results)} maps")
    draw_examples(model, grids, args.seed, args.pictures.resolve())


if __name__ == "__main__":
    run(main)
