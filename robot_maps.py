"""Where may a robot go? Maps, read, downloaded or made up; the way through them; and Nav2's simple smoother.

A map is a grid of cells, each free or not, with its place in the world. Read are Nav2's maps (a YAML file beside a PGM
or PNG: https://docs.nav2.org) and the grids of MovingAI (https://movingai.com/benchmarks). What counts for a path is
the clearance: how far the nearest cell is that is not free.

Run:        python robot_maps.py                          (downloads the maps of the benchmark, 2 MB, to data/maps)
            python robot_maps.py --map FILE.yaml          (reads a map and says what is in it)
Builds on:  tools.py alone.
Last line:  the last of the maps, its size, and how much of it is free.

Lesson 14 takes from here what a navigation stack has: GridMap, read_map, plan, smooth_simply; and the curves.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.command_line import Parser, UserError, run
from tools.files import ROOT, download

MAPS = ROOT / "data" / "maps"
NAV2 = "https://raw.githubusercontent.com/ros-navigation/navigation2/a3a97043ee93d92fe8d70ec56d183933169beb1c/"
MOVINGAI = (
    "https://raw.githubusercontent.com/JoeYao-bit/LayeredMAPF/8b7cf3d1dd56a912a97d782007bbe9dd44a33eeb/test/test_data/"
)
SOURCES = {  # file: (url, sha256)
    "nav2/tb3_sandbox.yaml": (
        NAV2 + "nav2_bringup/maps/tb3_sandbox.yaml",
        "2a284eba0a3aa4a904bce71734c56a543e979899f1cf34daad6e8215e608b438",
    ),
    "nav2/tb3_sandbox.pgm": (
        NAV2 + "nav2_bringup/maps/tb3_sandbox.pgm",
        "0103b9dfaa3b79592af71cc35d64f69cfbd3565d173160820ad8ef56cd27b3fc",
    ),
    "nav2/depot.yaml": (
        NAV2 + "nav2_bringup/maps/depot.yaml",
        "fc724e706bfb453a5c4bf513644f754130be27b618e59d75293ead1b7e129bf6",
    ),
    "nav2/depot.pgm": (
        NAV2 + "nav2_bringup/maps/depot.pgm",
        "71bbac79cfc2f5db89095182bfa86b29d96b07d4ed3b7726e513ed57afffc851",
    ),
    "nav2/warehouse.yaml": (
        NAV2 + "nav2_bringup/maps/warehouse.yaml",
        "ec00d3d25912028e3debed9ded3d6471f70a3bf0f0d1a3f9470458f3068cc585",
    ),
    "nav2/warehouse.pgm": (
        NAV2 + "nav2_bringup/maps/warehouse.pgm",
        "934ce2ca1feacc2216b68142349c6ebb3e46cc7c76fd80a9c2d2a6fb85ba7ff7",
    ),
    "nav2/smoothers_world.yaml": (
        NAV2 + "tools/smoother_benchmarking/maps/smoothers_world.yaml",
        "70f26c148b49362188f53a1f195b9edb185290052ca8693bad084855e60cf333",
    ),
    "nav2/smoothers_world.pgm": (
        NAV2 + "tools/smoother_benchmarking/maps/smoothers_world.pgm",
        "d4234c8a7209fd2cfd208d669b5ae188d7e63f51ea4ab57a88163ea17c3f6ef2",
    ),
    "movingai/maze-32-32-4.map": (
        MOVINGAI + "maze-32-32-4.map",
        "7ff67aa59f71933b8cf2605e12631b8a28d9ebcfb9b941de3afdc7dce3123fee",
    ),
    "movingai/room-64-64-16.map": (
        MOVINGAI + "room-64-64-16.map",
        "983df5c9bf0c59799daa107feb1b2d3ed81c5d32bf4b23d019f06161d0be6092",
    ),
    "movingai/random-64-64-10.map": (
        MOVINGAI + "random-64-64-10.map",
        "b31c671228f884a113ca11c41b83630dc042e58e07f9b36da74ec508f82a5659",
    ),
}

ROBOT = 0.22  # m, the radius of the robot, as Nav2 has it for a TurtleBot 3: a path is free where it has this clearance
KEEP = 0.25  # m, the clearance to plan with, since a path bends a little between the points that are looked at
INFLATION = 0.55  # m, from the centre of the robot: how far an obstacle is felt by the planner that keeps away from it
CELL = 0.05  # m, the size of a cell of made-up maps; finer maps are made coarser, as the planner needs no finer ones
MOVINGAI_CELL = 0.5  # m, assumed: MovingAI's cells have no size
MOST_CELLS = 25_000_000  # of a map; Nav2's largest has 1.7 million


# ---------------------------------------------------------------------------------------------------------
# The map


class GridMap:
    """free [H, W] booleans, row 0 at the bottom; resolution, m a cell; origin (x, y, yaw) of the lower left corner."""

    def __init__(self, free, resolution, origin=(0.0, 0.0, 0.0)):
        from scipy.ndimage import distance_transform_edt

        self.free, self.resolution, self.origin = free, resolution, origin
        walled = np.pad(free, 1)  # what lies beyond the map is not free
        # [H, W] m from the middle of a cell to the edge of the nearest one that is not free
        self.clearances = (distance_transform_edt(walled)[1:-1, 1:-1] * resolution - resolution / 2).clip(0)

    def to_cells(self, points):
        """World points [..., 2] (x, y in m) -> cells [..., 2] (column, row), with fractions; 0 is a cell's middle."""
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
        """World points [..., 2] -> [...] m to what is not free, between the middles of the cells by interpolation; 0
        off the map."""
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
        """The same map with a round obstacle in it."""
        rows, columns = np.indices(self.free.shape)
        centre = self.to_cells(np.array([x, y]))
        hit = np.hypot(columns - centre[0], rows - centre[1]) * self.resolution <= radius
        return GridMap(self.free & ~hit, self.resolution, self.origin)


