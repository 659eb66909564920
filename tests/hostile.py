"""Hostile and damaged checkpoints of many kinds, and what the scripts answer to them.

Run:    python tests/hostile.py FOLDER      (half a minute; FOLDER must exist, and may be empty)

Makes a short training run in FOLDER, then every kind of bad file in turn, and gives it to the script that it is meant
for. Prints a line of JSON for each: the kind, the script, the exit status, standard output and error, the seconds, by
how many MB the process has grown, and what became of the folder. tests/test_hostile.py reads these lines.

The kinds: GENERATING, which are given to 06_generate.py; OLDER, the same in the older format; TRAINING, which are given
to 05_train.py --resume. Each is {name: function(path, good)} that makes a bad file from the good checkpoint `good`.
"""

import copy
import hashlib
import json
import math
import os
import pickle
import random
import resource
import signal
import struct
import sys
import time
import traceback
import zipfile
import zlib
from importlib import import_module
from pathlib import Path

from conftest import VERSE, run_script

import torch

NAN, INF = math.nan, math.inf
MARKER = "code-was-run"  # a folder of this name is made, in the current one, by code in a file that is run
TEN_MILLION = 10**7


class Bomb:
    """Pickled, it makes a folder when it is loaded."""

    def __reduce__(self):
        return os.mkdir, (MARKER,)


class Call:
    """Pickled, it is what a function returns."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


# ---- Archives and pickles, byte by byte
def archive(path, entries, repeat=1, offset_of_all=None):
    """Writes a zip archive of [(name, data, size that it claims, method)], which need not be true; its directory
    `repeat` times; all entries at one place in the file, if one is given."""
    places, directory = [], b""
    with open(path, "wb") as file:
        for name, data, claimed, method in entries:
            places.append(file.tell() if offset_of_all is None else offset_of_all)
            numbers = 0, method, 0, 0, zlib.crc32(data), len(data), claimed, len(name), 0
            file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, *numbers) + name.encode() + data)
        for (name, data, claimed, method), place in zip(entries, places):
            numbers = 0, method, 0, 0, zlib.crc32(data), len(data), claimed, len(name), 0, 0, 0, 0, 0, place
            directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *numbers) + name.encode()
        start, count = file.tell(), min(len(entries) * repeat, 0xFFFE)
        file.write(directory * repeat)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory) * repeat, start, 0))


def stored(name, data):
    """An honest entry of an archive."""
    return f"archive/{name}", data, len(data), zipfile.ZIP_STORED


def text(value):
    """The opcodes of a short text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def opcodes(value):
    """The opcodes of a plain value, a list or a dict."""
    return pickle.dumps(value, 2)[2:-1]


def described(model=b"}", **fields):
    """A pickle of a dict with these opcodes for its fields."""
    pairs = b"".join(text(name) + value for name, value in dict(model=model, **fields).items())
    return b"\x80\2}(" + pairs + b"u."


def tensor(key, count, size, strides, offset=0, kind="Float"):
    """The opcodes of a tensor in the file archive/data/KEY, which is said to have `count` numbers."""
    storage = (
        b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu") + opcodes(count) + b"tQ"
    )
    shape = b"".join(b"(" + b"".join(map(opcodes, numbers)) + b"t" for numbers in (size, strides))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + opcodes(offset)
        + shape
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def of_pickle(description, data=b"", **more):
    """A kind: an archive with this pickle, and one tensor's data."""
    entries = [stored("data.pkl", description), stored("data/0", data), stored("version", b"3\n")]
    return lambda path, good: archive(path, entries, **more)


def of_bytes(change):
    """A kind: change(the bytes of a good file) is written."""
    return lambda path, good: path.write_bytes(change(good.read_bytes()))


def of_contents(change):
    """A kind: what a good file holds, after change(contents)."""

    def make(path, good):
        contents = copy.deepcopy(load(good))
        change(contents)
        torch.save(contents, path)

    return make


loaded = {}


def load(path):
    """What a good file holds."""
    if path not in loaded:
        loaded[path] = torch.load(path, weights_only=True)
    return loaded[path]


def put(value, *names):
    """A kind: the field contents[name][name]... has this value; a callable is called with the good value."""

    def change(contents):
        for name in names[:-1]:
            contents = contents[name]
        contents[names[-1]] = value(contents[names[-1]]) if callable(value) else value

    return of_contents(change)


