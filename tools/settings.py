"""What a training run is told: the flags of all training scripts, and the settings that come of them."""

import hashlib
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.checkpoints import PROGRESS, check_fields, read_checkpoint
from tools.command_line import (
    DEVICES, LIMITS, SEED, Parser, UserError, best_path, between, given_path, is_first_process,
)  # fmt: skip
from tools.devices import agree, join_processes, native_dtype, pick_device
from tools.files import CONTROL, ROOT

DEFAULTS = dict(preset="auto", batch=None, lr=0.025, dropout=0.0, weight_decay=0.0, seed=0, dtype="auto")
FIXED = ("preset", "batch", "lr", "seed", "dtype")  # what a run cannot change
LETTERS_A_STEP = 4096  # in windows of the model's context, unless --batch says how many windows
STATE = PROGRESS | dict(lr=LIMITS["lr"], due=[True, False], losses=(list, 0, 10**5, (float, 0, 10**9)))


@dataclass(frozen=True)
class Settings:
    """What a training run is told by the command line and by the checkpoint that it goes on from."""

    script: str  # the lesson that began it, the only one that can go on with it
    preset: str
    batch: int  # windows in a step
    lr: float  # Muon's
    dropout: float
    weight_decay: float  # Muon's
    seed: int
    dtype: str  # "float32" or "bfloat16"
    limit: float  # so many
    unit: str  # "steps" or "minutes"
    data: str  # the text's path, "" for the script's own; for robots the number of problems
    sha256: str  # of the text
    out: Path  # this and the next two are not saved
    device: str
    compiles: bool

    def saved(self):
        """As a dict for the checkpoint."""
        return {name: value for name, value in asdict(self).items() if name not in ("out", "device", "compiles")}


def training_parser(doc, out, presets, data="TinyShakespeare, downloaded once", **own):
    """The flags that all training scripts share. own: defaults instead of DEFAULTS."""
    default, out = DEFAULTS | own, ROOT / "checkpoints" / out
    parser = Parser(doc)
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--data", metavar="FILE", help=f"a UTF-8 text file (default: {data})")
    add("--preset", choices=["auto", *presets], help=f"default: {default['preset']} (auto: base on CUDA, else small)")
    limit = group.add_mutually_exclusive_group()
    limit.add_argument("--steps", type=between(int, 1, 10**9), help="stop after so many steps in all")
    limit.add_argument("--minutes", type=between(float, 0.01, 10**6), help="stop after so long in all (default: 5)")
    windows = f"windows of text in a step (default: those that hold {LETTERS_A_STEP:,} letters)"
    add("--batch", type=between(*LIMITS["batch"]), help=windows)
    add("--lr", type=between(*LIMITS["lr"]), help=f"Muon's learning rate, AdamW's follows (default: {default['lr']})")
    dropped = f"share of each residual update to drop (default: {default['dropout']})"
    add("--dropout", type=between(*LIMITS["dropout"]), help=dropped)
    decay = f"times the learning rate, the share that matrices lose in a step (default: {default['weight_decay']})"
    add("--weight-decay", type=between(*LIMITS["weight_decay"]), help=decay)
    add("--seed", type=SEED, help=f"default: {default['seed']} in training")
    add("--dtype", choices=("auto", "float32", "bfloat16"), help="default: the one in which this machine is faster")
    add("--device", choices=DEVICES, default="auto", help="default: auto")
    add("--no-compile", action="store_true", help="on CUDA: do without torch.compile, which needs a C compiler")
    kept = f"the run's checkpoint (default: checkpoints/{out.name})"
    add("--out", type=given_path, default=out, metavar="FILE", help=kept)
    may_change = "go on with --out (the limit, --dropout, --weight-decay, --device and --no-compile may change)"
    add("--resume", action="store_true", help=may_change)
    add("--evaluate", metavar="FILE", help="train nothing: measure this checkpoint on the held-out part of --data")
    return parser


