"""What does it cost, and gain, that PyTorch's threads soon sleep while they wait? (Linux; tools.py sets it)

    python -m benchmarks.waiting              twenty minutes; nothing else should run meanwhile

Times whole scripts, with their threads waiting in several ways, in turns: alone, and beside four endless loops, which
stand for a busy laptop. GOMP_SPINCOUNT is how often a thread looks for new work before it sleeps. In brackets: the
ratio to the first column, a geometric mean over the turns, +- its standard error.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from tools import ROOT, Parser, between, mean_and_error, run

import torch

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
    "training `small`, 30 steps": ("05_train.py", "--preset", "small", "--steps", "30", "--batch", "16"),
    "training `base`, 6 steps": ("05_train.py", "--preset", "base", "--steps", "6", "--batch", "16"),
}
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
    """Seconds that a script takes from start to end; of training, those of its steps alone."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / task[0]), *task[1:]]
        trains = task[0].startswith("05")
        if trains:
            text = Path(folder) / "text.txt"  # a short one, so that the evaluations are
            text.write_text((ROOT / "01_tensors.py").read_text(encoding="utf-8") * 3, encoding="utf-8")
            command += ["--data", str(text), "--out", f"{folder}/run.pt"]
        began = time.perf_counter()
        subprocess.run(command, env=os.environ | way, capture_output=True, text=True, check=True)
        if trains:
            return float(Path(folder, "run.csv").read_text().splitlines()[-1].split(",")[1])
        return time.perf_counter() - began


def row_of(name, times):
    """A row of the table; times: {way: seconds of each turn}. Medians, and how they compare with the first way's."""
    logs = torch.tensor(list(times.values()), dtype=torch.float64).log()  # [ways, turns]
    cells = []
    for seconds, against in zip(times.values(), logs - logs[0]):
        cell = f"{statistics.median(seconds):.1f}"
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
        print(f"\n| seconds, median of {repeats}, beside {loops} endless loops | {' | '.join(WAYS)} |")
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


if __name__ == "__main__":
    run(main)
