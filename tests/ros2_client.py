"""An rclpy client for tests/test_ros2.py. It brings the action server of ros2/ into one situation after the other.

A Python that has ROS 2 runs it: python tests/ros2_client.py PID. PID is the process of the server. It prints a line of
JSON, {situation: what came of it}.
"""

import json
import math
import os
import signal
import sys
import threading
import time

import rclpy
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from map_msgs.msg import OccupancyGridUpdate
from nav2_msgs.action import SmoothPath
from nav_msgs.msg import OccupancyGrid, Path
from rclpy.action import ActionClient
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

WIDTH, HEIGHT, CELL = 800, 400, 0.05  # 40 x 20 m
SHARED = QoSProfile(depth=100)


def wait(future, seconds=60):
    """What a future gives. Raises TimeoutError."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait(seconds):
        raise TimeoutError
    return future.result()


def path_of(points, yaws=None, frame="map"):
    """A Path through points, with the yaws of its poses."""
    path = Path()
    path.header.frame_id = frame
    for (x, y), yaw in zip(points, yaws or [0.0] * len(points)):
        pose = PoseStamped(header=path.header)
        pose.pose.position.x, pose.pose.position.y = float(x), float(y)
        pose.pose.orientation.z, pose.pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        path.poses.append(pose)
    return path


def straight(y=10.0, yaws=None, frame="map"):
    """A path from x = 2 to 8 m with a pose every 10 cm."""
    return path_of([(2 + 0.1 * i, y) for i in range(61)], yaws, frame)


def long_path():
    """A path in zigzag of 250 m. The server needs seconds for it."""
    corners = [(2 + 36 * ((i + 1) // 2 % 2), 1 + 2.5 * (i // 2)) for i in range(14)]
    points = []
    for (x, y), (u, v) in zip(corners, corners[1:]):
        steps = max(1, round(math.hypot(u - x, v - y) / 0.1))
        points += [(x + (u - x) * k / steps, y + (v - y) * k / steps) for k in range(steps)]
    return path_of([*points, corners[-1]])


class Client:
    """The client and the publishers of a costmap and its updates."""

    def __init__(self):
        self.node = Node("client")
        self.server = ActionClient(
            self.node,
            SmoothPath,
            "smooth_path_dllm",
            goal_service_qos_profile=SHARED,
            result_service_qos_profile=SHARED,
        )
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.maps = self.node.create_publisher(OccupancyGrid, "/global_costmap/costmap", kept)
        self.updates = self.node.create_publisher(OccupancyGridUpdate, "/global_costmap/costmap_updates", 10)
        self.states = self.node.create_client(ChangeState, "/smooth_path_dllm/change_state")
        executor = MultiThreadedExecutor(num_threads=4)
        executor.add_node(self.node)
        threading.Thread(target=executor.spin, daemon=True).start()
        assert self.server.wait_for_server(60), "there is no server"

    def publish(self, values=None, size=(WIDTH, HEIGHT), resolution=CELL):
        """A costmap. It is all free unless values are given."""
        message = OccupancyGrid()
        message.header.frame_id = "map"
        message.info.width, message.info.height, message.info.resolution = *size, resolution
        message.info.origin.orientation.w = 1.0
        message.data = [0] * (size[0] * size[1]) if values is None else values
        self.maps.publish(message)

    def update(self, x, y, width, height, value):
        """A part of the costmap in cells."""
        message = OccupancyGridUpdate(x=x, y=y, width=width, height=height, data=[value] * (width * height))
        self.updates.publish(message)

    def send(self, path, smoother="dllm", seconds=0.0, check=True):
        """(handle of the goal, seconds until it was acknowledged)"""
        goal, began = SmoothPath.Goal(path=path, smoother_id=smoother, check_for_collisions=check), time.monotonic()
        goal.max_smoothing_duration = Duration(sec=int(seconds), nanosec=int(seconds % 1 * 1e9))
        handle = wait(self.server.send_goal_async(goal))
        return handle, time.monotonic() - began

    def ask(self, path, **options):
        """What came of a goal as a dict. Its seconds begin when it is sent."""
        began = time.monotonic()
        handle, acknowledged = self.send(path, **options)
        return self.outcome(handle, began) | dict(acknowledged=acknowledged)

    def outcome(self, handle, began, result=None):
        """The result of a goal as a dict. result: its future if it was asked for already."""
        if not handle.accepted:
            return dict(accepted=False)
        answer = wait(result or handle.get_result_async())
        result, poses = answer.result, [each.pose for each in answer.result.path.poses]
        places = [(p.position.x, p.position.y, 2 * math.atan2(p.orientation.z, p.orientation.w)) for p in poses]
        return dict(
            accepted=True, status=answer.status, code=result.error_code, says=result.error_msg,
            completed=result.was_completed, frame=result.path.header.frame_id, poses=places,
            seconds=time.monotonic() - began,
        )  # fmt: skip

    def until(self, fits, path, seconds=20, **options):
        """Asks again until an outcome fits or the time is over. A topic takes a moment. Returns the last outcome."""
        end = time.monotonic() + seconds
        while True:
            outcome = self.ask(path, **options)
            if fits(outcome) or time.monotonic() > end:
                return outcome
            time.sleep(0.05)

    def change(self, transition):
        """Whether a change of the server's state succeeded."""
        return wait(self.states.call_async(ChangeState.Request(transition=Transition(id=transition)))).success


