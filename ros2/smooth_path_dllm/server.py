"""An action server for Nav2's nav2_msgs/action/SmoothPath as a lifecycle node. core.py decides what it answers.

Run it where ROS 2 is sourced and this package is built, with the Python packages of the README:
            ros2 run smooth_path_dllm server --ros-args -p costmap_topic:=/global_costmap/costmap
Builds on:  smooth_path_dllm.core, rclpy, nav2_msgs, map_msgs.

tests/test_ros2.py drives it by a real rclpy client.
"""

import math
import signal
import sys
import threading
import time

for number in (signal.SIGINT, signal.SIGTERM):  # while it loads, they end it without a traceback
    signal.signal(number, lambda *_: sys.exit(1))

import smooth_path_dllm  # noqa: F401  it makes the project importable
from smooth_path_dllm.core import NONE, SMOOTHER_ID, UNKNOWN, CancelledError, SmoothPathCore, robot_paths

from robots.bags import frame_of, yaw_of
from robots.grid import Robot
from tools.command_line import UserError

import rclpy
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import PoseStamped
from map_msgs.msg import OccupancyGridUpdate
from nav2_msgs.action import SmoothPath
from nav_msgs.msg import OccupancyGrid
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions

NAME = "smooth_path_dllm"
MOST_GOALS = 8  # at once. One is worked at, the others wait and more are rejected
SEVERAL = QoSProfile(depth=100)  # requests that may lie there until they are read


class SmoothPathServer(LifecycleNode):
    """Answers goals one after the other. Meanwhile it hears costmaps, cancels and further goals."""

    def __init__(self):
        super().__init__(NAME)
        self.declare_parameter("checkpoint", str(robot_paths.SHIPPED_PATHS))
        self.declare_parameter("costmap_topic", "/global_costmap/costmap")
        self.declare_parameter("robot_radius", Robot.radius)
        self.declare_parameter("turning_radius", Robot.turning_radius)
        self.declare_parameter("clearance", 0.0)  # 0: the default of lesson 14
        self.working, self.lock = threading.Lock(), threading.Lock()
        self.goals, self.active, self.stopping, self.parts = 0, False, False, []

    # ---- The life of a node
    def on_configure(self, state):
        """Loads the model and listens."""
        value = lambda name: self.get_parameter(name).value  # noqa: E731
        try:
            robot = Robot(value("robot_radius"), value("turning_radius"))
            self.core = SmoothPathCore(robot_paths.load_model(value("checkpoint")), robot, value("clearance") or None)
        except UserError as mistake:
            self.get_logger().error(str(mistake))
            return TransitionCallbackReturn.FAILURE
        topic, one_by_one, many = value("costmap_topic"), MutuallyExclusiveCallbackGroup(), ReentrantCallbackGroup()
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        group = dict(callback_group=one_by_one)
        services = {f"{each}_service_qos_profile": SEVERAL for each in ("goal", "result", "cancel")}
        hear = self.create_subscription
        self.parts = [
            hear(OccupancyGrid, topic, self.take_map, kept, **group),
            hear(OccupancyGridUpdate, f"{topic}_updates", self.take_update, SEVERAL, **group),
            ActionServer(
                self, SmoothPath, NAME, self.execute, callback_group=many, goal_callback=self.accept,
                cancel_callback=lambda handle: CancelResponse.ACCEPT, **services,
            ),
        ]  # fmt: skip
        self.get_logger().info(f"waiting for a costmap on {self.resolve_topic_name(topic)}")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state):
        """Goals are accepted from now on."""
        self.active = True
        self.get_logger().info("ready")
        return super().on_activate(state)

    def on_deactivate(self, state):
        """Goals are rejected from now on. Those that are worked at go on to their end."""
        self.active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state):
        """Listens no more."""
        for part in self.parts:
            part.destroy() if isinstance(part, ActionServer) else self.destroy_subscription(part)
        self.parts = []
        return TransitionCallbackReturn.SUCCESS

    # ---- Messages
    def take_map(self, message):
        """A whole costmap."""
        info, first = message.info, self.core.costmap.values is None
        origin = info.origin.position.x, info.origin.position.y, yaw_of(info.origin.orientation)
        origin = tuple(0.0 if math.isnan(number) else number for number in origin)
        size = info.width, info.height, info.resolution
        problem = self.core.costmap.replace(message.header.frame_id, message.data, *size, origin)
        if problem:
            self.get_logger().warning(problem)
        elif first:
            self.get_logger().info(f"a costmap: {size[0]} x {size[1]} cells of {size[2]:g} m")

    def take_update(self, message):
        """A part of a costmap."""
        problem = self.core.costmap.update(message.data, message.x, message.y, message.width, message.height)
        if problem:
            self.get_logger().warning(problem)

    def accept(self, goal):
        """Rejects a goal that cannot be worked at. As Nav2 does, it rejects an empty path and another smoother."""
        with self.lock:
            reasons = {
                "the path is empty": not goal.path.poses,
                f"there is no smoother {goal.smoother_id!r}": goal.smoother_id not in ("", SMOOTHER_ID),
                "it is not active": not self.active or self.stopping,
                f"{MOST_GOALS} goals wait already": self.goals >= MOST_GOALS,
            }
            for reason, holds in reasons.items():
                if holds:
                    self.get_logger().warning(f"a goal was rejected: {reason}")
                    return GoalResponse.REJECT
            self.goals += 1
        return GoalResponse.ACCEPT

    def execute(self, handle):
        """Works at a goal when its turn has come."""
        began, goal, result = time.monotonic(), handle.request, SmoothPath.Result()
        limit = goal.max_smoothing_duration.sec + goal.max_smoothing_duration.nanosec / 1e9
        unwanted = lambda: handle.is_cancel_requested or self.stopping  # noqa: E731
        try:
            while not self.working.acquire(timeout=0.02):
                if unwanted():
                    raise CancelledError
            try:
                rows = [(p.pose.position.x, p.pose.position.y, yaw_of(p.pose.orientation)) for p in goal.path.poses]
                left = max(1e-9, limit - (time.monotonic() - began)) if limit else 0.0
                answer = self.core.answer(frame_of(goal.path), rows, left, goal.check_for_collisions, unwanted)
            finally:
                self.working.release()
        except CancelledError:
            if handle.is_cancel_requested:
                handle.canceled()
            else:
                write_error(result, UNKNOWN, "the server stops")
                handle.abort()
            return result
        finally:
            with self.lock:
                self.goals -= 1
        result.path.header, result.path.poses = goal.path.header, to_messages(answer.poses, goal.path)
        seconds = time.monotonic() - began
        result.smoothing_duration = Duration(sec=int(seconds), nanosec=int(seconds % 1 * 1e9))
        result.was_completed = answer.was_completed
        write_error(result, answer.error_code, answer.error_msg)
        done = f"by {answer.by}" if answer.error_code == NONE else f"error {answer.error_code}: {answer.error_msg}"
        self.get_logger().info(f"{len(rows)} poses, {seconds:.2f} s, {done}")
        handle.succeed() if answer.error_code == NONE else handle.abort()
        return result


