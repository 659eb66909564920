"""Reads and rewrites the paths of a robot in ROS bags without ROS. A bag is a rosbag2 of sqlite3 or mcap.

Run:        python -m robots.bags FILE                (lists the paths of a bag)
Builds on:  robots.curves. tools.
Last line:  the last path of the bag, with its topic and its length.

Lesson 14 takes from here: rewrite_bag.
"""

import contextlib
import math
import tempfile
from pathlib import Path

import numpy as np

from robots.curves import length_of
from tools.command_line import Parser, UserError, given_path, run
from tools.files import refuse_to_overwrite

PATH = "nav_msgs/msg/Path"


@contextlib.contextmanager
def open_bag(path):
    """An open reader of a rosbag2. Raises UserError, also for what goes wrong while the bag is read."""
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import Stores, TypesysError, get_typestore

    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no bag {path}.")
    refuse_odd_files(path, "bag")
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            yield reader
    except (UserError, KeyboardInterrupt, OSError):
        raise
    except AnyReaderError as problem:
        raise UserError(f"{path} is no bag, or damaged ({first_line(problem)}).")
    except TypesysError as problem:  # an older bag that does not define the types of its messages
        raise UserError(f"{path} has messages of a type that is not known here ({first_line(problem)}).")
    except Exception as problem:  # of many kinds: a bag may be broken anywhere
        raise UserError(f"{path} is damaged, or cannot be bent ({type(problem).__name__}).")


def refuse_odd_files(path, kind):
    """Raises UserError unless `path` is an ordinary file or a folder. Reading a pipe or a device may never end.

    In a folder its files are looked at, too. kind: what the path should be, for the sentence.
    """
    for each in (path, *path.iterdir()) if path.is_dir() else (path,):
        if each.exists() and not (each.is_file() or each.is_dir()):
            raise UserError(f"{path} is no {kind}: {each.name} is a pipe or a device, no ordinary file.")


def first_line(problem):
    """The beginning of what a library says of a problem."""
    return (str(problem).splitlines() or [""])[0][:200]


def yaw_of(turn):
    """The yaw of a quaternion (x, y, z, w). It is nan in paths that say no direction."""
    if not 0.5 < math.hypot(turn.x, turn.y, turn.z, turn.w) < 2:
        return math.nan
    return math.atan2(2 * (turn.w * turn.z + turn.x * turn.y), 1 - 2 * (turn.y**2 + turn.z**2))


def poses_of(message):
    """[N, 3] the poses (x, y, yaw) of a Path. Raises UserError where a place is no number."""
    rows = [(pose.pose.position.x, pose.pose.position.y, yaw_of(pose.pose.orientation)) for pose in message.poses]
    poses = np.array(rows, dtype=float).reshape(-1, 3)
    if not np.isfinite(poses[:, :2]).all() or np.abs(poses[:, :2]).max(initial=0) > 1e6:
        raise UserError("a path has a pose that is nowhere: a coordinate is no number, or too large.")
    return poses


def frame_of(message):
    """The name of the frame of a Path."""
    return message.header.frame_id or next((pose.header.frame_id for pose in message.poses), "")


def read_bag_paths(path):
    """[(topic, frame, [N, 3] poses)] of all Paths in a bag. Raises UserError where there is none."""
    with open_bag(path) as reader:
        connections = [each for each in reader.connections if each.msgtype == PATH]
        raw = [(each.topic, each_raw) for each, _, each_raw in reader.messages(connections)] if connections else ()
        messages = [(topic, reader.deserialize(data, PATH)) for topic, data in raw]
        found = [(topic, frame_of(message), poses_of(message)) for topic, message in messages]
        kinds = ", ".join(sorted({each.msgtype for each in reader.connections})) or "nothing"
    if not found:
        raise UserError(f"{path} has no message of the type {PATH}; its topics have {kinds}.")
    return found


def rewrite_bag(source, target, change):
    """Copies a bag with every Path replaced by change(frame, poses [N, 3]) -> poses [M, 3]. Returns how many.

    All else stays: frames, stamps, other messages, the first and the last orientation. Where change gives None, a
    UserError names the path and no bag is written. Raises UserError where the target exists or there is no Path.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer

    source, target = Path(source), Path(target)
    refuse_to_overwrite(target)
    read_bag_paths(source)
    mcap = source.suffix == ".mcap" or any(source.glob("*.mcap"))
    plugin, count = StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3, 0
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # a bag's files carry the name of its folder
        finished = Path(folder, target.name)
        with open_bag(source) as reader, Writer(finished, version=9, storage_plugin=plugin) as writer:
            copies = {each.id: copy_connection(each, writer, reader.typestore) for each in reader.connections}
            for each, time, raw in reader.messages():
                if each.msgtype == PATH:
                    message, count = reader.deserialize(raw, PATH), count + 1
                    if message.poses:
                        poses = change(frame_of(message), poses_of(message))
                        if poses is None:
                            raise UserError(f"path {count} of {source}, on {each.topic}, could not be bent.")
                        message.poses = with_poses(message, poses, reader.typestore)
                    raw = reader.typestore.serialize_cdr(message, PATH)
                writer.write(copies[each.id], time, raw)
        finished.rename(target)
    return count


def copy_connection(connection, writer, store):
    """The same connection in a bag that is written."""
    kind = dict(
        serialization_format=connection.ext.serialization_format,
        offered_qos_profiles=connection.ext.offered_qos_profiles,
    )
    whole = connection.msgdef.data and connection.digest
    known = dict(msgdef=connection.msgdef.data, rihs01=connection.digest) if whole else dict(typestore=store)
    return writer.add_connection(connection.topic, connection.msgtype, **known, **kind)


def with_poses(message, poses, store):
    """A list of PoseStamped at poses [M, 3]. They get the header and the height of the message's first pose.

    The orientations of the first and the last pose stay where they say a direction.
    """
    names = ("PoseStamped", "Pose", "Point", "Quaternion")
    stamped, pose, point, quaternion = (store.types[f"geometry_msgs/msg/{name}"] for name in names)
    header, z = message.poses[0].header, message.poses[0].pose.position.z
    header = header if header.frame_id else message.header
    made = [
        stamped(header, pose(point(x, y, z), quaternion(0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))))
        for x, y, yaw in poses.tolist()
    ]
    for place in (0, -1):
        if not math.isnan(yaw_of(given := message.poses[place].pose.orientation)):
            made[place].pose.orientation = given
    return made


def main():
    """The command line of robots.bags."""
    parser = Parser(__doc__)
    parser.add_argument("bag", type=given_path, metavar="FILE", help="a rosbag2: its folder, or an .mcap file")
    for topic, frame, poses in read_bag_paths(parser.parse_args().bag):
        print(f"{topic}: {len(poses)} poses, {length_of(poses[:, :2]):.2f} m, in the frame {frame!r}")


if __name__ == "__main__":
    run(main)
