"""Lesson 15. Why is a dLLM slower than a GPT, and how can its text end where it wants to?

A GPT keeps what it computed of earlier letters (lesson 7). In a dLLM each new letter changes what the others see, so
their keys and values change from the second layer on. Every pass reads the whole canvas. And its length is fixed.

Blocks answer both (block diffusion, BD3-LM, arXiv 2503.09573). A text is cut into blocks of 32 letters, say. They are
written from left to right. Inside a block letters appear anywhere, as in lesson 6. A letter sees its own block and all
earlier ones, and nothing later. So a finished block never changes: its keys and values are kept, exactly, until the
context is full. After a block a text may end. (In lesson 3 a block was a layer. Here it is a piece of text.)

In blocks of 1 each letter is guessed at a mask that sees just the letters before it, as in a GPT. One block of all
letters is the dLLM of lesson 6. Only who sees whom differs, so one set of weights can be all of these. The dLLM of
lesson 6, read so untrained, has 1.73 nats in blocks of 1 (--evaluate). --train brought that to 1.46. The GPT has 1.43.

Blocks make each pass cheaper. They do not make it cheap to draw several letters in one: those do not see each other.
Two neighbours cost 0.27 nats more in one pass than in two. Two letters 64 places apart cost 0.00 (`python -m
benchmarks.blocks`, table 2). The letters of a block are close. Random places of a whole canvas are mostly far apart.

Builds on:  lessons 1, 3, 4 (sample, ToyWorld), 5 (the loop), 6 (canvas, revise, flags), 7 (with_cache).
Run:        python 15_blocks.py --prompt "ROMEO:" --len 400 --stop --seed 1    (or without flags: some five seconds)
            python 15_blocks.py --walk                     (proofs and a picture)
            python 15_blocks.py --train --checkpoint checkpoints/shakespeare.safetensors --minutes 100
Last line:  the last line of the text; of the walk the path of a picture, `figures/15_masks.png`.

Exercises (answers in docs/answers.md)
  1. Write `seen - 1` in `sees`: a block sees the next one. Which check of the walk fails, and why?
  2. Write 256 letters with --block 1, 8, 32 and 256. Which is the fastest, and why?
  3. In the toy world two letters a pass are wrong, even in blocks of 2. Why?
"""

import math
from dataclasses import replace
from importlib import import_module

from tools.command_line import UserError, between, check, print_command, print_texts, run, seeded_generator
from tools.files import ROOT, find_checkpoint
from tools.pictures import LiveView, new_figure, save_figure
from tools.settings import settle, training_parser

import torch
import torch.nn.functional as F

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")

SHIPPED_BLOCKS = ROOT / "checkpoints" / "blocks.safetensors"
BLOCK, TEMPERATURE = 32, 0.6  # of writing, unless one says otherwise
SHARES = {1: 0.25, 8: 0.25, 32: 0.15, None: 0.35}  # of the training steps, by block size; None: the whole canvas


# ---- 1. Who sees whom
def sees(readers, seen):
    """[T, S] True where a place of block readers[i] sees a place of block seen[j]: its own block and earlier ones."""
    return readers[:, None] >= seen


def sees_two_copies(numbers):
    """[2L, 2L] the same for two copies of a text side by side, [noisy; clean]. numbers [L]: the block of each place.

    A noisy place sees the noisy places of its own block and the clean ones of earlier blocks. A clean place sees clean
    ones alone. So one pass asks all blocks at once."""
    own, earlier = numbers[:, None] == numbers, numbers[:, None] > numbers
    return torch.cat([torch.cat([own, earlier], dim=1), torch.cat([own & False, own | earlier], dim=1)])


