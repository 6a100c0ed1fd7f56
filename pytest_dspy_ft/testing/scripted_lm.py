"""``ScriptedLM``: an LM that answers by a script, for trying gates, and for tests of one's own programs and metrics."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import dspy
from dspy import lm15

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.insides.adapters import AdapterCall, adapter_call
from pytest_dspy_ft.insides.training import Provider, TrainingJob
from pytest_dspy_ft.lms.prices import Price, declare_price
from pytest_dspy_ft.testing.script import Answer, Answers, Script, ScriptedCall, ScriptedReply, written

FINETUNED = ":finetuned"
CHARACTERS_PER_TOKEN = 4
PROVIDER = "scripted"

_asked: ContextVar[AdapterCall | None] = ContextVar("dspy_ft_scripted_call", default=None)


class ScriptedLM(dspy.LM):  # type: ignore[misc]
    """An LM that answers by a script: no model, no key, no network, and the same answer every time.

    It works with every adapter of DSPy, as replies are written by the adapter that asks; in ``dspy.Predict``,
    ``dspy.ChainOfThought`` and all modules made of them; with typed outputs; as a teacher; and it can be fine-tuned, to
    another script. Copies share the script and the counts. It is safe to use from many threads.

    ::

        >>> import dspy
        >>> from pytest_dspy_ft.testing import ScriptedLM
        >>> lm = ScriptedLM({"charged twice": {"category": "billing"}}, default={"category": "other"})
        >>> with dspy.context(lm=lm):
        ...     sort = dspy.ChainOfThought("text -> category")
        ...     sort(text="I was charged twice this month.").category, sort(text="Hello!").category
        ('billing', 'other')
        >>> len(lm.calls), lm.calls[0].inputs["text"]
        (2, 'I was charged twice this month.')

    Failures are answers, too: an exception, a text that no adapter can read, a reply that is cut off. A list answers
    one call after the other, and its last entry all that follow::

        >>> from pytest_dspy_ft.testing import ScriptedReply
        >>> lm = ScriptedLM({
        ...     "ticket 1": dspy.LMRateLimitError("slow down"),
        ...     "ticket 2": "I would rather not say.",
        ...     "ticket 3": ScriptedReply(outputs={"category": "billing"}, cut_off=True),
        ...     "ticket 4": ["not yet", {"category": "billing"}],
        ... })

    A function answers by the inputs; one of two arguments gets the :class:`ScriptedCall` as well, with the prompt's
    demos and instructions::

        >>> def better_with_demos(inputs, call):
        ...     return {"category": "billing" if call.demos else "other"}
        >>> lm = ScriptedLM(better_with_demos, finetuned={"charged twice": {"category": "billing"}})

    To the store it is what its answers are: with another answer, what it gave is measured anew.

    Args:
        answers: By key, a text that stands in one of the inputs: an input that is the key comes first, then the longest
            key. An answer is a dict of outputs, a text, a :class:`ScriptedReply`, an exception to raise, or a list of
            these. Or a function of the inputs that returns one.
        default: The answer to what ``answers`` does not know. Without it, that is an error.
        finetuned: What it answers once it was fine-tuned, in the form of ``answers``, with the same default. Without
            it, it cannot be fine-tuned.
        name: Its name is ``scripted/NAME``. LMs of different prices need different names.
        price: US dollars for a million tokens of input and of output.
        seconds: How long every call takes, beside what a :class:`ScriptedReply` says.
        **settings: Those of ``dspy.LM``: ``temperature=``, ``max_tokens=`` and so on.

    Raises:
        TypeError: If an answer is none.

    Attributes:
        calls: The calls that it answered or failed, its copies' too, in the order in which they came.
        trainings: The training rows of each fine-tuning.
    """

    __dspy_ft_name__ = "pytest_dspy_ft.testing.ScriptedLM"

    def __init__(
        self,
        answers: Answers,
        *,
        default: Answer | None = None,
        finetuned: Answers | None = None,
        name: str = "lm",
        price: tuple[float, float] = (0.0, 0.0),
        seconds: float = 0.0,
        **settings: Any,
    ) -> None:
        model = settings.pop("model", f"{PROVIDER}/{name}")
        if "engine" in settings:  # a copy, or loaded from a state
            super().__init__(model, **settings)
            return
        scripts = {"": Script(answers, default)}
        if finetuned is not None:
            scripts[FINETUNED] = Script(finetuned, default)
        engine = ScriptedEngine(scripts, price, seconds)
        for each in (model, f"{model}{FINETUNED}"):
            declare_price(each, Price(*price, training=0.0, source="ScriptedLM's price="))
        settings = {"cache": False, **settings}
        provider = Provider() if finetuned is None else ScriptedProvider(engine)
        super().__init__(model, engine=engine, async_engine=AsyncScriptedEngine(engine), provider=provider, **settings)

    @property
    def calls(self) -> tuple[ScriptedCall, ...]:
        """The calls that it answered or failed, its copies' too, in the order in which they came."""
        return tuple(self.engine.calls)

    @property
    def trainings(self) -> tuple[list[Any], ...]:
        """The training rows of each fine-tuning."""
        return tuple(self.engine.trainings)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer, as the adapter that asks will read it."""
        token = _asked.set(adapter_call())
        try:
            return super().__call__(*args, **kwargs)
        finally:
            _asked.reset(token)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """The same for code that awaits."""
        token = _asked.set(adapter_call())
        try:
            return await super().acall(*args, **kwargs)
        finally:
            _asked.reset(token)


class ScriptedEngine:
    """Answers requests by scripts, one for each state of training. Copies of an LM share it."""

    def __init__(self, scripts: Mapping[str, Script], price: tuple[float, float], seconds: float) -> None:
        self._scripts, self._price, self._seconds = dict(scripts), price, seconds
        self._lock = threading.Lock()
        self.calls: list[ScriptedCall] = []
        self.trainings: list[list[Any]] = []

    def identity(self) -> dict[str, Any]:
        """What its answers, their costs and their times follow from."""
        scripts = {state or "as written": script.content() for state, script in self._scripts.items()}
        return {"scripts": scripts, "price": list(self._price), "seconds": self._seconds}

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Answer one request, or raise what the script says."""
        reply, response = self._answered(request)
        time.sleep(self._seconds + reply.seconds)
        return response

    async def complete_later(self, request: lm15.Request) -> lm15.Response:
        """The same for code that awaits."""
        reply, response = self._answered(request)
        await asyncio.sleep(self._seconds + reply.seconds)
        return response

    def stream(self, request: lm15.Request) -> Iterator[Any]:
        """Answer one request as events, all at the end."""
        events: Iterator[Any] = lm15.response_to_events(self.complete(request))
        return events

    def _answered(self, request: lm15.Request) -> tuple[ScriptedReply, lm15.Response]:
        asked = _asked.get()
        prompt = _prompt_text(request)
        call = _call(request, asked, prompt)
        with self._lock:
            self.calls.append(call)
        reply = self._scripts[FINETUNED if FINETUNED in request.model else ""].answer(call)
        if isinstance(reply, BaseException):
            raise reply
        text = written(reply, asked, call)
        taken, given = reply.input_tokens, reply.output_tokens
        response = lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant(text),
            finish_reason="length" if reply.cut_off else "stop",
            usage=lm15.Usage(
                input_tokens=_tokens(prompt) if taken is None else taken,
                output_tokens=_tokens(text) if given is None else given,
            ),
        )
        return reply, response

    def __deepcopy__(self, memo: dict[int, Any]) -> ScriptedEngine:
        return self


