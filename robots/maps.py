"""Reads maps of Nav2 and grids of MovingAI, and downloads the maps of the benchmark.

A map of Nav2 is a YAML file beside a PGM or PNG (https://docs.nav2.org). A grid of MovingAI is one text file
(https://movingai.com/benchmarks).

Run:        python -m robots.maps                         (downloads 2 MB of maps to data/maps)
            python -m robots.maps --map FILE.yaml         (reads a map and says what is in it)
Builds on:  robots.grid. tools.
Last line:  the last of the maps, its size and how much of it is free.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robots.grid import CELL, TURTLEBOT, GridMap
from tools.command_line import Parser, UserError, given_path, run
from tools.files import ROOT, download

MAPS = ROOT / "data" / "maps"
MOVINGAI_CELL = 0.5  # m. MovingAI's cells have no size, so this is a choice
UNKNOWN = 205  # the grey of cells that a map saver knows nothing of
MOST_CELLS = 6_000_000  # of a map, for 2 GB: planning takes 0.22 KB a cell. Nav2's largest map has 1.7 million
FINER = 4  # pixels that an image may have for each cell of MOST_CELLS. They take 0.02 KB each
NAV2 = "https://raw.githubusercontent.com/ros-navigation/navigation2/a3a97043ee93d92fe8d70ec56d183933169beb1c/"
ADDRESSES = {  # how a name in SOURCES begins: the folder that has the file
    "nav2/smoothers_world": NAV2 + "tools/smoother_benchmarking/maps/",
    "nav2/": NAV2 + "nav2_bringup/maps/",
    "movingai/": "https://raw.githubusercontent.com/JoeYao-bit/LayeredMAPF/"
    "8b7cf3d1dd56a912a97d782007bbe9dd44a33eeb/test/test_data/",
}
REGISTRY = """
nav2/tb3_sandbox.yaml        2a284eba0a3aa4a904bce71734c56a543e979899f1cf34daad6e8215e608b438
nav2/tb3_sandbox.pgm         0103b9dfaa3b79592af71cc35d64f69cfbd3565d173160820ad8ef56cd27b3fc
nav2/depot.yaml              fc724e706bfb453a5c4bf513644f754130be27b618e59d75293ead1b7e129bf6
nav2/depot.pgm               71bbac79cfc2f5db89095182bfa86b29d96b07d4ed3b7726e513ed57afffc851
nav2/warehouse.yaml          ec00d3d25912028e3debed9ded3d6471f70a3bf0f0d1a3f9470458f3068cc585
nav2/warehouse.pgm           934ce2ca1feacc2216b68142349c6ebb3e46cc7c76fd80a9c2d2a6fb85ba7ff7
nav2/smoothers_world.yaml    70f26c148b49362188f53a1f195b9edb185290052ca8693bad084855e60cf333
nav2/smoothers_world.pgm     d4234c8a7209fd2cfd208d669b5ae188d7e63f51ea4ab57a88163ea17c3f6ef2
movingai/maze-32-32-4.map    7ff67aa59f71933b8cf2605e12631b8a28d9ebcfb9b941de3afdc7dce3123fee
movingai/room-64-64-16.map   983df5c9bf0c59799daa107feb1b2d3ed81c5d32bf4b23d019f06161d0be6092
movingai/random-64-64-10.map b31c671228f884a113ca11c41b83630dc042e58e07f9b36da74ec508f82a5659
"""
SOURCES = dict(line.split() for line in REGISTRY.split("\n") if line)  # name: sha256


# ---- Reading
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


def read_lines(path, most):
    """The text in a file of `most` bytes or fewer. Raises UserError, also for a pipe or a device."""
    if not path.exists():
        raise UserError(f"there is no file {path}; `python -m robots.maps` downloads some maps to {MAPS}.")
    if not path.is_file():
        raise UserError(f"{path} is no map but a folder, a pipe or a device; give a map's .yaml or .map file.")
    if path.stat().st_size > most:
        raise UserError(f"{path} is no map that can be read: it has more than {most:,} bytes.")
    return path.read_text(encoding="utf-8")


def read_yaml(path):
    """A MapFile. Raises UserError that names what is missing or wrong."""
    import yaml

    try:
        fields = yaml.safe_load(read_lines(path, 2**16))
        image, mode = fields["image"], fields.get("mode", "trinary")
        resolution, origin = float(fields["resolution"]), fields["origin"]
        if not (isinstance(image, str) and isinstance(mode, str)):  # some lines of YAML can stand for terabytes
            raise TypeError
        if not isinstance(origin, list) or len(origin) != 3 or not all(abs(float(each)) < 1e7 for each in origin):
            raise ValueError  # m
        return MapFile(
            image=path.parent / image, resolution=resolution,
            origin=tuple(float(number) for number in origin), negate=bool(int(fields["negate"])),
            occupied_thresh=float(fields["occupied_thresh"]), free_thresh=float(fields["free_thresh"]),
            mode=mode.lower(),
        )  # fmt: skip
    except UserError:
        raise
    except KeyError as missing:
        raise UserError(f"{path} is no map: it does not say {missing.args[0]!r}.")
    except Exception as problem:  # of many kinds, also from inside the library
        raise UserError(f"{path} is no map as Nav2 has them ({type(problem).__name__}).")


def read_image(path):
    """(grey [H, W] from 0 to 255, opaque [H, W] booleans) with the top row first. Raises UserError."""
    from PIL import Image

    if not path.is_file():
        raise UserError(f"there is no image {path}, which the map's YAML names.")
    try:
        with Image.open(path, formats=("PPM", "PNG", "BMP")) as image:
            if image.width * image.height > FINER * MOST_CELLS:
                size = f"{image.width} x {image.height} pixels"
                raise UserError(f"{path} has {size}; give a part with {FINER * MOST_CELLS:,} at most.")
            if image.mode.startswith("I"):  # 16 bits
                grey = (np.asarray(image) // 257).clip(0, 255)
                return grey, np.ones(grey.shape, dtype=bool)
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
            return np.asarray(image.convert("RGB").convert("L")), alpha == 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        if isinstance(problem, UserError):
            raise
        reason = type(problem).__name__
        raise UserError(f"{path} cannot be read: it is no PGM or PNG, or its size is not what it says ({reason}).")


def free_cells(grey, opaque, file):
    """[H, W] True where a cell is free, as Nav2's map server reads it (nav2_map_server/src/map_io.cpp).

    Row 0 is at the bottom. In the mode raw the grey value is the occupancy in percent. Only 0 is free then. Otherwise
    a cell is free that is opaque and at free_thresh or below. Unknown cells are not free here.
    """
    if file.mode == "raw":
        return (grey == 0)[::-1]
    greys = np.arange(256)
    occupancy = (greys if file.negate else 255 - greys) / np.float32(255)
    free = (occupancy <= file.free_thresh)[grey] & opaque
    if not file.negate and free[grey == UNKNOWN].any():
        said = f"{file.image.name}: grey {UNKNOWN} marks unknown cells in most maps. It is free here, because"
        print(f"warning: {said} free_thresh is {file.free_thresh:g}; 0.196 would leave it unknown.", file=sys.stderr)
    return free[::-1]


def read_nav2(path, robot=TURTLEBOT):
    """A GridMap from Nav2's YAML and its image. Raises UserError."""
    file = read_yaml(path)
    if not 0.001 <= file.resolution <= 10 or file.mode not in ("trinary", "scale", "raw"):
        raise UserError(f"{path} is no map as Nav2 has them: its resolution or mode is not.")
    if not 0 <= file.free_thresh <= file.occupied_thresh <= 1:
        limits = f"free_thresh is {file.free_thresh:g} and occupied_thresh {file.occupied_thresh:g}"
        raise UserError(f"{path} is no map: {limits}; they must rise from 0 to 1.")
    free, resolution = coarsen(free_cells(*read_image(file.image), file), file.resolution)
    refuse_large(path, free.size)
    return GridMap(free, resolution, file.origin, robot)


