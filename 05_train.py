"""Lesson 5. How is the model trained, and how do we know how good it is?

Trains the transformer of lesson 3 on the objective of lesson 4, on TinyShakespeare or on any text of yours, and
keeps what is needed to go on after an interruption: stop with Ctrl-C, go on with --resume. The last tenth of the text
is held out: training never sees it, so that the bound on it shows what was learned, and not what was memorised.

Builds on:  lessons 1 (text), 3 (the model, its optimizers, where it runs) and 4 (the objective, the bound, sample).
Run:        python 05_train.py                              (5 minutes, and what the evaluations take)
            python 05_train.py --data my_text.txt --preset base --minutes 300 --out checkpoints/mine.pt
            python 05_train.py --evaluate checkpoints/shakespeare.pt
            torchrun --nproc_per_node=2 05_train.py         (data-parallel)
Last line:  the command that generates text from what was trained.

Beside --out NAME.pt, the state of the run, lie NAME_best.pt (the best held-out weights), NAME.csv (the log) and NAME.png (the curve).

Later lessons take from here: Objective, DIFFUSION, report_bound, train, settle, training_parser, train_on_text, load_kind, Log,
print_command, print_evaluation.

Exercises (answers in docs/answers.md; use --steps 100 --batch 8 --out checkpoints/a.pt, then b.pt, minutes each)
  1. Set lesson 4's BELL_WIDTH to 10, which is almost uniform. Why may the two bounds be compared, and the two losses not?
  2. Set lesson 2's START_STRENGTH to 0. How far is the bound behind, and what does the sample look like?
  3. Change nothing but --seed. How far apart are the bounds, and which gaps between two recipes would you believe?
"""

import copy
import csv
import importlib.util
import io
import math
import os
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Callable

import torch
from torch import nn
from tqdm import tqdm

lesson1 = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
UserError = lesson1.UserError

EVALUATIONS = 8  # how often a run measures the held-out bound
HELDOUT_WINDOWS = 1024  # at most this many windows, evenly spread; TinyShakespeare has fewer
LOG_ROWS = 200  # how many rows of the log a run writes
SAVE_EVERY = 60  # seconds between two saves
SETTINGS = dict(data=None, preset="auto", batch=32, lr=0.025, dropout=0.0, seed=0)  # the defaults; fixed for a run, dropout apart
LIMITS = ("steps", "minutes")  # these too may be changed when a run is resumed


# ---------------------------------------------------------------------------------------------------------
# The objective: what the model sees, what it must guess, and the held-out figure


@dataclass(frozen=True)
class Objective:
    """What the loop must know about a kind of model. Lesson 7 trains a GPT, which guesses each letter from those
    before it, by the same loop and another Objective."""

    causal: bool  # GPT: True, lest a position see what it must guess
    label: str  # GPT: "exact", for the held-out figure is a likelihood; here "bound"
    prepare: Callable  # (tokens [B, L], vocab_size, generator) -> inputs [B, L], mask [B, L] of what to guess
    heldout: Callable  # (model, windows [N, L]) -> nats per token
    report: Callable  # (model, windows [N, L]) -> the figure measured carefully, as a sentence
    write: Callable  # (model, tokenizer) -> a short sample, as text


