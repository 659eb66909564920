"""The paths of a robot in ROS bags (rosbag2, sqlite3 or mcap), read and rewritten without ROS.

Run:        python -m robots.bags FILE                (lists the paths of a bag)
Builds on:  robots.curves, robots.poses, tools.
Last line:  the last path of the bag: its topic, its poses, its length.

Lesson 14 takes from here: rewrite_bag.
"""

import contextlib
import math
import tempfile
from pathlib import Path

import numpy as np

from robots.curves import length_of
from robots.poses import refuse_to_overwrite
from tools.command_line import Parser, UserError, run

PATH = "nav_msgs/msg/Path"


@contextlib.contextmanager
def open_bag(path):
    """An open reader of a rosbag2, sqlite3 or mcap. Raises UserError, also for what goes wrong while it is read."""
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import Stores, get_typestore

    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no bag {path}.")
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            yield reader
    except (UserError, KeyboardInterrupt, OSError):
        raise
    except AnyReaderError as problem:
        raise UserError(f"{path} is no bag, or damaged ({problem}).")
    except Exception as problem:  # sqlite's, yaml's, struct's and the decoders' own: a bag may be broken anywhere
        raise UserError(f"{path} is damaged, or cannot be bent ({type(problem).__name__}).")


def points_of(message):
    """[N, 2] the places of a Path's poses. Raises UserError where one is no number."""
    places = [(pose.pose.position.x, pose.pose.position.y) for pose in message.poses]
    points = np.array(places, dtype=float).reshape(-1, 2)
    if not np.isfinite(points).all() or np.abs(points).max(initial=0) > 1e6:
        raise UserError("a path has a pose that is nowhere: a coordinate is no number, or too large.")
    return points


def read_bag_paths(path):
    """[(topic, [N, 2] places of the poses)] of all Paths in a bag. Raises UserError where there is none."""
    with open_bag(path) as reader:
        connections = [each for each in reader.connections if each.msgtype == PATH]
        messages = reader.messages(connections) if connections else ()
        found = [(each.topic, points_of(reader.deserialize(raw, PATH))) for each, _, raw in messages]
        kinds = ", ".join(sorted({each.msgtype for each in reader.connections})) or "nothing"
    if not found:
        raise UserError(f"{path} has no message of the type {PATH}; it has {kinds}.")
    return found


def rewrite_bag(source, target, change):
    """Copies a bag, every Path in it replaced by change(points [N, 2]) -> poses [M, 3], frames, stamps, times and all
    other messages kept as they are. Returns how many Paths were replaced.

    The orientation of each pose is the way ahead. Where change gives None, UserError names the path, and no bag is
    written. Raises UserError, too, where the target exists or there is no Path.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer

    source, target = Path(source), Path(target)
    refuse_to_overwrite(target)
    read_bag_paths(source)
    mcap = source.suffix == ".mcap" or any(source.glob("*.mcap"))
    plugin, count = StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3, 0
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # a bag's files carry its name, so it has it there
        finished = Path(folder, target.name)
        with open_bag(source) as reader, Writer(finished, version=9, storage_plugin=plugin) as writer:
            store, copies = reader.typestore, {}
            for each in reader.connections:
                how = dict(
                    serialization_format=each.ext.serialization_format,
                    offered_qos_profiles=each.ext.offered_qos_profiles,
                )
                known = dict(msgdef=each.msgdef.data, rihs01=each.digest) if each.msgdef.data and each.digest else {}
                copies[each.id] = writer.add_connection(
                    each.topic, each.msgtype, **(known or dict(typestore=store)), **how
                )
            for each, time, raw in reader.messages():
                if each.msgtype == PATH:
                    message, count = reader.deserialize(raw, PATH), count + 1
                    if message.poses:
                        poses = change(points_of(message))
                        if poses is None:
                            raise UserError(f"path {count} of {source}, on {each.topic}, could not be bent.")
                        message.poses = with_poses(message, poses, store)
                    raw = store.serialize_cdr(message, PATH)
                writer.write(copies[each.id], time, raw)
        finished.rename(target)
    return count


def with_poses(message, poses, store):
    """A list of PoseStamped at poses [M, 3], with the header and the height of the first that was there."""
    kinds = [store.types[f"geometry_msgs/msg/{name}"] for name in ("PoseStamped", "Pose", "Point", "Quaternion")]
    stamped, pose, point, quaternion = kinds
    header, z = message.poses[0].header, message.poses[0].pose.position.z
    header = header if header.frame_id else message.header
    return [
        stamped(header, pose(point(x, y, z), quaternion(0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))))
        for x, y, yaw in poses.tolist()
    ]


def main():
    """The command line of robots.bags."""
    parser = Parser(__doc__)
    parser.add_argument("bag", metavar="FILE", help="a rosbag2: its folder, or an .mcap file")
    for topic, points in read_bag_paths(parser.parse_args().bag):
        print(f"{topic}: {len(points)} poses, {length_of(points):.2f} m")


if __name__ == "__main__":
    run(main)
