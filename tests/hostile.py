"""Bad checkpoints of many kinds, for test_hostile.py: tables {name: make(path)}, and {name: change(contents)} of a good
one's contents, which `changed` makes files of."""

import copy
import json
import math
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

import safetensors.torch
from conftest import VERSE

from tools.checkpoints import OURS, checksum, named_tensors

import torch

NAN, INF = math.nan, math.inf
MARKER = "code-was-run"  # code in a file would make a folder of this name


# ---- Changed contents
def forge(path, contents, described=None, sha256=None):
    """Writes a .safetensors file that save_checkpoint would refuse to write, with a checksum that is right."""
    plain = {name: value for name, value in contents.items() if name not in ("model", "optimizers", "generators")}
    plain |= dict(optimizers=len(contents["optimizers"])) if "optimizers" in contents else {}
    plain |= described or {}
    tensors = {name: value.clone().contiguous() for name, value in named_tensors(contents).items()}
    text = json.dumps(plain | dict(sha256=sha256 or checksum(plain, tensors)))
    path.write_bytes(safetensors.torch.save(tensors, {OURS: text}))


def changed(contents, changes):
    """{name: make(path)} of {name: change(contents)}."""

    def kind(change):
        def make(path):
            new = copy.deepcopy(contents)
            change(new)
            forge(path, new) if path.suffix == ".safetensors" else torch.save(new, path)

        return make

    return {name: kind(change) for name, change in changes.items()}


def put(value, *names):
    """A change: contents[name][name]... has this value; a callable is called with the good value."""

    def change(contents):
        for name in names[:-1]:
            contents = contents[name]
        contents[names[-1]] = value(contents[names[-1]]) if callable(value) else value

    return change


def drop(*names):
    """A change: contents[name][name]... is missing."""

    def change(contents):
        for name in names[:-1]:
            contents = contents[name]
        del contents[names[-1]]

    return change


def wrong(table, *names):
    """The changes in which contents[name]...[field] has one of the wrong values in {field: values}."""
    return {f"{f} {str(v)[:20]!r} {type(v).__name__}": put(v, *names, f) for f, values in table.items() for v in values}


def weights(matrix, layer):
    """Changes of the weights; matrix and layer: the name of a weight, and the beginning of some names."""
    values = dict(
        nan=lambda w: w * NAN, infinite=lambda w: w - INF, huge=lambda w: torch.full_like(w, 1e38),
        float64=lambda w: torch.full_like(w, 1e300, dtype=torch.float64), integers=lambda w: w.long(),
        bytes=lambda w: w.byte(), truths=lambda w: w.bool(), complex=lambda w: w.cfloat(), transposed=lambda w: w.T,
        flat=lambda w: w.flatten(), a_row=lambda w: w[:1].clone(), empty=lambda w: w[:0].clone(),
    )  # fmt: skip
    return {f"a weight is {name}": put(value, "model", matrix) for name, value in values.items()} | {
        "a weight too many": put(lambda model: model | {"another": torch.zeros(2)}, "model"),
        "a weight too few": drop("model", matrix), "no weights": put({}, "model"),
        "a layer too few": put(lambda model: {n: w for n, w in model.items() if not n.startswith(layer)}, "model"),
    }  # fmt: skip


SIZES = [0, -1, 10**9, 10**30, NAN, None, "4", [4], True]
SHAPE = dict(
    context=[0, 1, -5, 10**6, 1.5, NAN, None, "32", [32], True], n_layers=[*SIZES, 3], n_heads=[*SIZES, 4, 64],
    dim=[*SIZES, 32, 63], vocab_size=[*SIZES, 57], causal=[None, 1, "False", [], NAN], depth=[1],
    dropout=[NAN, INF, -1, 5, None, "0", [0]],
)  # fmt: skip
PROGRESS = dict(
    step=[-5, 10**30, 1.5, NAN, "3", [3], True], characters=[-1, NAN, INF, "x", 10**30, [1]],
    seconds=[-1.0, NAN, INF, "x", 10**30], heldout=[NAN, -1.0, "x", [1.0]],
)  # fmt: skip
ALPHABETS = {f"units {str(value)[:9]}": put(value, "units") for value in (None, 5, "abc", {"a": 0}, [], [*map(chr, range(400, 900))])} | {
    f"a unit {str(unit)[:9]!r}": put(lambda units, unit=unit: [unit, *units[1:]], "units")
    for unit in ("", 5, None, [], "a" * 17, "a" * 10**6, "\ud800", "\x1b[31m", "\x9b", "\0", "a")
} | {"a unit too few": put(lambda units: units[:-1], "units")}  # fmt: skip
MODEL = (
    weights("blocks.0.feed_forward.0.weight", "blocks.1") | wrong(SHAPE, "config") | wrong(PROGRESS) | ALPHABETS
    | {f"{field} missing": drop("config", field) for field in SHAPE if field != "depth"} | wrong(dict(config=[None, [], 5, "x"]))
    | {"config missing": drop("config"), "units missing": drop("units")}
)  # fmt: skip
OLDER = weights("blocks.0.attn.qkv.weight", "blocks.1") | wrong(dict(
    seq_len=[0, 10**9, NAN, "4", 15], n_layers=[0, 10**9, [4], 1], n_heads=[0, -1, 10**9, None, 3, 32, True],
    hidden=[0, 10**9, 10**30, 1.5, 8], vocab_size=[0, 10**9, True, 4, 6], step=[-5, NAN, "x", [3], 10**30],
)) | {f"{name} missing": drop(name) for name in ("seq_len", "n_layers", "n_heads", "hidden", "vocab_size")}  # fmt: skip


