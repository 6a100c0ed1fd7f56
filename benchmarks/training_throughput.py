"""Training throughput: each batch's common prefix once, against the usual padded batch.

    python benchmarks/training_throughput.py --rows 64 --steps 3 --batch-size 8 --demos 0 8

Both sides train a LoRA on the embedded SmolLM2-135M with the same rows in the same batches, each in a process of its
own (peak memory is per process): `plain` (peft, padded batch, Hugging Face's loss over all logits), then `shared`. The
loss is compared step by step.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
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


def measure(shared: bool, demos: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train `--steps` steps and stop; called in a process of its own, so that the peak memory is this side's."""
    from pytest_dspy_ft.local import weights
    from pytest_dspy_ft.local.training.config import LoraTrainingConfig
    from pytest_dspy_ft.local.training.run import TrainingCancelledError, train_lora
    from pytest_dspy_ft.local.training.trainer import TrainingProgress

    loaded = weights.load(weights.resolve_source("smollm2-135m"), device="cpu", dtype="float32")
    seen: list[TrainingProgress] = []
    config = LoraTrainingConfig(
        batch_size=arguments.batch_size, validation_fraction=0.0, shared_prefix=shared, epochs=1000
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(TrainingCancelledError):
        train_lora(
            loaded,
            make_rows(arguments.rows, demos),  # type: ignore[arg-type]
            Path(folder),
            config=config,
            progress=seen.append,
            should_stop=lambda: len(seen) > arguments.steps,
        )
    seconds = [after.seconds_elapsed - start.seconds_elapsed for start, after in itertools.pairwise(seen)]
    return {
        "losses": [progress.loss for progress in seen[1:]],
        "seconds": seconds,
        "tokens": seen[-1].tokens,
        "loaded_gib": before / 2**20,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Run both sides for each number of demos and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--demos", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--side", choices=["plain", "shared"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        warnings.simplefilter("ignore")
        print("RESULT " + json.dumps(measure(arguments.side == "shared", arguments.demos[0], arguments)))
        return
    for demos in arguments.demos:
        sides = {}
        for side in ("plain", "shared"):
            command = [sys.executable, __file__, "--side", side, "--demos", str(demos)]
            for name in ("rows", "steps", "batch_size"):
                command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            line = next(line for line in output.splitlines() if line.startswith("RESULT "))
            sides[side] = json.loads(line.removeprefix("RESULT "))
        print(f"{demos} demos, batch of {arguments.batch_size}, {arguments.steps} steps")
        medians = {}
        for side, result in sides.items():
            timed = result["seconds"][1:] or result["seconds"]  # the first step also allocates
            medians[side] = statistics.median(timed)
            print(
                f"  {side:6}  {medians[side]:6.2f} s/step (median)  {result['tokens'] / len(result['seconds']):6.0f} "
                f"tokens/step  peak {result['peak_gib']:.2f} GiB ({result['loaded_gib']:.2f} before training)  "
                f"losses {' '.join(f'{loss:.5f}' for loss in result['losses'])}"
            )
        apart = max(abs(a - b) for a, b in zip(sides["plain"]["losses"], sides["shared"]["losses"], strict=True))
        print(f"  plain / shared: {medians['plain'] / medians['shared']:.2f} x; largest loss difference {apart:.2e}")


if __name__ == "__main__":
    main()