class TwoCopies(torch.nn.Module):
    """A model as training reads it. inputs [B, 3, L] (noisy, clean, block of each place) -> logits [B, L, V]."""

    def __init__(self, model):
        super().__init__()
        self.model = model  # nothing is kept here. The reader of lesson 7 lets us say who sees whom and from where
        self.reader, self.reading = gpt.with_cache(model)

    def forward(self, inputs):
        noisy, clean, numbers = inputs.unbind(dim=1)  # [B, L] each
        if not numbers[0].any():  # one block, the whole canvas: the clean copy would not be seen
            return self.model(noisy)
        L = noisy.shape[1]
        self.reading.positions = torch.arange(L, device=noisy.device).repeat(2)  # both copies stand at the same places
        self.reading.allowed = sees_two_copies(numbers[0])
        return self.reader(torch.cat([noisy, clean], dim=1))[:, :L]  # [B, 2L, V] -> [B, L, V]


def with_numbers(noisy, clean, block):
    """[B, L] twice -> the inputs [B, 3, L] of TwoCopies. Where block does not divide L, the last block is shorter."""
    numbers = torch.arange(noisy.shape[1], device=noisy.device) // block
    return torch.stack([noisy, clean, numbers.expand_as(noisy)], dim=1)


def block_logits(model, noisy, clean, block):
    """noisy, clean [B, L] -> logits [B, L, V]: a place sees its own block in noisy, and earlier ones in clean."""
    return TwoCopies(model)(with_numbers(noisy, clean, block))


# ---- 2. How probable a text is, from left to right inside a block (section 4 takes the surest place first)
@torch.inference_mode()
def block_nats(model, tokens, block):
    """[B] the exact -log p / L of tokens [B, L], block by block and from left to right inside a block.

    Pass j hides place j of each block and all after it in the block. It asks for place j in all blocks at once."""
    model, place, nats = TwoCopies(model), torch.arange(tokens.shape[1], device=tokens.device) % block, 0.0  # place [L]
    for j in range(min(block, tokens.shape[1])):
        noisy = tokens.masked_fill(place >= j, model.model.config.vocab_size)
        log_p = F.log_softmax(model(with_numbers(noisy, tokens, block)).float(), dim=-1)  # [B, L, V]
        nats = nats - log_p.gather(2, tokens[..., None]).squeeze(2)[:, place == j].sum(dim=1)  # [B]
    return nats / tokens.shape[1]


def hide_in_blocks(tokens, block, mask_id, generator):
    """Hides 1 to `block` letters of each block of tokens [B, L]. block divides L. Returns (noisy, mask) [B, L]."""
    pieces = tokens.reshape(-1, block)  # [B * L / block, block]
    counts = 1 + torch.randint(block, (len(pieces),), generator=generator).to(tokens.device)  # all have their turn
    return tuple(part.view_as(tokens) for part in diffusion.mask_exactly(pieces, counts, mask_id, generator))


# ---- 3. Training: each step draws a block size, or the whole canvas
def draw_inputs(tokens, vocab_size, generator):
    """The training input: tokens [B, L] -> inputs [B, 3, L] of TwoCopies, and the mask [B, L] of what is hidden."""
    block = list(SHARES)[torch.multinomial(torch.tensor(list(SHARES.values())), 1, generator=generator)]
    if block is None:
        noisy, mask = diffusion.hide_some(tokens, vocab_size, generator)
    else:
        noisy, mask = hide_in_blocks(tokens, block, vocab_size, generator)
    return with_numbers(noisy, tokens, block or tokens.shape[1]), mask


def heldout_nats(model, windows):
    """Exact nats per token of windows [N, L] with blocks of 1. The best weights are chosen by it."""
    return torch.cat([block_nats(model, part, 1) for part in windows.split(32)]).mean().item()


OWN = dict(preset="base", lr=0.0015, dropout=0.2, weight_decay=0.1)  # a larger rate loses what the dLLM knew
BLOCKWISE = replace(
    training.DIFFUSION, label="exact", prepare=draw_inputs, heldout=heldout_nats, reader=TwoCopies,
    report=lambda model, windows: f"exact, in blocks of 1, {heldout_nats(model, windows):.4f} nats/character",
)  # fmt: skip