# ---------------------------------------------------------------------------------------------------------
# Reading


@dataclass(frozen=True)
class MapFile:
    """What Nav2's YAML says of a map."""

    image: Path
    resolution: float  # m a cell
    origin: tuple  # x, y, yaw of the lower left corner
    negate: bool  # dark is free
    occupied_thresh: float
    free_thresh: float
    mode: str  # trinary, scale or raw


def read_yaml(path):
    """A MapFile. Raises UserError, naming what is missing or wrong."""
    import yaml

    try:
        if path.stat().st_size > 2**16:
            raise UserError(f"{path} is no map: a map's YAML is a few lines.")
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        return MapFile(
            image=path.parent / str(fields["image"]), resolution=float(fields["resolution"]),
            origin=tuple(float(number) for number in fields["origin"]), negate=bool(int(fields["negate"])),
            occupied_thresh=float(fields["occupied_thresh"]), free_thresh=float(fields["free_thresh"]),
            mode=str(fields.get("mode", "trinary")).lower(),
        )  # fmt: skip
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; `python robot_maps.py` downloads some maps to {MAPS}.")
    except KeyError as missing:
        raise UserError(f"{path} is no map: it does not say {missing.args[0]!r}.")
    except (ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{path} is no map as Nav2 has them ({type(problem).__name__}).")


def read_image(path):
    """[H, W, channels] numbers from 0 (dark) to 1, the top row first. Raises UserError."""
    from PIL import Image

    if not path.is_file():
        raise UserError(f"there is no file {path}, which the map's YAML names.")
    try:
        with Image.open(path, formats=("PPM", "PNG", "BMP")) as image:
            if image.width * image.height > MOST_CELLS:
                raise UserError(f"{path} has {image.width} x {image.height} cells, too many to plan in.")
            depth = 65535 if image.mode.startswith("I") else 255
            if not image.mode.startswith(("I", "L")) or image.mode == "LA":
                image = image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB")
            pixels = np.asarray(image, dtype=np.float32) / depth
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        if isinstance(problem, UserError):
            raise
        reason = type(problem).__name__
        raise UserError(f"{path} cannot be read: it is no PGM or PNG, or its size is not what it says ({reason}).")
    return pixels if pixels.ndim == 3 else pixels[..., None]


def free_cells(pixels, file):
    """[H, W, channels] -> [H, W] True where a cell is free, as Nav2's map server reads it; row 0 at the bottom.

    trinary: the mean of the channels (transparency too); below free_thresh is free. scale: the same without the
    transparent cells, which are unknown. raw: the value itself is the occupancy in percent, and 0 is free. What is
    unknown, or anything in between, is not free here.
    """
    colours = pixels if file.mode == "trinary" else pixels[..., :3]
    shade = colours.mean(axis=-1)
    if file.mode == "raw":
        free = np.round(shade * 255) == 0
    else:
        free = (shade if file.negate else 1 - shade) < file.free_thresh
    if file.mode == "scale" and pixels.shape[-1] == 4:
        free &= pixels[..., 3] == 1
    return free[::-1]


def read_nav2(path):
    """A GridMap from Nav2's YAML and the image that it names. Raises UserError."""
    file = read_yaml(path)
    sound = len(file.origin) == 3 and all(map(math.isfinite, file.origin)) and 0.001 <= file.resolution <= 10
    if not sound or file.mode not in ("trinary", "scale", "raw") or not 0 <= file.free_thresh <= 1:
        raise UserError(f"{path} is no map as Nav2 has them: its resolution, origin, mode or free_thresh is not.")
    return GridMap(*coarsen(free_cells(read_image(file.image), file), file.resolution), file.origin)


def coarsen(free, resolution):
    """Cells put together, k by k, until they are CELL wide or more; free is what is free in all k x k of them."""
    k = max(1, math.ceil(CELL / resolution - 1e-6))
    height, width = free.shape[0] // k * k, free.shape[1] // k * k
    blocks = free[:height, :width].reshape(height // k, k, width // k, k)
    return blocks.all(axis=(1, 3)), k * resolution


def read_movingai(path):
    """A GridMap from a grid of MovingAI, its cells MOVINGAI_CELL wide. Raises UserError."""
    try:
        head, _, body = path.read_text(encoding="ascii").partition("map\n")
        rows = body.split()
        sizes = dict(line.split() for line in head.split("\n")[1:] if line)
        if not head.startswith("type octile") or {len(row) for row in rows} != {int(sizes["width"])}:
            raise ValueError
        if len(rows) != int(sizes["height"]):
            raise ValueError
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; `python robot_maps.py` downloads some maps to {MAPS}.")
    except (ValueError, KeyError, UnicodeDecodeError):
        raise UserError(f"{path} is no map of MovingAI, or of another size than it says.")
    if len(body) > MOST_CELLS // 100:
        raise UserError(f"{path} has more than {MOST_CELLS // 100:,} cells, too many to plan in.")
    free = np.array([[cell in ".GS" for cell in row] for row in rows])[::-1]
    times = round(MOVINGAI_CELL / CELL)
    return GridMap(free.repeat(times, axis=0).repeat(times, axis=1), CELL)


def read_map(path):
    """A GridMap from FILE.yaml (Nav2) or FILE.map (MovingAI). Raises UserError."""
    path = Path(path)
    grid = read_movingai(path) if path.suffix == ".map" else read_nav2(path)
    if not (grid.clearances >= KEEP).any():
        raise UserError(f"{path} has no free space for a robot of {ROBOT} m radius.")
    return grid


def download_map(name):
    """The path of one of SOURCES, "nav2/depot.yaml" say, with its image; downloaded if need be. Raises UserError."""
    for file in dict.fromkeys((name, name.replace(".yaml", ".pgm"))):
        url, sha256 = SOURCES[file]
        download(url, sha256, MAPS / file)
    return MAPS / name


# ---------------------------------------------------------------------------------------------------------
# Made-up maps, for training


def made_up_map(rng, size=12.0):
    """A GridMap of size x size metres: rooms with doors, a maze, boxes, or discs; walls all around."""
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
    """Puts walls on a lattice into `free`; a share of them is kept, each with a door of a width in the range `door`."""
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


# ---------------------------------------------------------------------------------------------------------
# The way: Dijkstra on the cells, as Nav2's NavFn


def cell_of(grid, point, name):
    """(row, column) of the cell at a world point. Raises UserError, naming the point, where it is not free."""
    column, row = np.rint(grid.to_cells(np.asarray(point, dtype=float))).astype(int)
    where = f"the {name} ({point[0]:g}, {point[1]:g})"
    if not (0 <= row < grid.free.shape[0] and 0 <= column < grid.free.shape[1]):
        raise UserError(f"{where} is off the map.")
    if grid.clearances[row, column] < KEEP:
        raise UserError(f"{where} is occupied, or nearer than {KEEP} m to what is.")
    return row, column


class Planner:
    """The shortest ways from one start to everywhere, over cells with a clearance of KEEP, in eight directions.

    inflated: a cell costs more the nearer it is to an obstacle, exp(-3 (clearance - ROBOT)) times 4 within INFLATION,
    as in Nav2's inflation layer: the way keeps away from walls. Without it, it hugs them. limit: m of cost.
    """

    def __init__(self, grid, start, inflated=True, limit=math.inf):
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import dijkstra

        self.grid = grid
        allowed = grid.clearances >= KEEP
        number = np.full(allowed.shape, -1)
        number[allowed] = np.arange(allowed.sum())
        price = np.ones(allowed.shape)
        if inflated:
            near = grid.clearances < INFLATION
            price += near * 4 * np.exp(-3 * (grid.clearances - ROBOT))
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
        """[N, 2] world points, a cell apart, from the start to the goal; None where there is no way."""
        at = self.number[cell_of(self.grid, goal, "goal")]
        if not math.isfinite(self.costs[at]):
            return None
        way = [at]
        while self.before[way[-1]] >= 0:
            way.append(self.before[way[-1]])
        return self.grid.to_world(self.cells[way[::-1]][:, ::-1].astype(float))


def shifted(array, down, right):
    """(here, there): the slices of a 2-dimensional array that pair each cell with the one `down` and `right` of it."""
    height, width = array.shape
    here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
    there = slice(down, height), slice(max(0, right), width + min(0, right))
    return here, there


def plan(grid, start, goal, inflated=True):
    """[N, 2] the way from start to goal, both given as (x, y) in m. Raises UserError where there is none."""
    cell_of(grid, goal, "goal")
    way = Planner(grid, start, inflated).path(goal)
    if way is None:
        raise UserError(f"there is no way from ({start[0]:g}, {start[1]:g}) to ({goal[0]:g}, {goal[1]:g}) on this map.")
    return np.concatenate([[start], way[3:-3], [goal]])  # a cell's middle beside its own point would be a kink


# ---------------------------------------------------------------------------------------------------------
# Curves

SPACING = 0.5  # m between two control points, at most
FINE = 25  # a spline is looked at so often from one control point to the next: every 2 cm


def length_of(points):
    """m along a line [N, 2]."""
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


def resample(points, step):
    """[N, 2] -> [n, 2] points along the same line, equally far apart, `step` or a little less; the ends stay."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0], np.cumsum(lengths)])
    n = max(4, math.ceil(along[-1] / step - 1e-9) + 1)
    places = np.linspace(0, along[-1], n)
    return np.stack([np.interp(places, along, column) for column in points.T], axis=1)


def low_pass(points, sigma=0.4, step=0.1):
    """[N, 2] -> [M, 2] the same way without its corners, which it may cut; the ends stay."""
    points, reach = resample(points, step), round(3 * sigma / step)
    reach = min(reach, len(points) - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / sigma) ** 2)
    padded = np.pad(points, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")  # keeps the ends in place
    return np.stack([np.convolve(column, weights / weights.sum(), mode="valid") for column in padded.T], axis=1)


def control_points(points):
    """[N, 2] -> [n, 2] the control points of a cubic B-spline that passes through points of this line, equally far
    apart, SPACING or less; the first and the last are its ends."""
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
    """[..., n, 2] control points -> the curve [..., M, 2] and its curvatures [..., M] in 1/m, M = (n - 1) FINE + 1."""
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


def judge(points, grid):
    """(whether a path [N, 2] is free, its largest curvature in 1/m), measured in the same way for every kind of path:
    the clearance every 2 cm, the curvature as the turn from one piece of 0.1 m to the next."""
    free = bool((grid.clearance(resample(points, 0.02)) >= ROBOT).all())
    steps = np.diff(resample(points, 0.1), axis=0)
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    turns = np.abs((np.diff(angles) + np.pi) % (2 * np.pi) - np.pi)
    return free, float(turns.max(initial=0) / np.hypot(*steps.T).mean())


def distances(points, others):
    """[N] m from each of points [N, 2] to the nearest of others [M, 2]."""
    return np.hypot(*np.moveaxis(points[:, None] - others[None], -1, 0)).min(axis=1)


# ---------------------------------------------------------------------------------------------------------
# Nav2's simple smoother (nav2_smoother/src/simple_smoother.cpp), with its default settings

W_DATA, W_SMOOTH, TOLERANCE, ITERATIONS, REFINEMENTS = 0.2, 0.3, 1e-10, 1000, 2


def smooth_simply(points, grid):
    """[N, 2] -> [N, 2] smoothed, the ends fixed: every sweep moves each point a little towards where it was and towards
    the middle of its neighbours, the one before it moved already, until nothing changes; then all again, twice.

    As in Nav2, a sweep that would bring a point into collision ends it all, and what was before that sweep is returned.
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
            if (grid.clearance(inner) < ROBOT).any():
                return now
            change = np.abs(inner - now[1:-1]).sum()
            now = np.concatenate([now[:1], inner, now[-1:]])
            if change < TOLERANCE:
                break
        else:
            return now
        points = now
    return points


def main():
    """The command line of robot_maps.py."""
    parser = Parser(__doc__)
    parser.add_argument("--map", type=Path, metavar="FILE", help="read this map instead of downloading")
    args = parser.parse_args()
    paths = [args.map] if args.map else [download_map(name) for name in SOURCES if not name.endswith(".pgm")]
    for path in paths:
        grid = read_map(path)
        height, width = (cells * grid.resolution for cells in grid.free.shape)
        print(f"{path}: {width:.1f} x {height:.1f} m, {grid.free.mean():.0%} free")


if __name__ == "__main__":
    run(main)
