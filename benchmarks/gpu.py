"""One call on a GPU machine, one table: tokens a second, MFU and first losses of the trainer beside other ways to train one model.

    python benchmarks/gpu.py                                        # k2_1b on one GPU of 80 GB
    python benchmarks/gpu.py --micro-batch-samples 4                # takes less memory
    python benchmarks/gpu.py --contestants "ours auto" "plain auto"  # these two only
    python benchmarks/gpu.py --device cpu --recipe tests/mini.toml   # a rehearsal of the whole without a GPU

Every contestant trains the recipe's first stage in a process of its own: its memory is its own, and one that fails costs a line.
`ours` is the trainer with each attention code that runs here, and compiled; `plain` a hand-written torch loop with fp32 masters,
and compiled; `trainer` Hugging Face's Trainer on its own Llama. MFU is of the device's dense bf16 peak, in two conventions:
`12LDS` counts attention's products as the whole square, `causal` the half that the mask leaves; a device whose peak is not known
gets none. What one large product reaches of the peak stands above them: no training reaches more.
Without a CUDA device it says so and ends well. It ends with 1 when first losses differ: then the contestants trained different models.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch

from k2.model.backend import choose_backend, this_machine
from k2.model.count import parameters
from k2.model.layers import build_plain, weights_of
from k2.model.llama import mean_loss, next_tokens
from k2.model.peak import UnknownPeak, peak_tflops, utilization
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.recipe.schema import Recipe, Stage
from k2.train.engine import Engine, connect
from k2.train.optimizer import adamw, parameter_groups
from k2.train.step import train_step

CONTESTANTS = ("ours sdpa", "ours cudnn", "ours flash", "ours auto compiled", "plain auto", "plain auto compiled", "trainer sdpa")
WARMUP_STEPS = 3
PRODUCT_ROWS = 8192  # of the square matrices whose product shows what the device can do
PARITY_NATS = 5e-3  # between first losses: the same weights and rows, bf16 in another order
Train = Callable[[int], float]


@dataclass(frozen=True)
class Measured:
    first_loss: float
    seconds_per_step: float
    peak_bytes: int


def recipe_of(asked: argparse.Namespace) -> Recipe:
    """The asked recipe on one rank, with four micro-batches a step."""
    name, micro = asked.recipe, asked.micro_batch_samples
    alone = ("layout.pipeline=1", "layout.data=1", 'layout.precision="bf16"', *asked.set)
    recipe = load_recipe(name, alone)
    micro = micro or recipe.stages[0].micro_batch_samples
    stage = f"stages.{recipe.stages[0].name}"
    sizes = (f"{stage}.micro_batch_samples={micro}", f"{stage}.batch_samples={4 * micro}")
    return load_recipe(name, (*alone, *sizes))


def rows_of(recipe: Recipe, stage: Stage, step: int) -> np.ndarray:
    return np.random.default_rng(step).integers(3, recipe.model.vocab_rows, (stage.batch_samples, stage.context), dtype=np.uint16)


def ours(recipe: Recipe, stage: Stage, place: Place) -> Train:
    engine = Engine(recipe, stage, place)
    return lambda step: train_step(engine, recipe, stage, step, lambda s: rows_of(recipe, stage, s)).loss


def plain(recipe: Recipe, stage: Stage, place: Place) -> Train:
    """bf16 weights, fp32 masters, moments and accumulation: what DeepSpeed does, without it."""
    device = torch.device(place.device)
    backend = choose_backend(recipe, place, this_machine(place.device))
    model = build_plain(recipe.model, stage.rope_base, recipe.seed, backend=backend).to(device)
    masters = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters()]
    model.bfloat16()
    if place.compile_layers:
        for layer in model.layers:
            layer.compile()
    optimizer = adamw(recipe.optimizer)(parameter_groups(masters, recipe.optimizer.weight_decay))
    weights = list(model.parameters())

    def train(step: int) -> float:
        rows = torch.from_numpy(rows_of(recipe, stage, step).astype(np.int64)).to(device)
        parts = rows.split(stage.micro_batch_samples)
        losses = []
        for tokens_BT in parts:
            loss = mean_loss(model(tokens_BT), next_tokens(tokens_BT))
            (loss / len(parts)).backward()
            losses.append(loss.detach())
            for master, weight in zip(masters, weights, strict=True):
                gradient = weight.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                weight.grad = None
        torch.nn.utils.clip_grad_norm_(masters, recipe.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
        return float(torch.stack(losses).mean())

    return train


def timed(train: Train, steps: int, device: str) -> Measured:
    first, seconds = 0.0, []
    for step in range(1, WARMUP_STEPS + steps + 1):
        began = time.perf_counter()
        loss = train(step)  # reading the loss waits for the device
        seconds.append(time.perf_counter() - began)
        first = first or loss
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return Measured(first, statistics.median(seconds[WARMUP_STEPS:]), peak)


def trainer(recipe: Recipe, stage: Stage, place: Place, steps: int) -> Measured:
    """Hugging Face's Trainer as its users run it: mixed precision by autocast over fp32 weights, fused AdamW, SDPA."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    model = recipe.model
    config = LlamaConfig(
        vocab_size=model.vocab_rows,
        hidden_size=model.hidden,
        intermediate_size=model.ffn,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        max_position_embeddings=stage.context,
        rms_norm_eps=model.norm_eps,
        initializer_range=model.init_std,
        rope_parameters={"rope_type": "default", "rope_theta": stage.rope_base},
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    rows = np.concatenate([rows_of(recipe, stage, step) for step in range(1, WARMUP_STEPS + steps + 1)]).astype(np.int64)
    examples = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in rows]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            if place.device == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=stage.micro_batch_samples,
            gradient_accumulation_steps=stage.batch_samples // stage.micro_batch_samples,
            max_steps=WARMUP_STEPS + steps,
            bf16=True,
            use_cpu=place.device == "cpu",
            optim="adamw_torch_fused",
            max_grad_norm=recipe.optimizer.clip,
            logging_steps=1,
            report_to=[],
            train_sampling_strategy="sequential",  # the rows in our order: the first losses are of the same ones
            save_strategy="no",
            disable_tqdm=True,
        )
        llama = LlamaForCausalLM(config)
        llama.load_state_dict(weights_of(build_plain(model, stage.rope_base, recipe.seed), model))
        run = Trainer(model=llama, args=arguments, train_dataset=examples, callbacks=[Clock()])
        run.train()
        losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    peak = torch.cuda.max_memory_allocated() if place.device == "cuda" else 0
    return Measured(float(losses[0]), statistics.median(np.diff(ends[WARMUP_STEPS - 1 :]).tolist()), peak)


