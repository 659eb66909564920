"""A path as a list of poses: a place, and the way the robot looks there. And as a table.

Between two poses a robot may stand still (the same place twice), or turn back (a cusp: what comes before and after it
are two paths that meet).

Builds on:  robots.curves, tools.

Lesson 14, robots.bags and the server in ros2/ take from here: smooth_poses, thin_out, save_table.
"""

import numpy as np

from robots.curves import length_of
from tools.command_line import UserError
from tools.files import write_safely

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
def refuse_to_overwrite(path):
    """Raises UserError where there is something already."""
    if path.exists():
        raise UserError(f"{path} exists, and is not overwritten; name another file by --out.")


def save_table(path, poses):
    """Writes poses [M, 3] as x,y,yaw in metres and radians. Raises UserError."""
    rows = [f"{x:.4f},{y:.4f},{yaw:.4f}" for x, y, yaw in poses]
    write_safely(path, "\n".join(["x,y,yaw", *rows, ""]).encode())
