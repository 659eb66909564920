"""The command line of lesson 14: what it may be asked and what is done with the files.

The lesson hands over how a path is bent. It is bend(points, grid, whole, on_step) -> (paths, by whom).

Builds on:  the other rooms of robots, without training. tools.
"""

import math
import sys

from robots.bags import rewrite_bag
from robots.curves import different, in_words, length_of
from robots.grid import Robot
from robots.pictures import draw_passes
from robots.planner import plan
from robots.poses import keep_ends, looking_ahead, save_table, smooth_poses, thin_out
from tools.command_line import SEED, Parser, UserError, between, given_path


def parse_paths(doc, checkpoint):
    """The arguments of lesson 14. A sentence refuses what does not go together."""
    parser = Parser(doc)
    add, metres, size = parser.add_argument, between(float, -(10**7), 10**7), between(float, 0.001, 100)
    place = dict(type=metres, nargs="+", metavar=("X", "Y"))
    file = dict(type=given_path, metavar="FILE")
    add("--map", **file, help="the map: Nav2's .yaml beside its image, or MovingAI's .map")
    add("--start", **place, help="X Y, or X Y YAW, in m and radians, in the map's frame")
    add("--goal", **place, help="the same")
    add("--obstacle", type=metres, nargs=3, metavar=("X", "Y", "RADIUS"), help="a disc that is not on the map")
    add("--bag", **file, help="bend every nav_msgs/msg/Path of this rosbag2")
    add("--frame", default="map", metavar="NAME", help="the frame of the map and of a bag's paths (default: map)")
    add("--out", **file, help="write a .csv (x, y, yaw), .png or .gif. With --bag write a bag")
    most = between(int, 1, 20)
    add("--candidates", type=most, default=1, metavar="N", help="write the N best different paths (default: 1)")
    add("--robot-radius", type=size, default=Robot.radius, metavar="M", help="default: %(default)s")
    add("--turning-radius", type=size, default=Robot.turning_radius, metavar="M", help="default: %(default)s")
    add("--clearance", type=size, metavar="M", help="keep so far from obstacles where there is room")
    add("--checkpoint", default=checkpoint, **file, help="default: checkpoints/paths.safetensors")
    add("--seed", type=SEED, default=0, help="default: 0")
    args = parser.parse_args()
    if not args.frame:
        parser.error("--frame is an empty text; give the name of the map's frame")
    refuse_half_a_job(parser, args)
    if args.start:
        refuse_odd_ends(parser, args)
    elif args.candidates > 1:
        parser.error("--candidates goes with --start and --goal")
    return args


def refuse_half_a_job(parser, args):
    """Ends the script by a sentence where flags are missing, or flags do not go together."""
    if bool(args.bag or args.start or args.goal) != bool(args.out):
        parser.error("--out goes with --bag, or with --start and --goal, and these with --out")
    if bool(args.out) != bool(args.map) or bool(args.start) != bool(args.goal) or (args.bag and args.start):
        parser.error("give --map FILE with --bag, or with --start X Y and --goal X Y, not with all three")
    if args.obstacle and not (args.out and args.obstacle[2] > 0):
        parser.error("--obstacle goes with --map and --out, and its radius must be above 0")


def refuse_odd_ends(parser, args):
    """Ends the script by a sentence where a place has not 2 or 3 numbers, or --out has an ending of no known kind."""
    if not {len(args.start), len(args.goal)} <= {2, 3}:
        parser.error("--start and --goal are X Y, or X Y YAW")
    if args.start[:2] == args.goal[:2]:
        parser.error("--start and --goal are the same place")
    if args.out.suffix not in (".csv", ".png", ".gif"):
        parser.error(f"--out {args.out} must end in .csv, .png or .gif")


def bend_one(args, grid, bend, last):
    """Does what --start and --goal ask for: plan, smooth, bend around --obstacle, write --out.

    last: as bend, for the paths that are written. Raises UserError where it fails.
    """
    frames = []
    old = plan(grid, args.start[:2], args.goal[:2])
    whole = not args.obstacle
    if args.obstacle:
        found, _ = bend(old, grid, True)
        grid, old = grid.with_disc(*args.obstacle), found[0] if found else old
    found, by = last(old, grid, whole, on_step=lambda *frame: frames.append(frame))
    if not found:
        raise UserError("no path was found that the robot can drive; plan anew, or move the goal.")
    found = different(found, args.candidates)
    if len(found) < args.candidates:
        print(f"different paths that were found: {len(found)}", file=sys.stderr)
    for number, path in enumerate(found, 1):
        print(f"{number}. {in_words(path, grid)}, by {by}", file=sys.stderr)
    if args.out.suffix == ".csv":
        ends = [math.nan if len(given) == 2 else given[2] for given in (args.start, args.goal)]
        save_table(args.out, [keep_ends(looking_ahead(thin_out(path)), *ends) for path in found])
    else:
        control = [corridor.known(tokens) for corridor, tokens in frames]
        draw_passes(grid, old, args.obstacle, control, found, args.out.resolve())


def bend_bag(args, grid, bend):
    """Does what --bag asks for: every Path is bent around --obstacle or smoothed. Raises UserError."""
    grid = grid.with_disc(*args.obstacle) if args.obstacle else grid

    def bend_piece(points):
        found, by = bend(points, grid, not args.obstacle)
        print(f"a piece of {length_of(points):.2f} m, by {by}", file=sys.stderr)
        return found[0] if found else None

    def change(frame, poses):
        if frame not in ("", args.frame):
            told = f"a path in {args.bag} is in the frame {frame!r}, and the map in {args.frame!r}"
            raise UserError(f"{told}; if they are one, say so by --frame {frame}.")
        if not grid.on_map(poses[:, :2]).all():
            raise UserError(f"a path in {args.bag} leaves the map {args.map}.")
        return smooth_poses(poses, bend_piece)

    count = rewrite_bag(args.bag, args.out, change)
    print(f"paths: {count}", file=sys.stderr)
