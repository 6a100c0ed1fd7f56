"""What `accept` does: how many of a teacher's traces each threshold keeps, and what a student trained on them reaches.

    python benchmarks/accept_sweep.py --train 200 --store /tmp/accept

On the rag_distillation example with the embedded LM. The teacher (its few-shot prompt, as built by MIPROv2) answers the
first N train questions once; the student is then trained from the same start on what each threshold keeps, and with
``--gold`` on the N gold answers for comparison. Measured on the test split. A store that is there is loaded.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import dspy
from tabulate import tabulate

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Ladder, Stage, resolve_lm
from pytest_dspy_ft.records.evaluation import ExampleResult

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "rag_distillation"
ANYTHING = 1e-9
"""What DSPy does: any score above 0 counts."""


def example_of(lm: Any) -> tuple[dict[str, Any], Dataset, Any, dict[str, Any]]:
    """The example's settings for the embedded LM, its questions, its metric and how it trains."""
    sys.path.insert(0, str(EXAMPLE))
    rag, conftest = importlib.import_module("rag"), importlib.import_module("conftest")
    dataset = Dataset.from_file(EXAMPLE / "questions.json", inputs=["question"])
    with dspy.context(lm=lm):
        settings = conftest.embedded(rag.Passages.of(EXAMPLE / "passages.json"), dataset, lm)
    return settings, dataset, rag.token_f1, conftest.TUNING


def answered(program: Any, examples: list[Any], results: tuple[ExampleResult, ...], accept: float) -> list[Any]:
    """The examples whose answer by the teacher reached the threshold, with that answer and what it was shown."""
    kept = []
    for example, result in zip(examples, results, strict=True):
        if result.outcome == "scored" and result.score >= accept and result.prediction:
            kept.append(shown(program, example.copy(answer=result.prediction["answer"])))
    return kept


def shown(program: Any, example: Any) -> Any:
    """An example with the passages that its question is answered from."""
    return example.copy(context=program.context(example.question)).with_inputs("question")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gold", action="store_true", help="also train on the labels")
    parser.add_argument("--train", type=int, default=200, help="train questions that the teacher answers")
    parser.add_argument("--accept", type=float, nargs="+", default=[ANYTHING, 0.25, 0.5, 0.75, 1.0])
    parser.add_argument("--store", type=Path, required=True)
    arguments = parser.parse_args()
    lm = resolve_lm("local").copy(max_tokens=32)
    settings, dataset, metric, training = example_of(lm)
    few = Dataset(train=list(dataset.train[: arguments.train]), dev=[], test=list(dataset.test))
    seed = int(os.environ.get("EXAMPLE_SEED", "0"))
    rungs = {"metric": metric, "lm": lm, "dataset": few, "seed": seed, **settings}
    teacher = Ladder(Experiment("accept", **rungs), store=arguments.store)
    taught = teacher.evaluate("teacher_optimized", on="train")

    sets = {
        ("above 0" if accept == ANYTHING else f"{accept:g}"): answered(
            settings["program"], few.train, taught.examples, accept
        )
        for accept in arguments.accept
    }
    if arguments.gold:
        sets["gold answers"] = [shown(settings["program"], example) for example in few.train]
    stages = {f"accept_{i}": name for i, name in enumerate(sets)}
    tune = LabeledFinetune(metric=None, train_kwargs=training)
    rungs["stages"] = [
        Stage(s, tune, min_traces=1, compile_args={"trainset": sets[name]}) for s, name in stages.items()
    ]
    student = Ladder(Experiment("accept_students", **rungs), store=arguments.store)
    score = {e.id: e.score for e in taught.examples}
    mean = sum(score.values()) / len(score)
    print(f"teacher: {mean:.1%} on the {taught.n} train questions, {taught.unparsed} unreadable")
    print(f"teacher on test: {teacher.evaluate('teacher_optimized', on='test').score:.1%}", flush=True)
    rows = []
    for stage, name in stages.items():
        result = student.evaluate(stage, on="test")
        exact = sum(s == 1.0 for s in result.scores)
        low, high = result.interval
        rows.append([name, len(sets[name]), f"{result.score:.1%}", f"{low:.1%} to {high:.1%}", exact])
        print(rows[-1], flush=True)
    print(tabulate(rows, ["accept", "kept", "F1 (test)", "95% interval", f"exact of {len(few.test)}"]))


if __name__ == "__main__":
    main()
