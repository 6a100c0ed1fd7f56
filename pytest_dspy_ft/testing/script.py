"""A script: what an LM that is no model answers to which inputs, and how an answer is written for whoever asks."""

from __future__ import annotations

import inspect
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dspy import Reasoning

from pytest_dspy_ft.errors import ScriptError
from pytest_dspy_ft.fingerprint import canonical
from pytest_dspy_ft.insides.adapters import AdapterCall
from pytest_dspy_ft.text import closest, did_you_mean, excerpt, listed

UNSAID_REASONING = "By the script."
"""The ``reasoning`` of a ``dspy.ChainOfThought`` whose script gives none."""


CUT_OFF_AFTER = 8
"""Characters."""


@dataclass(frozen=True)
class ScriptedReply:
    """One reply, with more said of it than its outputs.

    Args:
        outputs: The values of the output fields, by name. They are written as the adapter that asks wants them.
        text: In place of outputs: the reply's text as it is, which need not be one that an adapter can read.
        cut_off: True: the reply ran into its limit of tokens. Outputs break off within the first field's name
            then, where no adapter can read them; a text is what is left of it.
        input_tokens: What the call is said to have taken; None: a quarter of the prompt's characters.
        output_tokens: The same of the reply.
        seconds: How long the call takes.

    Raises:
        ValueError: If it has both outputs and a text, or neither.
    """

    outputs: Mapping[str, Any] | None = None
    text: str | None = None
    cut_off: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if (self.outputs is None) == (self.text is None):
            raise ValueError("a ScriptedReply has outputs= or text=, one of them")


@dataclass(frozen=True)
class ScriptedCall:
    """One call of a scripted LM."""

    model: str
    """The LM's name: that of a fine-tuned one ends in ``:finetuned``."""
    inputs: Mapping[str, Any]
    """What the predictor was called with, by field; of a call without a predictor, its text as ``prompt``."""
    outputs: tuple[str, ...] = ()
    """The names of the fields that are asked for."""
    instructions: str = ""
    """The signature's."""
    demos: tuple[Any, ...] = ()
    """The examples in the prompt."""


Single: TypeAlias = Mapping[str, Any] | str | ScriptedReply | BaseException | type[BaseException]
"""One answer: outputs by name, a text as it is, a reply with more said of it, or what is raised in place of one."""

Answer: TypeAlias = Single | list[Single]
"""One answer to every call, or a list: one for each call of the same key, the last for all that follow."""

Rule: TypeAlias = Callable[[dict[str, Any]], Answer] | Callable[[dict[str, Any], ScriptedCall], Answer]
"""From a call's inputs to its answer."""

Answers: TypeAlias = Mapping[str, Answer] | Rule


@dataclass
class Script:
    """Answers, and how often each of them was asked for.

    Args:
        answers: By a text that stands in the inputs, or a function of the inputs.
        default: The answer to what ``answers`` does not know; None: that is an error.
    """

    answers: Answers
    default: Answer | None = None
    _asked: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if not callable(self.answers) and not isinstance(self.answers, Mapping):
            raise TypeError(
                f"a script is a dict of answers or a function of the inputs, not {type(self.answers).__name__}: "
                'ScriptedLM({"charged twice": {"category": "billing"}})'
            )
        if isinstance(self.answers, Mapping):
            for key, answer in self.answers.items():
                if not isinstance(key, str) or not key:
                    raise TypeError(f"{key!r}: an answer's key is a text that stands in the inputs")
                _check(answer, f"the answer for {key!r}")
        if self.default is not None:
            _check(self.default, "default=")

    def answer(self, call: ScriptedCall) -> ScriptedReply | BaseException:
        """The answer to a call: a reply, or what is to be raised.

        Raises:
            ScriptError: If the script has none.
        """
        if isinstance(self.answers, Mapping):
            key, found = self._found(self.answers, call)
        else:
            key = repr(sorted((name, str(value)) for name, value in call.inputs.items()))
            found = self._by_rule(call)
        if isinstance(found, list):
            with self._lock:
                turn, self._asked[key] = self._asked[key], self._asked[key] + 1
            found = found[min(turn, len(found) - 1)]
        if isinstance(found, type):
            found = found(f"by the script, for {key!r}")
        if isinstance(found, BaseException | ScriptedReply):
            return found
        return ScriptedReply(text=found) if isinstance(found, str) else ScriptedReply(outputs=found)

    def _found(self, answers: Mapping[str, Answer], call: ScriptedCall) -> tuple[str, Answer]:
        """The answer whose key is one of the inputs, or else the longest text that stands in one."""
        values = [value if isinstance(value, str) else str(value) for value in call.inputs.values()]
        whole = [key for key in answers if key in values]
        within = sorted((key for key in answers if any(key in value for value in values)), key=len, reverse=True)
        if key := next(iter([*whole, *within]), None):
            return key, answers[key]
        if self.default is not None:
            return "", self.default
        near = next((match for value in values for match in closest(value, answers)), None)
        known = f"the nearest of its texts is {near!r}" if near else f"none of its {len(answers)} texts stands there"
        raise ScriptError(
            f"the script of {call.model!r} has no answer for {_shown(call)}: {known}; "
            "add one, or give ScriptedLM a default="
        )

    def _by_rule(self, call: ScriptedCall) -> Answer:
        rule: Any = self.answers
        given = [dict(call.inputs), call][: _positional(rule)]
        answer: Answer | None = rule(*given)
        if answer is None and self.default is not None:
            return self.default
        if answer is None:
            raise ScriptError(
                f"the script of {call.model!r} has no answer for {_shown(call)}: its function returned None; "
                "return the outputs, as {'category': 'billing'}, or give ScriptedLM a default="
            )
        _check(answer, f"what the script's function returned for {_shown(call)}")
        return answer

    def content(self) -> dict[str, Any]:
        """All that its answers follow from, as JSON: what tells it from another script."""
        answers = self.answers
        said = {k: _content(a) for k, a in answers.items()} if isinstance(answers, Mapping) else canonical(answers)
        return {"answers": said, "default": None if self.default is None else _content(self.default)}


