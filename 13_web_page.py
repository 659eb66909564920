"""Lesson 13. How do you send a model to a friend, who will install nothing?

As one web page: an HTML file with the weights inside. Anyone opens it in a browser, without a network, and watches it
write. The browser computes all but the first text on the screen. So lessons 2 to 4, 6 and 7 are there a second time, in
JavaScript. web/model.js is the transformer and web/sampler.js has the samplers. The other files are what is seen and
pressed. What takes long is there a third time, in WebAssembly (web/product.wat). Its instructions work on four numbers
at once.

Two languages write the same text when these are the same:
  the weights      bfloat16, as the checkpoint has them. Half of a bfloat16's 16 bits hardly vary, since small numbers
                   have like exponents. A Huffman code makes fewer bits of them and loses nothing
  the arithmetic   RoPE's angles in float32, GELU by the error function and not by tanh. Sums in another order are
                   allowed: they differ in the sixth digit
  the rules        which places come first, ties included, and how probabilities are rounded before they are compared
  the chances      PyTorch's random numbers are those of the Mersenne Twister, of which 24 bits make a float32
  the defaults     lesson 6's temperature and blank lines, which this lesson writes into the page
So a seed writes in the page what it writes on the command line, letter for letter. The walk proves it for four ways of
writing. It needs Node, which runs the page's own script without a browser.

Builds on:  lessons 1 (Tokenizer), 3 (Transformer), 5 (load_kind), 6 (Sampling, generate), 7 (can_cache), 10 (Writers).
Run:        python 13_web_page.py                                              (some seconds)
            python 13_web_page.py --gpt checkpoints/gpt_small.safetensors --out figures/race.html
            python 13_web_page.py --checkpoint checkpoints/tamil.safetensors
            python 13_web_page.py --checkpoint checkpoints/mine.safetensors --out mine.html
Last line:  the path of the page.

Exercises (answers in docs/answers.md)
  1. Round each row of each matrix to 8 bits (its largest number becomes 127). How large is the page, and what does the
     bound become?
  2. In web/model.js, let gelu use the approximation by tanh that GPT-2 has. How far off are the logits of JavaScript
     alone? And the text that it writes?
  3. Let `number` in web/sampler.js take the upper 24 bits instead of the lower ones. Which text changes, which does
     not?
"""

import base64
import json
import re
import shutil
import subprocess
import timeit
import zlib
from html import escape
from importlib import import_module
from pathlib import Path

from tools.command_line import Parser, UserError, check, given_path, run
from tools.files import ROOT, find_checkpoint, write_safely

import torch

diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
comparison = import_module("10_compare")

CARRIED = generation.SMALL  # the model that the page carries unless another one is given
WEB = ROOT / "web"
MAX_PAGE = 100 * 10**6  # bytes. A browser would take long to unpack more
SCRIPTS = dict(  # the parts of the page's program, and the files of each, in the order in which they are read
    worker=("model.js", "sampler.js", "worker.js"),  # runs beside the page
    rules=("alphabet.js", "settings.js", "layout.js"),  # what needs no screen
    script=("writer.js", "panel.js", "sharing.js", "tour.js", "hiding.js", "forms.js", "page.js"),
)
SEEDS = dict(  # of texts that read well. A page begins with them, for other models with 1, 2, 3
    small=(10, 43, 22, 83, 69),
    shakespeare=(11, 9, 22, 15, 13),
    tamil=(1, 10, 5),
)
TEXTS = (
    dict(temperature=0.0, steps=128, revise=0),
    dict(temperature=0.8, steps=128, revise=0),
    dict(temperature=0.8, steps=32, revise=0),
    dict(temperature=0.7),  # as lesson 6 writes without being told otherwise
)  # the walk's Samplings


# ---- The page
def pack_weights(model):
    """The weights of a model in bfloat16, in the order of its state dict, as text (base64).

    First come all first bytes, which hold sign and exponent. So bytes that are alike stand together, and a Huffman code
    gives the frequent ones fewer bits. (It is zlib without its search for repetitions, of which there are none.)
    """
    weights = torch.cat([value.detach().flatten() for value in model.state_dict().values()]).bfloat16()  # [N]
    halves = weights.view(torch.uint8).view(-1, 2).flip(1).T.contiguous()  # [2, N] bytes
    packer = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return base64.b64encode(packer.compress(halves.numpy().tobytes()) + packer.flush()).decode()


def entry_of(name, model):
    """What the page must know of a model to unpack it. Raises UserError for one that it cannot compute."""
    if not gpt.can_cache(model):
        older = "is of the older format, whose layers the page does not have"
        raise UserError(f"the model {name} {older}: train one with lesson 5 or 7.")
    shapes = {part: list(value.shape) for part, value in model.state_dict().items()}
    parameters = sum(value.numel() for value in model.parameters())
    return dict(name=name, config=vars(model.config), shapes=list(shapes.items()), parameters=parameters)


