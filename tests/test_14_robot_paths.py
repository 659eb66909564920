"""Lesson 14 and its rooms. Curves are held against scipy, the teacher against enumeration and Nav2's smoother against
its own loop. Then come the model that ships, the command line and the core of the ROS server."""

import io
import itertools
import math
import os
import sqlite3
import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, run_script, seeded
from benchmarks import paths
from PIL import Image
from robots import bags, maps
from robots import training as path_training
from robots.bags import PATH, read_bag_paths, rewrite_bag
from robots.curves import (
    FINE, SPACING, can_drive, control_points, different, is_free, length_of, resample, sharpest_bend, spline,
)  # fmt: skip
from robots.grid import GridMap, Robot, made_up_map
from robots.maps import coarsen, read_map, read_nav2
from robots.pictures import cells_between, draw_map
from robots.planner import plan, smooth_simply
from robots.poses import smooth_poses, split_at_cusps, thin_out
from robots.teacher import Costs, solve
from tools.checkpoints import read_checkpoint, save_checkpoint
from tools.command_line import Parser, UserError, run
from tools.pictures import new_figure

robot_paths = import_module("14_robot_paths")


@pytest.fixture(scope="module")
def grid():
    """6 x 4 m with a block in the middle and walls at the border."""
    free = np.ones((80, 120), dtype=bool)
    free[30:50, 55:65] = False
    free[[0, -1]] = free[:, [0, -1]] = False
    return GridMap(free, 0.05)


@pytest.fixture(scope="module")
def model():
    return robot_paths.load_model(robot_paths.SHIPPED_PATHS)


# ---- Maps
def test_clearance_is_the_distance_to_the_nearest_cell_that_is_not_free(grid):
    rng = np.random.default_rng(0)
    taken = grid.to_world(np.argwhere(~grid.free)[:, ::-1].astype(float))
    for row, column in rng.integers([1, 1], [79, 119], (50, 2)):
        middle = grid.to_world(np.array([column, row], dtype=float))
        expected = max(0, np.hypot(*(taken - middle).T).min() - 0.025)
        assert abs(grid.clearance(middle) - expected) < 1e-6 or expected > 0.9
    assert grid.clearance(np.array([[-1.0, 2.0], [9.0, 9.0], [np.nan, 1.0]])).tolist() == [0, 0, 0]


def test_cells_and_world_with_a_turned_origin():
    turned = GridMap(np.ones((4, 6), dtype=bool), 0.5, (1.0, 2.0, math.pi / 2))
    assert np.allclose(turned.to_world(np.array([0.0, 0.0])), [0.75, 2.25])  # its x is the world's y
    cells = np.random.default_rng(0).uniform(0, 4, (5, 2))
    assert np.allclose(turned.to_cells(turned.to_world(cells)), cells)


YAML = "image: map.{kind}\nresolution: 0.05\norigin: [-1.0, 2.0, 0]\nnegate: {negate}\noccupied_thresh: 0.65\n"


@pytest.mark.parametrize(
    ("kind", "mode", "negate", "free"),
    [
        ("pgm", "trinary", 0, [254, 255]), ("png", "trinary", 0, [254, 255]), ("pgm", "trinary", 1, [0, 1]),
        ("png", "scale", 0, [254, 255]), ("pgm", "raw", 0, [0]),
    ],
)  # fmt: skip
def test_map_is_read_as_nav2_does(tmp_path, kind, mode, negate, free):
    pixels = np.full((40, 30), 205, dtype=np.uint8)  # unknown
    pixels[:, :25] = np.array([0, 1, 254, 255], dtype=np.uint8).repeat(10)[:, None]
    Image.fromarray(pixels).save(tmp_path / f"map.{kind}")
    yaml = YAML.format(kind=kind, negate=negate) + f"free_thresh: 0.196\nmode: {mode}\n"
    (tmp_path / "map.yaml").write_text(yaml)
    found = read_nav2(tmp_path / "map.yaml")
    assert np.array_equal(found.free, np.isin(pixels, free)[::-1]) and found.origin == (-1.0, 2.0, 0.0)


def write_map(folder, pixels, free_thresh=0.196, mode="trinary"):
    """The path of a map of these pixels [H, W] or [H, W, channels]."""
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(folder / "map.png")
    (folder / "map.yaml").write_text(YAML.format(kind="png", negate=0) + f"free_thresh: {free_thresh}\nmode: {mode}\n")
    return folder / "map.yaml"


@pytest.mark.parametrize("mode", ["trinary", "scale"])
def test_transparent_cells_are_unknown_and_opaque_ones_are_what_their_grey_says(tmp_path, mode):
    pixels = np.full((2, 4, 4), 254)
    pixels[..., 3] = 255
    pixels[:, 1, :3], pixels[:, 2, 3], pixels[:, 3, :3] = 205, 128, 0  # unknown, half transparent, occupied
    found = read_nav2(write_map(tmp_path, pixels, mode=mode))
    assert found.free.tolist() == [[True, False, False, False]] * 2
    colours = [[[254, 255, 254], [205, 205, 205]]]
    assert read_nav2(write_map(tmp_path, colours, mode=mode)).free.tolist() == [[True, False]]


def test_free_is_up_to_the_threshold_and_a_warning_says_that_unknown_cells_are_free(tmp_path, capsys):
    pixels = [[204, 205, 254]]
    assert read_nav2(write_map(tmp_path, pixels, 0.2)).free.tolist() == [[True, True, True]]  # 204 is exactly 0.2
    assert "grey 205" in capsys.readouterr().err
    assert read_nav2(write_map(tmp_path, pixels, 0.196)).free.tolist() == [[False, False, True]]
    assert capsys.readouterr().err == ""


def test_the_smallest_obstacle_takes_the_cell_that_it_touches(grid):
    before = grid.free.sum()
    assert before - grid.with_disc(1.01, 1.01, 0.001).free.sum() == 1
    assert before - grid.with_disc(1.0, 1.0, 0.001).free.sum() == 4  # where four cells meet
    assert grid.with_disc(-0.1, 1.0, 0.3).free.sum() < before
    with pytest.raises(UserError, match=r"obstacle \(-1, 1\) is off the map"):
        grid.with_disc(-1.0, 1.0, 0.3)


