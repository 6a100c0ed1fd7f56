"""Whose LM answers a program: the same as in plain DSPy where ``dspy.configure`` names the stage's LM and adapter."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from pytest_dspy_ft import Ladder
from tests.ladder.helpers import predict, right
from tests.scripted import experiment, numbers, reply, scripted_lm

POOL = ThreadPoolExecutor(2)


class Program(dspy.Module):
    """Asks ``ask``, and ``other``, which has an LM of its own; ``strong`` is a third LM."""

    def __init__(self, own: Any, strong: Any) -> None:
        super().__init__()
        self.ask, self.other = predict(), predict()
        self.other.lm = own
        self.lms = {"strong": strong}

    def strongly(self, text: str) -> Any:
        with dspy.context(lm=self.lms["strong"]):
            return self.ask(text=text)


class Switches(Program):
    def forward(self, text: str) -> Any:
        self.strongly(text)
        self.other(text=text)
        return self.ask(text=text)


class Submodules(Program):
    def __init__(self, own: Any, strong: Any) -> None:
        super().__init__(own, strong)
        self.inner = [Switches(own, strong), dspy.ChainOfThought("text -> label")]

    def forward(self, text: str) -> Any:
        with dspy.context(lm=self.lms["strong"]):
            self.inner[1](text=text)
        return self.inner[0](text=text)


class InParallel(Program):
    def forward(self, text: str) -> Any:
        pairs = [(self.ask, {"text": text}), (self.other, {"text": text})]
        with dspy.context(lm=self.lms["strong"]):
            dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)
        return dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)[0]


class InThreads(Program):
    def forward(self, text: str) -> Any:
        answers: list[Any] = []
        with dspy.context(lm=self.lms["strong"]):  # a bare thread does not see it
            thread = threading.Thread(target=lambda: answers.append(self.ask(text=text)))
            thread.start()
            thread.join()
        return answers[0]


class InPools(Program):
    def forward(self, text: str) -> Any:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda predictor: predictor(text=text), [self.ask, self.other]))
            pool.submit(self.strongly, text).result()
        return POOL.submit(lambda: POOL_INNER.submit(self.ask, text=text).result()).result()


POOL_INNER = ThreadPoolExecutor(1)


class Gathers(Program):
    def forward(self, text: str) -> Any:
        async def strongly() -> Any:
            with dspy.context(lm=self.lms["strong"]):
                await asyncio.sleep(0)
                return await self.ask.acall(text=text)

        async def both() -> Any:
            threads = asyncio.to_thread(self.ask, text=text), dspy.asyncify(self.other)(text=text)
            return (await asyncio.gather(self.ask.acall(text=text), strongly(), *threads))[0]

        return asyncio.run(both())


class InAnExecutor(Program):
    def forward(self, text: str) -> Any:
        async def ask() -> Any:
            return await asyncio.get_running_loop().run_in_executor(None, lambda: self.ask(text=text))

        return asyncio.run(ask())


class AsksTheLM(Program):
    def forward(self, text: str) -> Any:
        dspy.settings.lm(f"[[ ## text ## ]]\n{text}")
        self.lms["strong"](f"[[ ## text ## ]]\n{text}")
        return self.ask(text=text, lm=self.other.lm)


class Resamples(Program):
    def __init__(self, own: Any, strong: Any) -> None:
        super().__init__(own, strong)
        never = {"N": 3, "threshold": 2.0, "reward_fn": lambda inputs, prediction: 1.0}
        self.best = dspy.BestOfN(predict(), **never)
        self.warm = dspy.Predict("text -> label", temperature=0.7)

    def forward(self, text: str) -> Any:
        with dspy.context(lm=self.lms["strong"]):
            self.best(text=text)
        self.best(text=text)
        return self.warm(text=text)


class Switched(Program):
    """Has its own ``__call__``, in which it switches the LM."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with dspy.context(lm=self.lms["strong"]):
            return super().__call__(*args, **kwargs)

    def forward(self, text: str) -> Any:
        return self.ask(text=text)


class Refines(Program):
    def __init__(self, own: Any, strong: Any) -> None:
        super().__init__(own, strong)
        self.refined = dspy.Refine(predict(), N=1, threshold=0.5, reward_fn=lambda inputs, prediction: 1.0)

    def forward(self, text: str) -> Any:
        self.refined(text=text)
        with dspy.context(lm=self.lms["strong"]):
            return self.refined(text=text)


class Votes(Program):
    def __init__(self, own: Any, strong: Any) -> None:
        super().__init__(own, strong)
        self.many = dspy.Predict("text -> label", n=3, temperature=0.8)
        self.ensemble = dspy.Ensemble(reduce_fn=dspy.majority).compile([self.ask, self.other, predict()])

    def forward(self, text: str) -> Any:
        dspy.majority(self.many(text=text))
        return self.ensemble(text=text)


class Neighbours(Program):
    def __init__(self, own: Any, strong: Any) -> None:
        super().__init__(own, strong)
        embed = dspy.Embedder(lambda texts: np.array([[len(text), 1.0] for text in texts]))
        # Its demos are made when it is called, by the program itself or by whom its settings name.
        self.near = dspy.KNNFewShot(
            2, numbers(6), embed, metric=right, max_labeled_demos=0, teacher_settings={"lm": strong}
        ).compile(predict())

    def forward(self, text: str) -> Any:
        return self.near(text=text)


PROGRAMS = [Switches, Submodules, InParallel, InThreads, InPools, Gathers, InAnExecutor, AsksTheLM, Resamples, Switched]
PROGRAMS += [Refines, Votes, Neighbours]


class Asynchronous:
    """An engine that is awaited, and answers as another one does."""

    def __init__(self) -> None:
        self.engine: Any = None

    async def complete(self, request: Any) -> Any:
        await asyncio.sleep(0)
        return self.engine.complete(request)


def parity(fields: Any, request: Any) -> str:
    return reply(reasoning="r", label="even" if int(fields["text"]) % 2 == 0 else "odd")


def three() -> dict[str, Any]:
    lms = {}
    for name in ("stage", "own", "strong"):
        engine = Asynchronous()
        lms[name] = scripted_lm(parity, model=f"toy/{name}", async_engine=engine)
        engine.engine = lms[name].engine
    return lms


def asked(lms: dict[str, Any]) -> dict[str, Any]:
    """How often each LM was asked, at which temperature."""
    return {name: Counter(request.config.temperature for request in lm.engine.requests) for name, lm in lms.items()}


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    dspy.configure(lm=None, adapter=None)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_asks_whom_it_asks_in_plain_dspy(kind: Callable[..., Any]) -> None:
    plain, measured, handed = three(), three(), three()
    made = experiment(kind(measured["own"], measured["strong"]), measured["stage"])
    dspy.configure(lm=plain["stage"], adapter=made.adapter)
    program = kind(plain["own"], plain["strong"])
    for example in made.dataset.dev:
        program(**example.inputs())
    dspy.configure(lm=scripted_lm(lambda fields, request: "nobody asked me"), adapter=dspy.JSONAdapter())
    result = Ladder(made, "store", num_threads=2).evaluate("baseline")
    assert result.score == 1.0
    assert asked(measured) == asked(plain)
    assert result.usage.input_tokens == 100 * sum(counts.total() for counts in asked(plain).values()), "each is counted"
    given = Ladder(experiment(kind(handed["own"], handed["strong"]), handed["stage"]), "other").program("baseline")
    for example in made.dataset.dev:
        assert given(**example.inputs()).label == example.label
    assert asked(handed) == asked(plain)
