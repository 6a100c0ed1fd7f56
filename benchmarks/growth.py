"""How time and memory grow with gates, stages, examples and texts of one template: three sizes each, and the exponent.

    python benchmarks/growth.py                          # small sizes: minutes
    python benchmarks/growth.py --full                   # the sizes of docs/explanation/growth.md: an hour
    python benchmarks/growth.py --full --only gates ls   # some of them

Each line is a process of its own, most of them a whole ``pytest`` session on a project with an LM that answers at once,
so that nothing hides what we cost. Seconds are those of the CPU, others on the machine do not count; memory is the most
that the process held. The exponent is fitted to what a session takes beyond one of the smallest project that there is
(imports, DSPy's start): 1 where twice as much takes twice as long.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CONFTEST = '''
import hashlib, json, os
import dspy, pytest
from dspy.lm15 import Message, Response, Usage
from pytest_dspy_ft import Dataset, Experiment, Stage

ASKED = json.loads(os.environ["GROWTH"])


class Engine:
    """Answers at once: nine of ten right."""

    def complete(self, request):
        number = int(request.messages[-1].parts[0].text.split("[[ ## text ## ]]")[-1].split()[0])
        label = "odd" if (number % 2) ^ (number % 10 == 7) else "even"
        text = f"[[ ## label ## ]]\\n{label}\\n\\n[[ ## completed ## ]]"
        said, usage = Message.assistant(text), Usage(input_tokens=10, output_tokens=5)
        return Response(id=None, model=request.model, message=said, finish_reason="stop", usage=usage)

    def __deepcopy__(self, memo):
        return self


class Labels(dspy.Signature):
    """Say whether the number at the beginning is even or odd."""

    text: str = dspy.InputField()
    label: str = dspy.OutputField()


def right(example, prediction, trace=None):
    return prediction.label == example.label


class Reworded:
    """An optimizer that calls no LM: the instructions get a number."""

    def __init__(self, number):
        self.number = number

    def __call__(self, program, *, trainset, teacher=None):
        program = program.deepcopy()
        program.signature = program.signature.with_instructions(f"Even or odd? ({self.number})")
        return program


def example(number):
    words = " ".join(hashlib.sha256(str(number).encode()).hexdigest()[i : i + 4] for i in range(0, 32, 4))
    return dspy.Example(text=f"{number} {words}", label="odd" if number % 2 else "even").with_inputs("text")


def optimizer(number):
    if ASKED["optimizer"] == "bootstrap":
        return dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=1 + number % 3, max_labeled_demos=number // 3)
    return Reworded(number)


def experiment():
    examples = [example(number) for number in range(20 + ASKED["examples"])]
    return Experiment(
        "growth",
        program=dspy.Predict(Labels),
        dataset=Dataset(train=examples[:20], dev=examples[20:]),
        metric=right,
        lm=dspy.LM("toy/instant", engine=Engine(), cache=False),
        adapter=dspy.ChatAdapter(use_json_adapter_fallback=False),
        stages=[Stage(f"stage_{number}", optimizer(number)) for number in range(ASKED["stages"])],
    )


@pytest.fixture(scope="session")
def dspy_experiment():
    return experiment()


def fill(store):
    """Build all stages, measure one, and file its evaluation under the others too: to measure all takes long."""
    from pytest_dspy_ft import Ladder

    ladder = Ladder(experiment(), store)
    measured = ladder.evaluate("baseline")
    for name in list(ladder.experiment.stages)[1:]:
        task = ladder._evaluator._tasks.of_stage(ladder.build(name), "dev")
        copied = {"stage": name, "key": task.key, "build": task.digest}
        ladder.store.save_evaluation(measured.model_copy(update=copied))

'''

TESTS = """
import json, os
import pytest

ASKED = json.loads(os.environ["GROWTH"])
STAGES = ["baseline", *(f"stage_{number}" for number in range(ASKED["stages"]))]
GATES = [f"{stage} >= {50 + 20 * k / ASKED['gates']:.4f}%" for stage in STAGES for k in range(ASKED["gates"])]


