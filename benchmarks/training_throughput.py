"""Training throughput: ours against TRL's trainer, or against the same training over padded batches.

    pip install trl                                       # the peer; it is in the extra `dev`, too
    python benchmarks/training_throughput.py --peer trl --pairs 3
    python benchmarks/training_throughput.py --peer padded --dtype float32 --demos 0 8

Both sides train a LoRA on the embedded SmolLM2-135M with the same rows in the same batches, in the dtype that this
machine's default is; each in a process of its own (peak memory is per process), taking turns. After each of our steps
the products with the frozen weights are made alone, forward and transposed, packed, over as many tokens: no training
can be faster than these (the limit). Figures are medians over the steps of all pairs, the first step of each left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

TEXTS = {
    "billing": ["I was charged twice for {}", "My invoice for {} is wrong", "Please refund my payment for {}"],
    "technical": ["{} crashes whenever I open it", "I get error 500 from {}", "{} is slow since the update"],
    "account": ["I cannot log in to {}", "Please change the e-mail of my {} login", "Delete my profile in {}"],
    "feature_request": ["{} should have a dark mode", "Could you add export to {}", "Please support calendars in {}"],
    "other": ["Where is the office of the {} team", "Thanks for the work on {}", "Any openings in the {} team"],
}
THINGS = ["the mobile app", "the dashboard", "the yearly plan", "the web shop", "the API", "the backup service"]
ENDINGS = ["Please help me soon.", "It happened again this morning.", "I have been a customer for years."]


def make_rows(count: int, demos: int) -> list[dict[str, Any]]:
    """Chat rows as DSPy writes them, for `text -> reasoning, category`."""
    import dspy

    signature = dspy.Signature("text -> reasoning, category", "Classify the support ticket into a category.")
    rng = random.Random(0)

    def ticket() -> dict[str, str]:
        category = rng.choice(list(TEXTS))
        text = f"{rng.choice(TEXTS[category]).format(rng.choice(THINGS))}. {rng.choice(ENDINGS)}"
        reasoning = f"The customer writes about {category.replace('_', ' ')}, so the ticket goes there."
        return {"text": text, "reasoning": reasoning, "category": category}

    shown = [ticket() for _ in range(demos)]
    rows = []
    for _ in range(count):
        one = ticket()
        inputs = {"text": one.pop("text")}
        adapter = dspy.ChatAdapter()
        rows.append(adapter.format_finetune_data(signature=signature, demos=shown, inputs=inputs, outputs=one))
    return rows


class Limit:
    """The products with the model's frozen weights that a step cannot do without, and nothing else."""

    def __init__(self, model: Any) -> None:
        import torch

        from pytest_dspy_ft.local.compat import can_pack
        from pytest_dspy_ft.local.training.frozen_weight import FrozenWeight

        self.frozen = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            first = [attention.q_proj, attention.k_proj, attention.v_proj]
            for joint in (first, [attention.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]):
                weights = [linear.weight for linear in joint]
                pack = can_pack(model.device.type, model.dtype)
                self.frozen.append(FrozenWeight(weights, [None] * len(weights), pack))
        self.weights = sum(sum(frozen.sizes) * frozen.inputs for frozen in self.frozen)
        self.gib = 2 * self.weights * model.dtype.itemsize / 2**30
        self.new = lambda *shape: torch.randn(*shape).to(model.dtype)

    def seconds(self, tokens: int) -> float:
        """Of the products of a step over so many tokens, the first layer's needless gradient included."""
        inputs = {width: self.new(tokens, width) for frozen in self.frozen for width in self._widths(frozen)}
        started = time.perf_counter()
        for frozen in self.frozen:
            frozen.forward(inputs[frozen.inputs])
            frozen.transposed(inputs[sum(frozen.sizes)])
        return time.perf_counter() - started

    @staticmethod
    def _widths(frozen: Any) -> tuple[int, int]:
        return frozen.inputs, sum(frozen.sizes)


