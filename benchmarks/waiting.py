"""What does it cost, and gain, that PyTorch's threads soon sleep while they wait? (Linux; tools.py sets it)

    python -m benchmarks.waiting              half an hour; nothing else should run meanwhile

Times whole scripts, with their threads waiting in several ways, in turns: alone, and beside four endless loops, which
stand for a busy laptop. Of training it times a few steps a turn, ten times as many turns: a process for each way waits
until it is its turn. GOMP_SPINCOUNT is how often a thread looks for new work before it sleeps. In brackets: the ratio
to the first column, a geometric mean over the turns, +- its standard error.
"""

import math
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib import import_module

from tools import LETTERS_A_STEP, ROOT, Parser, between, mean_and_error, native_dtype, run

import torch

training = import_module("05_train")
transformer = training.transformer

WAYS = {
    "300,000 looks, PyTorch's default": dict(GOMP_SPINCOUNT="300000"),
    "10,000": dict(GOMP_SPINCOUNT="10000"),
    "5,000, as tools.py has it": {},
    "1,000": dict(GOMP_SPINCOUNT="1000"),
    "none": dict(GOMP_SPINCOUNT="0"),
    "one thread": dict(OMP_NUM_THREADS="1"),
}
TASKS = {
    "06_generate.py, 256 letters": ("06_generate.py", "--seed", "1", "--quiet"),
    "02_attention.py": ("02_attention.py",),
}
STEPS = {"small": 4, "base": 2}  # of training, in one turn
LOOPS = 4


@contextmanager
def busy_machine(loops):
    """So many endless loops run beside what stands inside."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds_of(task, way):
    """Seconds that a script takes from start to end."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, str(ROOT / task[0]), *task[1:]], env=os.environ | way, capture_output=True, check=True
    )
    return time.perf_counter() - began


def train_in_turns(preset):
    """In a process of its own: trains for so many steps as a line of standard input says, prints their seconds, and
    waits for the next line. Random letters, as many as 05_train.py takes in a step, in the dtype that it would take."""
    generator = torch.Generator().manual_seed(0)
    model = transformer.Transformer(transformer.Config(65, **transformer.PRESETS[preset]))
    L, dtype = model.config.context, native_dtype(torch.device("cpu"), model.config.dim)[0]
    optimizers = transformer.make_optimizers(model, lr=0.02, dtype=dtype)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            tokens = torch.randint(65, (LETTERS_A_STEP // L, L), generator=generator)  # [B, L]
            inputs, mask = training.DIFFUSION.prepare(tokens, 65, generator)  # [B, L] each
            with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
                loss = training.DIFFUSION.loss(model(inputs).float(), inputs, tokens, mask).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        print(time.perf_counter() - began, flush=True)


def training_times(preset, turns):
    """{way: seconds of a step in each turn} of training."""
    program = [sys.executable, "-c", f"from benchmarks.waiting import train_in_turns as train; train({preset!r})"]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    processes = {way: subprocess.Popen(program, env=os.environ | WAYS[way], **pipes) for way in WAYS}
    times = {way: [] for way in WAYS}
    for turn in range(turns + 1):
        for way, process in processes.items():
            print(STEPS[preset], file=process.stdin, flush=True)
            seconds = float(process.stdout.readline())
            if turn:  # the first is slow
                times[way].append(seconds / STEPS[preset])
    for process in processes.values():
        process.communicate()  # nothing more to read: it ends
    return times


def row_of(name, times):
    """A row of the table; times: {way: seconds of each turn}. Medians, and how they compare with the first way's."""
    logs = torch.tensor(list(times.values()), dtype=torch.float64).log()  # [ways, turns]
    cells = []
    for seconds, against in zip(times.values(), logs - logs[0]):
        cell = f"{statistics.median(seconds):.2f}"
        if cells and len(seconds) > 1:
            mean, error = mean_and_error(against)
            cell += f" ({math.exp(mean):.2f} +- {math.exp(mean) * error:.2f})"
        cells.append(cell)
    return f"| {name} | {' | '.join(cells)} |"


def main():
    """Prints a table for the idle machine and one for the busy one."""
    parser = Parser(__doc__)
    parser.add_argument("--repeats", type=between(int, 1, 100), default=3, help="runs of each (default: %(default)s)")
    repeats = parser.parse_args().repeats
    for loops in (0, LOOPS):
        print(f"\n| seconds, median, beside {loops} endless loops | {' | '.join(WAYS)} |")
        print("|---|" + "---|" * len(WAYS))
        for name, task in TASKS.items():
            if loops and task[0] != "06_generate.py":
                continue
            times = {way: [] for way in WAYS}
            with busy_machine(loops):
                for _ in range(repeats):  # in turns, so that a disturbance hits all ways alike
                    for way, variables in WAYS.items():
                        times[way].append(seconds_of(task, variables))
            print(row_of(name, times), flush=True)
        for preset in () if loops else STEPS:
            print(row_of(f"a step of training `{preset}`", training_times(preset, 10 * repeats)), flush=True)


if __name__ == "__main__":
    run(main)
