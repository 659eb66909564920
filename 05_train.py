"""Lesson 5. How is the model trained, and how do we know how good it is?

Trains the transformer of lesson 3 on the masked-diffusion objective of lesson 4, on TinyShakespeare or on any
text of yours, and keeps everything needed to go on after an interruption: stop with Ctrl-C, go on with --resume.

Builds on:  lesson 1 (load_text, Tokenizer), 3 (Config, PRESETS, Transformer), 4 (mask_exactly, bound, sample).
Run:        python 05_train.py                              (5 minutes, and what the evaluations take)
            python 05_train.py --minutes 60 --out checkpoints/long.pt
            python 05_train.py --data my_text.txt --preset base --minutes 300
            python 05_train.py --evaluate checkpoints/shakespeare.pt
            torchrun --nproc_per_node=2 05_train.py         (data-parallel over 2 devices)
Last line:  the command that generates text from what was trained.

Beside --out NAME.pt, the whole state of the run, lie NAME_best.pt (the best held-out weights, nothing else),
NAME.csv (the log) and NAME.png (the curve).
"""

import copy
import csv
import io
import math
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Callable

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

lesson1 = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
UserError = lesson1.UserError

WARMUP_STEPS = 50
FINAL_LR = 0.05  # the learning rate ends at this share of its peak
EVALUATIONS = 10  # how often a run measures the held-out bound
HELDOUT_WINDOWS = 1024  # at most this many windows, evenly spread; TinyShakespeare has fewer
LOG_ROWS = 200  # how many rows of the log a run writes
SAVE_EVERY = 60  # seconds between two saves


# ---------------------------------------------------------------------------------------------------------
# The objective: what the model sees, what it must guess, and the held-out figure


@dataclass(frozen=True)
class Objective:
    """What distinguishes one kind of model from another in the loop below."""

    causal: bool  # may a position see only what is to its left?
    figure: str  # what `heldout` measures: "bound", or "exact"
    prepare: Callable  # (tokens [B, L], vocab_size, generator) -> inputs [B, L], mask [B, L] of what to guess
    heldout: Callable  # (model, windows [N, L], draws) -> (nats per token, standard error)
    write: Callable  # (model, tokenizer) -> a short sample, as text


def write_sample(model, tokenizer):
    """A few lines from the model as it is, in half as many passes as letters."""
    L = model.config.context
    canvas = torch.full((1, L), model.config.vocab_size, device=next(model.parameters()).device)
    generator = torch.Generator().manual_seed(0)
    tokens = diffusion.sample(model, canvas, L // 2, temperature=0.8, order="certainty", generator=generator)
    return tokenizer.decode(tokens[0])


DIFFUSION = Objective(causal=False, figure="bound", prepare=diffusion.hide_some, heldout=diffusion.heldout_bound, write=write_sample)


# ---------------------------------------------------------------------------------------------------------
# The learning rate, the processes, and how to stop


def get_lr(step, progress):
    """The share of the peak learning rate: 50 steps of warm-up, then a straight line down to FINAL_LR.

    step counts from 0; progress in [0, 1] is the share of the run that is done, in steps or in minutes.
    """
    return min(1, (step + 1) / WARMUP_STEPS) * (1 - (1 - FINAL_LR) * progress)


def join_processes(device):
    """Under torchrun: joins the others, and returns (rank, number of processes, this one's device)."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1, device
    rank = int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size(), device


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request to stop after this step; a second one stops at once."""

    def __init__(self):
        self.made = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)

    def note(self, number, frame):
        """The signal handler."""
        self.made = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def agree(progress, device):
    """Every process goes by the clock of the first one."""
    if dist.is_initialized():
        progress = torch.tensor(progress, dtype=torch.float64, device=device)
        dist.broadcast(progress, src=0)
        progress = progress.item()
    return progress


# ---------------------------------------------------------------------------------------------------------
# Checkpoints