# ---- The state of a training run
RUN = (
    weights("blocks.0.feed_forward.0.weight", "blocks.1") | wrong(PROGRESS | dict(lr=[NAN, -1.0, None, INF, "x"], due=[None, 1, "x"]))
    | wrong(dict(step=[None], characters=[None], seconds=[None], losses=["x", [NAN], [INF], ["x"], None, [[1.0]], [1e308] * 3, [1.0] * 10**6]))
    | wrong(dict(context=[0, NAN, 64], n_layers=[3, 10**9], n_heads=[1, 64], dim=[32], causal=[True, None]), "config")
    | wrong(dict(
        script=["08_train_tamil.py", "x\x1b[31m", 5, None, "x" * 10**5], preset=["nope", None, 5, [], "small"],
        batch=[-1, 0, 10**12, 1.5, None, "2", True], lr=[NAN, None, INF, -1.0, "x", [1]], dropout=[5, -1.0, NAN, None],
        weight_decay=[2, -0.1, NAN, None, "x"], seed=[2**70, -1, None, 1.5, "0"], dtype=["float8", "auto", None, 5, "int64"],
        limit=[0, -1, NAN, INF, None, "x", 10**30], unit=["years", None, 5], extra=[1],
        data=[5, None, [], "\0", "/dev/zero", "/dev/stdin", "/", "\ud800", "x" * 10**5, "nowhere.txt"],
        sha256=["0" * 64, "", None, 5, "\ud800" * 64, "x" * 10**5],
    ), "settings")
    | {name: ALPHABETS[name] for name in ("units None", "a unit ''", "a unit too few")}
    | wrong(dict(settings=[[], None, 5])) | {f"{name} missing": drop(name) for name in ("settings", "losses", "step", "due", "units", "config")}
    | {
        "units in another order": put(lambda units: units[::-1], "units"),
        "no optimizers": put([], "optimizers"), "one optimizer": drop("optimizers", 1), "optimizers missing": drop("optimizers"),
        "optimizers swapped": put(lambda states: states[::-1], "optimizers"), "three": put(lambda states: [*states, {}], "optimizers"),
        "a parameter too few": drop("optimizers", 0, 0), "one too many": put(lambda state: state | {99: state[0]}, "optimizers", 0),
        "an average nan": put(lambda w: w * NAN, "optimizers", 0, 0, "average"), "an average misshaped": put(lambda w: w[:1], "optimizers", 0, 0, "average"),
        "an average of integers": put(lambda w: w.long(), "optimizers", 0, 0, "average"), "an average huge": put(lambda w: w + 1e38, "optimizers", 0, 0, "average"),
        "no average": drop("optimizers", 0, 0, "average"), "a step nan": put(lambda w: w * NAN, "optimizers", 1, 0, "step"),
        "an infinite average": put(lambda w: w + INF, "optimizers", 1, 0, "exp_avg"), "a complex one": put(lambda w: w.cfloat(), "optimizers", 1, 0, "exp_avg"),
        "more": put(lambda state: state | dict(more=torch.zeros(2)), "optimizers", 0, 0), "a step -1": put(lambda w: w * 0 - 1, "optimizers", 1, 0, "step"),
        "a step of three": put(lambda w: torch.zeros(3), "optimizers", 1, 0, "step"), "a square below 0": put(lambda w: w - 1, "optimizers", 1, 0, "exp_avg_sq"),
        "no generators": put({}, "generators"), "no generator of batches": drop("generators", "batches"), "none of the CPU": drop("generators", "cpu"),
        "a generator cut": put(lambda w: w[:100], "generators", "batches"), "of floats": put(lambda w: w.float(), "generators", "batches"),
        "of zeros": put(torch.zeros_like, "generators", "batches"), "of noise": put(lambda w: torch.randint_like(w, 256), "generators", "cpu"),
    }
)  # fmt: skip


