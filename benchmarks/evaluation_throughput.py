"""Evaluation throughput: what an evaluation costs beside the LM, ours against `dspy.Evaluate`.

    python benchmarks/evaluation_throughput.py --n 5000 --threads 8 --repeats 3

The LM's engine answers at once, so that only the harness is measured: DSPy's adapter and LM classes, which both sides
run through, and what each adds to them. The sides take turns; each run has a fresh program, and no cache. Ours keeps
more: a record of each example with its prediction, tokens and cost, stable ids, and an unbounded number of errors.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import time
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage

from pytest_dspy_ft.evaluation.evaluate import Measurement, evaluate_examples
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.progress import SilentProgress


class InstantEngine:
    """Answers at once: the number's parity."""

    def complete(self, request: Request) -> Response:
        """Answer one request."""
        number = int(request.messages[-1].parts[0].text.split("[[ ## text ## ]]")[-1].split()[0])
        answer = f"[[ ## label ## ]]\n{'odd' if number % 2 else 'even'}\n\n[[ ## completed ## ]]"
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(answer),
            finish_reason="stop",
            usage=Usage(input_tokens=10, output_tokens=5),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> InstantEngine:
        return self


class Labels(dspy.Signature):
    """Say whether the number is even or odd."""

    text: str = dspy.InputField()
    label: str = dspy.OutputField()


def right_label(example: Any, prediction: Any, trace: Any = None) -> bool:
    """The metric."""
    return bool(prediction.label == example.label)


def ours(lm: Any, adapter: Any, examples: list[Any], threads: int) -> float:
    """The score as this package measures it."""
    program = dspy.Predict(Labels)
    program.set_lm(lm)
    runtime = Runtime(lm, adapter, threads)
    results = evaluate_examples(program, Measurement(examples, right_label, runtime, SilentProgress(), "benchmark"))
    return sum(result.score for result in results) / len(results)


def theirs(lm: Any, adapter: Any, examples: list[Any], threads: int) -> float:
    """The score as DSPy measures it."""
    program = dspy.Predict(Labels)
    program.set_lm(lm)
    evaluate = dspy.Evaluate(devset=examples, metric=right_label, num_threads=threads, display_progress=False)
    with dspy.context(lm=lm, adapter=adapter):
        return float(evaluate(program).score) / 100


def main() -> None:
    """Measure both sides in turn and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5000, help="examples")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.ERROR)
    lm = dspy.LM("toy/parity", engine=InstantEngine(), cache=False)
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    examples = [
        dspy.Example(text=str(i), label="odd" if i % 2 else "even").with_inputs("text") for i in range(arguments.n)
    ]
    sides = {"pytest-dspy-ft": ours, "dspy.Evaluate": theirs}
    for run in sides.values():  # imports and first calls
        run(lm, adapter, examples[:50], arguments.threads)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(arguments.repeats):
        turn = list(sides.items())
        for name, run in turn if repeat % 2 == 0 else reversed(turn):
            gc.collect()
            start = time.perf_counter()
            score = run(lm, adapter, examples, arguments.threads)
            seconds[name].append(time.perf_counter() - start)
            if score != 1.0:
                raise SystemExit(f"{name}: the score is {score}, not 1: this measures something else")
    for name, values in seconds.items():
        median = statistics.median(values)
        runs = "  ".join(f"{value:.2f}" for value in values)
        print(f"{name:>15}: median {median:6.2f} s  {arguments.n / median:6.0f} examples/s  (runs: {runs} s)")
    first, second = (statistics.median(values) for values in seconds.values())
    print(f"ratio {first / second:.3f} (below 1: ours is faster); {arguments.n} examples, {arguments.threads} threads")


if __name__ == "__main__":
    main()
