"""What a comment says: the reports, what pytest's exit code adds to them, and all of it within what a host takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.pull_requests.comment_text import Finished, comment_text, shortened
from pytest_dspy_ft.records.run_file import record_json
from pytest_dspy_ft.report import markdown
from tests.pull_requests.conftest import Comment
from tests.report.test_html import full_run
from tests.report.test_reports import run
from tests.report.test_table import gate, record


def passed() -> object:
    return run(experiments=(record(verdicts=(gate("a >= 1%", "99%", "PASS"),)),))


@pytest.mark.parametrize("reports", [1, 3])
def test_many_gates_fit_and_their_table_loses_rows_not_itself(reports: int) -> None:
    many = tuple(gate(f"baseline >= {n / 100}%", "0.0%", "FAIL", message="m" * 3000) for n in range(3000))
    big = run(experiments=(record(verdicts=many),))
    text = comment_text(Finished([big] * reports, page="https://x.test/page"), 60_000)
    assert len(text) <= 60_000
    assert text.count("## ❌ dspy: ") == reports
    assert text.count(" more rows") == reports
    assert "left out" in text
    assert text.endswith("<sub>[report](https://x.test/page) · kept up to date by pytest-dspy-ft</sub>")
    for opened in ("details", "pre"):
        assert text.count(f"<{opened}>") == text.count(f"</{opened}>")


def test_markdown_is_shortened_by_whole_parts() -> None:
    many = tuple(gate(f"baseline >= {n / 100}%", "0.0%", "FAIL", message="one\n\ntwo") for n in range(2000))
    text = markdown.render(run(experiments=(record(verdicts=many),)))
    for most in (60_000, 20_000, 5_000, 700):
        short = shortened(text, most)
        assert len(short) <= most + 60
        assert short.count("<details>") == short.count("</details>")
        assert short.count("<pre>") == short.count("</pre>")
        assert "left out" in short or "more rows" in short
    assert shortened(text, len(text)) == text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (4, "## ❌ dspy: nothing was judged\n\npytest ended with exit code 4 (wrong usage or a mistake in"),
        (5, "pytest ended with exit code 5 (no test was found) and wrote no report: the log says why."),
        (137, "pytest ended with exit code 137 and wrote no report: the log says why."),
        (0, "## dspy: nothing was built or measured"),
    ],
)
def test_a_session_without_a_report_never_leaves_yesterdays_words(comment: Comment, code: int, said: str) -> None:
    assert said in comment("missing.json", f"--exit-code={code}", "--print")[1]


def test_a_failure_that_no_gate_explains_is_said_once() -> None:
    note = "> ❌ pytest ended with exit code 1 (tests failed), and no gate below says why: the log does."
    assert note in comment_text(Finished([passed()], exit_code=1), 60_000)
    assert note not in comment_text(Finished([passed()], exit_code=0), 60_000)
    assert note not in comment_text(Finished([full_run()], exit_code=1), 60_000)
    assert note not in comment_text(Finished([markdown.render(full_run())], exit_code=1), 60_000)


def test_several_reports_stand_in_one_comment(comment: Comment, tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", record_json(full_run()))
    (tmp_path / "b.md").write_text("## by hand")
    text = comment(tmp_path / "a.json", tmp_path / "b.md", "--key=both", "--print")[1]
    assert text.startswith("`both`\n\n## ")
    assert text.index("dspy: <code>tickets</code>") < text.index("## by hand") < text.index("<sub>kept up to date")


def test_what_is_no_report_is_a_wrong_argument(
    comment: Comment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.html").write_text("<html>")
    code, _, err = comment(tmp_path / "run.html", "--print")
    assert code == 2
    assert "name a .json or .md of --dspy-report" in err
    assert comment(tmp_path / "gone.json", "--print")[0] == 2
    with pytest.raises(SystemExit):
        comment("a.json", "--pr=x")
    assert "x is no number of a pull request" in capsys.readouterr().err


def test_an_address_ends_no_link_early() -> None:
    foot = comment_text(Finished([passed()], run="https://x.test/a(b) c\n[d"), 60_000).splitlines()[-1]
    assert "[log](https://x.test/a%28b%29%20c%20[d)" in foot