@pytest.mark.parametrize("sizes", [dict(radius=0.0), dict(turning_radius=-1.0), dict(radius=math.nan)])
def test_robots_that_are_none_are_refused(sizes):
    with pytest.raises(UserError, match="it must be above 0"):
        Robot(**sizes)


def test_finer_cells_are_put_together():
    free = np.ones((7, 8), dtype=bool)
    free[2, 3] = False
    coarse, resolution = coarsen(free, 0.03)
    assert resolution == 0.06 and coarse.tolist() == [[True] * 4, [True, False, True, True], [True] * 4]


@pytest.mark.parametrize(
    ("yaml", "image", "says"),
    [
        (None, None, "there is no file"), ("image: a.pgm\n", None, "does not say 'resolution'"), ("[", None, "no map"),
        ("whole", None, "which the map's YAML names"), ("whole", b"P5\n9 9\n255\n1", "size is not what it says"),
        ("whole", b"P5\n2 2\n255\n\0\0\0\0", "no free space"), ("origin: [1]", b"", "no map"),
        ("index", b"", "no map"), ("far", b"", "no map"), ("letters", b"", "no map"), ("fields", b"", "no map"),
        ("thresholds", b"", "they must rise"), ("bomb", None, "no map"), ("number", None, "no map"),
    ],
)  # fmt: skip
def test_bad_maps_are_refused_by_a_sentence(tmp_path, yaml, image, says):
    whole = YAML.format(kind="pgm", negate=0) + "free_thresh: 0.196\n"
    bomb = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi"))
    texts = dict(
        whole=whole, thresholds=whole.replace("0.196", "0.9"), number=whole.replace("0.05", "1" * 400),
        index=whole + "x: !!int ''\n", far=whole.replace("-1.0", "1.0e+300"),
        letters=whole.replace("[-1.0, 2.0, 0]", "'123'"), fields=whole.replace("[-1.0, 2.0, 0]", "{1: a, 2: b, 3: c}"),
        bomb=f"a: &a [x]\n{bomb}{whole.replace('map.pgm', '*i')}",
    )  # fmt: skip
    if yaml is not None:
        (tmp_path / "map.yaml").write_text(texts.get(yaml, yaml))
    if image is not None:
        (tmp_path / "map.pgm").write_bytes(image)
    with pytest.raises(UserError, match=says):
        read_map(tmp_path / "map.yaml")


def test_movingai_map(tmp_path):
    (tmp_path / "a.map").write_text("type octile\nheight 2\nwidth 3\nmap\n.@.\n...\n")
    free = read_map(tmp_path / "a.map").free
    assert free.shape == (20, 30) and free[:10].all() and not free[10:, 10:20].any() and free[10:, 20:].all()
    (tmp_path / "a.map").write_text("type octile\nheight 3\nwidth 3\nmap\n.@.\n...\n")
    with pytest.raises(UserError, match="another size"):
        read_map(tmp_path / "a.map")
    (tmp_path / "a.map").write_text("type octile\nheight 250\nwidth 250\nmap\n" + (250 * "." + "\n") * 250)
    with pytest.raises(UserError, match="6,250,000 cells of 0.05 m or more; give a part with 6,000,000 at most"):
        read_map(tmp_path / "a.map")


def test_limits_on_cells_and_pixels_are_said(tmp_path, monkeypatch):
    path = write_map(tmp_path, np.full((10, 11), 254))
    monkeypatch.setattr(maps, "MOST_CELLS", 100)
    with pytest.raises(UserError, match="has 110 cells of 0.05 m or more; give a part with 100 at most"):
        read_map(path)
    write_map(tmp_path, np.full((20, 21), 254))
    with pytest.raises(UserError, match="has 21 x 20 pixels; give a part with 400 at most"):
        read_map(path)


@pytest.fixture(params=["folder", "pipe", "device"])
def odd_file(request, tmp_path):
    """What is no ordinary file. Reading a pipe or a device would never end."""
    path = tmp_path / "odd"
    if request.param == "folder":
        path.mkdir()
    elif not hasattr(os, "mkfifo"):
        pytest.skip("Windows has neither named pipes among its files nor /dev/zero")
    elif request.param == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["yaml", "map", "image", "bag", "a bag's file"])
def test_odd_files_are_refused_at_once(tmp_path, odd_file, kind):
    if kind == "image":
        path = write_map(tmp_path, [[254]])
        (tmp_path / "map.png").unlink()
        odd_file.rename(tmp_path / "map.png")
    elif kind == "a bag's file":
        path = tmp_path / "bag"
        path.mkdir()
        odd_file.rename(path / "metadata.yaml")
    else:
        path = odd_file.rename(odd_file.with_suffix(f".{kind}"))
    with pytest.raises(UserError, match=r"there is no image|is no map but a folder|is no bag") as refused:
        (read_bag_paths if "bag" in kind else read_map)(path)
    assert path.name in str(refused.value) or kind == "image"


def test_plan_is_shortest_and_names_what_is_wrong(grid):
    way = plan(grid, (0.5, 2.0), (5.5, 2.0), inflated=False)
    assert is_free(way, grid) and way[0].tolist() == [0.5, 2.0] and way[-1].tolist() == [5.5, 2.0]
    least = 2 * math.hypot(2.25, 0.5) + 0.5  # around the corners of the block. Eight directions cost up to 8% more
    assert least < length_of(way) < 1.09 * least + 0.3
    wide = plan(grid, (0.5, 2.0), (5.5, 2.0))
    assert grid.clearance(wide)[10:-10].min() > grid.clearance(way)[10:-10].min()
    for start, goal, says in (
        ((3.0, 2.0), (1, 1), r"start \(3, 2\) is occ"),
        ((1, 1), (9, 9), r"goal \(9, 9\) is off"),
    ):
        with pytest.raises(UserError, match=says):
            plan(grid, start, goal)
    with pytest.raises(UserError, match="no way from"):
        walled = grid.free.copy()
        walled[:, 60] = False
        plan(GridMap(walled, 0.05), (1, 1), (5, 1))