def coarsen(free, resolution):
    """Puts k x k cells together until one is CELL wide or more. It is free where all of them are."""
    k = max(1, math.ceil(CELL / resolution - 1e-6))
    height, width = free.shape[0] // k * k, free.shape[1] // k * k
    blocks = free[:height, :width].reshape(height // k, k, width // k, k)
    return blocks.all(axis=(1, 3)), k * resolution


def read_movingai(path, robot=TURTLEBOT):
    """A GridMap from a grid of MovingAI. Its cells are MOVINGAI_CELL wide. Raises UserError."""
    try:
        head, _, body = read_lines(path, MOST_CELLS).partition("map\n")
        rows = body.split()
        sizes = dict(line.split() for line in head.split("\n")[1:] if line)
        if not head.startswith("type octile") or {len(row) for row in rows} != {int(sizes["width"])}:
            raise ValueError
        if len(rows) != int(sizes["height"]):
            raise ValueError
    except (ValueError, KeyError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{path} is no map of MovingAI, or of another size than it says.")
    times = round(MOVINGAI_CELL / CELL)
    refuse_large(path, len(rows) * len(rows[0]) * times**2)
    free = np.array([[cell in ".GS" for cell in row] for row in rows])[::-1]
    return GridMap(free.repeat(times, axis=0).repeat(times, axis=1), CELL, robot=robot)


def refuse_large(path, cells):
    """Raises UserError for more cells than MOST_CELLS."""
    if cells > MOST_CELLS:
        raise UserError(f"{path} has {cells:,} cells of {CELL} m or more; give a part with {MOST_CELLS:,} at most.")


def read_map(path, robot=TURTLEBOT):
    """A GridMap from FILE.yaml (Nav2) or FILE.map (MovingAI) for a robot. Raises UserError."""
    path = Path(path)
    grid = (read_movingai if path.suffix == ".map" else read_nav2)(path, robot)
    if not (grid.clearances >= robot.keep).any():
        raise UserError(f"{path} has no free space for a robot of {robot.radius:g} m radius.")
    return grid


# ---- Downloading
def download_map(name):
    """Downloads one of SOURCES with its image, unless they are there. Returns its path. Raises UserError."""
    for file in dict.fromkeys((name, name.replace(".yaml", ".pgm"))):
        folder = next(address for start, address in ADDRESSES.items() if file.startswith(start))
        download(folder + Path(file).name, SOURCES[file], MAPS / file)
    return MAPS / name


def main():
    """The command line of robots.maps."""
    parser = Parser(__doc__)
    parser.add_argument("--map", type=given_path, metavar="FILE", help="read this map instead of downloading")
    args = parser.parse_args()
    paths = [args.map] if args.map else [download_map(name) for name in SOURCES if not name.endswith(".pgm")]
    for path in paths:
        grid = read_map(path)
        height, width = (cells * grid.resolution for cells in grid.free.shape)
        print(f"{path}: {width:.1f} x {height:.1f} m, {grid.free.mean():.0%} free")


if __name__ == "__main__":
    run(main)
