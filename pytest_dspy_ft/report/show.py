"""One example as text: what went in, what came out, what it scored, and every reply of the LM as it came."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.output import Output, Reply
from pytest_dspy_ft.text import counted, shorten, shown

_REPLY_IN_MESSAGE = 300


def render_example(result: StageResult, example: ExampleResult, outputs: Sequence[Output]) -> list[str]:
    """The lines that show an example.

    Args:
        result: The evaluation that it is of.
        example: The example in it.
        outputs: What the program gave for it, call by call; empty where that is not kept.
    """
    lines = [f"{result.experiment} · {result.stage} on {result.on} · example {example.id} · lm {result.lm}"]
    if outputs:
        lines += _fields("inputs", outputs[0].inputs) + _fields("expected", outputs[0].expected)
    for call in example.each:
        mine = [output for output in outputs if output.repeat == call.repeat]
        lines += ["", *_call(call, len(example.each))]
        if not mine:
            lines.append("  its replies are not kept: an earlier version measured it, or they were removed")
        for output in mine[-1:]:
            lines += _replies(output)
    return lines


def reply_line(replies: Sequence[Reply]) -> str:
    """The last reply on one line, shortened, with why it ended where that matters; empty without any."""
    if not replies:
        return ""
    last = replies[-1]
    more = f"the last of {len(replies)} replies" if len(replies) > 1 else "its reply"
    cut = f", {cut_words(last)}" if last.cut_off else ""
    text = " ".join(shown(last.text).split())
    return f"{more}{cut}: {shorten(text, _REPLY_IN_MESSAGE) or '(empty)'}"


def cut_words(reply: Reply) -> str:
    """What cut a reply off."""
    return "cut off" + (f" at {counted(reply.limit, 'token')}" if reply.limit else " by a limit of the provider's")


def reply_facts(reply: Reply) -> str:
    """Which model a reply is of, why it ended, and its tokens."""
    facts = [reply.model, f"ended: {reply.finish_reason or 'not said'}"]
    if reply.cut_off:
        facts.append(cut_words(reply))
    if reply.input_tokens is not None or reply.output_tokens is not None:
        facts.append(f"{reply.input_tokens or 0} + {reply.output_tokens or 0} tokens")
    if reply.fallback:
        facts.append("asked again by the JSON adapter")
    return " · ".join(facts)


def _call(call: ExampleResult, repeats: int) -> Iterator[str]:
    which = f"repeat {(call.repeat or 0) + 1} of {repeats}: " if repeats > 1 else ""
    yield f"{which}{call.outcome}, score {call.score:.4g}"
    if call.error:
        whose = f" ({call.fault})" if call.fault else ""
        yield from _fields(f"what went wrong{whose}", {"": call.error})
    if call.feedback:
        yield from _fields("feedback", {"": call.feedback})
    for name, further in call.further.items():
        yield f"{name}: {further.score:.4g}" + (f" ({further.error})" if further.error else "")
        if further.feedback:
            yield from _fields(f"feedback of {name}", {"": further.feedback})
    if call.prediction is not None:
        yield from _fields("prediction", call.prediction)


def _replies(output: Output) -> Iterator[str]:
    if output.unkept:
        yield f"  the prediction cannot be scored again: {output.unkept}"
    if not output.replies:
        yield "no reply of an LM"
    for number, reply in enumerate(output.replies, 1):
        yield f"reply {number} of {len(output.replies)} · {reply_facts(reply)}"
        if reply.reasoning:
            yield from _fields("  thought", {"": reply.reasoning})
        yield textwrap.indent(_visible(reply.text) or "(empty)", "  | ", lambda line: True)
        for call in reply.tool_calls or ():
            yield f"  tool call {json.dumps(call, ensure_ascii=False)}"


def _fields(title: str, fields: Mapping[str, JsonValue]) -> list[str]:
    lines = [title]
    for name, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        head, *rest = _visible(text).split("\n")
        lines += [f"  {name + ': ' if name else ''}{head}", *(f"    {line}" for line in rest)]
    return lines


def _visible(text: str) -> str:
    """A text with characters that would not be seen, or that steer a terminal, written out; its lines stay."""
    return "\n".join(shown(line) for line in text.split("\n"))