def settle(args, script, presets, load_text, **own):
    """(Settings, text, the run's checkpoint or None). With --resume the checkpoint decides, else flags and defaults.

    load_text(path or None) -> str. Raises UserError for a flag that a run cannot change, for another script's run or
    another text, and where files would be lost.
    """
    check_out(args.out)
    given, device = given_flags(args), join_processes(pick_device(args.device))
    given |= dict(out=args.out, device=str(device), compiles=not args.no_compile)
    if args.resume:
        saved = read_checkpoint(args.out)
        check_settings(saved, script, presets, args.out)
        given = {name: value for name, value in given.items() if value != "auto"}  # the run has made its choice
        refuse_changes(saved["settings"], given, args.out)
        settings = saved["settings"] | given
    else:
        refuse_existing(args.out)
        saved, settings = None, DEFAULTS | own | dict(script=script, limit=5.0, unit="minutes", data="") | given
    text = load_text(settings["data"] or None)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    if not saved:
        complete(settings, presets, device)
    elif sha256 != settings["sha256"]:
        learned = settings["data"] or "this"
        raise UserError(f"the run in {args.out} learns another text than {learned}; give it by --data.")
    return Settings(**settings | dict(sha256=sha256)), text, saved


def given_flags(args):
    """{name of a setting: value} of the flags that were given. Raises UserError for an empty --data."""
    given = {name: value for name in DEFAULTS if (value := getattr(args, name)) is not None}
    if args.minutes or args.steps:
        given |= dict(limit=args.steps or args.minutes, unit="steps" if args.steps else "minutes")
    if args.data == "":
        raise UserError("--data is empty; name a file, or leave it out.")
    return given | (dict(data=data_path(args.data)) if args.data is not None else {})


def refuse_changes(settings, given, out):
    """Raises UserError for a flag that a run cannot change and that has another value than the run's."""
    for name in FIXED:
        if given.get(name, settings[name]) != settings[name]:
            was = f"--{name} {settings[name]}"
            raise UserError(f"the run in {out} has {was}, not {given[name]}: leave out --{name}.")


def data_path(name):
    """The absolute path of a text as the checkpoint keeps it. Raises UserError for one that it could not give back."""
    path = str(Path(name).resolve())
    if CONTROL.search(path) or re.search("[\t-\r]", path) or len(path) > 4096:
        raise UserError(f"the path of --data {name!r} has control characters, or is not UTF-8; rename the file.")
    return path


def check_out(out):
    """Raises UserError unless a run may have this name: NAME_best.safetensors are the best weights of another."""
    if out.suffix != ".safetensors" or out.stem.endswith("_best"):
        raise UserError(f"--out {out} is no name for a run; it must end in .safetensors, but not in _best.safetensors.")
    if CONTROL.search(str(out)):
        raise UserError(f"--out {str(out)!r} has control characters, or is not UTF-8; choose another name.")


def refuse_existing(out):
    """Raises UserError where a new run would overwrite a file, be it another run's or the text itself."""
    for path in (out, best_path(out), out.with_suffix(".csv"), out.with_suffix(".png")):
        if path.exists():
            ways = "go on with that run by --resume, or " if out.exists() else ""
            raise UserError(f"{path} exists, and a new run in {out} would overwrite it: {ways}name another --out.")


def complete(settings, presets, device):
    """Puts preset, batch and dtype into a dict of settings where they are left to us. Prints preset and dtype."""
    told = print if is_first_process() else lambda *_, **__: None
    if settings["preset"] == "auto":
        settings["preset"] = "base" if device.type == "cuda" else "small"
        told(f"preset {settings['preset']}", file=sys.stderr)
    shape = presets[settings["preset"]]
    settings["batch"] = settings["batch"] or LETTERS_A_STEP // shape["context"]
    if settings["dtype"] == "auto":
        dtype, why = native_dtype(device, shape["dim"])
        settings["dtype"] = "bfloat16" if agree(float(dtype == "bfloat16"), device) else "float32"
        told(f"{settings['dtype']}: {why}", file=sys.stderr)


def check_settings(saved, script, presets, path):
    """Raises UserError unless the dict of a checkpoint holds the state of a run of this script."""
    settings = saved.get("settings")
    if not isinstance(settings, dict) or not isinstance(saved.get("optimizers"), list):
        raise UserError(f"{path} does not hold the state of a training run, so it cannot be trained further.")
    if settings.get("script") != script:
        began = f"was begun by {str(settings.get('script', 'an earlier version'))[:40]!r}"
        raise UserError(f"the run in {path} is of another kind: it {began}, and only that can go on with it.")
    fields = LIMITS | dict(
        script=[script], preset=list(presets), dtype=["float32", "bfloat16"], limit=(float, 0.01, 10**9),
        unit=["steps", "minutes"], data=(str, 0, 4096), sha256=(str, 64, 64),
    )  # fmt: skip
    check_fields(settings, fields, path)
    state = {name: saved.get(name) for name in STATE if name in saved or name != "heldout"}  # not measured yet
    check_fields(state, {name: STATE[name] for name in state}, path)