def write_error(result, code, text):
    """Writes an error into a result as far as it has fields for it. That of ROS 2 Humble has none."""
    for name, value in (("error_code", code), ("error_msg", text)):
        if hasattr(result, name):
            setattr(result, name, value)


def to_messages(poses, path):
    """[M, 3] -> a list of PoseStamped. The first and the last orientation are those of the path that was given."""
    messages = []
    for x, y, yaw in poses.tolist():
        message = PoseStamped(header=path.header)
        message.pose.position.x, message.pose.position.y = x, y
        message.pose.orientation.z, message.pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        messages.append(message)
    for place in (0, -1) if messages else ():
        given = path.poses[place].pose.orientation
        if not math.isnan(yaw_of(given)):
            messages[place].pose.orientation = given
    return messages


def main():
    """Spins until Ctrl-C or SIGTERM. With the parameter autostart (default: true) it configures and activates itself.
    Otherwise a lifecycle manager does."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = SmoothPathServer()
    if node.declare_parameter("autostart", True).value:
        for change in (node.trigger_configure, node.trigger_activate):
            if change() != TransitionCallbackReturn.SUCCESS:
                sys.exit(1)  # it has said why
    executor = MultiThreadedExecutor(num_threads=MOST_GOALS + 4)
    executor.add_node(node)
    spinner = threading.Thread(target=executor.spin)
    spinner.start()
    stop.wait()
    node.stopping = True
    if node.goals:  # those that wait for an answer get it
        end = time.monotonic() + 3
        while node.goals and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.5)
    executor.shutdown(timeout_sec=2)
    spinner.join()
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