def contest(name: str, asked: argparse.Namespace) -> Measured:
    """One contestant, in this process."""
    kind, attention, *more = name.split()
    recipe = recipe_of(asked)
    stage = recipe.stages[0]
    place = Place(device=asked.device, attention=attention, compile_layers="compiled" in more)
    if kind == "trainer":
        return trainer(recipe, stage, place, asked.steps)
    if kind == "plain":
        return timed(plain(recipe, stage, place), asked.steps, asked.device)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    connect(recipe, place)
    return timed(ours(recipe, stage, place), asked.steps, asked.device)


def contest_apart(name: str, asked: argparse.Namespace) -> Measured | str:
    """One contestant in a process of its own: what it measured, or why it could not."""
    argv = [sys.executable, __file__, "--contestant", name, "--recipe", asked.recipe, "--device", asked.device, "--steps", str(asked.steps)]
    argv += ["--micro-batch-samples", str(asked.micro_batch_samples), *(f"--set={change}" for change in asked.set)]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=asked.timeout, check=False)
    except subprocess.TimeoutExpired:
        return f"not within {asked.timeout} s"
    lines = ran.stdout.strip().splitlines()
    if ran.returncode or not lines:
        return said(ran.stderr)
    return Measured(**json.loads(lines[-1]))


def said(stderr: str) -> str:
    """The last word of one that failed, without the rank's number that torch puts before it."""
    lines = [line.removeprefix("[rank0]: ") for line in stderr.strip().splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or ["no word"])[-1]