# ---- Files of other shapes
def raw(header, data=b"", length=None):
    """make(path) of a .safetensors file with this header, a dict or bytes, and this length of it."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def described(text, number=0):
    """make(path) of a file whose metadata has this text, and so many empty tensors."""
    empty = dict(dtype="F32", shape=[0], data_offsets=[0, 0])
    return raw({"__metadata__": {OURS: text}} | {f"t{i}": empty for i in range(number)})


def tensor(**changes):
    """make(path) of a file with two tensors of four numbers; changes: of the first one's entry in the header."""
    one, two = ({"dtype": "F32", "shape": [4], "data_offsets": place} for place in ([0, 16], [16, 32]))
    return raw({"__metadata__": {OURS: "{}"}, "a": one | changes, "b": two}, bytes(32))


def summed(plain, *names):
    """make(path) of a file that has this JSON with a right checksum, and tensors of these names."""
    return lambda path: forge(path, dict(model={name: torch.zeros(2) for name in (*names, "w")}), plain)


SAFETENSORS = (
    {f"a header of length {n}": raw(b"{}", b"x" * 100, n) for n in (0, 1, 3, 200, 10**8, 2**31, 2**63, 2**64 - 1)}
    | {f"the header {header[:9]}": raw(header) for header in (b"", b"[]", b"5", b"{", b"\xff" * 9, b"[" * 10**5, b'{"a":' * 10**5)}
    | {f"a tensor with {field} {value}": tensor(**{field: value}) for field, values in dict(
        data_offsets=[[8, 24], [16, 0], [0, 10**9], [-16, 0], [0], None, [0, 12], [2**63, 2**64 - 1]], dtype=["F64", "F16", "X", 5, None],
        shape=[[5], [2**62, 4], [2**64], [-4], "4", [10**30], None, [0]],
    ).items() for value in values}
    | {f"metadata {str(text)[:9]}": described(text) for text in (
        None, 5, {}, "", "x", "[]", "5", "null", "{}", '{"sha256": 5}', "[" * 10**5, '{"a":' * 10**5, "9" * 5000, "NaN", "\ud800", '"' + "x" * 10**7,
    )}
    | {f"{plain} {names}": summed(plain, *names) for plain, *names in (
        [{}, "optimizers.0.0.average"], [dict(optimizers=1), "optimizers.x.y"], [dict(optimizers=1), "optimizers.x.y.z"],
        [dict(optimizers=1), "optimizers.9.0.average"], [dict(optimizers=1), "optimizers"], [dict(optimizers=1), "optimizers.0.\x1b.a"],
        [dict(optimizers=1), "generators"], [dict(optimizers=10**12)], [dict(optimizers=-1)], [dict(optimizers=True)], [dict(optimizers="x")],
        [dict(optimizers=0.5)], [dict(optimizers=1)], [dict(model=5)], [dict(generators=[])], [{}, "", "a\x1b[31m"],
    )}
    | {
        "another program's": lambda path: path.write_bytes(safetensors.torch.save({"w": torch.ones(2)}, {"format": "pt"})),
        "without metadata": raw({}), "metadata a list": raw({"__metadata__": []}), "100,000 tensors": described("{}", 10**5),
        "another checksum": lambda path: forge(path, dict(model={"w": torch.ones(2)}), sha256="0" * 64),
        "a name twice": raw(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    }
)  # fmt: skip
FILES = {
    "empty": Path.touch, "one byte": lambda path: path.write_bytes(b"P"), "a folder": Path.mkdir, "a pipe": os.mkfifo,
    "zeros": lambda path: path.write_bytes(bytes(10**6)), "random": lambda path: path.write_bytes(random.Random(0).randbytes(10**5)),
    "a text": lambda path: path.write_text(VERSE), "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"), "not there": lambda path: None,
    "large": lambda path: path.touch() or os.truncate(path, 3 * 10**9),
}  # fmt: skip


