"""Are the tests able to fail? Puts one mistake after the other into a copy of the project, and runs that lesson's tests.

    python tests/mutations.py                 all of them, some minutes; a mistake that no test notices is printed
    python tests/mutations.py 04 06           those of lessons 4 and 6

Not part of the ordinary test run. Each mistake is one line of a file, as it is and as it might be by mistake.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PATHS = "test_14_robot_paths"  # the tests of lesson 14 and of its rooms
ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 300  # seconds for the tests of one lesson

MUTATIONS = [  # (file, as it is, as it might be)
    ("01_tensors.py", "longest_first = sorted(self.units, key=len, reverse=True)", "longest_first = self.units"),
    ("01_tensors.py", "tokens[: len(tokens) * 9 // 10], tokens[len(tokens) * 9 // 10 :]",
     "tokens[: len(tokens) * 9 // 10], tokens[len(tokens) * 8 // 10 :]"),
    ("01_tensors.py", "torch.randint(len(tokens) - context + 1,", "torch.randint(len(tokens) - context,"),
    ("01_tensors.py", "by_hand = torch.outer(p - F.one_hot(torch.tensor(answer), 3), x)", "by_hand = torch.outer(p, x)"),
    ("02_attention.py", "/ math.sqrt(d)  # [B, H, T, T]", "/ d  # [B, H, T, T]"),
    ("02_attention.py", "device=q.device).triu(1)", "device=q.device).triu(2)"),
    ("02_attention.py", "first * sin + second * cos", "first * sin - second * cos"),
    ("02_attention.py", "self.key.bias.copy_(rotate(c, -offsets).flatten())", "self.key.bias.copy_(c.flatten())"),
    ("02_attention.py", "(q.float(), k.float(), v.float(), is_causal=causal)", "(q, k, v, is_causal=causal)"),
    ("02_attention.py", 'with torch.autocast("cpu", enabled=False):', "if True:"),
    ("02_attention.py", "k.float(), v.float(), is_causal=causal)", "k.float(), v.float())"),
    ("02_attention.py", "(q, k, v, is_causal=causal)", "(q, k, v)"),
    ("02_attention.py", "attend_fused(q, k, v, self.causal)", "attend_fused(q, k, v)"),
    ("03_transformer.py", "return x + self.dropout(self.feed_forward(self.norm2(x)))",
     "return self.dropout(self.feed_forward(self.norm2(x)))"),
    ("03_transformer.py", "nn.init.zeros_(last.weight)", "pass"),
    ("03_transformer.py", "return self.head(self.norm(x))", "return self.head(x)"),
    ("03_transformer.py", "gram = x @ x.mT", "gram = x.mT @ x"),
    ("03_transformer.py", "matrix.mul_(1 - group[\"lr\"] * group[\"weight_decay\"])", "pass"),
    ("05_train.py", "self.dtype, settings.weight_decay)", "self.dtype)"),
    ("03_transformer.py", "scale = max(1, rows / columns) ** 0.5", "scale = 1"),
    ("03_transformer.py", "lr * ADAMW_LR_RATIO,", "lr,"),
    ("04_diffusion.py", "counts = (bell(B, generator) * L)", "counts = (stratified(B, generator) * L)"),
    ("04_diffusion.py", "scores.round(decimals=4)", "scores.round(decimals=1)"),
    ("04_diffusion.py", "return p.amax(dim=-1)", "return p.gather(2, guesses[..., None]).squeeze(2)"),
    ("04_diffusion.py", "return best - second", "return best"),
    ("04_diffusion.py", "logits = logits / temperature", "pass"),
    ("04_diffusion.py", "if top_k is not None:", "if False:"),
    ("04_diffusion.py", "if temperature < GREEDY:", "if temperature == 0:"),
    ("04_diffusion.py", "masked.sum(dim=1) - total * left // passes", "-(-masked.sum(dim=1) // (left + 2))"),
    ("04_diffusion.py", "& (True if fillable is None else fillable)", "& True"),
    ("04_diffusion.py", "descending=True, stable=True", "descending=False, stable=True"),
    ("04_diffusion.py", "(log_p * chosen).sum(dim=1)", "log_p.sum(dim=1)"),
    ("04_diffusion.py", "counts = 1 + (stratified(", "counts = 1 + 0 * (stratified("),
    ("04_diffusion.py", "return losses.sum(dim=1) / mask.sum(dim=1)", "return losses.mean(dim=1)"),
    ("05_train.py", "nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)", "pass"),
    ("05_train.py", "optimizer.param_groups[0][\"lr\"] = run.lr * ratio", "optimizer.param_groups[0][\"lr\"] = run.lr"),
    ("05_train.py", "run.lr = settings.lr * get_lr(run.step, progress)", "run.lr = settings.lr"),
    ("05_train.py", "torch.manual_seed(settings.seed + processes * run.step + rank)", "pass"),
    ("05_train.py", "shipped.load_state_dict(weights)", "pass"),
    ("05_train.py", "if self.heldout < self.best:", "if True:"),
    ("05_train.py", "optimizer.load_state_dict({**optimizer.state_dict(), \"state\": state})", "pass"),
    ("05_train.py", "tools.restore_generators(saved.get(\"generators\"), self.generator, self.device, path)", "pass"),
    ("05_train.py", "inputs, mask = objective.prepare(tokens, config.vocab_size, run.generator)",
     "inputs, mask = diffusion.mask_exactly(tokens, torch.full((len(tokens),), 64), config.vocab_size, run.generator)"),
    ("05_train.py", "dtype, why = tools.native_dtype(device, width)", "dtype, why = torch.float32, ''"),
    ("06_generate.py", "Sampling(args.steps, args.temp, args.topk,", "Sampling(args.steps, 0.8, args.topk,"),
    ("06_generate.py", "Sampling(args.steps, args.temp, args.topk,", "Sampling(args.steps, args.temp, None,"),
    ("06_generate.py", "args.topk, args.order, args.revise)", "args.topk, None, args.revise)"),
    ("06_generate.py", "args.topk, args.order, args.revise)", "args.topk, args.order)"),
    ("06_generate.py", "Sampling(args.steps, args.temp, args.topk,", "Sampling(None, args.temp, args.topk,"),
    ("06_generate.py", "share = max(1, round(passes_left * masks / masks_left))", "share = passes_left"),
    ("06_generate.py", "\"certainty\" if steps - revise >= letters else \"random\"", "\"certainty\""),
    ("06_generate.py", "how[\"generator\"], on_step, 2 * block)", "how[\"generator\"], on_step)"),
    ("06_generate.py", "count = TAKEN_BACK if block else", "count ="),
    ("06_generate.py", "letters // 8 if chooses else letters", "letters if chooses else letters"),
    ("06_generate.py", "if ending is None else tokenizer.encode(ending)", ""),
    ("06_generate.py", "tokens = generate(model, canvas, sampling, seeded_generator(args.seed), show)",
     "tokens = generate(model, canvas, sampling, seeded_generator(0), show)"),
    ("07_train_gpt.py", "model, prompt, args.len, sampling.temperature, sampling.top_k,", "model, prompt, args.len, 0.8, sampling.top_k,"),
    ("07_train_gpt.py", "model, prompt, args.len, sampling.temperature, sampling.top_k,",
     "model, prompt, args.len, sampling.temperature, None,"),
    ("07_train_gpt.py", "inputs = torch.cat([beginning, tokens[:, :-1]], dim=1)", "inputs = tokens"),
    ("07_train_gpt.py", "layer.place(layer.split_heads(layer.key(x)), S)", "layer.place(layer.split_heads(layer.key(x)))"),
    ("07_train_gpt.py", "tokens.shape[1] - L // 2, None", "tokens.shape[1] - L + 1, None"),
    ("08_train_tamil.py", "generator=generator) >= COUPLET_SHARE", "generator=generator) >= 0"),
    ("08_train_tamil.py", "if len(kept) < len(text) / 2:", "if False:"),
    ("08_train_tamil.py", "chosen = {start + lot.randrange(10)", "chosen = {start + 9"),
    ("08_train_tamil.py", "settings = tools.with_text(settings, text)", "pass"),
    ("09_generate_tamil.py", "logits[..., self.line_break] = -torch.inf", "pass"),
    ("09_generate_tamil.py", "writer = WithoutBreaks(model, line_break)", "writer = model"),
    ("09_generate_tamil.py", "generation.generate(model, canvas, sampling, generator)]", "generation.generate(model, canvas, generation.Sampling(sampling.steps), generator)]"),
    ("10_compare.py", "for length in range(min(self.order - 1, len(history)) + 1)", "for length in range(min(2, len(history)) + 1)"),
    ("10_compare.py", "math.sqrt((n - 1) / n * sum(", "math.sqrt(1 / n * sum("),
    ("11_fill_blanks.py", "return generation.fill_spans(model, canvas, sampling, spans, generator, on_step)",
     "return generation.fill_spans(model, canvas, generation.Sampling(sampling.steps), spans, generator, on_step)"),
    ("12_revise.py", "tokens.masked_fill(chosen, model.config.vocab_size)", "tokens"),
    ("12_revise.py", "diffusion.top_ranked(1 - scores * lot,", "diffusion.top_ranked(scores * lot,"),
    ("12_revise.py", "counts = fillable.sum(dim=1).clamp(max=count)", "counts = fillable.sum(dim=1)"),
    ("12_revise.py", "len(faults(a)) <= len(faults(b))", "len(faults(a)) != len(faults(b))"),
    ("12_revise.py", "if len(faults_of[best]) <= len(found[b]):", "if True:"),
    ("12_revise.py", "torch.where(open_[r], drawn[r], before[r])", "drawn[r]"),
    ("12_revise.py", "key=lambda i: (len(faults_of[i]), -likely[i])", "key=lambda i: (len(faults_of[i]), likely[i])"),
    ("12_revise.py", "return drawn * the_rest_stays", "return drawn"),
    ("12_revise.py", "(beyond.prod(dim=2, keepdim=True) / beyond / p)", "(beyond.prod(dim=2, keepdim=True) / p)"),
    ("06_generate.py", "own = fillable & (canvas == model.config.vocab_size)", "own = fillable"),
    ("06_generate.py", "(expert + advantage).masked_fill", "expert.masked_fill"),
    ("06_generate.py", "(expert - amateur).clamp(max=math.log(ADVANTAGE))", "(expert - amateur)"),
    ("06_generate.py", "dim=-1, keepdim=True) + math.log(PLAUSIBLE)", "dim=-1, keepdim=True) - 100"),
    ("06_generate.py", "if tokens.shape[1] > self.amateur.config.context:", "if tokens.shape[1] > 4:"),
    ("06_generate.py", "if its_tokenizer.units != tokenizer.units:", "if False:"),
    ("06_generate.py", "(str(SMALL) if is_shipped else \"none\")", "\"none\""),
    ("06_generate.py", "(str(SMALL) if is_shipped else \"none\")", "str(SMALL)"),
    ("09_generate_tamil.py", "return [] if rhymes(couplet) else places", "return places"),
    ("09_generate_tamil.py", "max(0, passes - settings", "max(0, MOST_PASSES - settings"),
    ("10_compare.py", "length or min(contexts),", "min(contexts),"),
    ("10_compare.py", "length or min(contexts),", "length or max(contexts),"),
    ("04_diffusion.py", ".masked_fill(~masked, -torch.inf)", ".masked_fill(~masked, -1.0)"),
    ("benchmarks/tamil.py", "[min(islice(written, number), key=faults) for", "[list(islice(written, number))[-1] for"),
    ("benchmarks/tamil.py", "tries = [max(1, passes // sum(shape))", "tries = [1 + passes // sum(shape)"),
    ("benchmarks/revise.py", "+ (slope * x_error).square()", ""),
    ("benchmarks/distill.py", "TRUTH * hard + (1 - TRUTH) * soft", "hard"),
    ("benchmarks/distill.py", "sum(torch.softmax(teacher(inputs).float(), dim=-1) for", "sum(teacher(inputs).float() for"),
    ("benchmarks/distill.py", "written[chosen]", "written[: len(chosen)]"),
    ("benchmarks/distill.py", "expected_by(self.teachers, inputs)", "expected_by(self.teachers, tokens)"),
    ("benchmarks/distill.py", "if args.start else None", "if False else None"),
    ("benchmarks/calibrate.py", "[share / sum(shares) for share in shares]", "[1 / len(shares) for share in shares]"),
    ("benchmarks/calibrate.py", "model.head.weight /= temperature", "model.head.weight /= 1.4"),
    ("benchmarks/calibrate.py", "figures[0, 1 - half] - figures[choice, 1 - half]", "figures[0, half] - figures[choice, half]"),
    ("benchmarks/calibrate.py", "or tokenizer.units != loaded[0][1].units", ""),
    ("05_train.py", "{name: value.bfloat16() for name", "{name: value for name"),
    ("tools.py", "settings[\"batch\"] or LETTERS_A_STEP // presets[settings[\"preset\"]][\"context\"]", "settings[\"batch\"] or 32"),
    ("13_web_page.py", ".flip(1).T", ".T"),
    ("13_web_page.py", ".replace(\"<\", r\"\\u003c\")", ""),
    ("13_web_page.py", "if not gpt.can_cache(model):", "if False:"),
    ("web/model.js", "Math.sqrt(variance + 1e-5)", "Math.sqrt(variance + 1e-3)"),
    ("web/model.js", "rotate(k.subarray(after), T, first, H, d);", "rotate(k.subarray(after), T, 0, H, d);"),
    ("web/model.js", "causal ? first + t + 1 : S", "S"),
    ("web/sampler.js", "return (y & 0xffffff) / 2 ** 24;", "return (y >>> 8) / 2 ** 24;"),
    ("web/sampler.js", "Math.floor((total * left) / passes)", "Math.ceil((total * left) / passes)"),
    ("web/sampler.js", "ties[i] - ties[j]", "ties[j] - ties[i]"),
    ("web/page.js", "letter.textContent = NAMED(guess);", "letter.innerHTML = NAMED(guess) + '<b></b>';"),
    ("web/page.js", "begin(changed);", "begin(canvas);"),
    ("web/page.js", "tokens.length > most", "false"),
    ("tools.py", "if settings.sha256 not in (\"\", sha256):", "if False:"),
    ("tools.py", "if settings.get(\"script\") != script:", "if False:"),
    ("tools.py", "os.replace(temporary, path)", "path.write_bytes(data)"),
    ("tools.py", "return torch.bfloat16 if gain > 1.1 else torch.float32, why", "return torch.float32, why"),
    ("tools.py", "if run.due:  # it was killed while it measured", "if False:  # it was killed while it measured"),
    ("tools.py", "hasattr(stream, \"reconfigure\")", "True"),
    ("tools.py", "entry.compress_type != zipfile.ZIP_STORED", "False"),
    ("14_robot_paths.py", "turns[1:-1] = np.rint(np.diff(headings) / 0.2)", "turns[1:-1] = np.rint(np.diff(headings) / 0.2) + 1"),
    ("14_robot_paths.py", "return logits.masked_fill(self.closed, -1e4)", "return logits"),
    ("14_robot_paths.py", "masked[max(1, place - margin) : min(n - 1, place + margin + 1)] = True", "masked[max(0, place - margin) : place + margin + 1] = True"),
    ("14_robot_paths.py", "wrong = (corridor.grid.clearance(points) < ROBOT) | (curvatures > SHARPEST)", "wrong = corridor.grid.clearance(points) < ROBOT"),
    ("robot_maps.py", "return free[::-1]", "return free"),
    ("robot_maps.py", "free = (shade if file.negate else 1 - shade) < file.free_thresh", "free = 1 - shade < file.free_thresh"),
    ("robot_maps.py", "pull, axis=0, zi=W_SMOOTH * now[:1])", "pull, axis=0, zi=0 * now[:1])"),
    ("path_training.py", "torch.where(flipped, robot_paths.TURNS", "torch.where(backwards, robot_paths.TURNS"),
    ("path_training.py", "mask = masked & torch.where(draw(B, 1) < 0.5, somewhere, span)", "mask = torch.where(draw(B, 1) < 0.5, somewhere, span)"),
    ("path_training.py", "best.append(total.argmin(axis=0))", "best.append(total.argmax(axis=0))"),
    ("path_files.py", "header = header if header.frame_id else message.header", "header = store.types['std_msgs/msg/Header'](header.stamp, '')"),
    ("ros2/smooth_path_server.py", "(cells >= 0) & (cells < 100)", "(cells >= 0) & (cells < 99)"),
]  # fmt: skip


def tests_of(file):
    """The test file of a script."""
    names = {
        "benchmarks/tamil": "test_benchmarks_tamil",
        "benchmarks/paths": PATHS,
        "robot_": PATHS,
        "path_": PATHS,
        "ros2/": PATHS,
        "benchmarks/": "test_benchmarks",
        "web/page.js": "test_13_browser",
        "web/": "test_13_web_page",
    }
    stem = next((test for start, test in names.items() if file.startswith(start)), f"test_{Path(file).stem}")
    return f"tests/{stem}.py"


def survives(folder, file, old, new):
    """Whether the tests of a file pass with one line of it changed."""
    path = folder / file
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        sys.exit(f"error: {file} has {text.count(old)} times: {old}")
    path.write_text(text.replace(old, new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests_of(file)]
    if file[:2] in ("01", "02", "03", "04"):  # the walk of the lesson is among its tests
        command += ["tests/test_lessons.py", "-k", f"{Path(file).stem[:2]} and proves or {tests_of(file)[6:-3]}"]
    try:
        passed = subprocess.run(command, cwd=folder, capture_output=True, timeout=TIME_LIMIT).returncode == 0
    except subprocess.TimeoutExpired:  # it runs without end: noticed
        passed = False
    path.write_text(text, encoding="utf-8")
    return passed


def main():
    """Tries them all, and prints those that survive."""
    lessons, survivors = sys.argv[1:], 0
    chosen = [mutation for mutation in MUTATIONS if not lessons or mutation[0][:2] in lessons]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "figures", "__pycache__"))
        for number, (file, old, new) in enumerate(chosen, 1):
            alive = survives(folder, file, old, new)
            survivors += alive
            print(f"{number}/{len(chosen)} {'SURVIVES' if alive else 'killed'}: {file}: {old} -> {new}", flush=True)
    sys.exit(f"{survivors} of {len(chosen)} mistakes were not noticed" if survivors else 0)


if __name__ == "__main__":
    main()
