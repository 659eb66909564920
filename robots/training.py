"""Trains lesson 14's model on the teacher's paths. The maps are made up.

Two thirds of the problems are whole paths to be smoothed. The others are repairs. A disc is put in the way of a path
that was solved. The span around it is solved again. The model learns to guess the teacher's tokens.

Run:        python -m robots.training             (5 minutes for 15,000 problems and 15 for training on two cores)
            python -m robots.training --number 1000 --minutes 1 --out checkpoints/few_paths.safetensors
            python -m robots.training --minutes 30 --resume
Builds on:  lessons 3 (optimizers), 4 (the loss), 5 (get_lr) and 14 (Corridor, PathModel). robots and tools.
Last line:  the command that uses what was trained.

The problems are solved once and kept in data/robot_paths/ part by part. A run that was stopped goes on with them.
"""

import contextlib
import hashlib
import io
import math
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import numpy as np

from robots.curves import control_points, low_pass, spline
from robots.grid import made_up_map
from robots.planner import Planner
from robots.teacher import teach
from tools.checkpoints import read_checkpoint, unfit
from tools.command_line import Parser, StopRequest, UserError, between, given_path, print_command, run
from tools.files import ROOT, write_safely
from tools.settings import Settings, check_out, check_settings, refuse_existing
from tools.training_run import Reporter, Run

import torch
from torch import nn
from tqdm import tqdm

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
robot_paths = import_module("14_robot_paths")

DATA = ROOT / "data" / "robot_paths"  # where the problems are kept
SCRIPT = "robots/training.py"
PRESETS = dict(paths=None)  # there is one shape: lesson 14's CONFIG
UNITS = [*(f"{offset:+.1f}" for offset in robot_paths.OFFSETS), "none"]  # the tokens as texts for the checkpoint


# ---- The problems
def rough_paths(rng):
    """Yields (map, [N, 2] path) without end. On each map there are two starts. From one the ways keep away from walls.
    From the other they hug them."""
    while True:
        grid = made_up_map(rng)
        allowed = np.argwhere(grid.clearances >= grid.robot.keep)
        for inflated in (True, False) if len(allowed) else ():
            start = grid.to_world(allowed[rng.integers(len(allowed))][::-1].astype(float))
            planner = Planner(grid, start, inflated)
            cells = np.flatnonzero(np.isfinite(planner.costs) & (planner.costs > 3) & (planner.costs < 25))
            for at in rng.choice(cells, min(4, len(cells)), replace=False):
                yield grid, planner.path(grid.to_world(planner.cells[at][::-1].astype(float)))


def smoothing(grid, rough):
    """(corridor, tokens, masked) of a path to be smoothed. All but the ends is solved."""
    corridor = robot_paths.Corridor.along(control_points(low_pass(rough)), grid)
    masked = np.ones(len(corridor.line), dtype=bool)
    masked[[0, -1]] = False
    tokens = np.full(len(masked), robot_paths.STRAIGHT)
    return corridor, teach(corridor, tokens, masked), masked


def put_disc(rng, grid, curve):
    """(map, disc) with a disc on or near the middle part of a curve [M, 2]. (None, None) where it buries an end."""
    at = curve[int(len(curve) * rng.uniform(0.15, 0.85))] + rng.uniform(-0.3, 0.3, 2)
    radius = rng.uniform(0.1, 0.4)
    far = np.hypot(*(curve[[0, -1]] - at).T) > radius + 1.0
    return (grid.with_disc(*at, radius), (*at, radius)) if far.all() else (None, None)


def repairing(rng, grid, curve):
    """(corridor, tokens, masked) of a path that a disc blocks. The span around it is solved again. It may be None."""
    blocked, _ = put_disc(rng, grid, curve)
    if blocked is None:
        return None
    corridor = robot_paths.Corridor.along(control_points(curve), blocked)
    tokens = np.full(len(corridor.line), robot_paths.STRAIGHT)
    masked = robot_paths.around(robot_paths.faults(corridor, tokens), len(tokens), int(rng.integers(2, 7)))
    return (corridor, teach(corridor, tokens, masked), masked) if masked.any() else None


