"""Lesson 5. How is the model trained, and how do we know how good it is?

Trains the transformer of lesson 3 on the objective of lesson 4, on TinyShakespeare or on any text of yours. The last
tenth of the text is held out. Training never sees it. So the bound on it shows what was learned, and a text learned by
heart does not help.

`train_plainly` is all there is to training, in some twenty lines. `--plain` runs it. `train` is the same loop for hours
of work. It adds a learning rate that warms up and falls, and a limit on each gradient. It computes in bfloat16 where
that is faster. It measures the held-out bound eight times, keeps a log and saves every minute. It can share the work
among several processes.

--resume goes on with a run that was stopped by Ctrl-C or a power cut. It restores the weights, the optimizers, the
random generators, the step and the clock. With --steps the result equals that of an unbroken run to the bit, on the
same machine. With --minutes the learning rate follows the clock, and no two runs are equal to the bit.

Builds on:  lessons 1 (text), 3 (the model, its optimizers) and 4 (the objective, the bound, sample).
Run:        python 05_train.py --plain                      (half a minute)
            python 05_train.py                              (5 minutes and the evaluations)
            python 05_train.py --data my_text.txt --preset base --minutes 300 --out checkpoints/mine.safetensors
            python 05_train.py --preset base --batch 64 --dropout 0.2 --weight-decay 0.1 --minutes 7   (on a fast GPU)
            python 05_train.py --evaluate checkpoints/shakespeare.safetensors
            torchrun --nproc_per_node=2 05_train.py         (data-parallel)
Last line:  the command that generates text from what was trained.

--out NAME.safetensors holds the run's state. Beside it lie NAME_best.safetensors (the best held-out weights), NAME.csv
(the log) and NAME.png (the curve).

Exercises (answers in docs/answers.md). Use --steps 100 --batch 8 and another --out for each run. A run takes minutes.
  1. Set lesson 4's BELL_WIDTH to 10, which is almost uniform. Why may the two bounds be compared, and the losses not?
  2. Set lesson 2's START_STRENGTH to 0. How far is the bound behind, and what does the sample look like?
  3. Change nothing but --seed. How far apart are the bounds, and which gaps between two recipes would you believe?
"""

import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module

from tools import checkpoints
from tools.command_line import StopRequest, UserError, print_command, run
from tools.devices import agree, mean_over_processes, pick_device, rank_and_number, same_generators
from tools.older_checkpoints import convert
from tools.pictures import mean_and_error
from tools.settings import settle, training_parser
from tools.training_run import Reporter, Run

import torch
import torch.distributed as dist
from torch import nn

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")


# ---- The loop, as plain as it gets
def train_plainly(text, steps=300, context=64):
    """Trains a small model on a text for half a minute and prints what comes out."""
    torch.manual_seed(0)  # the same weights to begin with in every run
    tokenizer = tensors.Tokenizer(sorted(set(text)))
    V = tokenizer.vocab_size
    training_text, heldout = tensors.split_text(text, tokenizer, context)
    draw = tensors.random_windows(training_text, context, batch=16)
    model = transformer.Transformer(transformer.Config(V, context, n_layers=2, n_heads=4, dim=128))
    optimizers = transformer.make_optimizers(model, lr=0.025, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        tokens = draw(generator)  # [B, L]
        inputs, mask = diffusion.hide_some(tokens, V, generator)  # [B, L] each
        logits = model(inputs)  # [B, L, V]
        loss = diffusion.masked_cross_entropy(logits, tokens, mask).mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}  loss {loss.item():.2f}")
    print(f"held-out bound {heldout_bound(model, heldout)[0]:.2f} nats/character\n{write_sample(model, tokenizer)}")


# ---- The objective: what the model sees, what it must guess, and the held-out figure
@dataclass(frozen=True)
class Objective:
    """What the loop must know about a kind of model. Lesson 7 trains a GPT by the same loop and another Objective."""

    causal: bool  # GPT: True, lest a position see what it must guess
    label: str  # GPT: "exact", for the held-out figure is a likelihood (here "bound")
    prepare: Callable  # (tokens [B, L], vocab_size, generator) -> inputs [B, L], mask [B, L] of what to guess
    heldout: Callable  # (model, windows [N, L]) -> nats per token
    report: Callable  # (model, windows [N, L]) -> the figure measured carefully, as a sentence
    write: Callable  # (model, tokenizer) -> a short sample, as text
    reader: Callable = lambda model: model  # (model) -> what turns inputs into logits
    token: str = "character"  # what a token is called in what the run prints