class Steps:
    """What is seen of a training: called before the first step and after each."""

    def __init__(self, limit: Limit | None) -> None:
        self.limit = limit
        self.result: dict[str, list[float]] = {"losses": [], "seconds": [], "tokens": [], "limits": []}
        self.resumed = 0.0

    def __call__(self, loss: float | None, tokens: int) -> None:
        """Note the step that is over, and measure the limit before the next begins."""
        if loss is not None:
            self.result["seconds"].append(time.perf_counter() - self.resumed)
            self.result["losses"].append(loss)
            self.result["tokens"].append(tokens)
            if self.limit is not None:
                self.result["limits"].append(self.limit.seconds(tokens))
        self.resumed = time.perf_counter()

    def finish(self, loaded: float) -> dict[str, Any]:
        """The result with the memory that this process took."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        weights = self.limit.weights if self.limit else 0
        return self.result | {
            "weights": weights,
            "loaded_gib": loaded,
            "peak_gib": peak - (self.limit.gib if self.limit else 0.0),
        }


def train_ours(shared: bool, demos: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train `--steps` steps and stop; called in a process of its own, so that the peak memory is this side's."""
    from pytest_dspy_ft.local import weights
    from pytest_dspy_ft.local.training.config import LoraTrainingConfig
    from pytest_dspy_ft.local.training.run import TrainingCancelledError, train_lora
    from pytest_dspy_ft.local.training.trainer import TrainingProgress

    loaded = weights.load(weights.resolve_source("smollm2-135m"), device="cpu", dtype=arguments.dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    steps = Steps(Limit(loaded.model) if shared else None)
    done = 0

    def on_progress(progress: TrainingProgress) -> None:
        nonlocal done
        steps(progress.loss, progress.tokens - done)
        done = progress.tokens

    config = LoraTrainingConfig(
        batch_size=arguments.batch_size,
        validation_fraction=0.0,
        shared_prefix=shared,
        epochs=1000,  # so the learning rate is as good as constant
        warmup_ratio=0.0,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(TrainingCancelledError):
        train_lora(
            loaded,
            make_rows(arguments.rows, demos),  # type: ignore[arg-type]
            Path(folder),
            config=config,
            progress=on_progress,
            should_stop=lambda: len(steps.result["losses"]) >= arguments.steps,
        )
    return steps.finish(before)


def train_with_trl(demos: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same with TRL's trainer, as `pytest_dspy_ft/local/handover/train_with_trl.py` sets it."""
    try:
        from trl import SFTConfig, SFTTrainer
    except ImportError:
        sys.exit("the peer is not installed: pip install trl")
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    from pytest_dspy_ft.local import weights
    from pytest_dspy_ft.local.training.config import LoraTrainingConfig
    from pytest_dspy_ft.local.training.rows import encode_rows, plan_epoch

    loaded = weights.load(weights.resolve_source("smollm2-135m"), device="cpu", dtype=arguments.dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    config = LoraTrainingConfig()
    encoded = encode_rows(make_rows(arguments.rows, demos), loaded.tokenizer)  # type: ignore[arg-type]
    order = [
        row for epoch in range(arguments.steps) for batch in plan_epoch(encoded, arguments.batch_size, 0, epoch)
        for row in batch
    ][: arguments.steps * arguments.batch_size]  # fmt: skip
    examples = [
        {"input_ids": list(r.ids), "labels": [-100] * r.prompt_length + list(r.ids[r.prompt_length :])} for r in order
    ]
    steps = Steps(None)

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(examples)

        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            result = super().compute_loss(model, inputs, *rest, **more)
            self.last = (
                float((result[0] if isinstance(result, tuple) else result).detach()),
                inputs["input_ids"].numel(),
            )
            return result

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            steps(None, 0)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps(*trainer.last)

    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant",
            adam_beta2=config.adam_beta2,
            bf16=False,  # the weights have their type already
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            completion_only_loss=False,  # the labels say what carries the loss
            gradient_checkpointing=False,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        lora = LoraConfig(r=config.r, lora_alpha=config.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = InOrder(
            model=loaded.model,
            args=settings,
            train_dataset=Dataset.from_list(examples),
            processing_class=loaded.tokenizer,
            peft_config=lora,
            callbacks=[Watch()],
        )
        trainer.train()
    return steps.finish(before)


def run_side(side: str, demos: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--demos", str(demos), "--dtype", arguments.dtype]
    for name in ("rows", "steps", "batch_size"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        sys.exit(finished.returncode)
    line = next(line for line in finished.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def compare(demos: int, arguments: argparse.Namespace) -> None:
    """Run pairs of both sides, and print what they took."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], arguments.peer: []}
    for _ in range(arguments.pairs):
        for side in runs:
            runs[side].append(run_side(side, demos, arguments))
    runs_of = f"{arguments.pairs} x {arguments.steps} steps, {arguments.dtype}"
    print(f"{demos} demos, batch of {arguments.batch_size}, {runs_of}")
    unique = statistics.mean(runs["ours"][0]["tokens"])
    medians = {}
    for side, results in runs.items():
        timed = [second for result in results for second in result["seconds"][1:] or result["seconds"]]
        medians[side] = statistics.median(timed)
        print(
            f"  {side:6}  {medians[side]:6.2f} s/step  {arguments.batch_size / medians[side]:5.1f} rows/s  "
            f"{unique / medians[side]:5.0f} unique tokens/s  computes {statistics.mean(results[0]['tokens']):5.0f} "
            f"tokens/step  peak {max(result['peak_gib'] for result in results):.2f} GiB "
            f"({results[0]['loaded_gib']:.2f} before training)  "
            f"losses {' '.join(f'{loss:.4f}' for loss in results[0]['losses'][:5])}"
        )
    shares, gigaflops = [], []
    for result in runs["ours"]:
        for seconds, limit, tokens in list(zip(*(result[k] for k in ("seconds", "limits", "tokens")), strict=True))[1:]:
            shares.append(limit / seconds)
            gigaflops.append(4 * result["weights"] * tokens / limit / 1e9)
    if shares:
        speed = statistics.median(gigaflops)
        print(
            f"  limit   {speed:.0f} GFLOP/s: {speed * 1e9 / (4 * runs['ours'][0]['weights']):.0f} unique tokens/s; "
            f"ours reaches {statistics.median(shares):.0%} of it"
        )
    print(f"  {arguments.peer} / ours: {medians[arguments.peer] / medians['ours']:.2f} x")


def main() -> None:
    """Run both sides for each number of demos and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=["trl", "padded"], default="padded")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--demos", type=int, nargs="+", default=[0])
    parser.add_argument("--dtype", help="float32 or bfloat16; this machine's default without it")
    parser.add_argument("--side", choices=["ours", "padded", "trl"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.dtype is None:
        from pytest_dspy_ft.local.weights import default_dtype

        arguments.dtype = default_dtype("cpu")
    if arguments.side:
        warnings.simplefilter("ignore")
        if arguments.side == "trl":
            result = train_with_trl(arguments.demos[0], arguments)
        else:
            result = train_ours(arguments.side == "ours", arguments.demos[0], arguments)
        print("RESULT " + json.dumps(result))
        return
    for demos in arguments.demos:
        compare(demos, arguments)


if __name__ == "__main__":
    main()
