"""A checkpoint on disk: one .safetensors file, or a .pt file of the older published format.

In a .safetensors file the tensors stand under the names of the model. A training state also holds tensors named
`optimizers.K.PARAMETER.FIELD` and `generators.NAME`. The file's metadata has one JSON text: the shape of the model, its
alphabet, how far training came and a checksum. (The format has no checksum of its own.)

A file may come from anywhere. Nothing in it can run code. Kind and size are checked before anything is used.
"""

import copy
import hashlib
import json
import math
import warnings
import zipfile
from pathlib import Path

from tools.command_line import LIMITS, UserError
from tools.files import CONTROL, ROOT, write_safely

import torch

OURS = "tiny-dllm"  # the name of the JSON text in the metadata
MAX_FILE = 2**29  # bytes; the training state of `base` has 2**27
MAX_LETTERS = 10**5  # of an alphabet
MAX_TENSORS = 10**4  # in a file; the training state of `base` has 182
MAX_WEIGHT = 1e5  # a trained model's are below 10. Far above this, float32 overflows between the layers.
PROGRESS = dict(  # how far training has come. heldout is None until it was measured.
    step=(int, 0, 10**10), characters=(int, 0, 10**15), seconds=(float, 0, 10**10), heldout=(float, 0, 10**9),
)  # fmt: skip
CONFIG = dict(
    vocab_size=(int, 1, MAX_LETTERS), context=(int, 2, 10**5), n_layers=(int, 1, 200), n_heads=(int, 1, 256),
    dim=(int, 2, 10**4), causal=[True, False], dropout=LIMITS["dropout"],
)  # fmt: skip


# ---- Writing
def save_checkpoint(contents, path, new=False):
    """Writes a dict with model={name: tensor} and plain values. A crash or a full disk leaves the file that was there.

    A training state also has optimizers=[{parameter: {field: tensor}}] and generators={name: tensor}.
    new: the file must not exist yet. Raises UserError.
    """
    import safetensors.torch

    plain = {name: value for name, value in contents.items() if name not in ("model", "optimizers", "generators")}
    tensors = {name: value.detach().cpu().contiguous() for name, value in named_tensors(contents).items()}
    described = plain | dict(optimizers=len(contents["optimizers"])) if "optimizers" in contents else plain
    text = json.dumps(described | dict(sha256=checksum(described, tensors)), allow_nan=False)
    write_safely(path, safetensors.torch.save(tensors, {OURS: text}), new)


def named_tensors(contents):
    """{name in the file: tensor} of the dict that save_checkpoint takes."""
    named = dict(contents["model"])
    for number, state in enumerate(contents.get("optimizers", [])):
        for parameter, fields in state.items():
            named |= {f"optimizers.{number}.{parameter}.{field}": value for field, value in fields.items()}
    return named | {f"generators.{name}": value for name, value in contents.get("generators", {}).items()}


def checksum(described, tensors):
    """sha256 over what is described, then the name, dtype, shape and bytes of each tensor."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def as_shipped(model):
    """(weights, model): the weights rounded to bfloat16, and a copy of the model that has them.

    Checkpoints for generating hold such weights. The copy is in eval mode and computes in float32.
    """
    weights, shipped = {name: value.bfloat16() for name, value in model.state_dict().items()}, copy.deepcopy(model)
    shipped.load_state_dict(weights)
    return weights, shipped.eval()


# ---- Reading
def read_checkpoint(path):
    """Returns the dict that save_checkpoint wrote, tensors on the CPU. Raises UserError."""
    path = Path(path)
    if not path.is_file():
        here = ", ".join(sorted(each.name for each in (ROOT / "checkpoints").glob("*.safetensors"))) or "none"
        raise UserError(f"there is no file {path}; checkpoints/ has {here}; lessons 5, 7 and 8 train others.")
    if path.suffix not in (".safetensors", ".pt"):
        raise UserError(f"{path} is no checkpoint: its name ends neither in .safetensors nor, as older ones, in .pt.")
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"larger than {MAX_FILE:,} bytes")
        contents = read_safetensors(path) if path.suffix == ".safetensors" else read_pt(path)
    except UserError:
        raise
    except Exception as problem:  # of many kinds: a file may be cut short anywhere
        reason = problem if type(problem) is ValueError else type(problem).__name__
        raise UserError(f"{path} is damaged, or no checkpoint, or carries code, which is not run ({reason}).")
    return contents


def read_safetensors(path):
    """read_checkpoint of a .safetensors file. UserError: it is another program's. ValueError: it is damaged."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(OURS)
        if text is None:
            raise UserError(f"{path} is no checkpoint of this project: its metadata has no entry {OURS!r}.")
        if len(file.keys()) > MAX_TENSORS:
            raise ValueError(f"more than {MAX_TENSORS:,} tensors")
        # The library maps the file into memory, and a file that changes under a running program would kill it
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 no dict
    contents = json.loads(text)
    if contents.pop("sha256", None) != checksum(contents, tensors):
        raise ValueError("its checksum does not fit")
    number = contents.get("optimizers", 0)
    if not fits(number, (int, 0, 9)):
        raise ValueError("its optimizers are not whole")
    model, generators, states = {}, {}, [{} for _ in range(number)]
    for name, value in tensors.items():
        first, *rest = name.split(".")
        if first == "optimizers":
            which, parameter, field = rest
            states[int(which)].setdefault(int(parameter), {})[field] = value
        elif first == "generators":
            generators[rest[0]] = value
        else:
            model[name] = value
    return contents | dict(model=model) | (dict(optimizers=states, generators=generators) if number else {})


