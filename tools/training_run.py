"""A training run: what it saves and restores, its log, its curve and its progress bar."""

import io
import math
import re
import sys
import time

from tqdm import tqdm

from tools.checkpoints import (
    MAX_FILE, MAX_LETTERS, MAX_WEIGHT, PROGRESS,
    as_shipped, load_weights, progress_of, read_checkpoint, save_checkpoint, unfit,
)  # fmt: skip
from tools.command_line import UserError, best_path
from tools.devices import generator_states, set_generators
from tools.files import write_safely
from tools.pictures import new_figure
from tools.settings import STATE

import torch

EVALUATIONS = 8  # how often a run measures the held-out figure
HELDOUT_WINDOWS = 1024  # at most this many windows, evenly spread (TinyShakespeare has fewer)
LOG_ROWS = 200  # how many rows of the log a run writes
MOST_LOSSES = 10**4  # steps between two rows, at most: a checkpoint holds their losses, and must not grow long
SAVE_EVERY = 60  # seconds between two saves


def version(path):
    """What tells a file from another that was written in its place."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def same_shape(contents, config):
    """Whether a checkpoint's dict has a model of this shape. Its dropout may be another."""
    its = contents.get("config")
    return isinstance(its, dict) and its | dict(dropout=0) == config | dict(dropout=0)


class Run:
    """What a checkpoint must hold to go on: model, optimizers, generators, and how far training came."""

    def __init__(self, settings, model, optimizers, config, tokenizer):
        """config: the dict that describes the model. It goes into the checkpoint with the alphabet."""
        self.settings, self.model, self.optimizers = settings, model, optimizers
        self.config, self.tokenizer = config, tokenizer
        self.device = torch.device(settings.device)
        self.generator = torch.Generator().manual_seed(settings.seed)  # of windows and masks
        self.step, self.characters, self.seconds, self.heldout, self.best = 0, 0, 0.0, None, math.inf
        self.lr, self.losses, self.due = 0.0, [], False  # losses: since the last row of the log. due: to be measured.
        self.written = None  # the version of --out that this run wrote or read last

    def progress(self):
        """The share of the run that is done, 0 to 1, in steps or in training time."""
        done = self.step if self.settings.unit == "steps" else self.seconds / 60
        return min(1.0, done / self.settings.limit)

    def contents(self, weights):
        """A checkpoint for generating: the weights and what is needed to use them."""
        progress = {name: value for name in PROGRESS if (value := getattr(self, name)) is not None}
        return dict(model=weights, config=self.config, units=self.tokenizer.units, **progress)

    def save(self, new=False):
        """Writes the training state to --out. new: that file must not exist yet. Raises UserError."""
        if new:
            self.refuse_large()
        if not new and self.settings.out.exists() and version(self.settings.out) != self.written:
            raise UserError(
                f"{self.settings.out} was written by another run, and is not overwritten: this one ends here."
            )
        contents = self.contents(self.model.state_dict())
        contents |= dict(settings=self.settings.saved(), lr=self.lr, losses=self.losses, due=self.due)
        contents["optimizers"] = [optimizer.state_dict()["state"] for optimizer in self.optimizers]
        contents["generators"] = dict(batches=self.generator.get_state(), **generator_states(self.device))
        save_checkpoint(contents, self.settings.out, new)
        self.written = version(self.settings.out)

    def refuse_large(self):
        """Raises UserError for a run whose files could not be read."""
        V, size = self.config["vocab_size"], sum(p.numel() for p in self.model.parameters())
        if V > MAX_LETTERS or 12 * size > MAX_FILE:  # 12 bytes a number: a float32 weight and at most two moments
            much = f"{V:,} different letters make a model of {size / 1e6:,.0f} million numbers"
            raise UserError(f"{much}, more than a checkpoint holds; give a text with fewer, or a smaller --preset.")

    def restore(self, saved):
        """Takes up what `save` wrote: weights, optimizers, generators (windows, masks, dropout) and clock.

        `settle` decides what may change then. Raises UserError when the parts do not fit together.
        """
        path = self.settings.out
        self.written = version(path)
        if not same_shape(saved, self.config) or saved.get("units") != self.tokenizer.units:
            raise unfit(path, "its model is another one than its settings and its text make")
        load_weights(self.model, saved["model"], path)
        check_optimizers(saved["optimizers"], self.optimizers, path)
        for optimizer, state in zip(self.optimizers, saved["optimizers"]):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        try:
            self.generator.set_state(saved["generators"]["batches"])
            set_generators(saved["generators"], self.device)
        except (KeyError, TypeError, RuntimeError) as problem:
            raise unfit(path, f"its generators are damaged ({type(problem).__name__})")
        for name in STATE:
            setattr(self, name, saved.get(name))
        if (best := best_path(path)).exists():
            best_saved = read_checkpoint(best)
            if best_saved.get("units") != saved["units"] or not same_shape(best_saved, self.config):
                raise UserError(f"{best} holds another model's weights, not this run's: move it away.")
            self.best = progress_of(best_saved, best).get("heldout", math.inf)

    def evaluate(self, objective, windows):
        """Measures the weights in bfloat16, as NAME_best.safetensors holds them. Keeps the best ones."""
        weights, shipped = as_shipped(self.model)
        self.heldout = objective.heldout(shipped, windows)
        if self.heldout < self.best:
            self.best = self.heldout
            save_checkpoint(self.contents(weights), best_path(self.settings.out))
        figure = f"step {self.step:,}: held-out {objective.label} {self.heldout:.3f} nats/{objective.token}"
        tqdm.write(f"\n{figure}\n{objective.write(shipped, self.tokenizer)}", sys.stderr)


