"""A kept stage is the stage that was built, whatever its optimizer changed; what cannot be kept is an error."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from typing import Any, Literal

import dspy
import numpy as np
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BuildError
from pytest_dspy_ft.evaluation.anatomy import Anatomy, differences, place
from tests.ladder.helpers import STORE, predict, right, scripted
from tests.scripted import experiment, numbers, reply, scripted_lm

Compile = Callable[[Any], Any]


class Retriever:
    """An object of the user's, with state of its own."""

    def __init__(self) -> None:
        self.k, self.weights = 3, np.array([1.0, 2.0])
        self.search = lambda text: [text]


class Answer(dspy.Signature):
    """Answer."""

    text: str = dspy.InputField()
    label: Literal["even", "odd"] = dspy.OutputField(desc="which")


def search(text: str) -> str:
    """Search."""
    return text


def upper(text: str) -> str:
    return text.upper()


class Pipeline(dspy.Module):
    """Predictors in attributes, lists and dicts; one under two names; plain and live attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict(Answer)
        self.steps = [dspy.ChainOfThought("text -> note"), predict()]
        self.named = {"a": predict(), "b": predict()}
        self.again = self.first
        self.agent = dspy.ReAct("text -> label", tools=[search])
        self.retriever = Retriever()
        self.threshold, self.labels, self.clean = 0.5, ["x"], str.strip

    def forward(self, text: str) -> Any:
        return self.first(text=text)


class Changing:
    """An optimizer that changes a program, and keeps what it gave back."""

    def __init__(self, change: Compile) -> None:
        self.change, self.given = change, []  # type: ignore[var-annotated]

    def __call__(self, program: Any, *, trainset: Any, teacher: Any) -> Any:
        changed = self.change(program)
        self.given.append(program if changed is None else changed)
        return self.given[-1]

    def __dspy_ft_key__(self) -> str:
        return self.change.__qualname__


def kept(change: Compile, *, program: Callable[[], Any] = Pipeline) -> tuple[Any, Any, Any]:
    """What an optimizer gave back, and the stage as its session and a later one have it."""
    optimizer = Changing(change)
    stages = [Stage("made", optimizer)]
    ladders = [Ladder(experiment(program(), scripted(), stages, count=20), STORE) for _ in "12"]
    built, loaded = (ladder.build("made") for ladder in ladders)
    assert (built.record.status, loaded.record.status) == ("built", "loaded")
    return optimizer.given[0], built.program, loaded.program


def assert_alike(*programs: Any) -> None:
    first, *others = (Anatomy(program).root for program in programs)
    for other in others:
        assert [place(path) for path, _, _ in differences(first, other)] == []


def _tool(program: Any) -> None:
    program.agent.tools["search"].desc = "look it up"


def _fields(program: Any) -> None:
    signature = program.first.signature.prepend("sure", dspy.OutputField(desc="0 to 1", ge=0), float)
    program.first.signature = signature.append("why", dspy.OutputField(desc="said \\n at length"), list[str] | None)
    program.steps[1].signature = program.steps[1].signature.delete("label").append("kind", dspy.OutputField())
    program.named["a"].signature = program.first.signature.append("who", dspy.OutputField(), dspy.History)


def _reordered(program: Any) -> None:
    program.first.signature = program.first.signature.delete("label").append(
        "label", dspy.OutputField(desc="last"), Literal["even", "odd"]
    )
    program.first.signature = program.first.signature.append("b", dspy.OutputField()).append("a", dspy.OutputField())


def _split(program: Any) -> None:
    program.again = program.again.deepcopy()
    program.again.demos = [{"label": "odd", "text": "1"}]


def _joined(program: Any) -> None:
    program.named["b"] = program.named["a"]


def _added(program: Any) -> None:
    program.judge = dspy.ChainOfThought("text, label -> verdict: bool", temperature=0.9)
    program.steps.append(dspy.Predict(Answer))


def _removed(program: Any) -> None:
    del program.named["a"]
    program.steps = program.steps[:1]


def _objects(program: Any) -> None:
    program.retriever.k = 7
    program.retriever.weights = np.arange(4, dtype=np.int16).reshape(2, 2)
    program.retriever.note = ("a", 1, {2, 1})


def _plain(program: Any) -> None:
    program.threshold, program.labels = 1 / 3, [{"k": (1, None)}, 2**70, float("nan"), -0.0, "\ud83d"]
    program.first.config = {"temperature": 0.7, "n": 1}
    program.extra = {1: "x", "$dollar": b"\x00"}
    del program.clean


def _function(program: Any) -> None:
    program.clean = upper


def _compiled(program: Any) -> None:
    program.steps[0]._compiled = True
    program.steps[0].predict.demos = [dspy.Example(text="1", note="n", augmented=True).with_inputs("text")]


CHANGES = [_tool, _fields, _reordered, _split, _joined, _added, _removed, _objects, _plain, _function, _compiled]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__[1:])
def test_what_an_optimizer_changed_comes_back(change: Compile) -> None:
    given, built, loaded = kept(change)
    assert_alike(given, built, loaded)


def test_predictors_that_are_one_stay_one() -> None:
    _, _, loaded = kept(_joined)
    assert loaded.named["b"] is loaded.named["a"]
    assert loaded.again is loaded.first
    _, _, loaded = kept(_split)
    assert loaded.again is not loaded.first
    assert loaded.again.demos
    assert not loaded.first.demos


def test_the_order_of_keys_in_demos_reaches_the_prompt() -> None:
    def order(program: Any) -> None:
        program.first.demos = [{"label": "odd", "text": "1"}, dspy.Example(zeta="z", text="2", alpha="a", label="even")]

    _, _, loaded = kept(order)
    assert [list(dict(demo.items())) for demo in loaded.first.demos] == [
        ["label", "text"],
        ["zeta", "text", "alpha", "label"],
    ]


# --- programs of another structure -----------------------------------------------------------------------------------


class Voting(dspy.Module):
    def __init__(self, voters: list[Any]) -> None:
        super().__init__()
        self.voters = voters

    def forward(self, text: str) -> Any:
        return dspy.majority([dspy.Prediction(label=voter(text=text).label) for voter in self.voters])


def _voters(program: Any) -> list[Any]:
    voters = [program.deepcopy() for _ in "123"]
    for i, voter in enumerate(voters):
        voter.first.demos = [{"text": str(i), "label": "odd"}]
        voter(text=str(i))  # LM calls: compiling again would pay for them again
    return voters


@pytest.mark.parametrize("size", [None, 2])
def test_an_ensemble_of_programs(size: int | None) -> None:
    given, built, loaded = kept(lambda p: dspy.Ensemble(reduce_fn=dspy.majority, size=size).compile(_voters(p)))
    assert_alike(given, built, loaded)
    assert [voter.first.demos[0]["text"] for voter in loaded.programs] == ["0", "1", "2"]


def test_a_program_of_another_class_of_the_users() -> None:
    given, built, loaded = kept(lambda program: Voting(_voters(program)))
    assert_alike(given, built, loaded)


def test_a_predictor_becomes_a_chain_of_thought() -> None:
    given, built, loaded = kept(lambda _: dspy.ChainOfThought("text -> label"), program=predict)
    assert_alike(given, built, loaded)


def embed(texts: list[str]) -> Any:
    return np.array([[float(len(text)), float(int(text.split()[-1]) % 2)] for text in texts], dtype=np.float32)


@pytest.mark.parametrize("wrapped", [False, True])
def test_nearest_neighbours_as_demos(wrapped: bool) -> None:
    demos: list[int] = []

    def rule(fields: Any, request: Any) -> str:
        demos.append(len(request.messages) - 2)
        return reply(label="odd")

    def make(trainset: Any) -> Any:
        return dspy.KNNFewShot(
            k=2, trainset=trainset, vectorizer=dspy.Embedder(embed), max_bootstrapped_demos=0, max_labeled_demos=2
        )

    def optimizer(program: Any, *, trainset: Any, teacher: Any) -> Any:
        return make(trainset).compile(program)

    made = experiment(predict(), scripted_lm(rule), [Stage("near", optimizer if wrapped else make(numbers(8)))])
    for status in ("built", "loaded"):
        demos.clear()
        ladder = Ladder(made, STORE)
        assert ladder.build("near").record.status == status
        assert demos == []
        ladder.program("near")(text="5")
        assert len(demos) == 1
        assert demos[0] > 0


# --- what cannot be kept ---------------------------------------------------------------------------------------------


def _replaced(program: Any) -> None:
    program(text="1")
    program.forward = types.MethodType(lambda self, text: self.first(text=text.strip()), program)


def _closure(program: Any) -> None:
    program(text="1")
    program.clean = lambda text: text.lower()


def _local(program: Any) -> None:
    class Secret:
        pass

    program(text="1")
    program.labels = [Secret()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_replaced, r"program\.forward: .*is not data"),
        (_closure, r"program\.clean: .*is not data"),
        (_local, r"program\.labels\[0\]: its class .*Secret is not among"),
    ],
)
def test_what_cannot_be_kept_is_named_and_nothing_is_filed(change: Compile, words: str) -> None:
    with pytest.raises(BuildError, match=rf"stage 'made': what its optimizer gave back cannot be kept(.|\n)*{words}"):
        kept(change)
    assert not list((STORE / "stages").glob("*/made"))


def test_a_compilation_that_comes_out_differently_each_time_is_refused() -> None:
    runs: list[int] = []

    def random_forward(program: Any) -> None:
        runs.append(1)
        number = len(runs)
        program.forward = types.MethodType(lambda self, text: self.first(text=f"{text}{number}"), program)

    with pytest.raises(BuildError, match=r"compiling it again gives another one: program\.forward"):
        kept(random_forward)


# --- LMs -------------------------------------------------------------------------------------------------------------

ELSEWHERE = scripted(model="toy/elsewhere", engine_name="elsewhere", temperature=0.2)


def _declared_lm(program: Any) -> None:
    program.first.set_lm(ELSEWHERE)


def _warmer(program: Any) -> None:
    program.first.lm = dspy.settings.lm.copy(temperature=0.9, max_tokens=7)


def _copied_lm(program: Any) -> None:
    program.first.lm = ELSEWHERE.copy(model="toy/other", temperature=None, top_p=0.5)


def _attribute_lm(program: Any) -> None:
    program.judge_lm = program.first.lm = ELSEWHERE


def _new_lm(program: Any) -> None:
    program.first.lm = dspy.LM("openai/tuned", api_base="http://127.0.0.1:9/v1", api_key="none", temperature=0.4)


def _lm_of_the_environment(program: Any) -> None:
    program.first.lm = dspy.LM("openai/tuned", api_key=os.environ["MY_OWN_KEY"], max_tokens=5)


SET_LMS = [_declared_lm, _warmer, _copied_lm, _attribute_lm, _new_lm, _lm_of_the_environment]


@pytest.mark.parametrize("change", SET_LMS, ids=lambda change: change.__name__[1:])
def test_an_lm_that_the_optimizer_set_comes_back(change: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_OWN_KEY", "sk-something-secret-1234")
    given, built, loaded = kept(change)
    assert_alike(given, built, loaded)
    for program in (built, loaded):
        mine, theirs = program.first.lm.kwargs, given.first.lm.kwargs
        assert {k: v for k, v in mine.items() if v is not None} == {k: v for k, v in theirs.items() if v is not None}
    assert "sk-something-secret-1234" not in "".join(p.read_text("utf-8") for p in STORE.rglob("*.json"))


def test_lms_that_cannot_be_found_again_are_named() -> None:
    def unknown(program: Any) -> None:
        program.first.lm = scripted(model="toy/nowhere", engine_name="nowhere")

    def keyed(program: Any) -> None:
        program.first.lm = dspy.LM("openai/tuned", api_key="sk-a-key-of-its-own-123")

    with pytest.raises(BuildError, match=r"program\.first\.lm: .*'toy/nowhere'.*declared nowhere"):
        kept(unknown)
    with pytest.raises(BuildError, match=r"program\.first\.lm: api_key of the LM 'openai/tuned' stands in no environ"):
        kept(keyed)


# --- DSPy's optimizers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        dspy.LabeledFewShot(k=3),
        dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2),
        dspy.BootstrapFewShotWithRandomSearch(metric=right, max_bootstrapped_demos=1, num_candidate_programs=1),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
@pytest.mark.filterwarnings("default")
def test_optimizers_of_dspy(optimizer: Any) -> None:
    made = experiment(predict(), scripted(), [Stage("made", optimizer)], count=20)
    programs = [Ladder(made, STORE).build("made").program for _ in "12"]
    assert_alike(*programs)


def test_answers_of_a_build_that_could_not_be_kept_are_not_paid_for_again() -> None:
    lm = scripted()
    lm.cache = True

    def broken(program: Any) -> None:
        program(text="1")
        _closure(program)

    def mended(program: Any) -> None:
        program(text="1")
        program(text="2")

    with pytest.raises(BuildError, match="the answers it was built with are kept"):
        Ladder(experiment(Pipeline(), lm, [Stage("made", Changing(broken))]), STORE).build("made")
    asked = len(lm.engine.requests)
    assert asked > 0
    Ladder(experiment(Pipeline(), lm, [Stage("made", Changing(mended))]), STORE).build("made")
    assert len(lm.engine.requests) == asked + 1