def test_simple_smoother_is_nav2s_loop():
    free = GridMap(np.ones((200, 200), dtype=bool), 0.05)
    given = np.cumsum(np.random.default_rng(1).uniform(-0.02, 0.08, (30, 2)), axis=0) + 3
    points = given.copy()
    for _ in range(3):
        data, now = points.copy(), points.copy()
        for _ in range(1000):
            change = 0.0
            for i in range(1, len(now) - 1):
                for j in range(2):
                    before = now[i, j]
                    now[i, j] += 0.2 * (data[i, j] - before) + 0.3 * (now[i + 1, j] + now[i - 1, j] - 2 * before)
                    change += abs(now[i, j] - before)
            if change < 1e-10:
                break
        points = now
    assert np.allclose(smooth_simply(given, free), points, atol=1e-8)
    disc = free.with_disc(*points[15], 0.05)  # in collision at once: the path stays as it was
    assert np.array_equal(smooth_simply(given, disc), given)


# ---- Curves and tokens
def test_spline_is_scipys_and_goes_through_the_points():
    from scipy.interpolate import BSpline

    path = np.cumsum(np.random.default_rng(2).uniform(0.1, 0.5, (9, 2)), axis=0)
    control = control_points(path)
    points, curvatures = spline(control)
    ends = np.concatenate([[2 * control[0] - control[1]], control, [2 * control[-1] - control[-2]]])
    curve = BSpline(np.arange(-3, len(ends) + 1), ends, 3)
    t = np.arange(len(points)) / FINE
    first, second = curve.derivative(1)(t), curve.derivative(2)(t)
    expected = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / np.hypot(*first.T) ** 3
    assert np.allclose(points, curve(t)) and np.allclose(curvatures, expected)
    assert np.allclose(points[::FINE], resample(path, SPACING))


def test_bends_are_measured_on_a_circle():
    angle = np.linspace(0, 3, 300)
    circle = 3 + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    free = GridMap(np.ones((200, 200), dtype=bool), 0.05)
    assert abs(sharpest_bend(circle) - 2) < 0.05 and is_free(circle, free) and can_drive(circle, free)
    assert not can_drive(circle, GridMap(free.free, 0.05, robot=Robot(turning_radius=0.6)))
    assert not is_free(circle, free.with_disc(3, 3.5, 0.05))


def corridor_along(grid, *points):
    return robot_paths.Corridor.along(control_points(np.array(points, dtype=float)), grid)


def test_faults_are_at_the_disc_and_at_sharp_bends(grid):
    corridor = corridor_along(grid, (0.6, 1.0), (5.4, 1.0))
    tokens = np.full(len(corridor.line), robot_paths.STRAIGHT)
    assert robot_paths.faults(corridor, tokens) == []
    blocked = robot_paths.Corridor.along(corridor.line, grid.with_disc(*corridor.line[5], 0.1))
    assert set(robot_paths.faults(blocked, tokens)) == {4, 5, 6}
    bent = tokens.copy()
    bent[5] -= 6
    assert 5 in robot_paths.faults(corridor, bent)
    assert np.flatnonzero(robot_paths.around([1, 5], 9, 1)).tolist() == [1, 2, 4, 5, 6]


def test_teacher_is_the_cheapest_of_all_rows(grid):
    corridor = corridor_along(grid, (1.2, 1.6), (3.1, 1.3))
    rng, n = np.random.default_rng(0), len(corridor.line)
    assert n == 5
    bins = [np.array([15])] + [np.sort(rng.choice(31, 7, replace=False)) for _ in range(n - 2)] + [np.array([15])]
    costs = Costs(corridor)

    def total(row):
        one = [np.array([token]) for token in row]
        steps = sum(costs.step(i, one[i], one[i + 1]).item() for i in range(n - 1))
        return steps + sum(costs.bend(i, *one[i - 1 : i + 2]).item() for i in range(1, n - 1))

    cheapest = min(itertools.product(*bins), key=total)
    assert solve(corridor, bins).tolist() == list(map(int, cheapest))


def test_mirrored_and_backward_problems_are_those_of_mirrored_and_backward_paths(grid):
    """They are held against a corridor made anew on the mirrored map and along the reversed line."""
    line = control_points(np.array([(0.6, 0.8), (2.0, 1.0), (3.0, 0.9), (4.0, 2.0), (5.2, 3.0)]))
    corridor = robot_paths.Corridor.along(line, grid)
    tokens = np.random.default_rng(0).integers(8, 22, len(line))
    masked = np.arange(len(line)) % 3 == 1
    mirrored = robot_paths.Corridor.along(line * [1, -1], GridMap(grid.free[::-1], 0.05, (0, -4.0, 0)))
    backwards = robot_paths.Corridor.along(line[::-1], grid)
    both = robot_paths.Corridor.along(mirrored.line[::-1], mirrored.grid)
    found = set()
    data = {k: torch.from_numpy(v) for k, v in path_training.pack([(corridor, tokens, masked)] * 32).items()}
    batch = path_training.random_batch(data, 32, seeded())
    wanted = [
        (corridor, tokens, masked), (mirrored, 30 - tokens, masked),
        (backwards, 30 - tokens[::-1], masked[::-1]), (both, tokens[::-1], masked[::-1]),
    ]  # fmt: skip
    for row in range(32):
        same = [np.array_equal(batch["tokens"][row], each) for _, each, _ in wanted]
        number = same.index(True)
        found.add(number)
        assert np.array_equal(batch["masked"][row], wanted[number][2])
        assert np.allclose(batch["clearances"][row], wanted[number][0].clearances, atol=2e-3)
        assert np.array_equal(batch["turns"][row], wanted[number][0].turns)
    assert found == {0, 1, 2, 3}