def save_checkpoint(contents, path):
    """Writes a checkpoint; a crash or a full disk leaves the one that was there. Raises UserError."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    lesson1.write_safely(path, buffer.getbuffer())


def read_checkpoint(path):
    """Returns the dict in a checkpoint file, on the CPU. Code in it is never run. Raises UserError."""
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}; train one with: python 05_train.py --out {path}")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # torch raises half a dozen kinds, for a file that is cut short, say
        raise UserError(f"{path} is damaged, or no checkpoint, or carries code, which is not run ({type(problem).__name__}).")
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise UserError(f"{path} is not a checkpoint of this project.")
    return contents


def load_checkpoint(path, device="cpu"):
    """Returns (model in eval mode, tokenizer, info) from a checkpoint file; info is a dict with the rest of it.

    Also reads the older published format, by way of older_checkpoints.py. Raises UserError.
    """
    contents = read_checkpoint(path)
    if "token_emb.weight" in contents["model"]:
        older = import_module("older_checkpoints")
        model, tokenizer, info = older.convert(contents, path)
        return model.to(device).eval(), tokenizer, info
    try:
        model = transformer.Transformer(transformer.Config(**contents["config"]))
        model.load_state_dict(contents["model"])
        tokenizer = lesson1.Tokenizer(contents["units"])
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:
        raise UserError(f"{path} is not a checkpoint of this project ({type(problem).__name__}).")
    return model.to(device).eval(), tokenizer, {k: v for k, v in contents.items() if k != "model"}


# ---------------------------------------------------------------------------------------------------------
# The log


class Log:
    """NAME.csv, a row now and then, and NAME.png, drawn from it. A resumed run keeps the rows up to its step."""

    COLUMNS = ("step", "seconds", "characters", "lr", "loss", "heldout")

    def __init__(self, path, step):
        self.path, self.rows = path, []
        if step and path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]

    def add(self, *values):
        """Adds a row, one value a column, and writes the file."""
        self.rows.append(dict(zip(self.COLUMNS, values)))
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        lesson1.write_safely(self.path, text.getvalue().encode())

    def draw(self, figure_name):
        """Saves the curve beside the log and returns its path."""
        import matplotlib

        matplotlib.use("Agg")  # no window
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4))
        for column, label, style in (("loss", "training loss", "-"), ("heldout", f"held-out {figure_name}", "o-")):
            rows = [row for row in self.rows if row[column]]
            axes.plot([int(r["characters"]) for r in rows], [float(r[column]) for r in rows], style, label=label)
        axes.set(xlabel="characters seen in training", ylabel="nats per character")
        axes.legend()
        figure.savefig(self.path.with_suffix(".png"), dpi=130, bbox_inches="tight")
        return self.path.with_suffix(".png")


# ---------------------------------------------------------------------------------------------------------
# The loop


def split_text(text, tokenizer, context):
    """The first 90% of a text as training tokens [N], the rest as held-out windows [M, context]."""
    tokens = torch.tensor(tokenizer.encode(text))
    border = len(tokens) * 9 // 10
    training, heldout = tokens[:border], tokens[border:]
    if len(heldout) < context or len(training) <= context:
        raise UserError(f"the text has {len(text):,} characters; this preset needs {10 * context:,} or more.")
    return training, heldout[: len(heldout) // context * context].view(-1, context)


class Run:
    """What a checkpoint must hold to go on: the model, its optimizers, the generators, and how far it has come."""

    def __init__(self, args, tokenizer, config, device):
        torch.manual_seed(args.seed)  # for the weights to start from
        self.args, self.tokenizer, self.device = args, tokenizer, device
        self.dtype = transformer.native_dtype(device)
        self.model = transformer.Transformer(config).to(device)
        self.optimizers = transformer.make_optimizers(self.model, args.lr, self.dtype)
        self.generator = torch.Generator().manual_seed(args.seed)  # of windows and masks
        self.step, self.seconds, self.heldout, self.best = 0, 0.0, math.nan, math.inf

    def progress(self):
        """The share of the run that is done, from 0 to 1, in steps or in training time."""
        done = self.step / self.args.steps if self.args.steps else self.seconds / (60 * self.args.minutes)
        return min(1.0, done)

    def characters(self):
        """How many characters the model has been trained on."""
        return self.step * self.args.batch * self.model.config.context

    def contents(self, weights):
        """A checkpoint for generating: the weights, and what is needed to use them."""
        return dict(
            model=weights, config=asdict(self.model.config), units=self.tokenizer.units,
            step=self.step, characters=self.characters(), seconds=self.seconds, heldout=self.heldout,
        )  # fmt: skip

    def save(self):
        """Writes a checkpoint for going on to --out."""
        contents = self.contents(self.model.state_dict())
        contents["best"] = self.best
        contents["settings"] = {name: getattr(self.args, name) for name in (*SETTINGS, *LIMITS)}
        contents["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        contents["generators"] = dict(batches=self.generator.get_state(), cpu=torch.get_rng_state())
        if self.device.type == "cuda":
            contents["generators"]["cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(contents, self.args.out)

    def restore(self, saved):
        """Takes up the state that `save` wrote."""
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        self.generator.set_state(saved["generators"]["batches"])
        torch.set_rng_state(saved["generators"]["cpu"])
        if self.device.type == "cuda" and "cuda" in saved["generators"]:
            torch.cuda.set_rng_state(saved["generators"]["cuda"], self.device)
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.heldout, self.best = saved["heldout"], saved["best"]

    def evaluate(self, objective, windows):
        """Measures the weights as NAME_best.pt would store them, in bfloat16, and stores them if they are the best yet."""
        shipped = copy.deepcopy(self.model).bfloat16()
        weights = shipped.state_dict()
        shipped = copy.deepcopy(shipped).float().eval()
        self.heldout, _ = objective.heldout(shipped, windows)
        if self.heldout < self.best:
            self.best = self.heldout
            save_checkpoint(self.contents(weights), best_path(self.args.out))
        tqdm.write(f"\nstep {self.step:,}: held-out {objective.figure} {self.heldout:.3f} nats/character", sys.stderr)
        tqdm.write(objective.write(shipped, self.tokenizer), sys.stderr)


def best_path(out):
    """NAME.pt -> NAME_best.pt"""
    return out.with_name(out.stem + "_best.pt")


def train(args, objective, tokenizer, config, training, windows, saved=None):
    """Trains a model on the tokens training [N] and measures it on windows [M, L]; `saved`: a checkpoint to resume.

    Stops when --steps or --minutes is reached, or on a stop request, and leaves args.out and the files beside it.
    """
    rank, processes, device = join_processes(transformer.pick_device(args.device))
    if args.batch % processes:
        raise UserError(f"--batch {args.batch} cannot be shared out evenly among {processes} processes.")
    run = Run(args, tokenizer, config, device)
    if saved:
        run.restore(saved)
    forward = torch.compile(run.model) if device.type == "cuda" else run.model
    if processes > 1:
        forward = nn.parallel.DistributedDataParallel(forward)
    mine = slice(rank * args.batch // processes, (rank + 1) * args.batch // processes)  # this process's rows
    training, windows = training.to(device), windows.to(device)
    offsets = torch.arange(config.context, device=device)
    stop, reporter = StopRequest(), Reporter(run, objective, windows) if rank == 0 else None

    while (progress := agree(1.0 if stop.made else run.progress(), device)) < 1:
        began = time.perf_counter()
        for optimizer, peak in zip(run.optimizers, (args.lr, args.lr * transformer.ADAMW_LR_RATIO)):
            optimizer.param_groups[0]["lr"] = peak * get_lr(run.step, progress)

        starts = torch.randint(len(training) - config.context + 1, (args.batch, 1), generator=run.generator)
        tokens = training[starts.to(device) + offsets]  # [B, L]
        inputs, mask = objective.prepare(tokens, config.vocab_size, run.generator)  # [B, L] each
        with torch.autocast(device.type, run.dtype, enabled=run.dtype == torch.bfloat16):
            logits = forward(inputs[mine])  # [B / processes, L, V]
        loss = diffusion.masked_cross_entropy(logits.float(), tokens[mine], mask[mine]).mean()

        for optimizer in run.optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        for optimizer in run.optimizers:
            optimizer.step()

        loss = loss.item()  # waits for the device, so that the clock tells the truth
        run.step += 1
        run.seconds += time.perf_counter() - began
        if reporter:
            reporter.report(loss, progress)

    if reporter:
        reporter.finish()
    if processes > 1:
        dist.destroy_process_group()


class Reporter:
    """What the first process does after a step: the bar, the log, the evaluations and the saves."""

    def __init__(self, run, objective, windows):
        self.run, self.objective = run, objective
        self.windows = windows[:: math.ceil(len(windows) / HELDOUT_WINDOWS)]
        self.log = Log(run.args.out.with_suffix(".csv"), run.step)
        every = 0.5 if sys.stderr.isatty() else 30  # seconds; a file wants fewer lines
        layout = "{percentage:3.0f}%|{bar:20}| {desc}"
        self.bar = tqdm(total=1.0, initial=run.progress(), bar_format=layout, mininterval=every, file=sys.stderr)
        self.losses, self.resumed_at, self.saved_at = [], (run.step, run.seconds), time.monotonic()
        size = sum(p.numel() for p in run.model.parameters())
        print(f"{size:,} parameters, {run.device}, {run.dtype}, batch {run.args.batch}", file=sys.stderr)

    def report(self, loss, before):
        """`before`: the progress before this step; what is done at intervals is done when it passes a mark."""
        run, after = self.run, self.run.progress()
        self.losses.append(loss)
        self.bar.set_description_str(self.status(loss, after), refresh=False)
        self.bar.update(after - self.bar.n)
        evaluate = int(after * EVALUATIONS) > int(before * EVALUATIONS)
        if evaluate:
            run.evaluate(self.objective, self.windows)
        if evaluate or int(after * LOG_ROWS) > int(before * LOG_ROWS):
            lr = run.optimizers[0].param_groups[0]["lr"]
            heldout = f"{run.heldout:.4f}" if evaluate else ""
            mean = sum(self.losses) / len(self.losses)
            self.log.add(run.step, f"{run.seconds:.1f}", run.characters(), f"{lr:.5f}", f"{mean:.4f}", heldout)
            self.losses = []
        if evaluate or time.monotonic() > self.saved_at + SAVE_EVERY:
            run.save()
            self.saved_at = time.monotonic()

    def status(self, loss, progress):
        """The text behind the bar."""
        run = self.run
        steps, seconds = run.step - self.resumed_at[0], run.seconds - self.resumed_at[1]
        speed = steps * run.args.batch * run.model.config.context / seconds
        left = tqdm.format_interval(run.seconds * (1 - progress) / progress)
        return f"step {run.step:,}  loss {loss:.3f}  {speed:,.0f} characters/s  {left} left"

    def finish(self):
        """Saves, draws, and says what came out of it."""
        run = self.run
        self.bar.close()
        run.save()
        print(
            f"{run.step:,} steps, {run.characters():,} characters, {run.seconds:.0f} s of training; "
            f"best held-out {self.objective.figure}: {run.best:.3f} nats/character",
            f"Checkpoint {run.args.out}, curve {self.log.draw(self.objective.figure)}",
            "Go on with --resume." if run.progress() < 1 else "To generate from the best weights:",
            sep="\n", file=sys.stderr,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------
# The command line

SETTINGS = dict(data=None, preset="auto", batch=16, lr=0.025, seed=0)  # fixed for the whole of a run; the defaults
LIMITS = ("steps", "minutes")  # may be changed when a run is resumed


def training_parser(doc, out):
    """The flags that all training scripts share. Those of SETTINGS are None unless given."""
    number, default = lesson1.between, SETTINGS
    out = lesson1.ROOT / "checkpoints" / out
    parser = lesson1.Parser(doc)
    add = parser.add_argument
    add("--data", metavar="FILE", help="a UTF-8 text file (default: TinyShakespeare, downloaded once)")
    add("--preset", choices=["auto", *transformer.PRESETS], help="default: auto, which is base on CUDA and small elsewhere")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--steps", type=number(int, 1), help="train for so many steps")
    limit.add_argument("--minutes", type=number(float, 0.01), help="train for so long, evaluations not counted (default: 5)")
    add("--batch", type=number(int, 1), help=f"windows of text in a step (default: {default['batch']})")
    add("--lr", type=number(float, 0), help=f"Muon's learning rate; AdamW's follows (default: {default['lr']})")
    add("--seed", type=number(int, 0), help=f"default: {default['seed']}")
    add("--device", default="auto", help="auto (default), cuda, mps or cpu")
    add("--out", type=Path, default=out, metavar="FILE", help=f"the run's checkpoint (default: checkpoints/{out.name})")
    add("--resume", action="store_true", help="go on with the run in --out; only --steps, --minutes and --device may change")
    return parser


def settle(args):
    """Completes args from the run in --out with --resume, else from the defaults. Returns the run's checkpoint, or None."""
    saved = read_checkpoint(args.out) if args.resume else None
    if saved and not {"optimizers", "settings", "generators"} <= saved.keys():
        raise UserError(f"{args.out} does not hold the state of a training run, so it cannot be trained further.")
    if not saved and args.out.exists():
        raise UserError(f"{args.out} exists: go on with it by --resume, delete it, or name another file by --out.")
    args.data = args.data and str(Path(args.data).resolve())
    for name, default in SETTINGS.items():
        kept = saved["settings"][name] if saved else default
        if saved and getattr(args, name) not in (None, kept):
            raise UserError(f"the run in {args.out} has --{name} {kept}, which --resume cannot change.")
        if getattr(args, name) is None:
            setattr(args, name, kept)
    if args.preset == "auto":
        args.preset = "base" if transformer.pick_device(args.device).type == "cuda" else "small"
        print(f"preset {args.preset}", file=sys.stderr)
    if not (args.steps or args.minutes):
        args.steps, args.minutes = (saved["settings"][name] for name in LIMITS) if saved else (None, 5.0)
    return saved