def read_pt(path):
    """read_checkpoint of a .pt file for generating. UserError: it is a training state. ValueError: it is damaged."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("compressed")  # a few bytes can stand for terabytes
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries overlap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what the next lines refuse
        contents = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise ValueError("it has no model")
    tensors = [value for value in contents["model"].values() if isinstance(value, torch.Tensor)]
    if sum(value.numel() * value.element_size() for value in tensors) > path.stat().st_size:
        raise ValueError("its tensors are larger than their data")
    if "optimizers" in contents:
        raise UserError(f"{path} is a training state in a former format; begin a new run (its _best.pt still writes).")
    return contents


# ---- What a checkpoint may hold
def unfit(path, why):
    """The UserError for a checkpoint of which something does not fit."""
    return UserError(f"{path} is not a whole checkpoint of this project: {why}.")


def fits(value, declared):
    """Whether a value is as declared.

    (type, low, high) gives limits, of the length for texts and lists. A list's is followed by what each entry is.
    [a, b] lists all that the value may be. nan is within no limits. Texts have no control characters.
    """
    if isinstance(declared, list):
        return any(type(value) is type(choice) and value == choice for choice in declared)
    kind, low, high, *of_each = declared
    if type(value) not in ((int, float) if kind is float else (kind,)):
        return False
    number = len(value) if kind in (str, list) else value
    if not low <= number <= high or (kind is str and CONTROL.search(value)):
        return False
    return not of_each or all(fits(each, *of_each) for each in value)


def check_fields(values, fields, path):
    """Raises UserError unless `values` is a dict of these fields, {name: declared}, and each fits."""
    for name, declared in fields.items():
        value = values.get(name) if isinstance(values, dict) else None
        if not fits(value, declared):
            shown = repr(str(value)[:40]) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
            raise unfit(path, f"its {name} is {shown}")
    if unknown := values.keys() - fields.keys():
        raise unfit(path, f"{str(unknown.pop())[:40]!r} is none of its fields")


def progress_of(contents, path):
    """{name: value} of a checkpoint's PROGRESS, where it is recorded. Raises UserError."""
    recorded = {name: contents[name] for name in PROGRESS if contents.get(name) is not None}
    if recorded.get("heldout") == math.inf:  # as former checkpoints have it
        del recorded["heldout"]
    check_fields(recorded, {name: PROGRESS[name] for name in recorded}, path)
    return recorded


def checked_units(units, number, path):
    """The alphabet of a checkpoint: `number` different texts. Raises UserError.

    At most 1000 may be longer than a character, since the tokenizer tries these one by one.
    """
    whole = fits(units, (list, number, number, (str, 1, 16)))
    if not whole or len(set(units)) < number or sum(len(unit) > 1 for unit in units) > 1000:
        raise unfit(path, "its alphabet does not fit the model")
    return units


def check_count(weights, count, path):
    """Raises UserError unless a dict of tensors has `count` numbers in all. It runs before the model is made."""
    tensors = [value for value in weights.values() if isinstance(value, torch.Tensor)]
    if len(tensors) < len(weights) or sum(value.numel() for value in tensors) != count:
        raise unfit(path, "its weights do not fit its shape")


def load_weights(model, weights, path):
    """Gives a model these weights, {name: tensor}, in float32. Raises UserError where they do not fit or make no sense.

    A model on the meta device has no memory of its own. It takes the tensors themselves.
    """
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    try:
        if not all(value.is_floating_point() and value.layout == torch.strided for value in weights.values()):
            raise RuntimeError
        weights = {name: value.float() for name, value in weights.items()}
        model.load_state_dict(weights, assign=on_meta)
    except (RuntimeError, AttributeError):
        raise unfit(path, "its weights do not fit its shape")
    if not all(value.abs().max() <= MAX_WEIGHT for value in weights.values()):  # nan is not, either
        raise UserError(f"{path} is damaged: some of its weights are no numbers, or far too large.")
