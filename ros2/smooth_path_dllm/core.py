"""What the action server decides. A costmap comes in. A path is answered by another path or by a code of Nav2.

Builds on:  robots and lesson 14. It needs no ROS.
"""

import math
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module

import numpy as np

from robots.curves import is_free, sharpest_bend
from robots.grid import TURTLEBOT, GridMap
from robots.poses import smooth_poses

import torch

robot_paths = import_module("14_robot_paths")

# nav2_msgs/action/SmoothPath
NONE, UNKNOWN, INVALID_SMOOTHER, TIMEOUT, SMOOTHED_PATH_IN_COLLISION, FAILED_TO_SMOOTH_PATH, INVALID_PATH = (
    0, 500, 501, 502, 503, 504, 505,
)  # fmt: skip
SMOOTHER_ID = "dllm"
FALLBACKS = ("simple smoother", "as it was")  # a new plan is the planner's


class CancelledError(Exception):
    """The goal is not wanted any more."""


@dataclass(frozen=True)
class Answer:
    """The result of the action, as plain numbers."""

    error_code: int = NONE
    error_msg: str = ""
    was_completed: bool = False
    poses: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))  # [M, 3] x, y, yaw
    by: str = ""  # whom the pieces are by


class Costmap:
    """The last costmap (nav_msgs/msg/OccupancyGrid) and the updates since. Threads may share it.

    A cell is free if it is known and not lethal (100). What is inflated may be driven through."""

    def __init__(self, robot):
        self.robot, self.lock, self.frame = robot, threading.Lock(), ""
        self.values, self.info, self.grid, self.problem = None, None, None, "no costmap has come yet"

    def replace(self, frame, values, width, height, resolution, origin):
        """Takes a whole costmap. Returns a sentence on what is wrong with it, or None.

        A bad one takes the place of the last good one. It is not known then where the robot may go."""
        whole = width > 0 and height > 0 and 0 < resolution < math.inf and len(values) == width * height
        with self.lock:
            self.frame, self.values, self.grid = frame, None, None
            if not whole:
                size = f"{len(values)} values for {width} x {height} cells of {resolution:g} m"
                self.problem = f"the last costmap is malformed: {size}"
                return self.problem
            self.problem, self.info = None, (resolution, origin)
            self.values = np.array(values, dtype=np.int8).reshape(height, width)

    def update(self, values, x, y, width, height):
        """Takes a map_msgs/msg/OccupancyGridUpdate: a part of the costmap whose first cell is x, y.

        Returns a sentence on what is wrong with it, or None."""
        with self.lock:
            if self.values is None:
                return "an update came without a costmap"
            rows, columns = self.values.shape
            inside = 0 <= x <= x + width <= columns and 0 <= y <= y + height <= rows
            if not inside or len(values) != width * height:
                size = f"{len(values)} values for {width} x {height} cells at ({x}, {y})"
                return f"an update was left out, which does not fit the costmap: {size}"
            self.values[y : y + height, x : x + width] = np.reshape(values, (height, width))
            self.grid = None

    def read(self):
        """(GridMap, frame, None) or (None, frame, what is wrong)."""
        with self.lock:
            if self.grid is None and self.values is not None:
                self.grid = GridMap((self.values >= 0) & (self.values < 100), *self.info, self.robot)
                no_room = not (self.grid.clearances >= self.robot.keep).any()
                self.problem = f"no cell is free for a robot of {self.robot.radius:g} m radius" if no_room else None
            return (None if self.problem else self.grid), self.frame, self.problem


class SmoothPathCore:
    """Answers goals on the costmap that came last."""

    def __init__(self, model, robot=TURTLEBOT, clearance=None):
        self.model, self.costmap = model, Costmap(robot)
        self.filling = robot_paths.Filling(fallbacks=FALLBACKS)
        if clearance is not None:
            self.filling = replace(self.filling, room=max(0.0, clearance - robot.radius))

    def bend(self, grid, check, by, points):
        """[n, 2] a piece of a path -> [m, 2], or None where that fails. What collides is bent.

        A piece that is too sharp for the robot is smoothed whole. Appends to `by` whom it is by. Raises what check()
        raises."""
        check()
        whole, generator = sharpest_bend(points) > grid.robot.sharpest, torch.Generator().manual_seed(0)
        bend_path = partial(robot_paths.bend_path, self.model, points, grid, whole)
        found, name = bend_path(self.filling, generator, lambda *_: check())
        by.append(name)
        return found[0] if found else None

    def answer(self, frame, poses, seconds=0.0, check_for_collisions=True, cancelled=lambda: False):
        """An Answer to the poses [N, 3] of a path. seconds: the most that it may take. 0 is no limit.

        cancelled() is asked after every pass. Raises CancelledError and nothing else."""
        deadline, by = time.monotonic() + (seconds or math.inf), []
        poses = np.asarray(poses, dtype=float).reshape(-1, 3)
        grid, map_frame, problem = self.costmap.read()
        if refused := refusal(frame, poses, grid, map_frame, problem):
            return refused

        def check():
            if cancelled():
                raise CancelledError
            if time.monotonic() > deadline:
                raise TimeoutError

        try:
            smooth = smooth_poses(poses, partial(self.bend, grid, check, by))
            check()
        except TimeoutError:
            return Answer(TIMEOUT, "max_smoothing_duration is over")
        except CancelledError:
            raise
        except Exception as unforeseen:  # a server must outlive the goal
            return Answer(UNKNOWN, f"{type(unforeseen).__name__}: {unforeseen}")
        return judge(smooth, grid, check_for_collisions, ", ".join(dict.fromkeys(by)) or "nobody: it is too short")


def refusal(frame, poses, grid, map_frame, problem):
    """The Answer to poses [N, 3] that cannot be worked at, or None. grid, map_frame, problem: as Costmap.read says."""
    if not len(poses):
        return Answer(INVALID_PATH, "the path is empty")
    if problem:
        return Answer(UNKNOWN, problem)
    if frame and map_frame and frame != map_frame:
        return Answer(INVALID_PATH, f"the path is in the frame {frame!r}, and the costmap in {map_frame!r}")
    if not np.isfinite(poses[:, :2]).all() or not grid.on_map(poses[:, :2]).all():
        return Answer(INVALID_PATH, "the path leaves the costmap, or has a place that is no number")
    return None


def judge(smooth, grid, check_for_collisions, by):
    """The Answer with the poses [M, 3] that were found. They may be None."""
    if smooth is None:
        return Answer(FAILED_TO_SMOOTH_PATH, "no path was found that the robot can drive; plan anew")
    if check_for_collisions and not is_free(smooth[:, :2], grid):
        return Answer(SMOOTHED_PATH_IN_COLLISION, "the path collides", poses=smooth)
    return Answer(was_completed=True, poses=smooth, by=by)
