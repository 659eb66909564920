"""What a navigation stack has: a planner and Nav2's simple smoother. The planner is Dijkstra's on cells, as NavFn is.

Builds on:  robots.grid and tools.
"""

import math

import numpy as np

from tools.command_line import UserError

INFLATION = 0.33  # m from the edge of the robot, up to which the planner keeps away from obstacles


# ---- The planner
def cell_of(grid, point, name):
    """(row, column) of the cell at a world point. Raises UserError where it is not free. name: of the point."""
    column, row = np.rint(grid.to_cells(np.asarray(point, dtype=float))).astype(int)
    where = f"the {name} ({point[0]:g}, {point[1]:g})"
    if not (0 <= row < grid.free.shape[0] and 0 <= column < grid.free.shape[1]):
        raise UserError(f"{where} is off the map.")
    if grid.clearances[row, column] < grid.robot.keep:
        raise UserError(f"{where} is occupied, or nearer than {grid.robot.keep:g} m to what is.")
    return row, column


class Planner:
    """The shortest ways from one start to everywhere in eight directions. They keep the clearance to plan with.

    inflated: the way keeps away from walls. A cell costs more the nearer it is to an obstacle, as in Nav2's inflation
    layer. It is 4 exp(-3 (clearance - radius)) more within INFLATION. Otherwise the way hugs walls. limit: m of cost.
    """

    def __init__(self, grid, start, inflated=True, limit=math.inf):
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import dijkstra

        self.grid = grid
        allowed = grid.clearances >= grid.robot.keep
        number = np.full(allowed.shape, -1, dtype=np.int32)
        number[allowed] = np.arange(allowed.sum())
        price = np.ones(allowed.shape)
        if inflated:
            room = grid.clearances - grid.robot.radius
            price += (room < INFLATION) * 4 * np.exp(-3 * room)
        tails, heads, costs = [], [], []
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            here, there = shifted(allowed, down, right)
            both = allowed[here] & allowed[there]
            tails.append(number[here][both])
            heads.append(number[there][both])
            costs.append(math.hypot(down, right) * grid.resolution * ((price[here] + price[there]) / 2)[both])
        shape = (allowed.sum(),) * 2
        graph = coo_matrix((np.concatenate(costs), (np.concatenate(tails), np.concatenate(heads))), shape).tocsr()
        self.cells, self.number = np.argwhere(allowed), number  # [N, 2] (row, column)
        source = number[cell_of(grid, start, "start")]
        self.costs, self.before = dijkstra(graph, False, source, return_predecessors=True, limit=limit)

    def path(self, goal):
        """[N, 2] world points a cell apart from the start to the goal. None where there is no way."""
        at = self.number[cell_of(self.grid, goal, "goal")]
        if not math.isfinite(self.costs[at]):
            return None
        way = [at]
        while self.before[way[-1]] >= 0:
            way.append(self.before[way[-1]])
        return self.grid.to_world(self.cells[way[::-1]][:, ::-1].astype(float))


def shifted(array, down, right):
    """(here, there): slices of an array [H, W] that pair each cell with the one `down` and `right` of it."""
    height, width = array.shape
    here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
    there = slice(down, height), slice(max(0, right), width + min(0, right))
    return here, there


def plan(grid, start, goal, inflated=True):
    """[N, 2] the way from start to goal. Both are (x, y) in m. Raises UserError where there is none."""
    cell_of(grid, goal, "goal")
    way = Planner(grid, start, inflated).path(goal)
    if way is None:
        raise UserError(f"there is no way from ({start[0]:g}, {start[1]:g}) to ({goal[0]:g}, {goal[1]:g}) on this map.")
    return np.concatenate([[start], way[3:-3], [goal]])  # a cell's middle beside its own point would be a kink


# ---- Nav2's simple smoother with its default settings (nav2_smoother/src/simple_smoother.cpp)
W_DATA, W_SMOOTH, TOLERANCE, ITERATIONS, REFINEMENTS = 0.2, 0.3, 1e-10, 1000, 2


def smooth_simply(points, grid):
    """[N, 2] -> [N, 2] smoothed. The ends stay.

    Every sweep moves each point a little towards where it was and towards the middle of its neighbours. The one before
    it has moved already. Sweeps go on until nothing changes. Then all is done again twice. As in Nav2, a sweep that
    would bring a point into collision is undone and ends it all.
    """
    from scipy.signal import lfilter

    if len(points) < 5:
        return points
    for _ in range(1 + REFINEMENTS):
        given, now = points, points
        for _ in range(ITERATIONS - 1):
            # y_i <- (1 - w_data - 2 w_smooth) y_i + w_data x_i + w_smooth (y_i+1 + new y_i-1): a filter along the path
            pull = (1 - W_DATA - 2 * W_SMOOTH) * now[1:-1] + W_DATA * given[1:-1] + W_SMOOTH * now[2:]
            inner, _ = lfilter([1], [1, -W_SMOOTH], pull, axis=0, zi=W_SMOOTH * now[:1])
            if (grid.clearance(inner) < grid.robot.radius).any():
                return now
            change = np.abs(inner - now[1:-1]).sum()
            now = np.concatenate([now[:1], inner, now[-1:]])
            if change < TOLERANCE:
                break
        else:
            return now
        points = now
    return points
