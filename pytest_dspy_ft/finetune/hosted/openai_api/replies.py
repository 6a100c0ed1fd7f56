"""Replies of OpenAI's API, and of those that speak it, read into our words: each looked at before it is believed."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

from pytest_dspy_ft.finetune.hosted.port import JobProgress, RemoteJob, UnreadableReplyError
from pytest_dspy_ft.finetune.hosted.states import state_of


def read_json(response: Any) -> Any:
    """The content of a raw reply.

    Raises:
        UnreadableReplyError: It is no JSON.
    """
    try:
        return response.http_response.json()
    except ValueError as error:
        raise UnreadableReplyError(f"it is no JSON: {error}") from None


def identified(reply: Any) -> dict[str, Any]:
    """A reply that holds the one thing every object of this API has.

    Raises:
        UnreadableReplyError: It does not.
    """
    if not isinstance(reply, dict) or not isinstance(reply.get("id"), str) or not reply["id"]:
        raise UnreadableReplyError(f"no id in it: {str(reply)[:200]!r}")
    return reply


def read_job(reply: Any, *, fresh: bool = False) -> RemoteJob:
    """A job.

    Args:
        reply: As it came.
        fresh: It is the reply to the request that started it: it may say nothing but the id.

    Raises:
        UnreadableReplyError: It has no id, or says nothing of its state.
    """
    content = identified(reply)
    word = content.get("status") or content.get("state")
    if fresh and not word:
        word = "created"
    if not isinstance(word, str) or not word:
        raise UnreadableReplyError(f"job {content['id']} without a status")
    state = state_of(word)
    model, failure = _text(content.get("fine_tuned_model")), _failure(content.get("error"))
    if state is None and isinstance(content.get("finished_at"), (int, float)):  # it is over, by whatever word
        state = "succeeded" if model else "failed" if failure else None
    return RemoteJob(
        id=content["id"],
        state=state or "running",
        word=word,
        known=state is not None,
        model=model,
        marks=_marks(content.get("metadata")),
        training_file=_text(content.get("training_file")),
        created=seconds(content.get("created_at")),
        trained_tokens=_count(content.get("trained_tokens")),
        failure=failure if state in ("failed", None) else "",
    )


def read_list(reply: Any) -> tuple[list[Any], bool]:
    """One page of a list: its items, and whether there are more.

    Raises:
        UnreadableReplyError: It is no list.
    """
    items = reply.get("data") if isinstance(reply, dict) else reply
    if not isinstance(items, list):
        raise UnreadableReplyError(f"no list in it: {str(reply)[:200]!r}")
    return items, isinstance(reply, dict) and reply.get("has_more") is True


def read_progress(reply: Any) -> JobProgress | None:
    """The newest step in a page of events, newest first."""
    for event in read_list(reply)[0]:
        data = event.get("data") if isinstance(event, dict) else None
        if isinstance(data, dict) and isinstance(data.get("step"), int):
            return JobProgress(
                step=data["step"],
                total_steps=_count(data.get("total_steps")),
                loss=_number(data.get("train_loss")),
                validation_loss=_number(data.get("valid_loss", data.get("full_valid_loss"))),
            )
    return None


def read_date(value: Any) -> datetime.date | None:
    """A day, from seconds since the epoch or from text; None for anything else."""
    if (moment := seconds(value)) is None:
        return None
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).date()


def seconds(value: Any) -> float | None:
    """Seconds since the epoch, from a number or from a date as text; None for anything else."""
    if isinstance(value, str):
        try:
            moment = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    number = _number(value)
    return number if number is not None and 0 <= number < 1e11 else None


def _failure(error: Any) -> str:
    """Why a job failed, as the service says it, on one line; empty where it does not."""
    if isinstance(error, str):
        return " ".join(error.split())
    if not isinstance(error, Mapping):
        return ""
    message = error.get("message")
    parts = [" ".join(str(message).split()) if message else ""]
    parts += [f"{name} {error[name]}" for name in ("code", "param") if error.get(name)]
    return ", ".join(filter(None, parts))


def _marks(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    found = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return found if found is None or math.isfinite(found) else None