def drop(*names):
    """A kind: the field contents[name][name]... is missing."""

    def change(contents):
        for name in names[:-1]:
            contents = contents[name]
        del contents[names[-1]]

    return of_contents(change)


# ---- Files that are no checkpoints, whatever they are given to
def zip_bomb(path, good):
    """Some 4 MB that unpack to 4 GB of zeros, under a true name."""
    packer = zlib.compressobj(9, wbits=-15)
    piece = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    with zipfile.ZipFile(good) as old:
        entries = [stored(entry.filename.split("/", 1)[1], old.read(entry)) for entry in old.infolist()]
    largest = max(range(len(entries)), key=lambda i: entries[i][2])
    entries[largest] = entries[largest][0], piece * 4000, 4000 * 2**20, zipfile.ZIP_DEFLATED
    archive(path, entries)


def compressed(path, good):
    """A good one, compressed."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))


def overlapping(path, good):
    """2,000 entries, all of them the same 10 MB."""
    archive(
        path, [(f"archive/data/{i}", bytes(10**7 if i == 0 else 0), 10**7, 0) for i in range(2000)], offset_of_all=0
    )


def claiming(path, good):
    """A pickle and data that say they are of 4 GB."""
    archive(path, [stored("data.pkl", described())[:2] + (4 * 10**9, 0), stored("data/0", b"\0")[:2] + (4 * 10**9, 0)])


def nested(n, opener=b"]", closer=b"a"):
    """The opcodes of lists in lists, n deep."""
    return opener * n + closer * (n - 1)


def laughing(levels=40):
    """The opcodes of a list in which each list holds the one before it twice: the last one has 2^40 of the first."""
    return b"](]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(levels)) + b"e"


def copies_of_dicts():
    """The opcodes of 60,000 copies of a dict with 60,000 entries, by the one class that a checkpoint may name."""
    entries = b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(60_000))
    one = b"}(" + entries + b"u\x85q\0ccollections\nOrderedDict\nq\1"
    return b"](" + one + b"h\1h\0R" * 60_000 + b"e"


def code_in_an_archive(path, good):
    """torch.save of an object that makes a folder."""
    torch.save(dict(model=Bomb(), config={}, units=["a"]), path)


def sparse_file(path, good):
    """A good one with 3 GB of nothing after it, which take no place on the disk."""
    path.write_bytes(good.read_bytes())
    os.truncate(path, 3 * 10**9)


def calling(function, *arguments):
    """A kind: the weights are what a function returns."""
    return lambda path, good: torch.save(dict(model=Call(function, *arguments)), path)


DAMAGED = {
    "cut in half": of_bytes(lambda data: data[: len(data) // 2]),
    "cut by a byte": of_bytes(lambda data: data[:-1]),
    "cut at the front": of_bytes(lambda data: data[100:]),
    "its directory cut": of_bytes(lambda data: data[:-60]),
    "a bit of a weight flipped": of_bytes(lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 64]) + data[len(data) // 2 + 1 :]),
    "empty": of_bytes(lambda data: b""),
    "one byte": of_bytes(lambda data: b"P"),
    "random bytes": of_bytes(lambda data: random.Random(0).randbytes(10**5)),
    "zeros": of_bytes(lambda data: bytes(10**6)),
    "a text": of_bytes(lambda data: VERSE.encode()),
    "JSON": of_bytes(lambda data: b'{"model": {}, "config": {}, "units": []}'),
    "an empty archive": lambda path, good: archive(path, []),
    "an archive of something else": lambda path, good: archive(path, [("a.txt", b"x", 1, 0)]),
    "two pickles": lambda path, good: archive(path, [stored("data.pkl", described())] * 2),
    "a folder": lambda path, good: path.mkdir(),
    "a pipe": lambda path, good: os.mkfifo(path),
    "a device without an end": lambda path, good: path.symlink_to("/dev/zero"),
    "a link to nowhere": lambda path, good: path.symlink_to("nowhere"),
    "3 GB of nothing after it": sparse_file,
    # code
    "a pickle with code": lambda path, good: path.write_bytes(pickle.dumps(Bomb())),
    "an archive with code": code_in_an_archive,
    "older torch, with code": lambda path, good: torch.save(dict(model=Bomb()), path, _use_new_zipfile_serialization=False),
    "code by INST": of_pickle(b"(S'%s'\nios\nmkdir\n." % MARKER.encode()),
    "code by STACK_GLOBAL": of_pickle(b"\x80\4" + text("os") + text("mkdir") + b"\x93" + text(MARKER) + b"\x85R."),
    "a program in TorchScript": lambda path, good: torch.jit.script(torch.nn.Linear(2, 2)).save(path),
    "a whole module": lambda path, good: torch.save(torch.nn.Linear(2, 2), path),
    "torch.Tensor(10^9)": calling(torch.Tensor, 10**9),
    "torch.zeros(10^9)": calling(torch.zeros, 10**9),
    "bytearray(10^10)": calling(bytearray, 10**10),
    "torch.load of itself": calling(torch.load, "evil.pt"),
    "torch.hub": calling(torch.hub.load, "nobody/nothing", "model"),
    "a name with an escape sequence": of_pickle(b"\x80\2c\x1b[31mred\nevil\n."),
    # archives that are larger inside
    "compressed": compressed,
    "a zip bomb": zip_bomb,
    "overlapping entries": overlapping,
    "entries that claim 4 GB": claiming,
    "a million entries": lambda path, good: archive(path, [stored("data.pkl", described())], repeat=10**6),
    # pickles that become larger than they are
    "10 million objects": of_pickle(described(units=b"](" + b"K\1" * TEN_MILLION + b"e")),
    "10 million texts": of_pickle(described(units=b"](" + text("a") * TEN_MILLION + b"e")),
    "a text of 100 MB": of_pickle(described(units=text("a" * 10**8))),
    "lists in lists": of_pickle(described(units=nested(10**5))),
    "config in lists": of_pickle(described(config=nested(10**5))),
    "tuples in tuples": of_pickle(described(units=b")" + b"\x85" * 900_000)),
    "tuples in tuples as a key": of_pickle(described(units=b"})" + b"\x85" * 900_000 + b"Ns")),
    "a list in itself": of_pickle(described(units=b"]q\0h\0a")),
    "config in itself": of_pickle(described(config=b"}q\0" + text("context") + b"h\0s")),
    "a model in itself": of_pickle(described(model=b"}q\0" + text("w") + b"h\0s")),
    "a billion laughs": of_pickle(described(units=laughing())),
    "a billion laughs in config": of_pickle(described(config=b"}" + text("vocab_size") + laughing() + b"s")),
    "dicts copied over and over": of_pickle(described(units=copies_of_dicts())),
    "methods replaced": of_pickle(described(model=b"ccollections\nOrderedDict\n)R}" + text("items") + b"Nsb")),
    "a memo without end": of_pickle(b"\x80\2}r\xff\xff\xff\x7f."),
    "an integer of a million digits": of_pickle(described(config=b"}" + text("vocab_size") + b"\x8b" + struct.pack("<i", 415_000) + b"\x7f" * 415_000 + b"s")),
    "a bytearray of 10 GB": of_pickle(b"\x80\5\x96" + struct.pack("<Q", 10**10) + b"."),
    "an unfinished pickle": of_pickle(described()[:-1]),
    "an empty pickle": of_pickle(b""),
    "an empty stack": of_pickle(b"\x80\2."),
    "a list": of_pickle(b"\x80\2]."),
    "a number": of_pickle(b"\x80\2K\5."),
    "model is a list": of_pickle(described(model=b"]")),
    "model is None": of_pickle(described(model=b"N")),
    "no model": of_pickle(b"\x80\2}."),
    # tensors
    "a tensor of 10^9 from 4 bytes": of_pickle(described(model=b"}" + text("w") + tensor("0", 1, [10**9], [0]) + b"s"), bytes(4)),
    "a tensor beyond its data": of_pickle(described(model=b"}" + text("w") + tensor("0", 16, [10**9], [1]) + b"s"), bytes(64)),
    "a tensor of negative size": of_pickle(described(model=b"}" + text("w") + tensor("0", 16, [-1], [1]) + b"s"), bytes(64)),
    "a tensor of 2^80": of_pickle(described(model=b"}" + text("w") + tensor("0", 16, [2**40, 2**40], [0, 0]) + b"s"), bytes(64)),
    "a tensor before its data": of_pickle(described(model=b"}" + text("w") + tensor("0", 16, [4], [1], -8) + b"s"), bytes(64)),
    "data that claims 10^9": of_pickle(described(model=b"}" + text("w") + tensor("0", 10**9, [10**9], [1]) + b"s"), bytes(64)),
    "data that is not there": of_pickle(described(model=b"}" + text("w") + tensor("9", 16, [16], [1]) + b"s"), bytes(64)),
    "data elsewhere": of_pickle(described(model=b"}" + text("w") + tensor("../../etc/passwd", 16, [16], [1]) + b"s"), bytes(64)),
    "complex numbers": of_pickle(described(model=b"}" + text("w") + tensor("0", 8, [8], [1], kind="ComplexFloat") + b"s"), bytes(64)),
    "one place for 100,000 tensors": of_pickle(described(model=b"}" + text("w") + b"](" + tensor("0", 10**5, [10**5], [1]) + b"q\0" + b"h\0" * 10**5 + b"es"), bytes(4 * 10**5)),
    "sparse": of_contents(lambda contents: contents.update(model={"w": torch.zeros(10**5, 10**5, layout=torch.sparse_coo)})),
    "quantized": of_contents(lambda contents: contents.update(model={"w": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)})),
    "a parameter": of_contents(lambda contents: contents["model"].update(w=torch.nn.Parameter(torch.ones(4)))),
}  # fmt: skip


# ---- Fields that are wrong: of a checkpoint that generates, and of the older format
def weights_kinds(matrix, layer):
    """Kinds in which the weights are wrong; matrix and layer: the name of a weight, and a part of names."""
    one = lambda value: put(value, "model", matrix)  # noqa: E731

    def every(value):
        return put(lambda model: {name: value(weight) for name, weight in model.items()}, "model")

    def fill(number):
        def change(weight):
            weight.flatten()[0] = number  # a view
            return weight

        return one(change)

    return {
        "a weight is NaN": fill(NAN),
        "a weight is infinite": fill(-INF),
        "weights of 1e38": every(lambda weight: torch.full_like(weight, 1e38)),
        "float64 weights beyond float32": every(lambda weight: torch.full_like(weight, 1e300, dtype=torch.float64)),
        "weights are integers": every(lambda weight: weight.long()),
        "weights are bytes": every(lambda weight: weight.byte()),
        "weights are truths": every(lambda weight: weight.bool()),
        "a weight is missing": drop("model", matrix),
        "a layer is missing": put(lambda model: {n: w for n, w in model.items() if layer not in n}, "model"),
        "a weight too many": of_contents(lambda contents: contents["model"].update(another=torch.zeros(2))),
        "a weight is transposed": one(lambda weight: weight.T.contiguous()),
        "a weight is strided": one(lambda weight: weight.repeat(1, 2)[:, ::2]),
        "a weight is flat": one(lambda weight: weight.flatten()),
        "a weight is a row": one(lambda weight: weight[:1].clone()),
        "a weight is expanded": one(lambda weight: weight[:1, :1].clone().expand_as(weight)),
        "a weight is empty": one(torch.zeros(0)),
        "a weight is a number": one(1.0),
        "a weight is a list": one([1.0]),
        "a weight is None": one(None),
        "names are numbers": put(lambda model: dict(enumerate(model.values())), "model"),
        "names are numbers and texts": of_contents(lambda contents: contents["model"].update({5: torch.zeros(2)})),
        "a name is None": of_contents(lambda contents: contents["model"].update({None: torch.zeros(2)})),
        "no weights": put({}, "model"),
    }


def wrong(table, *names):
    """Kinds in which a field below contents[name]... has one of the wrong values in a table {field: values}."""
    kinds = {}
    for field, values in table.items():
        for value in values:
            kinds[f"{field} {str(value)[:20]!r} {type(value).__name__}"] = put(value, *names, field)
        if names and field != "extra":
            kinds[f"{field} missing"] = drop(*names, field)
    return kinds


SIZES = [0, -1, 10**9, 10**30, NAN, None, "4", [4], True]
SHAPE = dict(
    context=[0, 1, -5, 10**6, 10**9, 1.5, NAN, None, "32", [32], True, torch.tensor(32)],
    n_layers=[*SIZES, 3], n_heads=[*SIZES, 3, 64], dim=[*SIZES, 32, 63], vocab_size=[*SIZES, 57],
    causal=[None, 1, "False", [], NAN], dropout=[NAN, INF, -1, 5, None, "0", [0]],
)  # fmt: skip
ALPHABETS = {
    "units None": None, "units a number": 5, "units a text": "abc", "units a dict": {"a": 0}, "no units": [],
    "units a tuple": lambda units: tuple(units), "units a tensor": lambda units: torch.zeros(len(units)),
    "a unit twice": lambda units: [units[0], *units[:-1]],
    "an empty unit": lambda units: ["", *units[1:]],
    "a unit a number": lambda units: [5, *units[1:]],
    "a unit None": lambda units: [None, *units[1:]],
    "a unit a list": lambda units: [[], *units[1:]],
    "a long unit": lambda units: ["a" * 17, *units[1:]],
    "a huge unit": lambda units: ["a" * 10**6, *units[1:]],
    "half a surrogate": lambda units: ["\ud800", *units[1:]],
    "an escape sequence": lambda units: ["\x1b[31m", *units[1:]],
    "a control character": lambda units: ["\x9b", *units[1:]],
    "a zero": lambda units: ["\0", *units[1:]],
    "a unit too few": lambda units: units[:-1],
    "a unit too many": lambda units: [*units, "~"],
    "60,000 units": lambda units: [chr(0x4E00 + i) for i in range(60_000)],
}  # fmt: skip
PROGRESS = dict(
    step=[-5, 10**30, 1.5, NAN, None, "3", [3], True], characters=[-1, NAN, INF, None, "x", 10**30, [1]],
    seconds=[-1.0, NAN, INF, None, "x", 10**30], heldout=[NAN, -1.0, None, "x", [1.0]],
)  # fmt: skip

GENERATING = (
    DAMAGED
    | weights_kinds("blocks.0.feed_forward.0.weight", "blocks.3")
    | wrong(SHAPE, "config")
    | {name: put(value, "units") for name, value in ALPHABETS.items()}
    | wrong(PROGRESS)
    | {
        "config missing": drop("config"), "config a list": put([], "config"), "config None": put(None, "config"),
        "config too much": of_contents(lambda contents: contents["config"].update(depth=3)),
        "config with numbers for names": put(lambda config: dict(enumerate(config.values())), "config"),
        "units missing": drop("units"),
        "a GPT": put(True, "config", "causal"),
    }
)  # fmt: skip


def vocabulary(content):
    """A kind of the older format: a good checkpoint beside a vocab.json with this content."""

    def make(path, good):
        path.write_bytes(good.read_bytes())
        content_of(path.parent / "vocab.json", content)

    return make


def content_of(path, content):
    if callable(content):
        content(path)
    else:
        path.write_text(content, encoding="utf-8")


def listing(*changes):
    """vocab.json of the older checkpoint in main(), a to e; changes: pairs instead of its last ones, as JSON."""
    pairs = [f'"{unit}": {i}' for i, unit in enumerate("abcde")]
    return "{" + ", ".join([*pairs[: 5 - len(changes)], *changes]) + "}"


OLDER = (
    weights_kinds("blocks.0.attn.qkv.weight", "blocks.1")
    | wrong(
        dict(
            seq_len=[0, 10**9, NAN, "4", 15], n_layers=[0, 10**9, [4], 1], n_heads=[0, -1, 10**9, None, 3, 32, True],
            hidden=[0, 10**9, 10**30, 1.5, 8], vocab_size=[0, 10**9, True, 4, 6], step=[-5, NAN, "x", [3], 10**30],
        )
    )
    | {f"{name} missing": drop(name) for name in ("seq_len", "n_layers", "n_heads", "hidden", "vocab_size")}
    | {
        "vocab.json empty": vocabulary(""), "vocab.json a list": vocabulary("[]"), "vocab.json a number": vocabulary("5"),
        "vocab.json null": vocabulary("null"), "vocab.json NaN": vocabulary(listing('"e": NaN')),
        "vocab.json nested": vocabulary("[" * 10**5), "vocab.json nested dicts": vocabulary('{"a":' * 10**5),
        "vocab.json not UTF-8": vocabulary(lambda path: path.write_bytes(b'{"\xff": 0}')),
        "vocab.json of 100 MB": vocabulary(lambda path: path.write_bytes(b" " * 10**8)),
        "vocab.json without an end": vocabulary(lambda path: path.symlink_to("/dev/zero")),
        "vocab.json a pipe": vocabulary(os.mkfifo), "vocab.json a folder": vocabulary(Path.mkdir),
        "vocab.json a letter twice": vocabulary(listing('"d": 3', '"d": 4')),
        "vocab.json an id twice": vocabulary(listing('"e": 3')),
        "vocab.json an id too large": vocabulary(listing('"e": 5')),
        "vocab.json an id of many digits": vocabulary(listing(f'"e": {"9" * 5000}')),
        "vocab.json an id that is true": vocabulary(listing('"b": true', '"c": 2', '"d": 3', '"e": 4')),
        "vocab.json an id that is a text": vocabulary(listing('"e": "4"')),
        "vocab.json an id that is a float": vocabulary(listing('"e": 4.0')),
        "vocab.json an empty letter": vocabulary(listing('"": 4')),
        "vocab.json a long letter": vocabulary(listing(f'"{"e" * 17}": 4')),
        "vocab.json half a surrogate": vocabulary(listing(r'"\ud800": 4')),
        "vocab.json an escape sequence": vocabulary(listing(r'"\u001b[31m": 4')),
        "vocab.json too few": vocabulary(listing().replace(', "e": 4', "")),
    }
)  # fmt: skip


# ---- Fields that are wrong in the state of a training run
def first_state(contents, optimizer):
    """What an optimizer, 0 Muon or 1 AdamW, remembers of its first parameter."""
    return contents["optimizers"][optimizer][0]


def state_of(optimizer, name, value):
    """A kind: something that an optimizer remembers is value(what it should be)."""

    def change(contents):
        kept = first_state(contents, optimizer)
        kept[name] = value(kept[name])

    return of_contents(change)


def beside(content):
    """A kind: a good state, and a bad NAME_best.pt beside it: of these bytes, or of this kind."""

    def make(path, good):
        path.write_bytes(good.read_bytes())
        best = path.with_name(path.stem + "_best.pt")
        if callable(content):
            content(best, good.with_name(good.stem + "_best.pt"))
        else:
            best.write_bytes(content)

    return make


def log(content):
    """A kind: a good state, and a log beside it that is of these bytes, or made by a function of its path."""

    def make(path, good):
        path.write_bytes(good.read_bytes())
        content_of(path.with_suffix(".csv"), content)

    return make


TRAINING = (
    {name: DAMAGED[name] for name in ("cut in half", "random bytes", "an archive with code", "a zip bomb", "a billion laughs")}
    | weights_kinds("blocks.0.feed_forward.0.weight", "blocks.3")
    | wrong(dict(context=[0, NAN, 64], n_layers=[3, 10**9], n_heads=[2, 64], dim=[32], causal=[True, None]), "config")
    | {name: put(ALPHABETS[name], "units") for name in ("units None", "a unit twice", "half a surrogate", "60,000 units")}
    | {"units in another order": put(lambda units: units[::-1], "units")}
    | wrong(PROGRESS | dict(lr=[NAN, -1.0, None, INF, "x"], due=[None, 1, "x"]))
    | wrong(
        dict(
            script=["08_train_tamil.py", "x\x1b[31m", 5, None, "x" * 10**5], preset=["nope", None, 5, [], "small"],
            batch=[-1, 0, 10**12, 1.5, None, "2", True], lr=[NAN, None, INF, -1.0, "x", [1]],
            dropout=[5, -1.0, NAN, None], weight_decay=[2, -0.1, NAN, None, "x"],
            seed=[2**70, -1, None, 1.5, "0"], dtype=["float8", "auto", None, 5, "int64"],
            limit=[0, -1, NAN, INF, None, "x", 10**30], unit=["years", None, 5],
            data=[5, None, [], "\0", "/dev/zero", "/dev/stdin", "/", "\ud800", "x" * 10**5, "nowhere.txt"],
            sha256=["0" * 64, "", None, 5, "\ud800" * 64, "x" * 10**5], extra=[1],
        ),
        "settings",
    )
    | {
        "settings missing": drop("settings"), "settings a list": put([], "settings"),
        "losses a text": put("x" * 10, "losses"), "losses NaN": put([NAN], "losses"), "losses inf": put([INF], "losses"),
        "losses of texts": put(["x"], "losses"), "losses None": put(None, "losses"), "losses missing": drop("losses"),
        "losses of lists": put([[1.0]], "losses"), "losses huge": put([1e308] * 3, "losses"),
        "10 million losses": of_pickle(described(losses=b"](" + b"G" + bytes(8) + b"K\1" * TEN_MILLION + b"e")),
        "step missing": drop("step"), "due missing": drop("due"), "heldout missing": drop("heldout"),
        "optimizers missing": drop("optimizers"), "optimizers None": put(None, "optimizers"),
        "optimizers a dict": put({}, "optimizers"), "one optimizer": put(lambda states: states[:1], "optimizers"),
        "optimizers swapped": put(lambda states: states[::-1], "optimizers"),
        "three optimizers": put(lambda states: [*states, {}], "optimizers"),
        "an optimizer a list": put(lambda states: [[], states[1]], "optimizers"),
        "an optimizer without a parameter": put(lambda states: [{n: s for n, s in states[0].items() if n}, states[1]], "optimizers"),
        "an optimizer with texts for numbers": put(lambda states: [{str(n): s for n, s in states[0].items()}, states[1]], "optimizers"),
        "an optimizer with a parameter too many": put(lambda states: [states[0] | {999: states[0][0]}, states[1]], "optimizers"),
        "an average NaN": state_of(0, "average", lambda value: value * NAN),
        "an average misshaped": state_of(0, "average", lambda value: value[:1].clone()),
        "an average of integers": state_of(0, "average", lambda value: value.long()),
        "an average a number": state_of(0, "average", lambda value: 1.0),
        "an average huge": state_of(0, "average", lambda value: torch.full_like(value, 1e38)),
        "a state without average": of_contents(lambda contents: first_state(contents, 0).pop("average")),
        "a state with more": of_contents(lambda contents: first_state(contents, 0).update(more=torch.zeros(2))),
        "a state a list": put(lambda states: [states[0] | {0: []}, states[1]], "optimizers"),
        "a step of -1": state_of(1, "step", lambda value: value * 0 - 1),
        "a step NaN": state_of(1, "step", lambda value: value * NAN),
        "a step a number": state_of(1, "step", lambda value: 4),
        "a step a list": state_of(1, "step", lambda value: torch.zeros(3)),
        "a square below zero": state_of(1, "exp_avg_sq", lambda value: value - 1),
        "an average of AdamW huge": state_of(1, "exp_avg", lambda value: torch.full_like(value, 1e38)),
        "an average of AdamW infinite": state_of(1, "exp_avg", lambda value: value + INF),
        "generators missing": drop("generators"), "generators None": put(None, "generators"),
        "generators a list": put([1], "generators"), "no generator of batches": drop("generators", "batches"),
        "no generator of the CPU": drop("generators", "cpu"),
        "a generator cut": put(lambda state: state[:100].clone(), "generators", "batches"),
        "a generator of floats": put(lambda state: state.float(), "generators", "batches"),
        "a generator of zeros": put(torch.zeros_like, "generators", "batches"),
        "a generator of noise": put(lambda state: torch.randint_like(state, 256), "generators", "cpu"),
        "a generator a text": put("x", "generators", "cpu"),
        "a generator empty": put(torch.zeros(0, dtype=torch.uint8), "generators", "cpu"),
        "best cut": beside(b"PK"), "best a folder": beside(lambda path, good: path.mkdir()),
        "best without end": beside(lambda path, good: path.symlink_to("/dev/zero")),
        "best with code": beside(code_in_an_archive), "best a zip bomb": beside(zip_bomb),
        "best heldout NaN": beside(put(NAN, "heldout")), "best heldout a text": beside(put("x", "heldout")),
        "best heldout a list": beside(put([1], "heldout")),
        "log without an end": log(lambda path: path.symlink_to("/dev/zero")), "log a pipe": log(os.mkfifo),
        "log a folder": log(Path.mkdir), "log of 100 MB": log(lambda path: path.write_bytes(bytes(10**8))),
    }
)  # fmt: skip

HARMLESS = {  # of these, something is left out, and the run goes on
    "log of noise": log(lambda path: path.write_bytes(random.Random(0).randbytes(10**5))),
    "log of a long line": log("1" * 10**6),
    "log with texts": log("step,seconds,characters,lr,loss,heldout\n1,1.0,64,0.1,x,\n1,x,64,0.1,3.0,\n1,1.0,64,0.1,3.0,nan\n"),
    "log with long numbers": log(f"step,seconds,characters,lr,loss,heldout\n{'9' * 5000},1.0,1,0.1,3.0,\n1,1.0,{'9' * 5000},0.1,3.0,\n"),
    "log with too many columns": log("step,seconds,characters,lr,loss,heldout\n1,1.0,64,0.1,3.0,,5,6\n1,1\n"),
}  # fmt: skip


# ---- Making them, one after the other, and asking the scripts
def make_good(folder):
    """Makes good checkpoints in a folder: {"training": a run of four steps, "generating": its best weights, "older"}."""
    transformer = import_module("03_transformer")
    transformer.PRESETS["tiny"] = dict(context=32, n_layers=4, n_heads=4, dim=64)  # smaller still, for this process
    (folder / "verse.txt").write_text(VERSE * 60, encoding="utf-8")
    flags = ["--preset", "tiny", "--batch", 2, "--steps", 2, "--dtype", "float32", "--data", folder / "verse.txt"]
    code, _, err = run_script("05_train.py", *flags, "--out", folder / "run.pt")
    assert code == 0, err
    older = import_module("older_checkpoints")
    torch.manual_seed(0)
    model = older.OlderTransformer(transformer.Config(5, 16, 2, 2, 16), 6)
    shape = dict(vocab_size=5, hidden=16, n_layers=2, n_heads=2, seq_len=16)
    torch.save(dict(model=model.state_dict(), step=3, **shape), folder / "older.pt")
    return dict(
        training=folder / "run.pt",
        harmless=folder / "run.pt",
        generating=folder / "run_best.pt",
        older=folder / "older.pt",
    )


SCRIPTS = dict(
    generating=("06_generate.py", "--seed", 1, "--len", 8, "--checkpoint"),
    older=("06_generate.py", "--seed", 1, "--len", 8, "--checkpoint"),
    training=("05_train.py", "--resume", "--steps", 4, "--out"),
    harmless=("05_train.py", "--resume", "--steps", 4, "--out"),
)
KINDS = dict(generating=GENERATING, older=OLDER, training=TRAINING, harmless=HARMLESS)


def look(folder):
    """{name: what it is, or a checksum of its bytes} of a folder."""

    def one(path):
        if path.is_symlink() or not path.is_file():
            return "special"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size < 10**9 else path.stat().st_size

    return {path.name: one(path) for path in folder.iterdir()}


def clear(folder):
    """Empties a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def peak():
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "linux" else 2**20)


