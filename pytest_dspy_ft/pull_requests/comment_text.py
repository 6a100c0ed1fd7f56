"""The text of a comment: the reports of a job, what pytest's exit code says beside them, and where to read more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pytest_dspy_ft.records.run import RunRecord
from pytest_dspy_ft.report import markdown
from pytest_dspy_ft.text import counted, one_line, shorten

EXIT_CODES = {
    1: "tests failed",
    2: "interrupted",
    3: "an internal error",
    4: "wrong usage or a mistake in a test, a conftest.py or a gate",
    5: "no test was found",
}
"""What pytest's exit codes mean: https://docs.pytest.org/en/stable/reference/exit-codes.html"""

LONGEST_KEY = 100


@dataclass(frozen=True)
class Finished:
    """What a job has to say.

    Attributes:
        reports: Records, or Markdown that was made of one.
        exit_code: pytest's; None where nobody said it.
        key: Which of several jobs it is; empty where there is one only.
        page: Where the HTML page is to be had.
        run: Where the log is.
        commit: What was judged.
    """

    reports: Sequence[RunRecord | str]
    exit_code: int | None = None
    key: str = ""
    page: str = ""
    run: str = ""
    commit: str = ""


def comment_text(job: Finished, most: int) -> str:
    """The comment, without its marker.

    Args:
        job: What is to be said.
        most: The most characters.
    """
    foot = _foot(job)
    before = list(_beside(job))
    room = most - len(foot) - sum(len(part) + 2 for part in before)
    parts = []
    for index, report in enumerate(job.reports):
        share = room // (len(job.reports) - index) - 200  # for the line that says what was left out, and the foot
        text = markdown.render(report, share) if isinstance(report, RunRecord) else shortened(report, share)
        parts.append(text.strip())
        room -= len(parts[-1]) + 2
    return "\n\n".join([*before, *parts, foot])


def shortened(text: str, most: int) -> str:
    """Markdown of at most so many characters: whole blocks of it, tables by the row, nothing cut in the middle.

    Args:
        text: As :func:`pytest_dspy_ft.report.markdown.render` makes it.
        most: The most characters, but for a line that says what was left out.
    """
    if len(text) <= most:
        return text
    kept, length, left_out = [], 0, 0
    for block in _blocks(text):
        if (part := markdown.cut_table(block, most - length)) is None:
            left_out += 1
        else:
            kept.append(part)
            length += len(part) + 2
    return "\n\n".join([*kept, f"_{counted(left_out, 'part')} of this report left out._" if left_out else ""]).strip()


def _blocks(text: str) -> Iterator[str]:
    """The parts of a text between blank lines; what is to be unfolded is one part, with all the lines in it."""
    part: list[str] = []
    depth = 0
    for block in text.split("\n\n"):
        part.append(block)
        depth += block.count("<details>") - block.count("</details>")
        if depth <= 0:
            yield "\n\n".join(part)
            part, depth = [], 0
    if part:
        yield "\n\n".join(part)


def _beside(job: Finished) -> Iterator[str]:
    """What stands above the reports."""
    if job.key:
        yield f"`{shorten(one_line(job.key), LONGEST_KEY).replace('`', chr(39))}`"
    code = job.exit_code
    meaning = "" if code is None else f"exit code {code}" + (f" ({EXIT_CODES[code]})" if code in EXIT_CODES else "")
    if not job.reports and code == 0:
        yield "## dspy: nothing was built or measured\n\npytest ended well and wrote no report."
    elif not job.reports:
        yield f"## ❌ dspy: nothing was judged\n\npytest ended with {meaning} and wrote no report: the log says why."
    elif code and not any(map(_explains, job.reports)):
        yield f"> ❌ pytest ended with {meaning}, and no gate below says why: the log does."


def _explains(report: RunRecord | str) -> bool:
    """True for a report that shows a failure."""
    return "❌" in (markdown.render(report) if isinstance(report, RunRecord) else report)


def _foot(job: Finished) -> str:
    parts = [
        f"[report]({_address(job.page)})" if job.page else "",
        f"[log]({_address(job.run)})" if job.run else "",
        f"commit {job.commit[:7]}" if job.commit.isalnum() else "",
        "kept up to date by pytest-dspy-ft",
    ]
    return f"<sub>{' · '.join(filter(None, parts))}</sub>"


def _address(url: str) -> str:
    """An address that ends no link early."""
    return quote(one_line(url), safe="/:?#[]@!$&'*+,;=%~")