def at_least(path, low):
    """Whether the places of an outcome keep away from y = 10 m by so much somewhere."""
    return max((abs(y - 10) for _, y, _ in path.get("poses", [])), default=0) > low


def simple_situations(client):
    """One goal each."""
    yield "before a map", client.ask(straight())
    client.publish()
    heading = [0.3] + [0.0] * 59 + [1.234567]
    yield "good", client.until(lambda outcome: outcome["code"] != 500, straight(yaws=heading))
    yield "backwards", client.ask(straight(yaws=[3.0] * 61))
    yield "empty", client.ask(Path())
    yield "not a number", client.ask(path_of([(2, 2), (math.nan, 2), (4, 2)]))
    yield "off the map", client.ask(path_of([(2, 2), (4, 2), (2, -3)]))
    yield "wrong smoother", client.ask(straight(), smoother="simple_smoother")
    yield "another frame", client.ask(straight(frame="odom"))
    yield "deadline", client.ask(long_path(), seconds=0.5)
    client.update(90, 195, 4, 10, 100)  # a block of 20 x 50 cm on the straight path
    yield "updates", client.until(lambda outcome: at_least(outcome, 0.4), straight())
    block = path_of([(4.55, 10.0), (4.6, 10.0)])  # too short to be bent
    yield "collision", client.ask(block)
    yield "collision not asked for", client.ask(block, check=False)
    client.update(100, 0, 2, HEIGHT, 100)  # a wall
    yield "no way", client.until(lambda outcome: outcome["code"] != 0, straight())
    for name, options in {
        "too few values": dict(values=[0] * 99), "no cells": dict(size=(0, 0)), "resolution 0": dict(resolution=0.0),
    }.items():  # fmt: skip
        client.publish()
        client.until(lambda outcome: outcome["code"] == 0, straight())
        client.publish(**options)
        yield name, client.until(lambda outcome: outcome["code"] != 0, straight())
    client.publish()
    yield "good again", client.until(lambda outcome: outcome["code"] == 0, straight())


def situations_at_once(client):
    """Several goals, and what ends them."""
    began = time.monotonic()
    slow, _ = client.send(long_path())
    time.sleep(0.2)
    quick, acknowledged = client.send(straight())
    yield (
        "two at once",
        dict(acknowledged=acknowledged, slow=client.outcome(slow, began), quick=client.outcome(quick, began)),
    )
    slow, _ = client.send(long_path())
    time.sleep(0.2)
    began = time.monotonic()
    wait(slow.cancel_goal_async())
    yield "cancel", client.outcome(slow, began)
    slow, _ = client.send(long_path())
    waiting, _ = client.send(long_path())
    began = time.monotonic()
    wait(waiting.cancel_goal_async())
    yield "cancel of one that waits", client.outcome(waiting, began)
    wait(slow.cancel_goal_async())
    client.outcome(slow, began)
    goal = SmoothPath.Goal(path=straight(), check_for_collisions=True)
    futures = [client.server.send_goal_async(goal) for _ in range(20)]
    handles = [wait(future) for future in futures]
    yield "20 at once", [client.outcome(handle, began) for handle in handles]


def situations_of_the_node(client, pid):
    """The life of the node. At its end it is interrupted."""
    outcomes = [client.change(Transition.TRANSITION_DEACTIVATE), client.ask(straight())["accepted"]]
    outcomes += [client.change(Transition.TRANSITION_CLEANUP), client.change(Transition.TRANSITION_CONFIGURE)]
    outcomes += [client.change(Transition.TRANSITION_ACTIVATE)]
    yield "states", outcomes
    yield "good after a new start", client.until(lambda outcome: outcome.get("code") == 0, straight())
    slow, _ = client.send(long_path())
    result = slow.get_result_async()
    time.sleep(0.5)
    os.kill(pid, signal.SIGINT)
    yield "interrupted", client.outcome(slow, time.monotonic(), result)


def main():
    """Prints what came of all situations."""
    rclpy.init()
    client, pid = Client(), int(sys.argv[1])
    outcomes = {}
    for situations in (simple_situations(client), situations_at_once(client), situations_of_the_node(client, pid)):
        for name, outcome in situations:
            print(name, file=sys.stderr, flush=True)
            outcomes[name] = outcome
    print(json.dumps(outcomes), flush=True)
    os._exit(0)  # its threads still wait


if __name__ == "__main__":
    main()
