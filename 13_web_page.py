"""Lesson 13. Can a model be sent to a friend, who installs nothing?

Draft.
"""

import base64
import json
import re
import zlib
from html import escape
from importlib import import_module
from pathlib import Path

import tools
from tools import UserError

import torch

training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
comparison = import_module("10_compare")

WEB = tools.ROOT / "web"
MAX_PAGE = 100 * 10**6  # bytes; a browser takes seconds to unpack as much, and mail refuses far less


def pack_weights(model):
    weights = torch.cat([value.flatten() for value in model.state_dict().values()]).bfloat16()  # [parameters]
    halves = weights.view(torch.uint8).view(-1, 2).T.flip(0)  # [2, parameters]
    packer = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return base64.b64encode(packer.compress(halves.contiguous().numpy().tobytes()) + packer.flush()).decode()


def build_page(models, units):
    contents = dict(
        units=units, checkpoint='x.pt',
        wasm=base64.b64encode((WEB / "product.wasm").read_bytes()).decode(),
        models=[
            dict(name=name, parameters=sum(p.numel() for p in model.parameters()), config=vars(model.config), shapes=[(k, list(v.shape)) for k, v in model.state_dict().items()])
            for name, model in models.items()
        ],
    )
    read = lambda name: (WEB / name).read_text(encoding="utf-8")  # noqa: E731
    weights = [
        f'<script id="weights-{i}" type="text/plain">{pack_weights(model)}</script>'
        for i, model in enumerate(models.values())
    ]
    parts = dict(
        title=escape(next(iter(models))),
        style=read("page.css"),
        worker=read("model.js") + read("sampler.js"),
        script=read("page.js"),
        contents=json.dumps(contents).replace("<", r"\u003c"),
        weights="\n".join(weights),
    )
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read("page.html"))