def test_hidden_are_only_places_that_were_solved():
    masked = torch.rand(64, 20, generator=seeded()) < 0.5
    masked[:, 3] = True
    tokens = torch.randint(0, 31, (64, 20), generator=seeded())
    inputs, mask = path_training.hide_path(tokens, masked, seeded(1))
    assert (mask <= masked).all() and mask.any(dim=1).all() and (mask == masked).all(dim=1).any()
    assert torch.equal(inputs == 32, mask) and torch.equal(inputs[~mask], tokens[~mask])


# ---- The model
def test_the_model_sees_the_map(model, grid):
    corridor = corridor_along(grid, (0.6, 1.0), (5.4, 1.0))
    blocked = robot_paths.Corridor.along(corridor.line, grid.with_disc(3.0, 1.0, 0.3))
    canvas = torch.full((1, len(corridor.line)), 32)
    canvas[:, [0, -1]] = robot_paths.STRAIGHT
    free, bent = (robot_paths.Viewer(model, each, [0.0])(canvas)[0] for each in (corridor, blocked))
    assert free[5].argmax() != bent[5].argmax()
    chosen = bent.argmax(dim=1).numpy()
    assert blocked.open_bins()[np.arange(len(chosen)), chosen].all()


def test_bins_without_clearance_are_ruled_out(grid):
    corridor = corridor_along(grid, (0.6, 1.0), (5.4, 1.0))
    untrained = robot_paths.PathModel().eval()
    viewer = robot_paths.Viewer(untrained, corridor, [0.0])
    [logits] = viewer(torch.full((1, len(corridor.line)), 32))  # of an untrained model all are equal
    assert np.array_equal(logits[:, :31].detach().numpy() > -1, corridor.open_bins()) and (logits[:, 31] < -1).all()


def test_a_blocked_path_is_bent_and_the_rest_stays(model):
    hall, path = straight_hall()
    blocked = hall.with_disc(9.0, 1.0, 0.2)
    [bent, *_], by = robot_paths.bend_path(model, path, blocked, False, robot_paths.Filling(), seeded())
    assert by == "the model" and can_drive(bent, blocked) and np.allclose(bent[[0, -1]], path[[0, -1]])
    assert np.abs(bent[bent[:, 0] < 5, 1] - 1).max() < 1e-9 < np.abs(bent[:, 1] - 1).max()
    [same], by = robot_paths.bend_path(model, path, hall, False, robot_paths.Filling(), seeded())
    assert by == "the model" and np.abs(same[:, 1] - 1).max() < 1e-9  # nothing to do, nothing done


def straight_hall():
    """(a map of 12 x 2 m, a straight path through it)."""
    hall = GridMap(np.ones((40, 240), dtype=bool), 0.05)
    return hall, resample(np.array([(0.6, 1.0), (11.4, 1.0)]), 0.05)


def test_what_cannot_be_bent_falls_back_or_fails(model, grid, monkeypatch):
    path = resample(np.array([(0.6, 1.0), (5.4, 1.0)]), 0.05)
    shut = grid.with_disc(3.0, 1.0, 1.3)  # the way leads around the other side of the block now
    short = robot_paths.Filling(rounds=1)
    [other, *_], by = robot_paths.bend_path(model, path, shut, False, short, seeded())
    assert by == "the model, on a new plan" and can_drive(other, shut) and other[:, 1].max() > 2.5
    only = replace(short, fallbacks=("simple smoother", "as it was"))
    assert robot_paths.bend_path(model, path, shut, False, only, seeded()) == ([], "nobody")
    monkeypatch.setattr(robot_paths, "fill_path", lambda *_: [])
    for given, name in (([(0.6, 1.0), (2.0, 1.0)], "simple smoother"), ([(0.6, 1.0), (2.0, 1.0), (2, 2)], "as it was")):
        assert robot_paths.bend_path(model, np.array(given), grid, False, short, seeded())[1] == name


def test_a_path_longer_than_the_model_sees(model):
    long = GridMap(np.ones((80, 800), dtype=bool), 0.05).with_disc(30.0, 2.0, 0.2)
    path = resample(np.array([(0.6, 2.0), (39.0, 2.0)]), 0.05)
    for whole in (True, False):
        [bent, *_], by = robot_paths.bend_path(model, path, long, whole, robot_paths.Filling(), seeded())
        assert by == "the model" and can_drive(bent, long)


def test_a_wider_robot_keeps_farther_away(model):
    """It sees the map as it would see one where all obstacles are nearer."""
    hall, path = straight_hall()
    wide = GridMap(hall.free, 0.05, robot=Robot(radius=0.4)).with_disc(9.0, 0.9, 0.1)
    [bent, *_], by = robot_paths.bend_path(model, path, wide, False, robot_paths.Filling(), seeded())
    assert by == "the model" and wide.clearance(bent).min() >= 0.4
    corridor = robot_paths.Corridor.along(control_points(path), wide)
    seen = robot_paths.Viewer(model, corridor, [0.0, 0.1]).clearances.numpy()
    assert np.allclose(seen[0], (corridor.clearances - 0.18).clip(0)) and (seen[1] <= seen[0]).all()


def test_more_room_is_kept_where_it_is_asked_for(model):
    hall, path = straight_hall()
    blocked = hall.with_disc(9.0, 1.0, 0.1)
    room = []
    for wanted in (0.0, 0.48):
        [bent, *_], _ = robot_paths.bend_path(model, path, blocked, False, robot_paths.Filling(room=wanted), seeded())
        room.append(blocked.clearance(bent).min())
    assert room[0] < room[1]


def test_candidates_differ_and_come_by_their_cost(model):
    hall, path = straight_hall()
    blocked = hall.with_disc(9.0, 1.0, 0.1)
    found = robot_paths.fill_path(model, path, blocked, False, robot_paths.Filling(samples=24), seeded())
    two = different(found, 2)
    assert len(two) == 2 and two[0] is found[0] and all(can_drive(each, blocked) for each in two)
    assert np.hypot(*(two[0] - two[1][: len(two[0])]).T).max() > 0.2