def write_sample(model, tokenizer):
    """A few lines from the model as it is, in half as many passes as letters."""
    L, generator = model.config.context, torch.Generator().manual_seed(0)
    canvas = torch.full((1, L), model.config.vocab_size, device=model.head.weight.device)
    tokens = diffusion.sample(model, canvas, L // 2, temperature=0.8, order="random", generator=generator)
    return tokenizer.decode(tokens[0])


def quick_bound(model, windows):
    """The held-out bound from one draw a window, in nats per token: quick, and +-0.01."""
    return diffusion.heldout_bound(model, windows)[0]


def report_bound(model, windows):
    """The held-out bound from 16 draws a window, with the standard error that the draws leave."""
    nats, error = diffusion.heldout_bound(model, windows, draws=16)
    return f"bound {nats:.4f} +- {error:.4f} nats/character ({nats / math.log(2):.3f} bits)"


DIFFUSION = Objective(
    causal=False, label="bound", prepare=diffusion.hide_some, heldout=quick_bound, report=report_bound, write=write_sample
)


# ---------------------------------------------------------------------------------------------------------
# Checkpoints, and the log


def best_path(out):
    """NAME.pt -> NAME_best.pt"""
    return out.with_name(out.stem + "_best.pt")


def save_checkpoint(contents, path):
    """Writes a checkpoint; a crash or a full disk leaves the one that was there. Raises UserError."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    lesson1.write_safely(path, buffer.getbuffer())


def read_checkpoint(path):
    """Returns the dict in a checkpoint file, on the CPU. Code in it is never run. Raises UserError."""
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; the models that come with the project are in checkpoints/, lessons 5, 7 and 8 train others.")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # torch raises half a dozen kinds, for a file that is cut short, say
        raise UserError(f"{path} is damaged, or no checkpoint, or carries code, which is not run ({type(problem).__name__}).")
    if isinstance(contents, dict) and isinstance(contents.get("model"), dict):
        return contents
    raise UserError(f"{path} is not a checkpoint of this project.")


def load_checkpoint(path, device="cpu"):
    """Returns (model in eval mode, tokenizer, info) from a checkpoint file; info is a dict with the rest of it.

    Also reads the older published format, by way of older_checkpoints.py. Raises UserError.
    """
    contents = read_checkpoint(path)
    if "token_emb.weight" in contents["model"]:
        model, tokenizer, info = import_module("older_checkpoints").convert(contents, path)
        return model.to(device).eval(), tokenizer, info
    try:
        model = transformer.Transformer(transformer.Config(**contents["config"]))
        model.load_state_dict(contents["model"])
        tokenizer = lesson1.Tokenizer(contents["units"])
        if tokenizer.vocab_size != model.config.vocab_size:
            raise ValueError("the alphabet does not fit the model")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as problem:
        raise UserError(f"{path} is not a checkpoint of this project ({type(problem).__name__}).")
    return model.to(device).eval(), tokenizer, {k: v for k, v in contents.items() if k != "model"}


def load_kind(path, causal, device="cpu"):
    """`load_checkpoint` for a GPT if causal, else for a dLLM. Raises UserError for the other kind."""
    model, tokenizer, info = load_checkpoint(path, device)
    if model.config.causal and not causal:
        raise UserError(f"{path} is a GPT; this needs a dLLM, such as 05_train.py makes (GPTs write by 07_train_gpt.py --generate).")
    if causal and not model.config.causal:
        raise UserError(f"{path} is a dLLM; this needs a GPT, such as 07_train_gpt.py makes (dLLMs write by 06_generate.py).")
    return model, tokenizer, info


class Log:
    """NAME.csv, a row now and then, and NAME.png, drawn from it. A resumed run keeps the rows up to its step."""

    COLUMNS = ("step", "seconds", "characters", "lr", "loss", "heldout")

    def __init__(self, path, step):
        self.path, self.rows = path, []
        if step and path.exists():
            with open(path, newline="", encoding="utf-8", errors="replace") as file:
                rows = [row for row in csv.DictReader(file) if tuple(row) == self.COLUMNS]
            self.rows = [row for row in rows if int(row["step"]) <= step]

    def add(self, *values):
        """Adds a row, one value a column, and writes the file."""
        self.rows.append(dict(zip(self.COLUMNS, values)))
        lines = [",".join(self.COLUMNS), *(",".join(map(str, row.values())) for row in self.rows)]
        lesson1.write_safely(self.path, ("\n".join(lines) + "\n").encode())

    def draw(self, label):
        """Saves the curve beside the log and returns its path; None without matplotlib, which training can do without."""
        try:
            import matplotlib
        except ImportError:
            return None
        matplotlib.use("Agg")  # no window
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4))
        for column, name, style in (("loss", "training loss", "-"), ("heldout", f"held-out {label}", "o-")):
            rows = [row for row in self.rows if row[column]]
            axes.plot([int(r["characters"]) for r in rows], [float(r[column]) for r in rows], style, label=name)
        axes.set(xlabel="characters seen in training", ylabel="nats per character")
        axes.legend()
        figure.savefig(self.path.with_suffix(".png"), dpi=130, bbox_inches="tight")
        return self.path.with_suffix(".png")


# ---------------------------------------------------------------------------------------------------------
# The loop


class Run:
    """What a checkpoint must hold to go on: the model, its optimizers, the generators, and how far it has come."""

    def __init__(self, args, tokenizer, config, device):
        torch.manual_seed(args.seed)  # for the weights to start from
        self.args, self.tokenizer, self.device = args, tokenizer, device
        self.dtype = transformer.native_dtype(device)
        self.model = transformer.Transformer(config).to(device)
        self.optimizers = transformer.make_optimizers(self.model, args.lr, self.dtype)
        self.generator = torch.Generator().manual_seed(args.seed)  # of windows and masks
        self.step, self.characters, self.seconds, self.heldout, self.best = 0, 0, 0.0, math.nan, math.inf

    def progress(self):
        """The share of the run that is done, from 0 to 1, in steps or in training time."""
        done = self.step / self.args.steps if self.args.steps else self.seconds / (60 * self.args.minutes)
        return min(1.0, done)

    def contents(self, weights):
        """A checkpoint for generating: the weights, and what is needed to use them."""
        return dict(
            model=weights, config=asdict(self.model.config), units=self.tokenizer.units,
            step=self.step, characters=self.characters, seconds=self.seconds, heldout=self.heldout,
        )  # fmt: skip

    def save(self):
        """Writes a checkpoint for going on to --out."""
        contents = self.contents(self.model.state_dict())
        contents["settings"] = {name: getattr(self.args, name) for name in (*SETTINGS, *LIMITS)}
        contents["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        contents["generators"] = dict(batches=self.generator.get_state(), cpu=torch.get_rng_state())
        if self.device.type == "cuda":
            contents["generators"]["cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(contents, self.args.out)

    def restore(self, saved):
        """Takes up the state that `save` wrote. Raises UserError when the parts do not fit together."""
        config = {**asdict(self.model.config), "dropout": saved["settings"]["dropout"]}  # a resumed run may change dropout
        if config != saved.get("config"):
            raise UserError(f"the run in {self.args.out} is of another kind of model; resume it with the script that began it.")
        try:
            self.model.load_state_dict(saved["model"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self.generator.set_state(saved["generators"]["batches"])
            torch.set_rng_state(saved["generators"]["cpu"])
            if self.device.type == "cuda" and "cuda" in saved["generators"]:
                torch.cuda.set_rng_state(saved["generators"]["cuda"], self.device)
            self.step, self.characters, self.seconds = saved["step"], saved["characters"], saved["seconds"]
            self.heldout, best = saved["heldout"], best_path(self.args.out)
            self.best = read_checkpoint(best)["heldout"] if best.exists() else math.inf
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as problem:
            raise UserError(f"{self.args.out} is not a whole training checkpoint ({type(problem).__name__}).")

    def evaluate(self, objective, windows):
        """Measures the weights as NAME_best.pt would store them, in bfloat16, and stores them if they are the best yet."""
        weights = {name: value.bfloat16() for name, value in self.model.state_dict().items()}
        shipped = copy.deepcopy(self.model).eval()
        shipped.load_state_dict(weights)  # rounded to bfloat16, computing in float32
        self.heldout = objective.heldout(shipped, windows)
        if self.heldout < self.best:
            self.best = self.heldout
            save_checkpoint(self.contents(weights), best_path(self.args.out))
        figure = f"step {self.step:,}: held-out {objective.label} {self.heldout:.3f} nats/character"
        tqdm.write(f"\n{figure}\n{objective.write(shipped, self.tokenizer)}", sys.stderr)


def train(args, objective, tokenizer, config, draw, windows, saved=None):
    """Trains a model on what draw(generator) gives, tokens [B, L], of which B and L may vary, and measures it on windows [M, L].

    Stops when --steps or --minutes is reached, or on a stop request, and leaves args.out and the files beside it.
    saved: the checkpoint of a run to go on with.
    """
    rank, processes, device = transformer.join_processes(transformer.pick_device(args.device))
    if args.batch % processes:
        raise UserError(f"--batch {args.batch} cannot be shared out evenly among {processes} processes.")
    run = Run(args, tokenizer, config, device)
    if saved:
        run.restore(saved)
    if rank:
        torch.manual_seed(args.seed + processes * run.step + rank)  # dropout must differ between processes
    compiles = device.type == "cuda" and importlib.util.find_spec("triton")  # Windows has no triton
    forward = torch.compile(run.model) if compiles else run.model
    forward = nn.parallel.DistributedDataParallel(forward) if processes > 1 else forward
    mine = slice(rank, None, processes)  # this process's rows
    windows = windows.to(device)
    stop = lesson1.StopRequest()
    reporter = Reporter(run, objective, windows) if rank == 0 else None

    while (progress := transformer.agree(1.0 if stop.made else run.progress(), device)) < 1:
        began = time.perf_counter()
        for optimizer, peak in zip(run.optimizers, (args.lr, args.lr * transformer.ADAMW_LR_RATIO)):
            optimizer.param_groups[0]["lr"] = peak * transformer.get_lr(run.step, progress)

        tokens = draw(run.generator).to(device)  # [B, L]
        inputs, mask = objective.prepare(tokens, config.vocab_size, run.generator)  # [B, L] each
        with torch.autocast(device.type, run.dtype, enabled=run.dtype == torch.bfloat16):
            logits = forward(inputs[mine])  # [B / processes, L, V]
        loss = diffusion.masked_cross_entropy(logits.float(), tokens[mine], mask[mine]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)  # a rare huge gradient must not throw it far off
        for optimizer in run.optimizers:
            optimizer.step()
            optimizer.zero_grad()

        run.step, run.characters = run.step + 1, run.characters + tokens.numel()
        loss = loss.item()  # waits for the device, so that the clock tells the truth
        run.seconds += time.perf_counter() - began
        if reporter:
            reporter.report(loss, progress)

    if reporter:
        reporter.finish()
    if processes > 1:
        torch.distributed.destroy_process_group()


class Reporter:
    """What the first process does after a step: the bar, the log, the evaluations and the saves."""

    def __init__(self, run, objective, windows):
        self.run, self.objective = run, objective
        self.windows = windows[:: math.ceil(len(windows) / HELDOUT_WINDOWS)]
        self.log = Log(run.args.out.with_suffix(".csv"), run.step)
        self.losses, self.saved_at, self.began_at = [], time.monotonic(), (run.characters, run.seconds)
        print(f"{transformer.parameter_count(run.model.config):,} parameters, {run.device}, {run.dtype}, batch {run.args.batch}", file=sys.stderr)
        pause = 0.5 if sys.stderr.isatty() else 30  # seconds between two updates; a file wants fewer
        layout = "{percentage:3.0f}%|{bar:20}| {desc}"
        self.bar = tqdm(total=1.0, initial=run.progress(), bar_format=layout, mininterval=pause, file=sys.stderr)

    def report(self, loss, before):
        """`before`: the progress before this step; what is done at intervals is done when it passes a mark."""
        run, after = self.run, self.run.progress()
        if not math.isfinite(loss):
            self.bar.close()  # or it would draw itself once more, after the error
            raise UserError("the loss is no longer a number; begin again with a smaller --lr.")
        self.losses.append(loss)
        speed = (run.characters - self.began_at[0]) / (run.seconds - self.began_at[1])
        left = tqdm.format_interval(run.seconds * (1 - after) / after)
        text = f"step {run.step:,}  loss {loss:.3f}  {speed:,.0f} characters/s  {left} left"
        self.bar.set_description_str(text, refresh=False)
        self.bar.update(after - self.bar.n)
        evaluate = int(after * EVALUATIONS) > int(before * EVALUATIONS)
        if evaluate or time.monotonic() > self.saved_at + SAVE_EVERY:
            run.save()
            self.saved_at = time.monotonic()
        if evaluate:
            self.bar.set_description_str(f"{text}; measuring on held-out text")
            run.evaluate(self.objective, self.windows)
        if evaluate or int(after * LOG_ROWS) > int(before * LOG_ROWS):
            heldout = f"{run.heldout:.4f}" if evaluate else ""
            lr, mean = run.optimizers[0].param_groups[0]["lr"], sum(self.losses) / len(self.losses)
            self.log.add(run.step, f"{run.seconds:.1f}", run.characters, f"{lr:.5f}", f"{mean:.4f}", heldout)
            self.losses = []

    def finish(self):
        """Saves, draws, and says what came out of it."""
        run = self.run
        run.save()
        self.bar.close()
        best = f"{run.best:.3f} nats/character" if run.best < math.inf else "not measured yet"
        print(
            f"{run.step:,} steps, {run.characters:,} characters, {run.seconds:.0f} s of training",
            f"Best held-out {self.objective.label}: {best}",
            f"Checkpoint {run.args.out}, curve {self.log.draw(self.objective.label) or 'not drawn, for want of matplotlib'}",
            f"Go on with --resume --out {shlex.quote(str(run.args.out))}" if run.progress() < 1 else "To generate from the best weights:",
            sep="\n", file=sys.stderr,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------
# The command line


def training_parser(doc, out, data="TinyShakespeare, downloaded once", **own):
    """The flags that all training scripts share. Those of SETTINGS are None unless given; own: defaults instead of these."""
    number, default = lesson1.between, {**SETTINGS, **own}
    out = lesson1.ROOT / "checkpoints" / out
    parser = lesson1.Parser(doc)
    add = parser.add_argument
    add("--data", metavar="FILE", help=f"a UTF-8 text file (default: {data})")
    add("--preset", choices=["auto", *transformer.PRESETS], help=f"default: {default['preset']}; auto is base on CUDA and small elsewhere")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--steps", type=number(int, 1), help="stop after so many steps in all")
    limit.add_argument("--minutes", type=number(float, 0.01), help="stop after so long in all, evaluations not counted (default: 5)")
    add("--batch", type=number(int, 1), help=f"windows of text in a step (default: {default['batch']})")
    add("--lr", type=number(float, 0), help=f"Muon's learning rate; AdamW's follows (default: {default['lr']})")
    add("--dropout", type=number(float, 0, 0.9), help=f"share of each residual update to drop in training (default: {default['dropout']})")
    add("--seed", type=number(int, 0, 2**63 - 1), help=f"default: {default['seed']}")
    add("--device", choices=transformer.DEVICES, default="auto", help="default: auto")
    add("--out", type=Path, default=out, metavar="FILE", help=f"the run's checkpoint (default: checkpoints/{out.name})")
    add("--resume", action="store_true", help="go on with the run in --out; only --steps, --minutes, --dropout and --device may change")
    add("--evaluate", metavar="FILE", help="train nothing: measure this checkpoint on the held-out tenth of --data")
    return parser


def settle(args, **own):
    """Completes args from the run in --out, with --resume, else from the defaults and `own`. Returns the run's checkpoint or None."""
    if args.out.suffix != ".pt":
        raise UserError(f"--out {args.out} is no name for a checkpoint; it must end in .pt.")
    saved = read_checkpoint(args.out) if args.resume else None
    if saved and not (isinstance(saved.get("settings"), dict) and {*SETTINGS, *LIMITS} <= saved["settings"].keys()):
        raise UserError(f"{args.out} does not hold the state of a training run, so it cannot be trained further.")
    for path in (args.out, best_path(args.out), args.out.with_suffix(".csv"), args.out.with_suffix(".png")):
        if not saved and path.exists():
            raise UserError(f"{path} exists: go on with that run by --resume, or name another file by --out.")
    args.data = args.data and str(Path(args.data).resolve())
    for name, default in {**SETTINGS, **own}.items():
        kept = saved["settings"][name] if saved else default
        if saved and name != "dropout" and getattr(args, name) not in (None, kept):
            raise UserError(f"the run in {args.out} has --{name} {kept}, which --resume cannot change.")
        setattr(args, name, kept if getattr(args, name) is None else getattr(args, name))
    if args.preset == "auto":
        args.preset = "base" if transformer.pick_device(args.device).type == "cuda" else "small"
        print(f"preset {args.preset}", file=sys.stderr)
    if not (args.steps or args.minutes):
        args.steps, args.minutes = (saved["settings"][name] for name in LIMITS) if saved else (None, 5.0)
    return saved


def train_on_text(args, saved, objective, generate):
    """Trains on the text of --data and prints the command, `generate` and more, that writes text. saved: see `settle`."""
    text = lesson1.load_text(args.data)
    tokenizer = lesson1.Tokenizer(saved["units"] if saved else sorted(set(text)))
    shape = transformer.PRESETS[args.preset]
    config = transformer.Config(tokenizer.vocab_size, **shape, causal=objective.causal, dropout=args.dropout)
    tokens, windows = lesson1.split_text(text, tokenizer, config.context)
    train(args, objective, tokenizer, config, lesson1.random_windows(tokens, config.context, args.batch), windows, saved)
    print_command(generate, args.out)


def print_command(generate, out):
    """Prints the command that generates from the best weights of the run in `out`; only one process does."""
    if os.environ.get("RANK", "0") == "0":
        best = best_path(out)  # there is none before the first evaluation
        print(f"{generate} --checkpoint {shlex.quote(str(best if best.exists() else out))}")


def print_evaluation(args, objective):
    """Prints the held-out figure of the checkpoint --evaluate."""
    model, tokenizer, _ = load_kind(args.evaluate, objective.causal, transformer.pick_device(args.device))
    _, windows = lesson1.split_text(lesson1.load_text(args.data), tokenizer, model.config.context)
    print(f"{args.evaluate} on {args.data or 'TinyShakespeare'}: {objective.report(model, windows.to(model.head.weight.device))}")


def main():
    """The command line of 05_train.py."""
    args = training_parser(__doc__, "my_shakespeare.pt").parse_args()
    if args.evaluate:
        return print_evaluation(args, DIFFUSION)
    train_on_text(args, settle(args), DIFFUSION, "python 06_generate.py")


if __name__ == "__main__":
    lesson1.run(main)
