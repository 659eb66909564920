"""A map as a grid of cells with its place in the world. A cell is free or not. Training makes up its own maps.

What counts for a path is the clearance. It says how far the nearest cell is that is not free.

Builds on:  tools.
"""

import math
from dataclasses import dataclass

import numpy as np

from tools.command_line import UserError

CELL = 0.05  # m, the size of a cell of made-up maps. Finer maps are made coarser


@dataclass(frozen=True)
class Robot:
    """A robot as a disc. The defaults are Nav2's for a TurtleBot 3. Raises UserError for impossible sizes."""

    radius: float = 0.22  # m: a path is free where it has this clearance
    turning_radius: float = 0.4  # m, of the sharpest bend that it can drive

    def __post_init__(self):
        for name, value in (("radius", self.radius), ("turning radius", self.turning_radius)):
            if not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise UserError(f"a {name} of {value} m is not possible; it must be above 0.")

    @property
    def sharpest(self):
        """1/m, the largest curvature that it can drive."""
        return 1 / self.turning_radius

    @property
    def wider(self):
        """m by which it is wider than the robot that lesson 14's model was trained for."""
        return self.radius - Robot.radius

    @property
    def keep(self):
        """m, the clearance to plan with. A path bends a little between the points that are looked at."""
        return self.radius + 0.03


TURTLEBOT = Robot()


class GridMap:
    """Which cells are free, [H, W] with row 0 at the bottom, and the robot that is to drive there.

    resolution: m a cell. origin: (x, y, yaw) of the lower left corner.
    """

    def __init__(self, free, resolution, origin=(0.0, 0.0, 0.0), robot=TURTLEBOT):
        from scipy.ndimage import distance_transform_edt

        self.free, self.resolution, self.origin, self.robot = free, resolution, origin, robot
        walled = np.pad(free, 1)  # what lies beyond the map is not free
        # [H, W] m from the middle of a cell to the edge of the nearest one that is not free
        self.clearances = (distance_transform_edt(walled)[1:-1, 1:-1] * resolution - resolution / 2).clip(0)

    def to_cells(self, points):
        """World points [..., 2] (x, y in m) -> cells [..., 2] (column, row) with fractions. 0 is a cell's middle."""
        x, y, yaw = self.origin
        cos, sin = math.cos(yaw), math.sin(yaw)
        dx, dy = points[..., 0] - x, points[..., 1] - y
        return np.stack([cos * dx + sin * dy, cos * dy - sin * dx], axis=-1) / self.resolution - 0.5

    def to_world(self, cells):
        """Cells [..., 2] (column, row) -> world points [..., 2]."""
        x, y, yaw = self.origin
        cos, sin = math.cos(yaw), math.sin(yaw)
        dx, dy = np.moveaxis((cells + 0.5) * self.resolution, -1, 0)
        return np.stack([x + cos * dx - sin * dy, y + sin * dx + cos * dy], axis=-1)

    def on_map(self, points):
        """World points [..., 2] -> [...] True where they are on the map."""
        height, width = self.free.shape
        cells = self.to_cells(points)
        return (cells >= -0.5).all(axis=-1) & (cells[..., 0] <= width - 0.5) & (cells[..., 1] <= height - 0.5)

    def clearance(self, points):
        """World points [..., 2] -> [...] m to what is not free. Off the map it is 0.

        It is interpolated between the middles of the cells.
        """
        cells = self.to_cells(points)
        height, width = self.free.shape
        inside = self.on_map(points)
        cells = np.nan_to_num(cells).clip(0, [width - 1, height - 1])
        column, row = np.moveaxis(cells.astype(int), -1, 0)
        right, above = np.minimum(column + 1, width - 1), np.minimum(row + 1, height - 1)
        u, v = np.moveaxis(cells, -1, 0) - [column, row]
        field = self.clearances
        low = field[row, column] * (1 - u) + field[row, right] * u
        high = field[above, column] * (1 - u) + field[above, right] * u
        return (low * (1 - v) + high * v) * inside

    def with_disc(self, x, y, radius):
        """The map with a round obstacle. It takes every cell that it touches. Raises UserError off the map."""
        rows, columns = np.indices(self.free.shape)
        centre = self.to_cells(np.array([x, y]))
        apart = np.hypot(*((np.abs(each) - 0.5).clip(0) for each in (columns - centre[0], rows - centre[1])))
        hit = apart * self.resolution <= radius
        if not hit.any():
            raise UserError(f"the obstacle ({x:g}, {y:g}) is off the map.")
        return GridMap(self.free & ~hit, self.resolution, self.origin, self.robot)


# ---- Made-up maps, for training
def made_up_map(rng, size=12.0):
    """A GridMap of size x size metres with walls around. In it are rooms with doors, a maze, boxes or discs."""
    n = round(size / CELL)
    free = np.ones((n, n), dtype=bool)
    kind = rng.choice(["rooms", "maze", "boxes", "discs", "boxes and discs"])
    if kind == "rooms":
        build_walls(free, rng, pitch=rng.uniform(2.5, 4.5), door=(0.8, 1.6), kept=0.9, thickness=(0.1, 0.3))
    elif kind == "maze":
        build_walls(free, rng, pitch=rng.uniform(1.2, 2.2), door=(0.0, 0.0), kept=0.45, thickness=(0.1, 0.6))
    if "boxes" in kind or (kind == "rooms" and rng.random() < 0.5):
        for _ in range(rng.integers(8, 40)):
            height, width = rng.uniform(0.2, 1.5, 2) / CELL
            row, column = rng.integers(0, n, 2)
            free[row : row + int(height), column : column + int(width)] = False
    if "discs" in kind:
        rows, columns = np.indices(free.shape) * CELL
        for _ in range(rng.integers(8, 40)):
            x, y, radius = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0.1, 0.8)
            free &= np.hypot(columns - x, rows - y) > radius
    free[[0, -1]] = free[:, [0, -1]] = False
    return GridMap(free, CELL)


def build_walls(free, rng, pitch, door, kept, thickness):
    """Puts walls on a lattice into `free`. A share of them is kept. Each has a door of a width in the range `door`."""
    n, step = len(free), round(pitch / CELL)
    thick = max(1, round(rng.uniform(*thickness) / CELL))
    for at in range(step, n - step // 2, step):
        for start in range(0, n, step):
            for walls in (free, free.T):
                if rng.random() < kept:
                    wall = walls[at : at + thick, start : start + step + thick]
                    wall[:] = False
                    opening = round(rng.uniform(*door) / CELL)
                    if opening:
                        gap = rng.integers(thick, max(thick + 1, step - opening))
                        wall[:, gap : gap + opening] = True