AVERAGE = (-MAX_WEIGHT, MAX_WEIGHT)
REMEMBERED = dict(  # of each parameter: (low, high)
    Muon=dict(average=AVERAGE), AdamW=dict(step=(0, 1e10), exp_avg=AVERAGE, exp_avg_sq=(0, MAX_WEIGHT)),
)  # fmt: skip


def check_optimizers(states, optimizers, path):
    """Raises UserError unless the states are what these optimizers remember of their parameters. {} is allowed."""
    whole = len(states) == len(optimizers)
    for state, optimizer in zip(states, optimizers):
        parameters, limits = optimizer.param_groups[0]["params"], REMEMBERED[type(optimizer).__name__]
        whole &= not state or state.keys() == set(range(len(parameters)))
        for number, kept in state.items() if whole else ():
            shapes = {name: torch.Size() if name == "step" else parameters[number].shape for name in limits}
            whole &= {name: value.shape for name, value in kept.items()} == shapes
            whole = whole and all(within_limits(kept[name], *limits[name]) for name in kept)
    if not whole:
        raise unfit(path, "its optimizers' state does not fit the model")


def within_limits(values, low, high):
    """Whether all numbers of a tensor lie from `low` to `high`. nan does not."""
    return values.is_floating_point() and bool(low <= values.min() and values.max() <= high)


class Log:
    """NAME.csv, a row now and then, and NAME.png drawn from it. A resumed run keeps the rows up to its step."""

    COLUMNS = ("step", "seconds", "characters", "lr", "loss", "heldout")
    ROW = re.compile(r"\d{1,12},N,\d{1,16},N,N,(?:N)?".replace("N", r"\d{1,16}(?:\.\d{1,16})?"), re.ASCII)

    def __init__(self, path, step):
        self.path, self.rows = path, []
        if step and path.exists():
            if not path.is_file() or path.stat().st_size > 2**24:
                raise UserError(f"{path} is no log of a run; move it away.")
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines and lines[0] != ",".join(self.COLUMNS):
                raise UserError(f"{path} is no log of a run; move it away.")
            rows = [dict(zip(self.COLUMNS, line.split(","))) for line in lines if self.ROW.fullmatch(line)]
            self.rows = [row for row in rows if int(row["step"]) <= step]

    def add(self, *values):
        """Adds a row, one value a column, and writes the file."""
        self.rows.append(dict(zip(self.COLUMNS, values)))
        lines = [",".join(self.COLUMNS), *(",".join(map(str, row.values())) for row in self.rows)]
        write_safely(self.path, ("\n".join(lines) + "\n").encode())

    def draw(self, label, token="character"):
        """Saves the curve beside the log and returns its path."""
        figure, axes = new_figure(figsize=(7, 4))
        for column, name, style in (("loss", "training loss", "-"), ("heldout", f"held-out {label}", "o-")):
            rows = [row for row in self.rows if row[column]]
            x, y = [int(row["characters"]) for row in rows], [float(row[column]) for row in rows]
            axes.plot(x, y, style, label=name)
        axes.set(xlabel=f"{token}s seen in training", ylabel=f"nats per {token}")
        axes.legend()
        buffer, path = io.BytesIO(), self.path.with_suffix(".png")
        figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
        write_safely(path, buffer.getbuffer())
        return path