class AsyncScriptedEngine:
    """A scripted engine for code that awaits."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Answer one request, or raise what the script says."""
        return await self._engine.complete_later(request)

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncScriptedEngine:
        return self


class ScriptedProvider(Provider):  # type: ignore[misc]
    """Fine-tunes a scripted LM: in no time, to the script that was declared for it."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__()
        self.finetunable = True
        self.TrainingJob = TrainingJob
        self._engine = engine

    def finetune(self, job: Any, model: str, train_data: Any, train_data_format: Any, train_kwargs: Any = None) -> str:
        """Keep the rows, and give the name of the LM that answers by the other script.

        Raises:
            TrainingError: If there are no rows.
        """
        if not train_data:
            raise TrainingError(f"{model!r} cannot be trained on no rows")
        self._engine.trainings.append(list(train_data))
        return f"{model}{FINETUNED}"

    def __deepcopy__(self, memo: dict[int, Any]) -> ScriptedProvider:
        return self


def _call(request: lm15.Request, asked: AdapterCall | None, prompt: str) -> ScriptedCall:
    if asked is None:
        return ScriptedCall(model=request.model, inputs={"prompt": prompt})
    return ScriptedCall(
        model=request.model,
        inputs=asked.inputs or {"prompt": prompt},
        outputs=tuple(asked.signature.output_fields),
        instructions=asked.signature.instructions,
        demos=asked.demos,
    )


def _prompt_text(request: lm15.Request) -> str:
    """All text of a request; of a call without an adapter, the text that keys are looked for in."""
    system = request.system
    parts = [] if system is None else [system if isinstance(system, str) else "".join(part.text for part in system)]
    return "\n\n".join([*parts, *(message.text or "" for message in request.messages)])


def _tokens(text: str) -> int:
    return len(text) // CHARACTERS_PER_TOKEN + 1