def write_sample(model, tokenizer):
    """A few lines from the model, in half as many passes as letters."""
    L, generator = model.config.context, torch.Generator().manual_seed(0)
    canvas = torch.full((1, L), model.config.vocab_size, device=model.head.weight.device)
    tokens = diffusion.sample(model, canvas, L // 2, temperature=0.8, order="random", generator=generator)
    return tokenizer.decode(tokens[0])


@torch.inference_mode()
def heldout_bound(model, windows, draws=1):
    """(nats per token, standard error over the draws): the bound on held-out windows [N, L]. One draw has error nan.

    The masks come from a generator with a fixed seed. So every call measures the same thing.
    """
    generator, figures = torch.Generator().manual_seed(0), []
    for _ in range(draws):
        parts = [diffusion.bound(model, part, generator=generator) for part in windows.split(64)]
        figures.append(torch.cat(parts).mean().item())
    return mean_and_error(torch.tensor(figures)) if draws > 1 else (figures[0], math.nan)


def report_bound(model, windows):
    """The held-out bound from 16 draws a window, with its standard error."""
    nats, error = heldout_bound(model, windows, draws=16)
    return f"bound {nats:.4f} +- {error:.4f} nats/character ({nats / math.log(2):.3f} bits)"


def quick_bound(model, windows):
    """The held-out bound from one draw a window, in nats per token. It is off by some 0.01."""
    return heldout_bound(model, windows)[0]


DIFFUSION = Objective(False, "bound", diffusion.hide_some, quick_bound, report_bound, write_sample)


# ---- A model from a checkpoint
def load_checkpoint(path, device="cpu"):
    """Returns (model in eval mode, tokenizer, info) from a checkpoint file, also one of the older published format.

    info is a dict of what else is recorded: config, step, characters, seconds, heldout. Raises UserError.
    """
    contents = checkpoints.read_checkpoint(path)
    info = checkpoints.progress_of(contents, path)
    if "token_emb.weight" in contents["model"]:
        model, units = convert(contents, path, transformer.Config)
    else:
        config, units = read_config(contents, path)
        with torch.device("meta"):  # takes no memory, since the weights come from the file
            model = transformer.Transformer(config)
        checkpoints.load_weights(model, contents["model"], path)
        info["config"] = asdict(config)
    return model.to(device).eval(), tensors.Tokenizer(units), info


def read_config(contents, path):
    """(Config, units) of a checkpoint's dict. Raises UserError unless they and the number of its weights fit together.

    So a model that is made from them has the size of the file.
    """
    checkpoints.check_fields(contents.get("config"), checkpoints.CONFIG, path)
    config = transformer.Config(**contents["config"])
    units = checkpoints.checked_units(contents.get("units"), config.vocab_size, path)
    if config.dim % (2 * config.n_heads) or config.dim < 8 * config.n_heads:
        raise checkpoints.unfit(path, f"{config.n_heads} heads do not share {config.dim}")
    checkpoints.check_count(contents["model"], transformer.parameter_count(config), path)
    return config, units


def load_kind(path, causal, device="cpu"):
    """`load_checkpoint` for a GPT if causal, else for a dLLM. Raises UserError for the other kind."""
    model, tokenizer, info = load_checkpoint(path, device)
    if model.config.causal and not causal:
        use = "GPTs write by 07_train_gpt.py --generate"
        raise UserError(f"{path} is a GPT; this needs a dLLM, such as 05_train.py makes ({use}).")
    if causal and not model.config.causal:
        use = "dLLMs write by 06_generate.py"
        raise UserError(f"{path} is a dLLM; this needs a GPT, such as 07_train_gpt.py makes ({use}).")
    return model, tokenizer, info


# ---- The run
WARMUP_STEPS = 20
FINAL_LR = 0.05  # the learning rate ends at this share of its peak


def get_lr(step, progress):
    """The share of the peak learning rate: a straight line down to FINAL_LR, times a warm-up over WARMUP_STEPS.

    step counts from 0. progress in [0, 1] is the share of the run that is done, in steps or in minutes.
    """
    return min(1, (step + 1) / WARMUP_STEPS) * (1 - (1 - FINAL_LR) * progress)


def begin(settings, tokenizer, config, saved=None, weights=None):
    """The Run that `train` works on. saved: the checkpoint to go on from. weights: those that a new run begins with."""
    torch.manual_seed(settings.seed)  # for the weights to start from
    model = transformer.Transformer(config).to(settings.device)
    if weights:
        model.load_state_dict(weights)
    dtype = getattr(torch, settings.dtype)
    optimizers = transformer.make_optimizers(model, settings.lr, dtype, settings.weight_decay)
    run = Run(settings, model, optimizers, asdict(config), tokenizer)
    if saved:
        run.restore(saved)
    return run


def make_forward(run, objective):
    """(what turns inputs into logits, whether it is compiled): the model, which several processes keep equal."""
    has_compiler = importlib.util.find_spec("triton")  # not on Windows
    compiles = run.settings.compiles and run.device.type == "cuda" and has_compiler
    forward = objective.reader(run.model)
    forward = torch.compile(forward) if compiles else forward
    return nn.parallel.DistributedDataParallel(forward) if dist.is_initialized() else forward, compiles


def train(settings, objective, tokenizer, config, draw, windows, saved=None, weights=None):
    """Trains a model on tokens [B, L] from draw(generator). B and L may vary. Writes settings.out and its companions.

    windows [M, L] are held out, to measure on. saved and weights are as in `begin`. It ends at settings.limit or on a
    stop request.
    """
    rank, processes = rank_and_number()
    if settings.batch % processes:
        raise UserError(f"--batch {settings.batch} cannot be shared out evenly among {processes} processes.")
    run = begin(settings, tokenizer, config, saved, weights)
    if rank:
        torch.manual_seed(settings.seed + processes * run.step + rank)  # dropout must differ between processes
    device, dtype = run.device, getattr(torch, settings.dtype)
    forward, compiled = make_forward(run, objective)
    mine = slice(rank, None, processes)  # this process's rows

    def loss_of(tokens, inputs, mask):
        with torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16):
            logits = forward(inputs[mine]).float()  # [B / processes, L, V]
            return diffusion.masked_cross_entropy(logits, tokens[mine], mask[mine]).mean()

    if compiled:  # once before the clock runs, since it takes a minute. The generators must not notice.
        with same_generators(device):
            generator = torch.Generator().manual_seed(0)
            tokens = draw(generator).to(device)
            loss_of(tokens, *objective.prepare(tokens, config.vocab_size, generator)).backward()
        run.model.zero_grad()

    reporter = Reporter(run, objective, windows.to(device), not saved) if rank == 0 else None
    with StopRequest() as stop:
        while (progress := agree(1.0 if stop.made else run.progress(), device)) < 1:
            began = time.perf_counter()
            run.lr = settings.lr * get_lr(run.step, progress)
            for optimizer, ratio in zip(run.optimizers, (1, transformer.ADAMW_LR_RATIO)):
                optimizer.param_groups[0]["lr"] = run.lr * ratio

            tokens = draw(run.generator).to(device)  # [B, L]
            inputs, mask = objective.prepare(tokens, config.vocab_size, run.generator)  # [B, L] each
            loss = loss_of(tokens, inputs, mask)
            loss.backward()
            nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)  # a rare huge gradient would throw it far off
            for optimizer in run.optimizers:
                optimizer.step()
                optimizer.zero_grad()

            run.step, run.characters = run.step + 1, run.characters + tokens.numel()
            loss = mean_over_processes(loss.item(), device)  # waits for the device, so that the clock tells the truth
            run.seconds += time.perf_counter() - began
            if reporter:
                reporter.report(loss, progress)

    if reporter:
        reporter.finish()
    if processes > 1:
        del forward  # DDP's wrapper first, then its process group: the other order can hang
        dist.destroy_process_group()