# ---- Poses and bags
def test_cusps_part_a_path_and_standing_still_is_left_out():
    there = np.stack([np.linspace(0, 1, 11), np.zeros(11), np.full(11, np.nan)], axis=1)
    path = np.concatenate([there, there[-1:], there[::-1]])
    pieces = split_at_cusps(path)
    assert [piece[[0, -1], 0].tolist() for piece in pieces] == [[0, 1], [1, 0]]
    poses = smooth_poses(path, lambda piece: piece)
    assert np.allclose(poses[:10, 2], 0) and np.allclose(np.abs(poses[-5:, 2]), math.pi)


@pytest.mark.parametrize(
    ("inner", "first", "last", "expected"),
    [(0.0, 0.1, 0.3, math.pi), (math.nan, math.nan, 0.3, math.pi), (math.pi, 3.0, 3.0, math.pi), (0.01, 0.1, 0.3, 0)],
)  # fmt: skip
def test_directions_are_kept(inner, first, last, expected):
    """A path to the left. Planners that say no direction give 0 all along. 0.01 all along is backwards."""
    poses = np.stack([np.linspace(2, 0, 21), np.zeros(21), np.full(21, inner)], axis=1)
    poses[[0, -1], 2] = first, last
    found = smooth_poses(poses, lambda piece: piece)[:, 2]
    assert np.allclose(np.cos(found[1:-1]), math.cos(expected)) and found[-1] == last
    assert found[0] == first or (math.isnan(first) and abs(abs(found[0]) - math.pi) < 1e-9)


def test_a_path_forwards_and_backwards_keeps_its_directions():
    there = np.stack([np.linspace(0, 1, 21), np.zeros(21), np.zeros(21)], axis=1)
    back = np.stack([np.linspace(1, 0, 21), np.linspace(0, 0.3, 21), np.full(21, -0.3)], axis=1)
    found = smooth_poses(np.concatenate([there, back]), lambda piece: piece)
    assert np.abs(found[:, 2]).max() < 0.4  # it never turns round


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_paths_of_few_poses(model, grid, count):
    given = np.stack([np.linspace(1, 1.5, count), np.full(count, 1.0), np.full(count, 0.5)], axis=1)
    bend = lambda piece: robot_paths.bend_path(model, piece, grid, True, robot_paths.Filling(), seeded())[0][0]  # noqa: E731
    poses = smooth_poses(given, bend)
    assert np.allclose(poses[[0, -1]], given[[0, -1]]) and np.isfinite(poses).all()
    same = smooth_poses(np.repeat(given[:1], 3, axis=0), bend)  # all poses at one place
    assert np.isfinite(same).all() and np.allclose(same[:, :2], given[0, :2])


