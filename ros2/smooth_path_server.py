"""An action server for Nav2: nav2_msgs/action/SmoothPath, answered by lesson 14's model.

SmoothPathCore is all that decides anything; it needs no ROS, and this repository's tests run it. The shell around it,
`main`, needs rclpy and nav2_msgs; it is written after their documentation and is NOT run by this repository's tests.

Run, in a shell where ROS 2 (Humble or later) is sourced and this project's requirements are installed:
            python ros2/smooth_path_server.py --ros-args -p costmap_topic:=/global_costmap/costmap
Builds on:  robots, lesson 14.

ros2/README.md has the snippet for a behaviour tree, and how to launch it.
"""

import sys
import time
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from robots.curves import judge
from robots.grid import ROBOT, GridMap
from robots.poses import smooth_poses

import torch

robot_paths = import_module("14_robot_paths")

# nav2_msgs/action/SmoothPath
NONE, UNKNOWN, INVALID_SMOOTHER, TIMEOUT, SMOOTHED_PATH_IN_COLLISION, FAILED_TO_SMOOTH_PATH, INVALID_PATH = (
    0, 500, 501, 502, 503, 504, 505,
)  # fmt: skip
SMOOTHER_ID = "dllm"


@dataclass(frozen=True)
class Answer:
    """The result of the action, as plain numbers."""

    error_code: int = NONE
    error_msg: str = ""
    was_completed: bool = False
    poses: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))  # [M, 3] x, y, yaw


def grid_of(values, width, height, resolution, origin):
    """A GridMap from the fields of a nav_msgs/msg/OccupancyGrid: free is what is known and not lethal (100)."""
    cells = np.asarray(values, dtype=np.int16).reshape(height, width)
    return GridMap((cells >= 0) & (cells < 100), resolution, origin)


class SmoothPathCore:
    """Answers one goal after the other on the map that it was given last."""

    def __init__(self, model):
        self.model, self.grid = model, None

    def bend(self, deadline, points):
        """[n, 2] a piece of a path -> [m, 2]: what collides is bent; where it is too sharp for the robot, all of it is
        smoothed. None where that fails. Raises TimeoutError."""
        _, sharpest = judge(points, self.grid)
        if time.monotonic() > deadline:
            raise TimeoutError
        whole, generator = sharpest > robot_paths.SHARPEST, torch.Generator().manual_seed(0)
        return robot_paths.bend_piece(self.model, generator, self.grid, whole, points)

    def answer(self, points, smoother_id="", seconds=0.0, check_for_collisions=True):
        """points [N, 2]; seconds: the most that it may take, looked at between the pieces of a path and at the end; 0
        for as long as it takes. An Answer, with Nav2's codes; never raises."""
        began = time.monotonic()
        deadline = began + (seconds or 1e9)
        points = np.asarray(points, dtype=float).reshape(-1, 2)
        if smoother_id not in ("", SMOOTHER_ID):
            return Answer(INVALID_SMOOTHER, f"there is no smoother {smoother_id!r}; this one is {SMOOTHER_ID!r}")
        if not len(points):
            return Answer(INVALID_PATH, "the path is empty")
        if self.grid is None:
            return Answer(UNKNOWN, "no map has come yet")
        if not np.isfinite(points).all() or not self.grid.on_map(points).all():
            return Answer(INVALID_PATH, "the path leaves the map")
        try:
            poses = smooth_poses(points, partial(self.bend, deadline))
        except TimeoutError:
            return Answer(TIMEOUT, f"it took more than {seconds:g} s")
        except Exception as problem:  # a server must outlive a goal that it did not foresee
            return Answer(UNKNOWN, f"{type(problem).__name__}: {problem}")
        if poses is None:
            return Answer(FAILED_TO_SMOOTH_PATH, "no path was found that the robot can drive; plan anew")
        if time.monotonic() > deadline:
            return Answer(TIMEOUT, f"it took more than {seconds:g} s")
        if check_for_collisions and (self.grid.clearance(poses[:, :2]) < ROBOT).any():
            return Answer(SMOOTHED_PATH_IN_COLLISION, "the path collides", poses=poses)
        return Answer(was_completed=True, poses=poses)


def main():
    """The ROS shell: a costmap comes in, goals are answered. Not run by this repository's tests."""
    import math

    import rclpy
    from builtin_interfaces.msg import Duration
    from geometry_msgs.msg import PoseStamped
    from nav2_msgs.action import SmoothPath
    from nav_msgs.msg import OccupancyGrid
    from rclpy.action import ActionServer
    from rclpy.node import Node
    from rclpy.qos import DurabilityPolicy, QoSProfile

    rclpy.init()
    node = Node("smooth_path_dllm")
    checkpoint = node.declare_parameter("checkpoint", str(robot_paths.SHIPPED_PATHS)).value
    topic = node.declare_parameter("costmap_topic", "/global_costmap/costmap").value
    core = SmoothPathCore(robot_paths.load_model(checkpoint))

    def take_map(message):
        info, turn = message.info, message.info.origin.orientation
        yaw = 2 * math.atan2(turn.z, turn.w)
        origin = info.origin.position.x, info.origin.position.y, yaw
        core.grid = grid_of(message.data, info.width, info.height, info.resolution, origin)

    def execute(handle):
        began, goal, result = time.monotonic(), handle.request, SmoothPath.Result()
        points = [(pose.pose.position.x, pose.pose.position.y) for pose in goal.path.poses]
        limit = goal.max_smoothing_duration.sec + goal.max_smoothing_duration.nanosec / 1e9
        answer = core.answer(points, goal.smoother_id, limit, goal.check_for_collisions)
        result.path.header = goal.path.header
        for x, y, yaw in answer.poses.tolist():
            pose = PoseStamped(header=goal.path.header)
            pose.pose.position.x, pose.pose.position.y = x, y
            pose.pose.orientation.z, pose.pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
            result.path.poses.append(pose)
        seconds = time.monotonic() - began
        result.smoothing_duration = Duration(sec=int(seconds), nanosec=int(seconds % 1 * 1e9))
        result.was_completed = answer.was_completed
        for name in ("error_code", "error_msg"):  # newer versions of Nav2 have them
            if hasattr(result, name):
                setattr(result, name, getattr(answer, name))
        handle.succeed() if answer.error_code == NONE else handle.abort()
        return result

    node.create_subscription(
        OccupancyGrid, topic, take_map, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )
    server = ActionServer(node, SmoothPath, "smooth_path_dllm", execute)
    try:
        rclpy.spin(node)
    finally:
        server.destroy()
        if rclpy.ok():  # Ctrl-C has shut it down already
            rclpy.shutdown()


if __name__ == "__main__":
    main()