# ---- Files of the older format
class Call:
    """Pickled, it is what a function returns."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def saved(**contents):
    """make(path) of torch.save of a dict with these contents."""
    return lambda path: torch.save(dict(model={}, config={}, units=["a"]) | contents, path)


def of_pickle(code, spoil=None, compression=zipfile.ZIP_STORED):
    """make(path) of an archive with these opcodes, in which spoil(archive) changes the directory."""

    def make(path):
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("archive/data.pkl", code)
            archive.writestr("archive/version", "3\n")
            if spoil:
                spoil(archive)

    return make


def overlap(archive):
    """2,000 entries, all of them the first one."""
    archive.filelist += [copy.copy(archive.filelist[0]) for _ in range(2000)]


BOMB = Call(os.mkdir, MARKER)
MEGABYTE = torch.zeros(2**18)
PT = {
    "a pickle with code": lambda path: path.write_bytes(pickle.dumps(BOMB)), "an archive with code": saved(model=BOMB),
    "older torch, with code": lambda path: torch.save(BOMB, path, _use_new_zipfile_serialization=False),
    "code by INST": of_pickle(b"(S'%s'\nios\nmkdir\n." % MARKER.encode()),
    "code by STACK_GLOBAL": of_pickle(b"\x80\4\x8c\2os\x8c\5mkdir\x93\x8c\x0c%s\x85R." % MARKER.encode()),
    "a name with an escape sequence": of_pickle(b"\x80\2c\x1b[31mred\nevil\n."), "a bytearray of 10 GB": of_pickle(b"\x80\5\x96" + struct.pack("<Q", 10**10) + b"."),
    "torch.zeros(10^9)": saved(model=Call(torch.zeros, 10**9)), "torch.empty(10^9)": saved(model=Call(torch.empty, 10**9)),
    "torch.load of itself": saved(model=Call(torch.load, "a.pt")), "torch.hub": saved(model=Call(torch.hub.load, "x/y", "z")),
    "a module": lambda path: torch.save(torch.nn.Linear(2, 2), path), "TorchScript": lambda path: torch.jit.script(torch.nn.Linear(2, 2)).save(path),
    "compressed": of_pickle(b"\x80\2]" + b"0]" * 10**6 + b".", None, zipfile.ZIP_DEFLATED), "overlapping": of_pickle(b"\x80\2]" + b"0]" * 10**6 + b".", overlap),
    "claiming 4 GB": of_pickle(b"\x80\2}.", lambda archive: setattr(archive.filelist[0], "file_size", 4 * 10**9)),
    "an empty archive": of_pickle(b"", lambda archive: archive.filelist.clear()), "a list": of_pickle(b"\x80\2]."),
    "lists in lists": of_pickle(b"\x80\2}(X\5\0\0\0model}X\5\0\0\0units" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"u."),
    "unfinished": of_pickle(b"\x80\2}"), "an empty pickle": of_pickle(b""), "an empty stack": of_pickle(b"\x80\2."), "a memo without end": of_pickle(b"\x80\2}r\xff\xff\xff\x7f."),
    "a long number": of_pickle(b"\x80\2}X\5\0\0\0model}X\4\0\0\0step\x8b" + struct.pack("<i", 415_000) + b"\x7f" * 415_000 + b"u."),
    "model None": saved(model=None), "model a list": saved(model=[]), "a weight a list": saved(model={"w": [1.0]}),
    "a name a number": saved(model={5: MEGABYTE}), "a name None": saved(model={None: MEGABYTE, "w": MEGABYTE}),
    "a tensor of 10^9 from 4 bytes": saved(model={"w": torch.zeros(1).expand(10**9)}),
    "one place for 1,000 tensors": saved(model={str(i): MEGABYTE.view(-1) for i in range(1000)}),
    "sparse": saved(model={"w": torch.zeros(10**5, 10**5, layout=torch.sparse_coo)}),
    "a former training state": saved(model={"w": MEGABYTE}, optimizers=[{}, {}], generators={}),
}  # fmt: skip


def listing(*changes):
    """vocab.json of an older checkpoint with the letters a to e; changes: pairs instead of its last ones, as JSON."""
    pairs = [f'"{unit}": {i}' for i, unit in enumerate("abcde")]
    return "{" + ", ".join([*pairs[: 5 - len(changes)], *changes]) + "}"


VOCABULARIES = [
    "", "[]", "5", "null", "[" * 10**5, '{"a":' * 10**5, " " * 10**7, listing().replace(', "e": 4', ""), listing('"d": 3', '"d": 4'),
    listing('"b": true', '"c": 2', '"d": 3', '"e": 4'), *(listing(pair) for pair in (
        '"e": NaN', '"e": 3', '"e": 5', f'"e": {"9" * 5000}', '"e": "4"', '"e": 4.0', '"": 4', f'"{"e" * 17}": 4', r'"\ud800": 4', r'"\u001b[31m": 4',
    )),
]  # fmt: skip