def make_problems(seed, number):
    """`number` problems as `pack` makes them. Those that the teacher cannot solve are left out."""
    rng, kept = np.random.default_rng(seed), []
    with tqdm(total=number, desc=f"part {seed + 1}", mininterval=1, file=sys.stderr) as bar:
        for grid, rough in rough_paths(rng):
            corridor, tokens, masked = smoothing(grid, rough)
            if len(tokens) > robot_paths.POINTS or robot_paths.faults(corridor, tokens):
                continue
            curve, _ = spline(corridor.control(tokens))
            found = [(corridor, tokens, masked), repairing(rng, grid, curve)]
            if found[1] and (len(found[1][1]) > robot_paths.POINTS or robot_paths.faults(*found[1][:2])):
                found.pop()
            kept += [problem for problem in found if problem]
            bar.update(min(number, len(kept)) - bar.n)
            if len(kept) >= number:
                break
    return pack(kept[:number])


def pack(problems):
    """Arrays of problems (corridor, tokens, masked) by their names. Rows are filled up with PAD to POINTS."""
    n, size = len(problems), robot_paths.POINTS
    arrays = dict(
        tokens=np.full((n, size), robot_paths.PAD, dtype=np.uint8), masked=np.zeros((n, size), dtype=bool),
        clearances=np.zeros((n, size, robot_paths.BINS), dtype=np.float16), turns=np.zeros((n, size), dtype=np.uint8),
        length=np.array([len(tokens) for _, tokens, _ in problems], dtype=np.int64),
    )  # fmt: skip
    for i, (corridor, tokens, masked) in enumerate(problems):
        L = len(tokens)
        arrays["tokens"][i, :L], arrays["masked"][i, :L] = tokens, masked
        arrays["clearances"][i, :L], arrays["turns"][i, :L] = corridor.clearances, corridor.turns
    return arrays