def opening_text(model, tokenizer, seed, length):
    """[length] tokens that lesson 6 writes by default. The page shows them until it has unpacked its model."""
    canvas = generation.make_canvas(tokenizer, None, None, length, 1, "cpu")  # [1, length] masks between blank lines
    sampling = generation.Sampling.for_letters(int((canvas == tokenizer.vocab_size).sum()), generation.TEMPERATURE)
    return generation.generate(model, canvas, sampling, torch.Generator().manual_seed(seed))[0].tolist()


def page_contents(models, tokenizer, checkpoint):
    """What the page must know beside the weights. models: {name: model}, the dLLM first. checkpoint: its name in
    commands. Raises UserError for a model that the page cannot compute."""
    entries = [entry_of(name, model) for name, model in models.items()]
    (name, model), *_ = models.items()
    L = min(model.config.context for model in models.values())
    seeds = SEEDS.get(name, (1, 2, 3))
    given = generation.make_canvas(tokenizer, None, None, L, 1, "cpu")[0].tolist()  # [L] lesson 6's
    masks = [i for i, token in enumerate(given) if token == tokenizer.vocab_size]
    ends = dict(first=given[: masks[0]], last=given[masks[-1] + 1 :])
    return dict(
        models=entries,
        units=tokenizer.units,
        checkpoint=checkpoint,
        defaults=dict(temperature=generation.TEMPERATURE, **ends),
        opening=dict(seeds=seeds, text=opening_text(model, tokenizer, seeds[0], min(128, L))),
        wasm=base64.b64encode((WEB / "product.wasm").read_bytes()).decode(),
    )


def build_page(models, tokenizer, checkpoint):
    """The page as text. models: {name: model}, the dLLM first, then a GPT or none. checkpoint: its name in commands.

    Raises UserError for a model that the page cannot compute, and for a page that is too large.
    """
    read = lambda *names: "\n".join((WEB / name).read_text(encoding="utf-8") for name in names)  # noqa: E731
    contents = page_contents(models, tokenizer, checkpoint)
    weights = '<script id="weights-{}" type="text/plain">{}</script>'
    parts = dict(
        title=escape(contents["models"][0]["name"]),
        style=read("page.css"),
        contents=json.dumps(contents).replace("<", r"\u003c"),  # or a unit "</script>" would end it
        weights="\n".join(weights.format(i, pack_weights(model)) for i, model in enumerate(models.values())),
    ) | {name: read(*files) for name, files in SCRIPTS.items()}
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read("page.html"))
    if (size := len(page.encode())) > MAX_PAGE:
        raise UserError(f"the page would have {size / 1e6:.0f} MB: more than {MAX_PAGE / 1e6:.0f} are too many for it.")
    return page


# ---- The proof
def run_in_node(path, questions):
    """The answers of the page at `path` to questions, [[what, argument, ...]] as web/in_node.js has them."""
    command = [shutil.which("node"), str(WEB / "in_node.js"), str(path)]
    done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, encoding="utf-8")
    if "DecompressionStream is not defined" in done.stderr:
        raise UserError("this Node is too old to prove the page, version 18 can: the page is written all the same.")
    if done.returncode:
        raise RuntimeError(f"Node could not run the page: {done.stderr}")
    return json.loads(done.stdout)


def page_settings(sampling):
    """A Sampling as the page has it."""
    settings = vars(sampling) | dict(writing=sampling.steps - sampling.revise)
    return {name: value for name, value in settings.items() if name != "top_k"}