# ---- The command line
def train_on_text(settings, text, saved, objective, generate):
    """Trains on a text. Prints the command that writes from the result, which begins with `generate`."""
    units = sorted(set(text))
    shape = transformer.PRESETS[settings.preset]
    config = transformer.Config(len(units), **shape, causal=objective.causal, dropout=settings.dropout)  # GPT: True
    tokenizer = tensors.Tokenizer(units)
    tokens, windows = tensors.split_text(text, tokenizer, config.context)
    draw = tensors.random_windows(tokens, config.context, settings.batch)
    train(settings, objective, tokenizer, config, draw, windows, saved)
    print_command(generate, settings.out)


def print_evaluation(args, objective):
    """Prints the held-out figure of the checkpoint --evaluate."""
    model, tokenizer, _ = load_kind(args.evaluate, objective.causal, pick_device(args.device))
    _, windows = tensors.split_text(tensors.load_text(args.data), tokenizer, model.config.context)
    figure = objective.report(model, windows.to(model.head.weight.device))
    print(f"{args.evaluate} on {args.data or 'TinyShakespeare'}: {figure}")


def main():
    """The command line of 05_train.py."""
    parser = training_parser(__doc__, "my_shakespeare.safetensors", transformer.PRESETS)
    parser.add_argument("--plain", action="store_true", help="run the plainest loop on --data and keep nothing")
    args = parser.parse_args()
    if args.plain and parser.changed(args, vars(args).keys() - {"plain", "data"}):
        parser.error("of the other flags, --data alone goes with --plain")
    if args.plain:
        return train_plainly(tensors.load_text(args.data))
    if args.evaluate is not None:
        return print_evaluation(args, DIFFUSION)
    settings, text, saved = settle(args, "05_train.py", transformer.PRESETS, tensors.load_text)
    train_on_text(settings, text, saved, DIFFUSION, "python 06_generate.py")


if __name__ == "__main__":
    run(main)
