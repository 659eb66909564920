"""Where a script computes: which device, which dtype, one process or several, and PyTorch's random generators."""

import contextlib
import functools
import os
import time

from tools.command_line import UserError

import torch
import torch.distributed as dist


def pick_device(name):
    """'auto' -> cuda, then mps, then cpu. Raises UserError for a device that this machine lacks."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available.get(name):
        here = ", ".join(device for device, there in available.items() if there)
        raise UserError(f"this machine has no device {name!r}; it has {here}.")
    return torch.device(name)


# ---- Several processes
def join_processes(device):
    """Returns this process's device. Joins the copies of a script that torchrun started. They share each batch."""
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")  # gloo has no mps
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def rank_and_number():
    """(the number of this process, how many there are)"""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def agree(number, device):
    """Returns the first process's number in every process. All go by one clock and stop at one step."""
    if dist.is_initialized():
        number = torch.tensor(number, dtype=torch.float64, device=device)
        dist.broadcast(number, src=0)
        number = number.item()
    return number


def mean_over_processes(number, device):
    """The mean of the numbers of all processes, in every process."""
    if dist.is_initialized():
        number = torch.tensor(number, dtype=torch.float64, device=device)
        dist.all_reduce(number)
        number = number.item() / dist.get_world_size()
    return number


# ---- The dtype
def native_dtype(device, width):
    """(name of a dtype, why): "bfloat16" where training is faster in it, else "float32".

    bfloat16 has 16 bits: float32's range and fewer digits. A GPU says whether it has it. Some CPUs are nearly twice as
    fast in it, others half as fast. So a matrix product of the model's own width is timed in both (docs/tuning.md).
    """
    if device.type == "cuda":
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bfloat16", "this GPU has it") if has_it else ("float32", "this GPU has no bfloat16")
    if device.type != "cpu":
        return "float32", f"not tried on {device.type}"
    seconds = {dtype: time_product(width, dtype) for dtype in (torch.float32, torch.bfloat16)}
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    why = f"here a matrix product of width {width} is {gain:.1f} times as fast in bfloat16 as in float32"
    return "bfloat16" if gain > 1.1 else "float32", why


def time_product(width, dtype, rows=2048, repeats=4):
    """Seconds of the fastest of a few products [rows, width] x [width, 4 width]. A feed-forward layer has such ones."""
    x, matrix, times = torch.ones(rows, width, dtype=dtype), torch.ones(4 * width, width, dtype=dtype), []
    for _ in range(repeats):
        began = time.perf_counter()
        torch.nn.functional.linear(x, matrix)
        times.append(time.perf_counter() - began)
    return min(times)


def float32_on_cpu(function):
    """Makes a function of tensors compute in float32 where these are in bfloat16 on a CPU.

    It is for attention, whose gradients are slow there in bfloat16 (docs/tuning.md).
    """

    @functools.wraps(function)
    def computed(*tensors, **options):
        if tensors[0].device.type == "cpu" and tensors[0].dtype == torch.bfloat16:
            with torch.autocast("cpu", enabled=False):  # else lesson 5's rounding to bfloat16 would come back here
                return function(*(x.float() if isinstance(x, torch.Tensor) else x for x in tensors), **options)
        return function(*tensors, **options)

    return computed


# ---- Random generators
def generator_states(device):
    """{name: the state of each of PyTorch's own random generators}."""
    states = dict(cpu=torch.get_rng_state())
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_generators(states, device):
    """Takes up what generator_states gave. A run that moved to another device begins anew there."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@contextlib.contextmanager
def same_generators(device):
    """What happens inside leaves PyTorch's generators as they were."""
    states = generator_states(device)
    yield
    set_generators(states, device)