def train_blocks(args, start):
    """Goes on by lesson 5's loop, from the dLLM in the file `start` or with the run in --out."""
    settings, text, saved = settle(args, "15_blocks.py", transformer.PRESETS, tensors.load_text, **OWN)
    model, tokenizer, _ = training.load_kind(start := settings.out if saved else start, False)
    config = replace(model.config, dropout=settings.dropout)
    if vars(config) | transformer.PRESETS[settings.preset] != vars(config):
        raise UserError(f"{start} has not the shape of --preset {settings.preset}; name the one that it has.")
    tokens, windows = tensors.split_text(text, tokenizer, config.context)
    draw = tensors.random_windows(tokens, config.context, settings.batch)
    training.train(settings, BLOCKWISE, tokenizer, config, draw, windows, saved, weights=model.state_dict())
    print_command("python 15_blocks.py", settings.out)


# ---- 4. Writing, with a cache
class BlockWriter:
    """A model for lesson 4's sampler that answers for one block, tokens [B, T] -> logits [B, T, V]. `see` says what
    stands before the block. A finished block is read once, in the first pass of the next, and kept."""

    def __init__(self, model, block):
        self.model, self.config, self.block, self.first = model, model.config, block, 0
        self.reader, self.reading = gpt.with_cache(model)

    def see(self, before, size):
        """before [B, S]: all finished blocks. size: letters of the present one. Of a full context half stays."""
        if before.shape[1] - self.first + size > self.config.context:
            room = min(self.config.context // 2, self.config.context - self.block) // self.block * self.block
            self.first = before.shape[1] - room
            self.reader, self.reading = gpt.with_cache(self.model)  # places count anew: old keys are of no use
        self.unread = before[:, self.first + self.reading.keep :]  # [B, P]

    def __call__(self, tokens):
        S, P = self.reading.keep, self.unread.shape[1]
        places = torch.arange(S + P + tokens.shape[1], device=tokens.device)  # kept, unread, and the present block
        numbers = places // self.block
        self.reading.positions, self.reading.keep = places[S:], S + P
        self.reading.allowed = sees(numbers[S:], numbers) if P else None  # [P + T, S + P + T]; a block sees all
        logits = self.reader(torch.cat([self.unread, tokens], dim=1))[:, P:]  # [B, T, V]
        self.unread = self.unread[:, P:]
        return logits


class Contrast:
    """Two BlockWriters as one: an expert and a smaller model, the amateur (contrastive decoding, arXiv 2210.15097).

    What both find likely is often a common phrase. So log p minus the amateur's log p, log ADVANTAGE at most, is added
    to log p. Letters less likely than PLAUSIBLE times the likeliest one are ruled out."""

    PLAUSIBLE, ADVANTAGE = 0.2, 3.0

    def __init__(self, expert, amateur):
        self.expert, self.amateur, self.config = expert, amateur, expert.config

    def see(self, before, size):
        self.expert.see(before, size)
        self.amateur.see(before, size)

    def __call__(self, tokens):
        expert, amateur = (F.log_softmax(writer(tokens).float(), dim=-1) for writer in (self.expert, self.amateur))
        ruled_out = expert < expert.amax(dim=-1, keepdim=True) + math.log(self.PLAUSIBLE)
        advantage = (expert - amateur).clamp(max=math.log(self.ADVANTAGE))
        return (expert + advantage).masked_fill(ruled_out, -torch.inf)  # [B, T, V]


@torch.inference_mode()
def write_blocks(writer, canvas, block, draw, at_end=lambda written: False):
    """Fills the masks of a canvas [B, L] block by block, a letter a pass, the surest place of the block first.

    draw: keywords of lesson 4's sample. at_end(written [B, S]): whether the text ends after a block. Returns [B, S]."""
    show = draw.get("on_step") or (lambda canvas: None)
    for start in range(0, canvas.shape[1], block):
        before, present, after = canvas.tensor_split((start, start + block), dim=1)
        if (present == writer.config.vocab_size).any():
            writer.see(before, present.shape[1])
            around = lambda tokens: show(torch.cat([before, tokens, after], dim=1))  # noqa: E731
            present = diffusion.sample(writer, present, block, order="certainty", **{**draw, "on_step": around})
            canvas = torch.cat([before, present, after], dim=1)
        if at_end(canvas[:, : start + block]):
            return canvas[:, : start + block]
    return canvas


# ---- The walk
def draw_who_sees(length=64):
    """Saves the picture of who sees whom in the two copies of training."""
    figure, panels = new_figure(1, 4, figsize=(14, 3.9), layout="constrained")
    for axes, block in zip(panels, (1, 8, 32, length)):
        axes.imshow(sees_two_copies(torch.arange(length) // block), cmap="Blues", vmax=1.4)
        axes.set_xticks([length // 2, 3 * length // 2], ["noisy", "clean"])
        axes.set_yticks([length // 2, 3 * length // 2], ["noisy", "clean"], rotation=90, va="center")
        axes.set(title=f"blocks of {block}", xlabel="seen", ylabel="who sees")
    save_figure(figure, "15_masks.png")


def show_toy(world):
    """Adds up p of each text of lesson 4's toy world, block by block. Prints the distance from the truth."""
    print("1. Lesson 4's texts, surest first: total variation from the truth\n\n  letters a pass    1      2      4")
    places, distances = torch.arange(4), {}
    for block in (1, 2, 4):
        for together in (k for k in (1, 2, 4) if k <= block):
            nats = torch.zeros(len(world.texts))  # [X] -log p
            for part in places.split(block):
                known = world.texts.masked_fill(places > part[-1], world.config.vocab_size)  # later blocks are unseen
                nats += block * diffusion.exact_nats(world, known, "certainty", block // together, part)
            distances[block, together] = 0.5 * (torch.exp(-nats) - world.p).abs().sum().item()
        print(f"  blocks of {block}   ", *(f"  {d:.3f}" for (size, _), d in distances.items() if size == block), sep="")
    check("a letter a pass, every block size is exact", max(distances[block, 1] for block in (1, 2, 4)) < 1e-5)
    check("two letters of a block in one pass are not exact", min(distances[2, 2], distances[4, 2]) > 0.01)


@torch.inference_mode()
def show_cache(model, tokens, shipped, block=8):
    """Asks for all blocks of tokens [1, L] with the cache, and without it by both copies. The logits are the same."""
    writer, V, places, apart = BlockWriter(model, block), model.config.vocab_size, torch.arange(tokens.shape[1]), []
    for start in range(0, tokens.shape[1], block):
        noisy, present = tokens.masked_fill(places >= start, V), slice(start, start + block)
        writer.see(tokens[:, :start], block)
        with_it = writer(noisy[:, present])
        without = block_logits(model, noisy, tokens, block)[:, present]
        apart.append((with_it - without).abs().max() / without.abs().max().clamp(min=1e-9))  # untrained: all are 0
    print(f"\n2. The cache, blocks of {block}: logits with and without it differ by {max(apart):.0e} of the largest")
    check("that is less than 1e-5", max(apart) < 1e-5)
    other = torch.where(places == start - 3, (tokens + 1) % V, tokens)  # before the last block
    other = block_logits(model, noisy, other, block)[:, present]
    check("another letter in the block before is noticed", (other - without).abs().max() > 1e-2, shipped)


# ---- The command line
TRAINING = "data preset steps minutes batch lr dropout weight_decay dtype no_compile out resume"
WRITING = "prompt ending len block temp topk num amateur revise stop walk evaluate"


def blocks_parser():
    """The flags of 15_blocks.py."""
    parser = training_parser(__doc__, "my_blocks.safetensors", transformer.PRESETS, **OWN)
    parser.add_argument("--train", action="store_true", help="go on from --checkpoint with blocks of several sizes")
    parser.add_argument("--walk", action="store_true", help="the lesson: proofs and a picture")
    generation.add_text_flags(parser, SHIPPED_BLOCKS)
    add = parser.add_argument
    add("--ending", metavar="TEXT", help="how the text ends; only its own blocks see it (default: a blank line)")
    add("--block", type=between(int, 1, 10**5), default=BLOCK, help="letters of a block (default: %(default)s)")
    add("--revise", type=between(int, 0, 10**6), default=0, metavar="N", help="then take letters back in N passes")
    add("--amateur", metavar="FILE", help="a smaller dLLM beside it, see Contrast")
    add("--stop", nargs="?", const="\n\n", metavar="TEXT", help="end at a blank line, or TEXT, or after --len")
    generation.add_live_flags(parser)
    parser.set_defaults(temp=TEMPERATURE)
    return parser


def make_writer(parser, args, model, tokenizer):
    """A BlockWriter, or with --amateur a Contrast. Refuses what does not go together."""
    contexts, writer = [model.config.context], BlockWriter(model, args.block)
    if args.amateur is not None:
        amateur, its_tokenizer, _ = training.load_kind(find_checkpoint(args.amateur), False, model.head.weight.device)
        if its_tokenizer.units != tokenizer.units:
            raise UserError(f"--amateur {args.amateur} has another alphabet than the model; choose one of the same.")
        contexts.append(amateur.config.context)
        writer = Contrast(writer, BlockWriter(amateur, args.block))
    if args.block > min(contexts) or (args.revise and args.len > contexts[0]):
        parser.error(f"--block, and --len with --revise, must be within the context of {min(contexts)} letters")
    if args.stop is not None and (not tokenizer.encode_typed(args.stop) or args.ending is not None):
        parser.error("--stop takes a text that is not empty, and does not go with --ending")
    return writer


def cut(text, stop, first):
    """The text up to `stop`, which is looked for after `first` given letters and the line breaks that follow them."""
    first += len(text[first:]) - len(text[first:].lstrip("\n"))
    return text[: text.index(stop, first)] if stop is not None and stop in text[first:] else text


def write_texts(parser, args):
    """Writes --num texts to standard output."""
    live, (model, tokenizer) = generation.is_live(parser, args), generation.load_writer(parser, args)
    writer = make_writer(parser, args, model, tokenizer)
    prompt, stop = (typed and tokenizer.decode(tokenizer.encode_typed(typed)) for typed in (args.prompt, args.stop))
    read = lambda row: cut(tokenizer.decode(row), stop, len(prompt or ""))  # noqa: E731
    ending = args.ending if stop is None else ""
    canvas = generation.make_canvas(tokenizer, args.prompt, ending, args.len, args.num, model.head.weight.device)
    view = LiveView(tokenizer, model.config.vocab_size)
    draw = dict(temperature=args.temp, top_k=args.topk, generator=seeded_generator(args.seed), on_step=live and view)
    at_end = lambda tokens: all(read(row) != tokenizer.decode(row) for row in tokens)  # noqa: E731
    tokens = write_blocks(writer, canvas, args.block, draw, at_end)
    own = canvas[:, : tokens.shape[1]] == model.config.vocab_size
    tokens = generation.revise(model, tokens, args.revise, count=4, fillable=own, **draw)
    view.erase()
    print_texts(read(row).strip("\n") for row in tokens)


def main():
    """The command line of 15_blocks.py."""
    parser = blocks_parser()
    args = parser.parse_args()
    others = WRITING if args.train else TRAINING if args.evaluate is None else TRAINING.removeprefix("data ")
    for flag in parser.changed(args, others.split()):
        parser.error(f"{flag} {'does not go' if args.train else 'goes'} with --train")
    if args.train:
        return train_blocks(args, find_checkpoint(args.checkpoint))
    if not args.walk:
        return training.print_evaluation(args, BLOCKWISE) if args.evaluate is not None else write_texts(parser, args)
    model, tokenizer = generation.load_writer(parser, args)
    _, windows = tensors.split_text(tensors.load_text(), tokenizer, model.config.context)
    show_toy(diffusion.ToyWorld(torch.softmax(1.5 * torch.randn(256, generator=seeded_generator(0)), dim=0), V=4, L=4))
    show_cache(model, windows[:1].to(model.head.weight.device), args.checkpoint == str(SHIPPED_BLOCKS))
    draw_who_sees()


if __name__ == "__main__":
    run(main)