@pytest.mark.parametrize("gate", [pytest.param(k, marks=pytest.mark.dspy_gate(g)) for k, g in enumerate(GATES)])
def test_gate(gate): ...
"""

TEMPLATE = (
    "Dear support team, my order number {} has not arrived yet and I would like a refund please, thank you very "
    "much. {}"
)


@dataclass(frozen=True)
class Taken:
    """What a process took."""

    seconds: float
    """Of the CPU."""
    megabytes: float
    """The most that it held."""


@dataclass(frozen=True)
class Dimension:
    """One way in which a project grows."""

    what: str
    small: Sequence[int]
    full: Sequence[int]
    asked: Callable[[int], Mapping[str, object]]
    """The project of a size."""
    least: Mapping[str, object] = field(default_factory=lambda: project())
    """The smallest project."""
    again: bool = False
    """Measured is the second session, which finds all of it in the store."""
    command: Sequence[str] = ("-m", "pytest", "-q", "--no-header", "--dspy-stage=all", "-p", "no:cacheprovider")


def project(**asked: object) -> Mapping[str, object]:
    """A project, the smallest one where nothing is asked for."""
    return {"gates": 1, "stages": 0, "examples": 20, "optimizer": "reworded", **asked}


DIMENSIONS = {
    "gates": Dimension(
        "gates, each on a test of its own, 200 examples",
        (250, 500, 1000),
        (1250, 2500, 5000),
        lambda size: project(gates=size, examples=200),
    ),
    "stages": Dimension(
        "stages, each bootstrapped and measured on 50 examples",
        (10, 20, 40),
        (50, 100, 200),
        lambda size: project(stages=size, examples=50, optimizer="bootstrap"),
    ),
    "examples": Dimension(
        "examples measured with one stage",
        (5000, 10000, 20000),
        (25_000, 50_000, 100_000),
        lambda size: project(examples=size),
    ),
    "reload": Dimension(
        "stages of 5 000 examples loaded from the store (small: 500)",
        (5, 10, 20),
        (25, 35, 50),
        lambda size: project(stages=size, examples=500 if size <= 20 else 5000),
        again=True,
    ),
    "ls": Dimension(
        "stages of 5 000 examples listed by `python -m pytest_dspy_ft ls` (small: 500)",
        (5, 10, 20),
        (25, 35, 50),
        lambda size: project(stages=size, examples=500 if size <= 20 else 5000),
        again=True,
        command=("-m", "pytest_dspy_ft", "ls"),
    ),
    "near-duplicates": Dimension(
        "rows of one template searched for near-duplicates",
        (5000, 10_000, 20_000),
        (25_000, 50_000, 100_000),
        lambda size: {"rows": size},
        least={"rows": 8},
        command=(__file__, "--search"),
    ),
}


def taken(command: Sequence[str], folder: Path, asked: Mapping[str, object]) -> Taken:
    """Run a process to its end, and see what it took."""
    environment = {**os.environ, "GROWTH": json.dumps(asked), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment["DSPY_CACHEDIR"] = str(folder / "dspy_cache")
    with (folder / "output.txt").open("w") as output:
        actions = [(os.POSIX_SPAWN_DUP2, output.fileno(), 1), (os.POSIX_SPAWN_DUP2, output.fileno(), 2)]
        here = Path.cwd()
        os.chdir(folder)
        try:
            process = os.posix_spawn(sys.executable, [sys.executable, *command], environment, file_actions=actions)
        finally:
            os.chdir(here)
        _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{(folder / 'output.txt').read_text()[-3000:]}")
    peak = usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return Taken(usage.ru_utime + usage.ru_stime, peak)


def measure(dimension: Dimension, asked: Mapping[str, object], work: Path) -> Taken:
    """What a project takes."""
    folder = work / "project"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_growth.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    if dimension.again:
        taken(("-c", "import conftest; conftest.fill('.dspy_ft')"), folder, asked)
    return taken(dimension.command, folder, asked)


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of a line through the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(max(second, 1e-3)) for second in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)


def search() -> None:
    """Search rows of one template, as a session does at collection; in a process of its own."""
    import dspy

    from pytest_dspy_ft import Dataset
    from pytest_dspy_ft.experiment.near_duplicates import near_duplicates

    rows, draws = json.loads(os.environ["GROWTH"])["rows"], random.Random(1)
    words = [f"w{number}" for number in range(40)]
    texts = [TEMPLATE.format(number, " ".join(draws.choices(words, k=6))) for number in range(rows)]
    examples = [dspy.Example(text=text, label="x").with_inputs("text") for text in texts]
    near_duplicates(
        Dataset(train=examples[: rows // 2], dev=examples[rows // 2 : 3 * rows // 4], test=examples[3 * rows // 4 :])
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the large sizes")
    parser.add_argument("--only", nargs="+", choices=list(DIMENSIONS), default=list(DIMENSIONS), metavar="DIMENSION")
    parser.add_argument("--search", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        search()
        return
    work = Path(tempfile.mkdtemp(prefix="growth-"))
    try:
        for name in options.only:
            dimension = DIMENSIONS[name]
            sizes = dimension.full if options.full else dimension.small
            least = measure(dimension, dimension.least, work)
            print(
                f"{name}: {dimension.what}; the smallest: {least.seconds:.1f} s, {least.megabytes:.0f} MB", flush=True
            )
            beyond = []
            for size in sizes:
                took = measure(dimension, dimension.asked(size), work)
                beyond.append(took.seconds - least.seconds)
                print(f"  {size:>7}  {took.seconds:7.1f} s  {took.megabytes:6.0f} MB", flush=True)
            print(f"  exponent {exponent(sizes, beyond):.2f}", flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
