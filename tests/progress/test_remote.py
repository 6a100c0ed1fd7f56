"""Progress of another process: the same lines as of this one's, few messages, and no harm where nobody listens."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_dspy_ft.progress import remote
from pytest_dspy_ft.progress.remote import RemoteProgress, receive
from tests.progress.clock import Watched


def test_what_a_worker_tells_is_shown_with_its_name() -> None:
    watched = Watched()
    with RemoteProgress(lambda text: receive(watched, "gw1", text)).task("evaluating", None, "examples") as task:
        task.advance(1, total=4)
        watched.pass_seconds(2)
        task.advance(4, note="score 75.0%")
    assert watched.lines == [
        "dspy: [gw1] evaluating - 1/4 examples (2.0 s each) - 2.0 s, about 6.0 s left",
        "dspy: [gw1] evaluating - 4/4 examples (2.0/s) - took 2.0 s - score 75.0%",
    ]


def test_many_steps_are_few_messages_and_the_last_is_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    seconds = iter(range(10**6))
    monkeypatch.setattr(remote.time, "monotonic", lambda: next(seconds) / 1000)
    with RemoteProgress(sent.append).task("training", 2000, "steps") as task:
        for step in range(1, 2001):
            task.advance(step)
    assert len(sent) < 10
    assert '"advance", 0, 2000' in sent[-2]


def test_failures_travel_too() -> None:
    watched = Watched()

    def fail() -> None:
        with RemoteProgress(lambda text: receive(watched, "gw0", text)).task("training"):
            watched.pass_seconds(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert watched.lines[-1] == "dspy: [gw0] training - failed after 3.0 s"


def test_work_goes_on_where_nobody_listens_any_more() -> None:
    def closed(text: str) -> None:
        raise OSError("channel closed")

    with RemoteProgress(closed).task("training") as task:
        task.advance(1)


@pytest.mark.parametrize("text", ["", "x", "[]", '["fly", 1]', '["begin"]', '["end", 1]', "7", '["begin", 1, 2]'])
def test_what_cannot_be_read_is_not_shown(text: str) -> None:
    watched: Any = Watched()
    receive(watched, "gw0", text)
    watched.pass_seconds(5)
    assert watched.lines == []