def save_arrays(arrays, path):
    """Writes arrays as an .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_safely(path, buffer.getbuffer())


# ---- The training
def random_batch(data, size, generator):
    """`size` problems of nearly the same length: {tokens, masked, turns [B, L], clearances [B, L, BINS]}.

    By chance a problem is mirrored or driven from its end. Thus one problem makes four.
    """
    order = (data["length"] + torch.rand(len(data["length"]), generator=generator)).argsort()
    first = int(torch.randint(len(order) - size + 1, (1,), generator=generator))
    rows = order[first : first + size]
    length = data["length"][rows, None]  # [B, 1]
    places = torch.arange(int(length.max())).expand(size, -1)  # [B, L]
    flipped, backwards = torch.rand(2, size, 1, generator=generator) < 0.5  # [B, 1] each
    places = torch.where(backwards & (places < length), length - 1 - places, places)
    # flipped alone is the path in a mirror. backwards and flipped is the path from its end, where left is right
    batch = {name: data[name][rows[:, None], places] for name in ("tokens", "masked", "clearances", "turns")}
    tokens, turns, clearances = batch["tokens"].long(), batch["turns"].long(), batch["clearances"].float()
    batch["tokens"] = torch.where(flipped & (tokens != robot_paths.PAD), robot_paths.BINS - 1 - tokens, tokens)
    batch["turns"] = torch.where(flipped, robot_paths.TURNS - 1 - turns, turns)
    batch["clearances"] = torch.where(flipped[..., None], clearances.flip(2), clearances)
    return batch


def hide_path(tokens, masked, generator):
    """(inputs, mask) [B, L] each. Half the rows hide some of the places `masked` [B, L] anywhere.

    The others hide a span of them. Three times in ten they hide all of them.
    """
    B, L = tokens.shape
    count = masked.sum(dim=1, keepdim=True)  # [B, 1]
    draw = partial(torch.rand, generator=generator)
    lottery = draw(B, L).masked_fill(~masked, 2).argsort(dim=1).argsort(dim=1)  # [B, L] the ranks
    somewhere = lottery < 1 + (draw(B, 1) * count).long()
    rank = masked.cumsum(dim=1) - 1  # [B, L] of the places from left to right
    width = 1 + (draw(B, 1) * count).long()
    start = (draw(B, 1) * (count - width + 1)).long()
    span = ((start <= rank) & (rank < start + width)) | (draw(B, 1) < 0.3)
    mask = masked & torch.where(draw(B, 1) < 0.5, somewhere, span)
    return tokens.masked_fill(mask, robot_paths.CONFIG.vocab_size), mask


def loss_of(model, batch, generator):
    """[B] nats per hidden token."""
    inputs, mask = hide_path(batch["tokens"], batch["masked"], generator)
    logits = model(inputs, batch["clearances"], batch["turns"])
    return diffusion.masked_cross_entropy(logits, batch["tokens"], mask)


def train_paths(settings, data, saved):
    """Lesson 5's loop on rows of offsets instead of letters. saved: the checkpoint of a run to go on with, or None.

    It leaves settings.out and the files beside it as lesson 5 does.
    """
    heldout = {name: array[: len(array) // 20] for name, array in data.items()}
    data = {name: array[len(array) // 20 :] for name, array in data.items()}
    torch.manual_seed(settings.seed)
    model = robot_paths.PathModel()
    optimizers = transformer.make_optimizers(model, settings.lr, torch.float32)
    run = Run(settings, model, optimizers, asdict(robot_paths.CONFIG), SimpleNamespace(units=UNITS))
    if saved:
        run.restore(saved)
    measured = SimpleNamespace(label="loss", token="offset", write=lambda *_: "")
    measured.heldout = lambda model, _: measure(model, heldout)
    reporter = Reporter(run, measured, heldout["length"], not saved)
    with StopRequest() as stop:
        while (progress := 1.0 if stop.made else run.progress()) < 1:
            began = time.perf_counter()
            run.lr = settings.lr * training.get_lr(run.step, progress)
            for optimizer, ratio in zip(optimizers, (1, transformer.ADAMW_LR_RATIO)):
                optimizer.param_groups[0]["lr"] = run.lr * ratio
            batch = random_batch(data, settings.batch, run.generator)
            loss = loss_of(model, batch, run.generator).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            run.step, run.characters = run.step + 1, run.characters + batch["tokens"].numel()
            run.seconds += time.perf_counter() - began
            reporter.report(loss.item(), progress)
    reporter.finish()


@torch.inference_mode()
def measure(model, heldout):
    """The held-out nats per hidden token. The same tokens are hidden every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([loss_of(model, random_batch(heldout, 32, generator), generator) for _ in range(16)]).mean().item()


# ---- The command line
NUMBER = 15_000  # problems, unless one says otherwise
BATCH = 96  # paths
PART = 1000  # problems that are solved and saved at once


def load_problems(number):
    """{name: tensor} of `number` problems. Those that are not there yet are solved. Raises UserError."""
    parts = []
    for seed, first in enumerate(range(0, number, PART)):
        size = min(PART, number - first)
        cache = DATA / f"{seed}_{size}.npz"
        if not cache.exists():
            save_arrays(make_problems(seed, size), cache)
        parts.append(read_part(cache, size))
    return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}


def is_part(arrays, size):
    """Whether {name: array} is what `pack` makes of `size` problems."""
    kinds = {name: (array.dtype, (size, *array.shape[1:])) for name, array in pack([]).items()}
    if kinds != {name: (array.dtype, array.shape) for name, array in arrays.items()}:
        return False
    length, tokens, masked, clearances = (arrays[name] for name in ("length", "tokens", "masked", "clearances"))
    beyond = np.arange(robot_paths.POINTS) >= length[:, None]  # [n, POINTS]
    fits = length.min() >= 2 and length.max() <= robot_paths.POINTS and arrays["turns"].max() < robot_paths.TURNS
    padded = tokens.max() <= robot_paths.PAD and np.array_equal(tokens == robot_paths.PAD, beyond)
    hidden = masked.any(axis=1).all() and not masked[beyond].any()
    return fits and padded and hidden and clearances.min() >= 0 and np.isfinite(clearances).all()


