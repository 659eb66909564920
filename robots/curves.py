"""Lines and curves in the plane: how long they are and how they bend.

Builds on:  numpy alone.
"""

import math

import numpy as np

SPACING = 0.5  # m between two control points, at most
FINE = 25  # points of a spline from one control point to the next: one every 2 cm


def length_of(points):
    """m along a line [N, 2]."""
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


def resample(points, step):
    """[N, 2] -> [n, 2] points along the same line that are equally far apart. That is `step` or less. The ends stay."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0], np.cumsum(lengths)])
    n = max(4, math.ceil(along[-1] / step - 1e-9) + 1)
    places = np.linspace(0, along[-1], n)
    return np.stack([np.interp(places, along, column) for column in points.T], axis=1)


def low_pass(points, sigma=0.4, step=0.1):
    """[N, 2] -> [M, 2] the same way with its corners cut. The ends stay."""
    points, reach = resample(points, step), round(3 * sigma / step)
    reach = min(reach, len(points) - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / sigma) ** 2)
    padded = np.pad(points, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")  # keeps the ends in place
    return np.stack([np.convolve(column, weights / weights.sum(), mode="valid") for column in padded.T], axis=1)


def control_points(points):
    """[N, 2] -> [n, 2] the control points of a cubic B-spline through points of this line.

    The points are equally far apart by SPACING or less. The first and the last control point are the ends.
    """
    through = resample(points, SPACING)
    n = len(through)
    matrix = np.eye(n)
    for i in range(1, n - 1):
        matrix[i, i - 1 : i + 2] = np.array([1, 4, 1]) / 6
    return np.linalg.solve(matrix, through)


T = np.arange(FINE) / FINE
WEIGHTS = np.stack([(1 - T) ** 3, 3 * T**3 - 6 * T**2 + 4, -3 * T**3 + 3 * T**2 + 3 * T + 1, T**3]) / 6  # [4, FINE]
SLOPES = np.stack([-((1 - T) ** 2), 3 * T**2 - 4 * T, -3 * T**2 + 2 * T + 1, T**2]) / 2  # its first derivative
BENDS = np.stack([1 - T, 3 * T - 2, 1 - 3 * T, T])  # and its second


def spline(control):
    """[..., n, 2] control points -> the curve [..., M, 2] and its curvatures [..., M] in 1/m. M is (n - 1) FINE + 1."""
    first, last = 2 * control[..., :1, :] - control[..., 1:2, :], 2 * control[..., -1:, :] - control[..., -2:-1, :]
    ends = np.concatenate([first, control, last, 2 * last - control[..., -1:, :]], axis=-2)
    four = np.stack([ends[..., k : k + control.shape[-2], :] for k in range(4)], axis=-1)  # [..., n, 2, 4]
    curves = []
    for weights in (WEIGHTS, SLOPES, BENDS):
        values = np.moveaxis(four @ weights, -1, -2)  # [..., n, FINE, 2]
        curves.append(values.reshape(*values.shape[:-3], -1, 2)[..., : 1 - FINE, :])
    points, slope, bend = curves
    turning = slope[..., 0] * bend[..., 1] - slope[..., 1] * bend[..., 0]
    return points, np.abs(turning) / np.maximum(np.hypot(slope[..., 0], slope[..., 1]), 1e-3) ** 3


def sharpest_bend(points):
    """The largest curvature of a path [N, 2] in 1/m, from the turns between pieces of 0.1 m."""
    steps = np.diff(resample(points, 0.1), axis=0)
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    turns = np.abs((np.diff(angles) + np.pi) % (2 * np.pi) - np.pi)
    return float(turns.max(initial=0) / np.hypot(*steps.T).mean())


def nearest(points, grid):
    """The least clearance of a path [N, 2] in m. It is looked at every 2 cm."""
    return float(grid.clearance(resample(points, 0.02)).min())


def is_free(points, grid):
    """Whether a path [N, 2] is free of collision."""
    return nearest(points, grid) >= grid.robot.radius


def can_drive(points, grid):
    """Whether a path [N, 2] is free and nowhere bends more sharply than the map's robot can."""
    return is_free(points, grid) and sharpest_bend(points) <= grid.robot.sharpest


def in_words(points, grid):
    """A path [N, 2] in words: its length and its least clearance and its sharpest bend."""
    figures = length_of(points), nearest(points, grid), sharpest_bend(points)
    return "{:6.2f} m   clearance {:5.2f} m   sharpest bend {:5.2f} 1/m".format(*figures)


def distances(points, others):
    """[N] m from each of points [N, 2] to the nearest of others [M, 2]."""
    return np.hypot(*np.moveaxis(points[:, None] - others[None], -1, 0)).min(axis=1)


def different(paths, number, apart=0.2):
    """The first of paths [[M, 2]] that differ, `number` at most. Each is somewhere `apart` m from all others."""
    kept = []
    for path in paths:
        if len(kept) < number and all(distances(path, other).max() > apart for other in kept):
            kept.append(path)
    return kept