@pytest.fixture(params=["sqlite3", "mcap"])
def bag(request, tmp_path):
    """A bag with a String and a Path of zero orientations with a cusp."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    kinds = {name.rpartition("/")[2]: kind for name, kind in store.types.items()}
    stamp, path = kinds["Time"](7, 8), tmp_path / "in"
    header, no_turn = kinds["Header"](stamp, "map"), kinds["Quaternion"](0.0, 0.0, 0.0, 0.0)
    first = kinds["Quaternion"](0.0, 0.0, 0.0, -1.0)
    places = [(0.6 + 0.05 * i, 1.0) for i in range(40)] + [(2.5 - 0.05 * i, 1.1) for i in range(20)]
    poses = [kinds["PoseStamped"](header, kinds["Pose"](kinds["Point"](x, y, 0.5), no_turn)) for x, y in places]
    poses[0].pose.orientation = first
    plugin = StoragePlugin.SQLITE3 if request.param == "sqlite3" else StoragePlugin.MCAP
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        text = writer.add_connection("/note", "std_msgs/msg/String", typestore=store)
        plan = writer.add_connection("/plan", PATH, typestore=store)
        writer.write(text, 1, store.serialize_cdr(store.types["std_msgs/msg/String"]("hello"), "std_msgs/msg/String"))
        writer.write(plan, 2, store.serialize_cdr(store.types[PATH](header, poses), PATH))
    return path


def raw_messages(path):
    from rosbags.rosbag2 import Reader

    with Reader(path) as reader:
        return [(each.topic, each.msgtype, time, bytes(raw)) for each, time, raw in reader.messages()]


def test_bag_is_rewritten_and_reads_back_bit_for_bit(bag, tmp_path, grid):
    from rosbags.typesys import Stores, get_typestore

    out, bent = tmp_path / "out", []

    def change(frame, poses):
        assert frame == "map" and np.isnan(poses[1:-1, 2]).all()
        bent.append(smooth_poses(poses, thin_out))
        return bent[-1]

    assert rewrite_bag(bag, out, change) == 1
    before, after = raw_messages(bag), raw_messages(out)
    assert after[0] == before[0] and after[1][:3] == before[1][:3] and after[1][3] != before[1][3]
    store = get_typestore(Stores.ROS2_HUMBLE)
    message = store.deserialize_cdr(after[1][3], PATH)
    assert store.serialize_cdr(message, PATH) == after[1][3]
    written = np.array([(p.pose.position.x, p.pose.position.y) for p in message.poses])
    assert np.array_equal(written, bent[0][:, :2])  # bit for bit
    assert all(
        p.header.frame_id == "map" and p.header.stamp.sec == 7 and p.pose.position.z == 0.5 for p in message.poses
    )
    turns = np.array([(p.pose.orientation.z, p.pose.orientation.w) for p in message.poses])
    assert np.allclose(np.hypot(*turns.T), 1)
    assert np.allclose(2 * np.arctan2(*turns.T)[1:], bent[0][1:, 2]) and turns[0].tolist() == [0.0, -1.0]  # as it was
    assert {path.name for path in tmp_path.iterdir()} <= {bag.name, "out"}
    assert all(path.name.startswith(("out", "metadata")) for path in out.iterdir())
    with pytest.raises(UserError, match="exists"):
        rewrite_bag(bag, out, change)
    with pytest.raises(UserError, match="could not be bent"):
        rewrite_bag(bag, tmp_path / "none", lambda frame, poses: None)
    assert not (tmp_path / "none").exists()


def test_bad_bags_are_refused_by_a_sentence(bag, tmp_path):
    with pytest.raises(UserError, match="there is no bag"):
        read_bag_paths(tmp_path / "nowhere")
    for file in [*bag.glob("*.db3"), *bag.glob("*.mcap")]:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 3])
        with pytest.raises(UserError, match="damaged"):
            read_bag_paths(bag)
        if file.suffix == ".db3":
            file.write_bytes(whole)
            with sqlite3.connect(file) as base:
                base.execute("delete from messages where timestamp = 2")
            with pytest.raises(UserError, match="no message of the type"):
                read_bag_paths(bag)


# ---- The command line
@pytest.fixture
def map_file(tmp_path, grid):
    buffer = io.BytesIO()
    Image.fromarray((grid.free[::-1] * 254).astype(np.uint8)).save(buffer, "PPM")
    (tmp_path / "map.pgm").write_bytes(buffer.getvalue())
    (tmp_path / "map.yaml").write_text(
        YAML.format(kind="pgm", negate=0).replace("[-1.0, 2.0, 0]", "[0.0, 0.0, 0.0]") + "free_thresh: 0.196\n"
    )
    return tmp_path / "map.yaml"


def test_a_path_around_an_obstacle_as_a_table(map_file, tmp_path, grid):
    out = tmp_path / "path.csv"
    words = ["--map", map_file, "--start", "0.6", "1", "--goal", "5.4", "1", "2.5", "--obstacle", "3", "0.9", "0.15"]
    code, text, err = run_script("14_robot_paths.py", *map(str, words), "--out", str(out))
    assert code == 0 and text.strip().splitlines()[-1] == str(out), err
    rows = np.loadtxt(out, delimiter=",", skiprows=1)
    assert out.read_text().startswith("x,y,yaw\n") and np.allclose(rows[[0, -1], :2], [[0.6, 1], [5.4, 1]])
    assert is_free(rows[:, :2], grid.with_disc(3, 0.9, 0.15))
    assert (
        np.allclose(rows[:-1, 2], np.arctan2(*np.diff(rows[:, :2], axis=0).T[::-1]), atol=0.01) and rows[-1, 2] == 2.5
    )
    code, _, err = run_script("14_robot_paths.py", *map(str, words), "--out", str(out))
    assert code == 1 and "exists" in err
    several = tmp_path / "several.csv"
    code, _, err = run_script("14_robot_paths.py", *map(str, words), "--out", str(several), "--candidates", "3")
    found = np.loadtxt(several, delimiter=",", skiprows=1)
    assert code == 0 and several.read_text().startswith("candidate,x,y,yaw\n") and "\n2. " in err
    for number in set(found[:, 0]):
        assert is_free(found[found[:, 0] == number, 1:3], grid.with_disc(3, 0.9, 0.15))


def test_a_bags_paths_must_be_in_the_frame_of_the_map(map_file, bag, tmp_path):
    words = ["--map", str(map_file), "--bag", str(bag), "--out", str(tmp_path / "out"), "--frame"]
    code, _, err = run_script("14_robot_paths.py", *words, "odom")
    assert code == 1 and "is in the frame 'map', and the map in 'odom'" in err and not (tmp_path / "out").exists()
    code, _, err = run_script("14_robot_paths.py", *words, "map")
    assert code == 0 and read_bag_paths(tmp_path / "out")[0][:2] == ("/plan", "map"), err


WAY = ["--start", "1", "1", "--goal", "1", "2", "--out", "a.csv"]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--out", "a.csv"], 2, "--out goes with"), (["--start", "1", "1", "--out", "a.csv"], 2, "give --map"),
        (["--map", "MAP", "--start", "3", "2", "--goal", "1", "1", "--out", "a.csv"], 1, "(3, 2) is occupied"),
        (["--map", "MAP", "--start", "1", "1", "--goal", "1", "99", "--out", "a.csv"], 1, "(1, 99) is off the map"),
        (["--map", "nowhere.yaml", "--start", "1", "1", "--goal", "1", "2", "--out", "a.csv"], 1, "there is no file"),
        (["--map", "MAP", "--bag", "nowhere", "--out", "b"], 1, "there is no bag"),
        (["--map", "MAP", *WAY, "--obstacle", "9", "9", "0.2"], 1, "obstacle (9, 9) is off the map"),
        (["--map", "MAP", *WAY, "--robot-radius", "3"], 1, "no free space for a robot of 3 m radius"),
        (["--map", "MAP", *WAY, "--turning-radius", "0"], 2, "'0' is not allowed"),
        (["--map", "MAP", "--start", "1", "--goal", "1", "2", "--out", "a.csv"], 2, "X Y YAW"),
        (["--map", "MAP", "--start", "1", "1", "--goal", "1", "2", "--out", "a.txt"], 2, "must end in .csv"),
    ],
)  # fmt: skip
def test_mistakes_are_answered_by_a_sentence(map_file, words, status, says):
    code, _, err = run_script("14_robot_paths.py", *[str(map_file) if word == "MAP" else word for word in words])
    assert code == status and says in err and "Traceback" not in err


@pytest.mark.parametrize("module", [robot_paths, path_training, maps, bags], ids=lambda module: module.__name__)
def test_an_empty_text_is_refused_by_a_sentence(module, monkeypatch, capsys):
    def ending(*words):
        monkeypatch.setattr(sys, "argv", ["script", *words])
        with pytest.raises(SystemExit) as ended:
            run(module.main)
        return ended.value.code, capsys.readouterr()

    assert ending("--help")[0] == 0
    takers = [flag for flag, action in Parser.flags.items() if action.nargs != 0]
    for words in [[flag, ""] for flag in takers] or [[""]]:
        status, said = ending(*words)
        assert status == 2 and said.out == "" and said.err.count("\n") == 1, (words, said.err)


def test_for_a_weak_model_claims_are_printed_and_nothing_stops(tmp_path, monkeypatch, capsys):
    weak = read_checkpoint(robot_paths.SHIPPED_PATHS)
    weak["model"] = {name: torch.zeros_like(tensor) for name, tensor in weak["model"].items()}
    save_checkpoint(weak, tmp_path / "weak.safetensors")
    monkeypatch.setattr(robot_paths, "ROOT", tmp_path)  # where the picture goes
    monkeypatch.setattr(robot_paths, "Filling", partial(robot_paths.Filling, rounds=0, fallbacks=()))
    monkeypatch.setattr(sys, "argv", ["14_robot_paths.py", "--checkpoint", str(tmp_path / "weak.safetensors")])
    robot_paths.main()
    lines = capsys.readouterr().out.splitlines()
    for claim in ("smoothed", "bent"):
        assert f"  not so for this model: {claim} by nobody, it can be driven" in lines
    assert Path(lines[-1]).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(robot_paths, "SHIPPED_PATHS", tmp_path / "weak.safetensors")
    with pytest.raises(AssertionError, match="does not hold: smoothed by nobody"):
        robot_paths.main()


# ---- The core of the ROS server (tests/test_ros2.py has the server)
def test_ros_core_answers_with_nav2s_codes(model, grid, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "ros2"))
    core = import_module("smooth_path_dllm.core")
    server = core.SmoothPathCore(model)
    code = lambda poses, *more, frame="map": server.answer(frame, poses, *more).error_code  # noqa: E731
    path = np.column_stack([resample(np.array([(0.6, 1.0), (5.4, 1.0)]), 0.05), np.full(97, 0.0)])
    path[-1, 2] = 1.0
    assert code(path) == 500  # no map yet
    assert "malformed" in server.costmap.replace("map", [0] * 99, 10, 10, 0.05, (0.0, 0.0, 0.0)) and code(path) == 500
    assert server.costmap.replace("map", [], 0, 0, 0.05, (0.0, 0.0, 0.0)) and code(path) == 500
    values = np.where(grid.free, 0, 100)
    values[1, 1] = 99  # inflated: may be driven through
    assert server.costmap.replace("map", values.ravel().tolist(), 120, 80, 0.0, (0.0, 0.0, 0.0)) and code(path) == 500
    assert server.costmap.replace("map", values.ravel().tolist(), 120, 80, 0.05, (0.0, 0.0, 0.0)) is None
    assert np.array_equal(server.costmap.read()[0].free, grid.free)
    answer = server.answer("map", path, 60.0)
    assert answer.error_code == 0 and answer.was_completed and np.allclose(answer.poses[-1], path[-1])
    assert code(path, 1e-9) == 502 and code([]) == code([(1, 1, 0), (99, 99, 0)]) == 505
    assert code([(1, math.nan, 0), (2, 1, 0)]) == 505
    assert "'odom', and the costmap in 'map'" in server.answer("odom", path).error_msg
    with pytest.raises(core.CancelledError):
        server.answer("map", path, cancelled=lambda: True)
    blocked = [(2.5, 2.0, 0), (2.55, 2.0, 0)]  # too short to be bent, and in collision
    assert code(blocked, 0.0, True) == 503 and code(blocked, 0.0, False) == 0
    assert server.costmap.update([100] * 40, 60, 0, 1, 40) is None and code(path) == 504  # a wall across the way
    assert server.costmap.update([100] * 40, 60, 60, 1, 40) and server.costmap.update([100], 60, 0, 1, 40)
    assert server.costmap.update([0] * 40, 60, 0, 1, 40) is None and code(path) == 0
    large = core.SmoothPathCore(model, Robot(radius=3.0))
    large.costmap.replace("map", values.ravel().tolist(), 120, 80, 0.05, (0.0, 0.0, 0.0))
    assert "no cell is free for a robot of 3 m radius" in large.answer("map", path).error_msg


# ---- The benchmark
def test_savitzky_golay_has_nav2s_weights():
    given = np.random.default_rng(0).normal(size=(20, 2))
    smooth = paths.filter_savgol(given, None)
    thrice = given
    for _ in range(3):  # once, and two refinements
        padded = np.concatenate([thrice[:1].repeat(3, axis=0), thrice, thrice[-1:].repeat(3, axis=0)])
        inner = [np.array([-2, 3, 6, 7, 6, 3, -2]) / 21 @ padded[i : i + 7] for i in range(1, 19)]
        thrice = np.concatenate([given[:1], inner, given[-1:]])
    assert np.allclose(smooth, thrice) and np.array_equal(smooth[[0, -1]], given[[0, -1]])


def test_clip_rule_takes_the_nearest_offset_with_clearance(grid):
    path = resample(np.array([(0.6, 2.9), (5.4, 2.9)]), 0.05)  # 0.4 m above the block
    assert np.abs(paths.clip_rule(path, grid, True, 0.22)[:, 1] - 2.9).max() < 1e-9  # free as it is
    bent = paths.clip_rule(path, grid, True, 0.6)
    middle = bent[np.abs(bent[:, 0] - 3) < 0.1, 1]
    assert 3.0 < middle.min() < middle.max() < 3.15  # two tenths up, and a little back by the smoothing


def test_repair_problems_are_blocked_and_can_be_solved():
    grid = made_up_map(np.random.default_rng(26))
    blocked, path = paths.repair_problem(grid, np.random.default_rng(0))
    assert is_free(path, grid) and not is_free(path, blocked)
    assert is_free(paths.replan(path, blocked), blocked)


def test_intervals_hold_the_mean():
    differences = np.random.default_rng(0).normal(1, 1, 400)
    mean, low, high = paths.interval(differences, np.random.default_rng(1))
    assert mean == differences.mean() and abs((high - low) / 2 - 1.96 / 20) < 0.02 and low < mean < high


def test_what_was_kept_is_not_measured_again(tmp_path, grid):
    calls = []

    def way(path, grid):
        calls.append(len(path))
        return path

    def make(grid, rng):
        return grid, resample(rng.uniform([0.5, 0.5], [5.5, 1.0], (2, 2)), 0.05)

    file = tmp_path / "rows.npz"
    first = paths.Kept(file).measure(grid, make, 0, "kind/map", {"as it is": way}, 3)
    again = paths.Kept(file).measure(grid, make, 0, "kind/map", {"as it is": way}, 3)
    other = tmp_path / "other.npz"
    for content in (b"notes", file.read_bytes()[:-40]):
        other.write_bytes(content)
        with pytest.raises(UserError, match=r"other\.npz is no file of what was measured"):
            paths.Kept(other)
    assert len(calls) == 3 and np.array_equal(first["as it is"], again["as it is"])
    assert np.array_equal(first["as it is"][:, :2], np.ones((3, 2)))  # straight and free: each a success, as long
    assert (first["as it is"][:, 3] > 0.22).all()


def test_a_turned_map_is_drawn_where_the_paths_are():
    grid = GridMap(np.ones((20, 30), dtype=bool), 0.1, (1.0, -2.0, 0.7))
    _, axes = new_figure()
    draw_map(axes, grid, np.array([[-9, -9], [9, 9]]))  # all of it
    [image] = axes.images
    cells = np.array([[0, 0], [29, 0], [12, 19]])  # column, row
    placed = (image.get_transform() - axes.transData).transform(cells + 0.5)
    assert np.allclose(placed, grid.to_world(cells)) and image.get_extent() == [0, 30, 0, 20]


def test_a_large_map_is_drawn_with_fewer_cells_and_no_obstacle_is_lost():
    free = np.ones((2, 1301), dtype=bool)
    free[0, 1300] = False
    shown, extent = cells_between(GridMap(free, 1.0), np.array([0, 0]), np.array([1301, 2]))
    assert shown.shape == (1, 434) and extent == [0, 1302, 0, 3]
    assert shown[0, :433].all() and not shown[0, 433]


# ---- The training
class StopsAfter:
    """Stands for StopRequest. stop.made is True once it was asked so often."""

    def __init__(self, number):
        self.left = number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def made(self):
        self.left -= 1
        return self.left < 0


def test_training_that_was_stopped_goes_on_to_the_bit(tmp_path, grid, monkeypatch):
    line = control_points(np.array([(0.6, 0.8), (2.0, 1.0), (3.0, 0.9), (4.0, 2.0), (5.2, 3.0)]))
    corridor = robot_paths.Corridor.along(line, grid)
    tokens = np.random.default_rng(0).integers(8, 22, (640, len(line)))
    problems = [(corridor, row, np.arange(len(line)) % 3 == 1) for row in tokens]
    data = {name: torch.from_numpy(array) for name, array in path_training.pack(problems).items()}
    options = dict(steps=4, minutes=None)
    monkeypatch.setattr(path_training, "measure", lambda *_: 1.0)  # it takes seconds
    for name, stops in (("whole", [99]), ("parts", [0, 2, 99])):
        for number, stop in enumerate(stops):
            args = SimpleNamespace(out=tmp_path / f"{name}.safetensors", resume=number > 0, **options)
            monkeypatch.setattr(path_training, "StopRequest", lambda: StopsAfter(stop))
            saved = path_training.saved_run(args)
            path_training.train_paths(path_training.settle_paths(args, data, saved), data, saved)
            assert args.out.exists()  # also where it was stopped before its first step
    whole, parts = (read_checkpoint(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 4
    assert all(torch.equal(value, parts["model"][name]) for name, value in whole["model"].items())
    with pytest.raises(UserError, match="learns other problems"):
        args.out = tmp_path / "whole.safetensors"
        saved = path_training.saved_run(args)
        path_training.settle_paths(args, data | dict(tokens=data["tokens"][:600]), saved)
    with pytest.raises(UserError, match="its batch is not 96"):
        path_training.settle_paths(args, data, saved | dict(settings=saved["settings"] | dict(batch=951)))
    count = len(data["tokens"])
    for number in (None, count):
        assert path_training.number_of(SimpleNamespace(number=number), saved) == count
    with pytest.raises(UserError, match=f"has --number {count}, not 7: leave out --number"):
        path_training.number_of(SimpleNamespace(number=7, out="run"), saved)
    with pytest.raises(UserError, match="exists"):
        args.resume = False
        path_training.saved_run(args)


def damaged(kind, part, file):
    """Damages the .npz `file` of a part's arrays."""
    if kind == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "no archive":
        file.write_text("tokens")
    elif kind == "a folder":
        file.unlink()
        file.mkdir()
    elif kind == "short":
        path_training.save_arrays(part | dict(length=np.full(5, 2)), file)
    elif kind == "hidden beyond":
        path_training.save_arrays(part | dict(masked=np.ones_like(part["masked"])), file)
    elif kind == "no turns":
        path_training.save_arrays({name: array for name, array in part.items() if name != "turns"}, file)
    else:
        name, array = dict(
            shorter=("tokens", part["tokens"][:4]), floats=("tokens", part["tokens"] / 2),
            objects=("turns", [None] * 5), high=("tokens", part["tokens"] + 90),
            nan=("clearances", part["clearances"] * np.nan), negative=("clearances", part["clearances"] - 60000),
            huge=("tokens", np.zeros((5, 10**7), np.uint8)),
        )[kind]  # fmt: skip
        path_training.save_arrays(part | {name: np.asarray(array)}, file)


@pytest.mark.parametrize(
    "kind",
    [
        "cut short",
        "no archive",
        "a folder",
        "no turns",
        "shorter",
        "floats",
        "objects",
        "high",
        "nan",
        "huge",
        "short",
        "hidden beyond",
        "negative",
    ],
)
def test_a_damaged_part_of_the_problems_is_named(tmp_path, grid, monkeypatch, kind):
    corridor = corridor_along(grid, (0.6, 1.0), (5.4, 1.0))
    n = len(corridor.line)
    part = path_training.pack([(corridor, np.full(n, robot_paths.STRAIGHT), np.arange(n) == 3)] * 5)
    monkeypatch.setattr(path_training, "DATA", tmp_path)
    path_training.save_arrays(part, tmp_path / "0_5.npz")
    data = path_training.load_problems(5)
    assert all(np.array_equal(data[name].numpy(), array) for name, array in part.items())
    damaged(kind, part, tmp_path / "0_5.npz")
    tracemalloc.start()
    with pytest.raises(UserError, match=r"0_5\.npz is damaged, or no part of the problems; delete it"):
        path_training.load_problems(5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # bytes: 50 million zeros take some 50 kB in the file and are not unpacked