@torch.inference_mode()
def show_same_logits(path, number, model, fast=True):
    """Compares the logits of both languages for a canvas of which a third is hidden. (To a GPT these letters are row V,
    which is as good a test.)"""
    V, L = model.config.vocab_size, model.config.context
    tokens, _ = diffusion.mask_exactly(
        torch.randint(V, (1, L), generator=torch.Generator().manual_seed(1)), torch.tensor([L // 3]), V,
        torch.Generator().manual_seed(2),
    )  # fmt: skip
    _, logits = run_in_node(path, [["open", number, fast], ["logits", tokens[0].tolist()]])
    apart = (torch.tensor(logits) - model(tokens)[0]).abs().max().item()
    way = "WebAssembly" if fast else "JavaScript alone"
    check(f"{way}: no logit is more than {apart:.0e} from PyTorch's", apart < 1e-3)


@torch.inference_mode()
def show_seconds(path, model, passes=20):
    """Prints how long a pass takes in the page, which has one thread, and in PyTorch. Each is the quickest of a few."""
    canvas = torch.full((1, model.config.context), model.config.vocab_size)  # [1, L]
    _, seconds = run_in_node(path, [["open", 0, True], ["seconds", canvas[0].tolist(), passes]])
    ours = min(timeit.repeat(lambda: model(canvas), number=1, repeat=passes))
    threads = f"PyTorch's threads: {torch.get_num_threads()}"
    print(f"  a pass takes {1000 * min(seconds):.0f} ms in the page and {1000 * ours:.0f} ms here ({threads})")


def show_same_texts(path, model, tokenizer, shipped=True, seed=1):
    """Compares texts of one seed and the same settings, by lesson 6 and by the page, which completes the settings."""
    canvas = torch.full((1, min(128, model.config.context)), tokenizer.vocab_size)  # [1, L]
    masks = canvas.shape[1]
    samplings = [generation.Sampling.for_letters(masks, **wanted) for wanted in TEXTS]
    questions = [["completeSettings", wanted, masks] for wanted in TEXTS]
    questions += [["write", canvas[0].tolist(), page_settings(each), seed] for each in samplings]
    _, *answers = run_in_node(path, [["open", 0, True], *questions])
    for sampling, settings, steps in zip(samplings, answers, answers[len(TEXTS) :]):
        tokens = generation.generate(model, canvas, sampling, torch.Generator().manual_seed(seed))
        print(f"  {tokenizer.decode(tokens[0])[:60]!r} ...")
        passes = f"{sampling.steps} passes, {sampling.revise} of them take back"
        same = settings == page_settings(sampling) and steps[-1] == tokens[0].tolist()
        claim = f"temperature {sampling.temperature}, {sampling.order}, {passes}: all letters are the same"
        check(claim, same, shipped)


def prove(path, models, tokenizer, shipped=True):
    """Compares the page with PyTorch, where Node is installed.

    In a weak model of one's own two letters may be equally likely, and the last digit decides."""
    if shutil.which("node") is None:
        return print("  not checked: Node, which runs the page's script without a browser, is not installed")
    [numbers] = run_in_node(path, [["rand", 1, 1000]])
    expected = torch.rand(1000, generator=torch.Generator().manual_seed(1))
    check("the page's random numbers are PyTorch's", torch.equal(torch.tensor(numbers), expected))
    for number, (name, model) in enumerate(models.items()):
        print(f"  {name}:")
        show_same_logits(path, number, model)
        show_same_logits(path, number, model, fast=False)
    first = next(iter(models.values()))
    show_same_texts(path, first, tokenizer, shipped)
    show_seconds(path, first)


def show_packing(model):
    """How many bits a weight takes in the page."""
    count, text = sum(p.numel() for p in model.parameters()), pack_weights(model)
    bits = 6 * len(text) / count  # a character of base64 carries 6
    print(f"  {count:,} weights, {bits:.1f} bits each, {bits * 8 / 6:.1f} as base64, which spends 8 bits on 6")


# ---- The command line
def main():
    """The command line of 13_web_page.py."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", default=str(CARRIED), metavar="FILE", help=f"the dLLM (default: checkpoints/{CARRIED.name})")
    add("--gpt", metavar="FILE", help="a GPT of the same alphabet that writes beside it (default: none)")
    add("--out", type=given_path, metavar="FILE", help="where the page goes (default: figures/NAME.html)")
    args = parser.parse_args()
    if not args.checkpoint:
        parser.error("--checkpoint is an empty text; name a file, or leave it out")
    name = Path(args.checkpoint).stem
    out = args.out or ROOT / "figures" / f"{name}.html"
    if out.suffix != ".html":
        parser.error(f"--out {out} is no name for a page: it must end in .html")
    if args.gpt is not None:
        writers = comparison.Writers(args.checkpoint, args.gpt, "cpu")
        tokenizer, models = writers.tokenizer, {name: writers.dllm, f"{Path(args.gpt).stem} (GPT)": writers.gpt}
    else:
        model, tokenizer, _ = training.load_kind(find_checkpoint(args.checkpoint), False)
        models = {name: model}
    shown = args.checkpoint if args.checkpoint != str(CARRIED) else f"checkpoints/{CARRIED.name}"
    page = build_page(models, tokenizer, shown)
    write_safely(out, page.encode())
    print(f"1. The page: {len(page.encode()) / 1e6:.2f} MB")
    show_packing(models[name])
    print("\n2. The same in two languages")
    prove(out, models, tokenizer, Path(args.checkpoint).resolve() in (CARRIED, generation.SHIPPED))
    print(f"\nOpen it in a browser, or send it to someone:\n{out}")


if __name__ == "__main__":
    run(main)
