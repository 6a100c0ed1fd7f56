"""What it costs to follow which code runs: the same evaluation with and without, in turn.

    python benchmarks/following_cost.py --n 5000 --threads 8 --repeats 5

The LM's engine answers at once, so that nothing hides the cost: beside a real LM it is less by as much as the LM is
slower. Both sides make the same records; the program has a helper of its own, so that there is user code to be seen.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import time
from typing import Any

import dspy
from evaluation_throughput import InstantEngine, Labels, right_label

from pytest_dspy_ft.evaluation.evaluate import Measurement, evaluate_examples
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.progress import SilentProgress
from pytest_dspy_ft.provenance.footprint import Provenance


class Parity(dspy.Module):  # type: ignore[misc]  # DSPy's Module is Any to mypy
    """A program with a helper of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(Labels)

    def forward(self, text: str) -> Any:
        """Answer."""
        return self.answer(text=self.tidy(text))

    def tidy(self, text: str) -> str:
        """The helper."""
        return text.strip()


def evaluation(lm: Any, adapter: Any, examples: list[Any], threads: int, followed: bool) -> tuple[float, str]:
    """Seconds that an evaluation takes, the making of its footprint included; and what was seen of the code."""
    program = Parity()
    program.set_lm(lm)
    gc.collect()
    started = time.perf_counter()
    if not followed:
        runtime = Runtime(lm, adapter, threads)
        evaluate_examples(program, Measurement(examples, right_label, runtime, SilentProgress(), "plain"))
        return time.perf_counter() - started, ""
    following = Provenance([program, right_label, adapter, lm]).following()
    runtime = Runtime(lm, adapter, threads, around=following.one)
    with following.follower.session():
        evaluate_examples(program, Measurement(examples, right_label, runtime, SilentProgress(), "followed"))
    footprint = following.footprint()
    seconds = time.perf_counter() - started
    seen = f"{len(footprint.functions)} functions seen, {footprint.followed:.1%} of the calls followed"
    return seconds, seen


def main() -> None:
    """Measure both sides in turn and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5000, help="examples")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    lm = dspy.LM("instant/parity", engine=InstantEngine(), cache=False)
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    examples = [
        dspy.Example(text=str(i), label="odd" if i % 2 else "even").with_inputs("text") for i in range(options.n)
    ]
    evaluation(lm, adapter, examples[:200], options.threads, followed=True)  # imports and caches
    plain, followed, seen = [], [], ""
    for round_ in range(options.repeats):
        for side in (False, True) if round_ % 2 else (True, False):
            seconds, said = evaluation(lm, adapter, examples, options.threads, side)
            (followed if side else plain).append(seconds)
            seen = said or seen
    ratios = [b / a for a, b in zip(plain, followed, strict=True)]
    print(f"{options.n} examples, {options.threads} threads, {options.repeats} rounds in turn")
    print(f"  not followed  {statistics.median(plain):6.2f} s")
    print(f"  followed      {statistics.median(followed):6.2f} s   {seen}")
    print(f"  ratio         {statistics.median(ratios):6.3f}   (from {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