def train_on_text(args, objective):
    """Settles the flags, reads the text, trains."""
    saved = settle(args)
    text = lesson1.load_text(args.data)
    tokenizer = lesson1.Tokenizer(saved["units"] if saved else sorted(set(text)))
    config = transformer.Config(tokenizer.vocab_size, causal=objective.causal, **transformer.PRESETS[args.preset])
    if saved and asdict(config) != saved["config"]:
        raise UserError(f"the run in {args.out} is of another kind of model; resume it with the script that began it.")
    train(args, objective, tokenizer, config, *split_text(text, tokenizer, config.context), saved)


def print_evaluation(args):
    """Prints the held-out figure of a checkpoint, carefully: 16 draws a window."""
    model, tokenizer, info = load_checkpoint(args.evaluate, transformer.pick_device(args.device))
    _, windows = split_text(lesson1.load_text(args.data), tokenizer, model.config.context)
    nats, error = diffusion.heldout_bound(model, windows.to(next(model.parameters()).device), draws=16)
    bits = nats / math.log(2)
    print(f"{args.evaluate}: bound {nats:.4f} +- {error:.4f} nats/character ({bits:.3f} bits), {windows.numel():,} held-out characters")


def main():
    """The command line of 05_train.py."""
    parser = training_parser(__doc__, "my_shakespeare.pt")
    parser.add_argument("--evaluate", metavar="FILE", help="train nothing: measure this checkpoint on the held-out text")
    args = parser.parse_args()
    if args.evaluate:
        print_evaluation(args)
        return
    train_on_text(args, DIFFUSION)
    if os.environ.get("RANK", "0") == "0":
        print(f"python 06_generate.py --checkpoint {best_path(args.out)}")


if __name__ == "__main__":
    lesson1.run(main)