def read_part(path, size):
    """The arrays of `size` problems that save_arrays wrote. Raises UserError where they are not what `pack` makes."""
    most = 2**16 + size * sum(array.itemsize * math.prod(array.shape[1:]) for array in pack([]).values())  # bytes
    arrays = {}
    if path.is_file():
        with contextlib.suppress(Exception), np.load(path) as file:  # of many kinds: it may be cut short anywhere
            if sum(member.file_size for member in file.zip.infolist()) <= most:  # or a small file unpacks to a huge one
                arrays = {name: file[name] for name in file.files}
    if not is_part(arrays, size):
        raise UserError(f"{path} is damaged, or no part of the problems; delete it, and the next run solves it anew.")
    return arrays


def saved_run(args):
    """The run in --out to go on with, None for a new one. Raises UserError before minutes go into the problems."""
    check_out(args.out)
    if not args.resume:
        return refuse_existing(args.out)
    saved = read_checkpoint(args.out)
    check_settings(saved, SCRIPT, PRESETS, args.out)
    return saved


def number_of(args, saved):
    """How many problems: --number, or what the run has. Raises UserError where they differ."""
    kept = saved["settings"]["data"] if saved else ""
    if not (kept.isascii() and kept.isdecimal() and len(kept) < 8):  # a new run, or one that did not keep it
        return args.number or NUMBER
    number = int(kept)
    if args.number not in (None, number):
        raise UserError(f"the run in {args.out} has --number {number}, not {args.number}: leave out --number.")
    return number


def settle_paths(args, data, saved):
    """The Settings. saved: that of saved_run. Raises UserError where the problems differ."""
    limit = dict(limit=args.steps or args.minutes or 15.0, unit="steps" if args.steps else "minutes")
    sha256 = hashlib.sha256(data["tokens"].numpy().tobytes()).hexdigest()
    if not saved:
        fixed = dict(preset="paths", batch=BATCH, lr=0.025, dropout=0.0, weight_decay=0.0, seed=0, dtype="float32")
        here = dict(
            script=SCRIPT, data=str(len(data["tokens"])), sha256=sha256, out=args.out, device="cpu", compiles=False
        )
        return Settings(**fixed, **limit, **here)
    if saved["settings"]["batch"] != BATCH:
        raise unfit(args.out, f"its batch is not {BATCH}")
    if saved["settings"]["sha256"] != sha256:
        raise UserError(f"the run in {args.out} learns other problems; delete {DATA}, and they are solved anew.")
    settings = Settings(**saved["settings"], out=args.out, device="cpu", compiles=False)
    return replace(settings, **limit) if args.steps or args.minutes else settings


def main():
    """The command line of robots.training."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--number", type=between(int, 1000, 10**6), help=f"problems (default: {NUMBER:,})")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--steps", type=between(int, 1, 10**9), help="stop after so many steps in all")
    limit.add_argument("--minutes", type=between(float, 0.01, 10**6), help="stop after so long in all (default: 15)")
    out = ROOT / "checkpoints" / "my_paths.safetensors"
    said = f"the run's checkpoint (default: checkpoints/{out.name})"
    add("--out", type=given_path, default=out, metavar="FILE", help=said)
    add("--resume", action="store_true", help="go on with --out. The limit may change")
    args = parser.parse_args()
    saved = saved_run(args)
    data = load_problems(number_of(args, saved))
    train_paths(settle_paths(args, data, saved), data, saved)
    print_command("python 14_robot_paths.py", args.out)


if __name__ == "__main__":
    run(main)