def ask(script, path, make, good):
    """Makes the file, runs the script with it, and says what happened. Leaves the folder empty."""
    make(path, good)
    if good.name == "older.pt" and not os.path.lexists(path.parent / "vocab.json"):
        content_of(path.parent / "vocab.json", listing())
    before, memory, began = look(path.parent), peak(), time.monotonic()
    signal.alarm(60)  # it dies then
    try:
        code, out, err = run_script(*script, path)
    except Exception:  # a traceback, which it should not come to
        code, out, err = None, "", traceback.format_exc()
    signal.alarm(0)
    answer = dict(seconds=time.monotonic() - began, mb=peak() - memory, code=code, out=out, err=err)
    answer |= dict(path=str(path), same=look(path.parent) == before)
    clear(path.parent)
    return answer


def main():
    """Every kind, or those whose names hold a word given after the folder."""
    folder, words = Path(sys.argv[1]).resolve(), sys.argv[2:]
    good, bad = make_good(folder), folder / "bad"
    bad.mkdir()
    os.chdir(bad)
    for group, kinds in KINDS.items():
        for kind in [None, *kinds]:  # first a good one: it must go through, and is what memory is measured against
            if kind and words and not any(word in kind for word in words):
                continue
            make = kinds[kind] if kind else of_bytes(bytes)
            print(
                json.dumps(dict(group=group, kind=kind) | ask(SCRIPTS[group], bad / "evil.pt", make, good[group])),
                flush=True,
            )


if __name__ == "__main__":
    main()
