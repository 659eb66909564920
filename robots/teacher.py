"""The best path in a corridor. Dynamic programming finds the row of tokens that costs least.

A path costs its length, its curvature and its nearness to obstacles. A collision or too sharp a bend costs so much that
the path avoids it wherever it can. The curvature at a control point depends on three tokens. So the program remembers
the best way to each pair of tokens. That takes 31^3 sums or fewer for each control point.

Builds on:  a corridor of lesson 14, which comes as an argument.
"""

import numpy as np

BENT = 0.1  # the weight of curvature squared
NEAR, FAR = 4.0, 0.28  # the weight of nearness squared: m beside the robot that are missing to FAR
FORBIDDEN = 1000.0  # for a collision, and for each 1/m of curvature over the robot's
BETWEEN = 0.3  # 1/m by which the curve may be more bent between control points than at them


class Costs:
    """The costs of a corridor, piece by piece."""

    def __init__(self, corridor):
        self.places = corridor.grid.to_cells(corridor.places).astype(np.float32)  # [n, BINS, 2], in cells
        field, self.cell = corridor.grid.clearances, corridor.grid.resolution
        self.spacing = np.hypot(*np.diff(corridor.line, axis=0).T).mean()
        robot = corridor.grid.robot
        self.sharp = robot.sharpest - BETWEEN
        price = NEAR * (FAR - (field - robot.radius)).clip(0) ** 2 + FORBIDDEN * (field < robot.keep)
        self.price = np.pad(price, 1, constant_values=2 * FORBIDDEN).astype(np.float32)  # a metre's, in every cell

    def nearness(self, x, y):
        """What a metre costs at points x and y in cells."""
        height, width = self.price.shape
        return self.price[(y + 1.5).astype(np.int32).clip(0, height - 1), (x + 1.5).astype(np.int32).clip(0, width - 1)]

    def step(self, i, a, b):
        """[A, B] the cost of going from bins a [A] of place i to bins b [B] of place i + 1."""
        here, there = self.places[i, a][:, None], self.places[i + 1, b][None]
        length = np.hypot(*np.moveaxis(there - here, -1, 0)) * self.cell
        middle = np.moveaxis(here + there, -1, 0) / 2
        return length + self.spacing / 2 * self.nearness(*middle)

    def bend(self, i, a, b, c):
        """[A, B, C] the cost of the curve near bins b of place i. Bins a and c are of the places before and after."""
        (ax, ay), (cx, cy) = (self.places[i - 1, a].T[:, :, None, None], self.places[i + 1, c].T[:, None, None])
        bx, by = self.places[i, b].T[:, None, :, None]
        slope_x, slope_y = (cx - ax) / 2, (cy - ay) / 2  # [A, 1, C] of the spline
        middle_x, middle_y = ax + cx, ay + cy
        turning = slope_x * (middle_y - 2 * by) - slope_y * (middle_x - 2 * bx)  # [A, B, C]
        speed = np.hypot(slope_x, slope_y) + 1e-3
        curvature = np.abs(turning) * (1 / speed**3 / self.cell)
        cost = BENT * self.spacing * curvature**2 + FORBIDDEN * (curvature - self.sharp).clip(0)
        return cost + self.spacing / 2 * self.nearness((middle_x + 4 * bx) / 6, (middle_y + 4 * by) / 6)


def solve(corridor, bins):
    """[n] the cheapest row of tokens. bins: a list of arrays, the tokens that are allowed at each place."""
    costs, n, best = Costs(corridor), len(bins), []
    value = costs.step(0, bins[0], bins[1])  # [A, B] the least cost so far of ways that end in bins a and b
    for i in range(1, n - 1):
        a, b, c = bins[i - 1 : i + 2]
        total = value[:, :, None] + costs.bend(i, a, b, c)  # [A, B, C]
        best.append(total.argmin(axis=0))  # [B, C] the best a for each b and c
        value = total.min(axis=0) + costs.step(i, b, c)
    before, last = np.unravel_index(value.argmin(), value.shape)
    places = [last, before]
    for choice in reversed(best):
        places.append(choice[places[-1], places[-2]])
    return np.array([each[place] for each, place in zip(bins, reversed(places))])


def teach(corridor, tokens, masked):
    """tokens [n] with the teacher's own at `masked` [n]."""
    free = corridor.open_bins()
    bins = [np.flatnonzero(free[i]) if masked[i] else tokens[i : i + 1] for i in range(len(tokens))]
    return solve(corridor, bins)