class Reporter:
    """What the first process does after a step: the bar, the log, the evaluations and the saves."""

    def __init__(self, run, objective, windows, new):
        """new: the run begins. Its first save claims --out, so that no two runs write to one file."""
        if new:
            run.save(new=True)
        self.run, self.objective = run, objective
        self.windows = windows[:: math.ceil(len(windows) / HELDOUT_WINDOWS)]
        self.log = Log(run.settings.out.with_suffix(".csv"), run.step - run.due)  # due: that row comes below
        self.saved_at, self.began_at = time.monotonic(), (run.characters, run.seconds)
        count = f"{sum(p.numel() for p in run.model.parameters()):,} parameters"
        print(f"{count}, {run.device}, {run.settings.dtype}, batch {run.settings.batch}", file=sys.stderr)
        pause = 0.5 if sys.stderr.isatty() else 30  # seconds between two updates, fewer of them in a file
        layout = "{percentage:3.0f}%|{bar:20}| {desc}"
        self.bar = tqdm(total=1.0, initial=run.progress(), bar_format=layout, mininterval=pause, file=sys.stderr)
        if run.due:  # it was killed while it measured
            self.measure()

    def report(self, loss, before):
        """`before`: the progress before this step. Evaluations and rows are due when progress passes a mark."""
        run, after = self.run, self.run.progress()
        if not math.isfinite(loss):
            self.bar.close()  # or it would draw itself once more, after the error
            raise UserError("the loss is no longer a number; begin again with a smaller --lr.")
        run.losses.append(loss)
        speed = (run.characters - self.began_at[0]) / (run.seconds - self.began_at[1])
        left = tqdm.format_interval(run.seconds * (1 - after) / after)
        text = f"step {run.step:,}  loss {loss:.3f}  {speed:,.0f} {self.objective.token}s/s  {left} left"
        self.bar.set_description_str(text, refresh=False)
        self.bar.update(after - self.bar.n)
        run.due = int(after * EVALUATIONS) > int(before * EVALUATIONS)
        if run.due or time.monotonic() > self.saved_at + SAVE_EVERY:
            self.save()
        if run.due:
            self.bar.set_description_str(f"{text}; measuring on held-out text")
            self.measure()
        elif int(after * LOG_ROWS) > int(before * LOG_ROWS) or len(run.losses) >= MOST_LOSSES:
            self.add_row("")

    def save(self):
        """Saves the run. A mistake that ends it is said below the bar."""
        try:
            self.run.save()
        except UserError:
            self.bar.close()
            raise
        self.saved_at = time.monotonic()

    def measure(self):
        """Measures on held-out text and logs the figure."""
        self.run.evaluate(self.objective, self.windows)
        self.add_row(f"{self.run.heldout:.4f}")
        self.run.due = False

    def add_row(self, heldout):
        """Adds a row to the log."""
        run = self.run
        mean = sum(run.losses) / max(1, len(run.losses))
        self.log.add(run.step, f"{run.seconds:.1f}", run.characters, f"{run.lr:.5f}", f"{mean:.4f}", heldout)
        run.losses = []

    def finish(self):
        """Saves, draws the curve and says what came out."""
        run = self.run
        self.save()
        self.bar.close()
        best = f"{run.best:.3f} nats/{self.objective.token}" if run.best < math.inf else "not measured yet"
        resume = "Go on by the same command with --resume"
        try:
            curve = f"curve {self.log.draw(self.objective.label, self.objective.token)}"
        except UserError as problem:
            curve = f"no curve ({problem})"
        print(
            f"{run.step:,} steps, {run.characters:,} {self.objective.token}s, {run.seconds:.0f} s of training",
            f"Best held-out {self.objective.label}: {best}",
            f"Checkpoint {run.settings.out}, {curve}",
            resume if run.progress() < 1 else "To generate from the best weights:",
            sep="\n", file=sys.stderr,
        )  # fmt: skip
