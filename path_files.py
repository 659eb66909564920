"""How does a path come in from a robot, and go out to it? Tables, pictures, and ROS bags, without ROS.

A path of ROS, nav_msgs/msg/Path, is a list of poses: a place, and the way the robot looks there. Between two poses it
may stand still (the same place twice), or turn back (a cusp: what comes before and after it are two paths that meet).

Run:        python path_files.py FILE                 (a rosbag2: lists its paths)
Builds on:  robot_maps.py, tools.py.
Last line:  the last path of the bag: its topic, its poses, its length.

Lesson 14 and ros2/smooth_path_server.py take from here: smooth_poses, read_bag_paths, rewrite_bag, save_table.
"""

import contextlib
import io
import math
import tempfile
from pathlib import Path

import numpy as np

from robot_maps import length_of
from tools.command_line import Parser, UserError, run
from tools.files import write_safely
from tools.pictures import new_figure

PATH = "nav_msgs/msg/Path"
STEP = 0.05  # m from one pose to the next in what is written
SHORTEST = 0.3  # m; a shorter piece of a path is left as it is
CUSP = -0.2  # the cosine of a change of direction from which on it is a turning back


# ---- Poses
def headings(points):
    """[N, 2] -> [N] the angle of the way ahead, the last as the one before."""
    steps = np.diff(points, axis=0)
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    return np.append(angles, angles[-1:] if len(angles) else 0.0)


def split_at_cusps(points):
    """[N, 2] -> the pieces of a path between places where it turns back, each without standing still; they share
    their ends."""
    moving = np.append(True, np.hypot(*np.diff(points, axis=0).T) > 1e-6)
    points = points[moving]
    steps = np.diff(points, axis=0)
    steps = steps / np.hypot(*steps.T)[:, None]
    cusps = np.flatnonzero((steps[:-1] * steps[1:]).sum(axis=1) < CUSP) + 1
    ends = [0, *cusps.tolist(), len(points) - 1]
    return [points[first : last + 1] for first, last in zip(ends, ends[1:])] if len(points) > 1 else [points]


def smooth_poses(points, bend):
    """[N, 2] places of poses -> [M, 3] (x, y, yaw), a step of STEP apart, each piece bent by bend([n, 2]) -> [m, 2] or
    None where it fails. Returns None where that fails for a piece. Places must be finite numbers.

    A piece shorter than SHORTEST stays as it is. yaw is the way ahead; at the very end, the way the path came.
    """
    pieces = []
    for piece in split_at_cusps(points):
        if length_of(piece) >= SHORTEST:
            piece = bend(piece)
        if piece is None:
            return None
        pieces.append(np.column_stack([piece, headings(piece)]))
    return np.concatenate(pieces)


def thin_out(points):
    """[M, 2] a curve -> points of it about STEP apart, the ends among them."""
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    marks = np.linspace(0, along[-1], max(2, round(along[-1] / STEP) + 1))
    return np.stack([np.interp(marks, along, column) for column in points.T], axis=1)


# ---- Tables
def refuse_existing(path):
    """Raises UserError where there is something already."""
    if path.exists():
        raise UserError(f"{path} exists, and is not overwritten; name another file by --out.")


def save_table(path, poses):
    """Writes poses [M, 3] as x,y,yaw in metres and radians. Raises UserError."""
    rows = [f"{x:.4f},{y:.4f},{yaw:.4f}" for x, y, yaw in poses]
    write_safely(path, "\n".join(["x,y,yaw", *rows, ""]).encode())


# ---- Bags
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
    refuse_existing(target)
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


# ---- Pictures
def draw_map(axes, grid, points, margin=1.5):
    """Draws the part of a map around points [N, 2], in the map's own axes."""
    from matplotlib.transforms import Affine2D

    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    height, width = grid.free.shape
    x, y, yaw = grid.origin
    to_world = Affine2D().scale(grid.resolution).rotate(yaw).translate(x, y)  # of the map's cells
    colours, look = np.where(grid.free, 1.0, 0.25), dict(cmap="gray", vmin=0, vmax=1)
    axes.imshow(colours, origin="lower", extent=[0, width, 0, height], transform=to_world + axes.transData, **look)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])


def draw_disc(axes, disc):
    """Draws an obstacle (x, y, radius)."""
    from matplotlib.patches import Circle

    axes.add_patch(Circle(disc[:2], disc[2], color="tab:orange"))


def panels_of(number, grid, old, disc):
    """(figure, so many axes), in each the map, the old path [M, 2] and the obstacle, if there is one."""
    columns = min(4, number)
    rows = -(-number // columns)
    figure, axes = new_figure(rows, columns, figsize=(3.2 * columns, 3.2 * rows), squeeze=False, layout="constrained")
    for each in axes.flat[:number]:
        draw_map(each, grid, np.array([disc[:2]]) if disc else old, 3.0 if disc else 1.0)
        each.plot(*old.T, ":", color="tab:blue")
        if disc:
            draw_disc(each, disc)
    for each in axes.flat[number:]:
        each.set_axis_off()
    return figure, axes.flat[:number]


def draw_passes(grid, old, disc, frames, path, out):
    """Saves a picture of a filling, pass by pass: a panel each, or, where the name ends in .gif, one after another.
    frames: [[B, n, 2] control points of B fillings, nan where masked]; path [M, 2] is what came of it."""
    titles = ["masked", *(f"pass {number}" for number in range(1, len(frames)))][: len(frames)] + ["the path"]
    moving, count = out.suffix == ".gif", len(titles)
    pictures = [panels_of(1, grid, old, disc) for _ in titles] if moving else [panels_of(count, grid, old, disc)]
    panels = [axes for _, each in pictures for axes in each]
    for axes, frame, title in zip(panels, frames, titles):
        for control in frame:
            axes.plot(*control.T, "o-", color="tab:red", alpha=0.35, markersize=3, linewidth=1)
        axes.set_title(title, fontsize=10)
    panels[-1].plot(*path.T, color="tab:red", linewidth=2)
    panels[-1].set_title(titles[-1], fontsize=10)
    if moving:
        return save_animation(out, [figure for figure, _ in pictures])
    buffer = io.BytesIO()
    pictures[0][0].savefig(buffer, format="png", dpi=110)
    write_safely(out, buffer.getvalue())


def save_animation(path, figures):
    """Saves figures of matplotlib as an animation, the last one shown longest."""
    from PIL import Image

    images = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        images.append(Image.open(buffer).convert("RGB").quantize(128))
    file = io.BytesIO()
    durations = [700] * (len(images) - 1) + [3000]  # milliseconds
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    write_safely(path, file.getvalue())


def main():
    """The command line of path_files.py."""
    parser = Parser(__doc__)
    parser.add_argument("bag", metavar="FILE", help="a rosbag2: its folder, or an .mcap file")
    for topic, points in read_bag_paths(parser.parse_args().bag):
        print(f"{topic}: {len(points)} poses, {length_of(points):.2f} m")


if __name__ == "__main__":
    run(main)
