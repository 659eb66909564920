"""What the tests share: importing lessons, running scripts, a small text and a small model, and the real data."""

import io
import os
import runpy
import subprocess
import sys
import threading
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.checkpoints import save_checkpoint  # before torch: tools says how its threads wait

import torch

torch.set_num_threads(1)

VERSE = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate.\n"


@pytest.fixture
def text_file(tmp_path):
    """A text of 4,920 characters in a file."""
    path = tmp_path / "verse.txt"
    path.write_text(VERSE * 60, encoding="utf-8")
    return path


@pytest.fixture
def real_text():
    """TinyShakespeare, where data/ has it."""
    path = ROOT / "data" / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip("data/tinyshakespeare.txt is not there")
    return path.read_text(encoding="utf-8")


def random_model(V, context, n_layers=2, dim=16, causal=False, std=0.3):
    """A model with random weights that depend on everything that it may see."""
    transformer = import_module("03_transformer")
    torch.manual_seed(0)
    model = transformer.Transformer(transformer.Config(V, context, n_layers, 2, dim, causal))
    for matrix in (p for p in model.parameters() if p.ndim == 2):
        torch.nn.init.normal_(matrix, std=std)
    return model.eval()


def random_gpt(V, context, std=0.3):
    """A small GPT with random weights."""
    return random_model(V, context, causal=True, std=std)


def random_dllm(units, context=32):
    """A small dLLM with random weights, whose heads are 6 numbers wide."""
    return random_model(len(units), context, dim=12)


def save_model(path, model, units, **recorded):
    """Saves a model as a checkpoint for generating. Returns the path."""
    contents = dict(model=model.state_dict(), config=asdict(model.config), units=list(units), step=0)
    save_checkpoint(contents | recorded, path)
    return path


@pytest.fixture
def small_model():
    """A small dLLM with random weights, and the alphabet of VERSE."""
    tokenizer = import_module("01_tensors").Tokenizer(sorted(set(VERSE)))
    return random_model(tokenizer.vocab_size, 32, n_layers=1), tokenizer


@pytest.fixture
def small_checkpoint(small_model, tmp_path):
    """The path of small_model as a checkpoint for generating."""
    model, tokenizer = small_model
    return save_model(tmp_path / "small.safetensors", model, tokenizer.units)


@pytest.fixture
def gpt_checkpoint(tmp_path):
    """The path of a small GPT as a checkpoint for generating, with the alphabet of VERSE."""
    units = sorted(set(VERSE))
    return save_model(tmp_path / "gpt.safetensors", random_gpt(len(units), 32), units)


def seeded(seed=0):
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


class TableModel:
    """A denoiser with arbitrary, fixed logits for every canvas of L letters out of V: wrong, but known."""

    def __init__(self, V, L):
        self.config = SimpleNamespace(vocab_size=V)
        self.table = torch.randn((V + 1,) * L + (L, V), generator=seeded(5))
        self.passes = 0

    def __call__(self, tokens):
        self.passes += 1
        return self.table[tuple(tokens.T)]


def nats_in_order(model, x, order):
    """-log p(x at the places in `order` | the rest), unmasking one after the other in this order."""
    canvas, total = x.clone(), 0.0
    canvas[list(order)] = model.config.vocab_size
    for place in order:
        total -= torch.log_softmax(model(canvas[None])[0, place], dim=-1)[x[place]].item()
        canvas[place] = x[place]
    return total


def in_bfloat16(model):
    """The model with its weights rounded to bfloat16, as a page carries them."""
    return model.bfloat16().float()


class Quiet(BaseHTTPRequestHandler):
    """A request handler that logs nothing."""

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(handler):
    """A web server on the loopback; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()  # how often it looks for its end
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def environment(**extra):
    """The environment for a script that must not reach a network."""
    threads = {"OMP_NUM_THREADS": "1"}  # as many as here
    own = threads | {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONIOENCODING": "utf-8"}
    return os.environ | own | extra


def start(script, *arguments, **options):
    """Starts a script as a process of its own."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    return subprocess.Popen(command, env=environment(**options.pop("env", {})), **pipes, **options)


def run_script(script, *arguments, **options):
    """Runs a script to its end. Returns (exit status, standard output, standard error).

    In a process of its own where the options, those of `start`, ask for one; else here, which saves importing torch.
    """
    if not options:
        return run_script_here(script, *arguments)
    process = start(script, *arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run_script_here(script, *arguments):
    """run_script in this process, which it leaves as it was."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    argv, sys.argv, code = sys.argv, [script, *map(str, arguments)], 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
    finally:
        sys.argv = argv
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))


def assert_refused(result, status, *words):
    """The script gave one sentence that holds the words, and nothing else; and this exit status."""
    code, out, err = result
    lines = [line for line in err.strip().splitlines() if "parameters," not in line]
    assert code == status, err
    assert out == ""
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0], err