def product_tflops(device: str) -> float:
    """What the device computes of one large bfloat16 product over and over."""
    left, right = (torch.randn(PRODUCT_ROWS, PRODUCT_ROWS, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(WARMUP_STEPS + 10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            torch.mm(left, right)
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - began) / 10)
    return float(2 * PRODUCT_ROWS**3 / statistics.median(seconds[WARMUP_STEPS:]) / 1e12)


def device_line(device: str, device_name: str) -> str:
    """What the device can do, as its maker says and as it does."""
    try:
        peak = peak_tflops(device_name)
    except UnknownPeak as unknown:
        return str(unknown)
    reached = product_tflops(device)
    return f"peak {peak:,.0f} TFLOP/s dense bf16; its own product of {PRODUCT_ROWS} rows reaches {reached:,.0f}, {reached / peak:.1%}"


def line(name: str, measured: Measured | str, recipe: Recipe, device_name: str) -> str:
    if isinstance(measured, str):
        return f"{name:<22}{measured}"
    stage = recipe.stages[0]
    rate = stage.tokens_per_step / measured.seconds_per_step
    try:
        used = utilization(recipe.model, stage.context, rate, device_name)
        mfu = f"{used.full:>9.1%}{used.causal:>9.1%}"
    except UnknownPeak:
        mfu = f"{'unknown':>9}{'unknown':>9}"
    speed = f"{rate:>12,.0f}{1000 * measured.seconds_per_step:>10,.0f}"
    memory = f"{measured.peak_bytes / 1e9:>9.1f}" if measured.peak_bytes else f"{'-':>9}"
    return f"{name:<22}{speed}{mfu}{memory}{measured.first_loss:>10.4f}"


def table(asked: argparse.Namespace) -> bool:
    """Print it; whether the contestants' first losses agree."""
    recipe, stage = recipe_of(asked), recipe_of(asked).stages[0]
    device_name = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    count = stage.batch_samples // stage.micro_batch_samples
    print(
        f"{recipe.name}: {parameters(recipe.model):,} parameters, {stage.context} positions, {count} micro-batches of "
        f"{stage.micro_batch_samples}, bf16 with fp32 masters, on {device_name}, torch {torch.__version__}"
    )
    print(device_line(asked.device, device_name))
    print(f"{'':<22}{'tokens/s':>12}{'ms/step':>10}{'12LDS':>9}{'causal':>9}{'peak GB':>9}{'loss 1':>10}")
    losses = []
    for name in asked.contestants or CONTESTANTS:
        measured = contest_apart(name, asked)
        print(line(name, measured, recipe, device_name), flush=True)
        losses += [measured.first_loss] if isinstance(measured, Measured) else []
    return bool(losses) and max(losses) - min(losses) <= PARITY_NATS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="k2_1b", help="a recipe's name or file: its model, and its first stage's context (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a field of the recipe, as in `k2 run`")
    parser.add_argument("--micro-batch-samples", type=int, default=0, help="four of them make a step (default: the recipe's size)")
    parser.add_argument(
        "--steps", type=int, default=10, help=f"measured, after {WARMUP_STEPS} that are not; the median counts (%(default)s)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(%(default)s)")
    parser.add_argument("--timeout", type=int, default=300, help="seconds for one contestant (%(default)s)")
    names = ", ".join(f'"{name}"' for name in CONTESTANTS)
    parser.add_argument("--contestants", nargs="*", metavar="NAME", help=f"default: {names}")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch sees no CUDA device here; this needs one GPU of 80 GB (or --device cpu with a small recipe)")
        return 0
    if asked.contestant:
        print(json.dumps(asdict(contest(asked.contestant, asked))))
        return 0
    agree = table(asked)
    print("the first losses agree" if agree else f"the first losses differ by more than {PARITY_NATS} nats: these are not the same model")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