def written(reply: ScriptedReply, asked: AdapterCall | None, call: ScriptedCall) -> str:
    """A reply's text, as the adapter that asks can read it.

    Args:
        reply: The reply.
        asked: The adapter's call; None where none asks: outputs are written as JSON then.
        call: The LM's, for messages.

    Raises:
        ScriptError: If the reply lacks a field that is asked for, or the adapter cannot write a value.
    """
    if reply.outputs is None:
        text = str(reply.text)
    elif asked is None:
        text = json.dumps(dict(reply.outputs), ensure_ascii=False, default=str)
    else:
        outputs = {
            name: _value(name, info, reply.outputs, call) for name, info in asked.signature.output_fields.items()
        }
        try:
            text = asked.adapter.format_assistant_message_content(asked.signature, outputs)
        except Exception as error:
            name = type(asked.adapter).__name__
            raise ScriptError(f"{name} cannot write the script's answer {excerpt(str(outputs))}: {error}") from error
    return text[:CUT_OFF_AFTER] if reply.cut_off and reply.outputs is not None else text


def _value(name: str, info: Any, outputs: Mapping[str, Any], call: ScriptedCall) -> Any:
    if name in outputs:
        return outputs[name]
    if info.annotation is Reasoning or (name == "reasoning" and info.annotation is str):
        return UNSAID_REASONING
    if not info.is_required():
        return info.get_default(call_default_factory=True)
    raise ScriptError(
        f"the script's answer for {_shown(call)} has no {name!r}; it has {listed(outputs)}, and {listed(call.outputs)} "
        f"{'is' if len(call.outputs) == 1 else 'are'} asked for{did_you_mean(name, outputs)}"
    )


def _positional(rule: Callable[..., Any]) -> int:
    """How many of (inputs, call) a function takes."""
    try:
        parameters = inspect.signature(rule).parameters.values()
    except (TypeError, ValueError):
        return 1
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters if p.default is p.empty) or 1


def _check(answer: object, where: str) -> None:
    """Refuse what is no answer.

    Raises:
        TypeError: Naming what would be one.
    """
    if isinstance(answer, list):
        if not answer:
            raise TypeError(f"{where} is an empty list: it holds one answer for each call")
        for one in answer:
            _check(one, where)
        return
    raised = isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException))
    if not raised and not isinstance(answer, Mapping | str | ScriptedReply):
        raise TypeError(
            f"{where} is {answer!r}: an answer is a dict of outputs, a text, a ScriptedReply, an exception, "
            "or a list of these"
        )


def _content(answer: Any) -> Any:
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return [_content(one) for one in answer]
    if isinstance(answer, type):
        return {"raises": answer.__name__}
    if isinstance(answer, BaseException):
        return {"raises": type(answer).__name__, "message": str(answer)}
    if isinstance(answer, ScriptedReply):
        return {name: canonical(value) for name, value in vars(answer).items()}
    return canonical(answer)


def _shown(call: ScriptedCall) -> str:
    """The inputs of a call, for messages."""
    texts = {name: value if isinstance(value, str) else str(value) for name, value in call.inputs.items()}
    return ", ".join(f"{name}={excerpt(text, 80)}" for name, text in texts.items()) or "a call without inputs"
