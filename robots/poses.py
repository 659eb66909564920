"""A path as a list of poses, and as a table. A pose is a place and the direction in which the robot looks there.

Between two poses a robot may stand still. The same place then comes twice. It may turn back at a place, a cusp. What
comes before and after a cusp are two paths that meet. A robot may drive backwards.

Builds on:  robots.curves and tools.
"""

import numpy as np

from robots.curves import length_of
from tools.files import write_safely

STEP = 0.05  # m from one pose to the next in what is written
SHORTEST = 0.3  # m. A shorter piece of a path is left as it is
CUSP = -0.2  # a change of direction with a smaller cosine is a turning back


# ---- Poses
def headings(points):
    """[N, 2] -> [N] the angle of the way ahead. The last is as the one before."""
    steps = np.diff(points, axis=0)
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    return np.append(angles, angles[-1:] if len(angles) else 0.0)


def looking_ahead(points):
    """[N, 2] -> [N, 3] poses."""
    return np.column_stack([points, headings(points)])


def keep_ends(poses, first, last):
    """Poses [N, 3] with the given first and last yaw. nan leaves what is there."""
    for place, yaw in ((0, first), (-1, last)):
        poses[place, 2] = poses[place, 2] if np.isnan(yaw) else yaw
    return poses


def split_at_cusps(poses):
    """[N, 3] -> the pieces of a path between its cusps, without standing still. Two pieces share the cusp."""
    moving = np.append(True, np.hypot(*np.diff(poses[:, :2], axis=0).T) > 1e-6)
    poses = poses[moving]
    steps = np.diff(poses[:, :2], axis=0)
    steps = steps / np.hypot(*steps.T)[:, None]
    cusps = np.flatnonzero((steps[:-1] * steps[1:]).sum(axis=1) < CUSP) + 1
    ends = [0, *cusps.tolist(), len(poses) - 1]
    return [poses[first : last + 1] for first, last in zip(ends, ends[1:])] if len(poses) > 1 else [poses]


def goes_backwards(piece):
    """Whether a robot that looks as the poses [N, 3] say drives most of this piece backwards."""
    return np.nansum(np.cos(piece[:-1, 2] - headings(piece[:, :2])[:-1])) < 0


def smooth_poses(poses, bend):
    """Poses [N, 3] -> [M, 3] about STEP apart. Each piece is bent by bend([n, 2]) -> [m, 2].

    Where bend gives None, the answer is None. A piece shorter than SHORTEST stays as it is. Places must be finite
    numbers. A yaw may be nan, "not said". The first and the last yaw stay. In between the robot looks ahead, or back
    where it drives backwards. Planners that say no direction give 0 to all poses but the last.
    """
    said = poses[1:-1, 2].any()  # nan counts as said here. goes_backwards ignores it
    pieces = []
    for piece in split_at_cusps(poses):
        points = piece[:, :2]
        if length_of(points) >= SHORTEST:
            points = bend(points)
            if points is None:
                return None
            points = thin_out(points)
        pieces.append(looking_ahead(points))
        if said and goes_backwards(piece):
            pieces[-1][:, 2] = pieces[-1][:, 2] % (2 * np.pi) - np.pi
    return keep_ends(np.concatenate(pieces), poses[0, 2], poses[-1, 2])


def thin_out(points):
    """[M, 2] a curve -> points of it about STEP apart. The ends are among them."""
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    marks = np.linspace(0, along[-1], max(2, round(along[-1] / STEP) + 1))
    return np.stack([np.interp(marks, along, column) for column in points.T], axis=1)


# ---- Tables
def save_table(path, candidates):
    """Writes paths of poses [M, 3] as x,y,yaw in metres and radians. Raises UserError.

    Where there are several, the number of its path stands before each row.
    """
    several = len(candidates) > 1
    rows = ["candidate,x,y,yaw" if several else "x,y,yaw"]
    for number, poses in enumerate(candidates, 1):
        rows += [f"{f'{number},' * several}{x:.4f},{y:.4f},{yaw:.7f}" for x, y, yaw in poses]
    write_safely(path, "\n".join([*rows, ""]).encode(), new=True)
