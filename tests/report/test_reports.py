"""Reports as files: written whole at the end, by the controller only, and harmless whatever they hold."""

from __future__ import annotations

import html.parser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt

from pytest_dspy_ft.errors import RecordError
from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.records.comparison import ComparisonRecord, StageComparison
from pytest_dspy_ft.records.run import RunRecord
from pytest_dspy_ft.records.run_file import read_record
from pytest_dspy_ft.records.schema import schema
from pytest_dspy_ft.report import github, markdown
from pytest_dspy_ft.report.formats import complete, rendered
from tests.plugin import projects
from tests.report.test_table import BASELINE, FINETUNED, build, gate, record, result

pytestmark = pytest.mark.usefixtures("loaded")

REPOSITORY = Path(__file__).resolve().parents[2]
FAILING = projects.LADDER.replace("baseline + 30%", "baseline + 70%")
EVIL = "</pre></script><script>alert(1)</script>\u202e\x1b[31m | `x` *b* _i_ $y$ @user #1 [a](b://c) <img src=x>\r\n# h"


def run(**fields: object) -> RunRecord:
    return RunRecord(created="2026-11-24T21:00:00+00:00", seconds=3.0, versions={"dspy": "3.4.1"}, **fields)


# --- the option ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["-n2"], ["-p", "no:terminal"]], ids=["plain", "xdist", "no terminal"])
def test_reports_are_written_also_when_tests_failed(project: pytest.Pytester, arguments: list[str]) -> None:
    if "-n2" in arguments:
        pytest.importorskip("xdist")
    project.makepyfile(FAILING)
    outcome = projects.run(
        project, "--dspy-stage=finetune", "--dspy-report=new/run.json", "--dspy-report=run.md", *arguments
    )
    assert outcome.ret == pytest.ExitCode.TESTS_FAILED
    saved = read_record(project.path / "new" / "run.json")
    (experiment,) = saved.experiments
    assert [v.verdict for v in experiment.verdicts].count("FAIL") == 1
    assert {d.stage for d in experiment.details} == {"baseline", "prompt_optimized", "finetuned"}
    demos = {d.stage: len(d.predictors[0].demos) for d in experiment.details}
    assert demos["prompt_optimized"] == 3
    assert demos["baseline"] == 0
    evaluated = {e.id for r in experiment.results for e in r.examples}
    assert experiment.examples.keys() == evaluated
    assert len(evaluated) == 20
    content = experiment.examples[experiment.results[0].examples[0].id]
    assert content.inputs.keys() == {"text"}
    assert content.expected.keys() == {"label"}
    (prompted,) = [s for s in experiment.summary if (s.stage, s.on) == ("prompt_optimized", "dev")]
    assert (prompted.before, prompted.difference, prompted.fixed, prompted.broke) == ("baseline", 0.5, 5, 0)
    text = (project.path / "run.md").read_text("utf-8")
    assert text.index("<details>") < text.index("| gate |")
    assert not list(project.path.glob("**/.run.*")), "no temporary file is left"


def test_a_session_that_does_not_use_us_writes_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): ...")
    outcome = projects.run(pytester, "--dspy-report=run.json")
    outcome.assert_outcomes(passed=1)
    assert not (pytester.path / "run.json").exists()
    assert "dspy report" not in outcome.stdout.str()


def test_a_session_in_which_nothing_was_measured_says_so(project: pytest.Pytester) -> None:
    project.makepyfile(FAILING)
    outcome = projects.run(project, "--dspy-report=run.json", "-k", "finetuned")
    outcome.stdout.fnmatch_lines(["no dspy report was written: nothing was built or measured"])
    assert not (project.path / "run.json").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("run.txt", "*'run.txt' is no report: choose a name that ends in .json, .md*"),
        ("run", "*'run' is no report*"),
        ("folder.json", "*folder.json: that is a folder; name a file in it"),
        ("file/run.json", "*cannot write to *file: Not a directory"),
        ("/proc/run.json", "*cannot write to /proc: *"),
    ],
)
def test_a_report_that_cannot_be_written_is_found_before_anything_is_spent(
    project: pytest.Pytester, argument: str, message: str
) -> None:
    project.makepyfile(FAILING)
    (project.path / "folder.json").mkdir()
    (project.path / "file").touch()
    outcome = projects.run(project, f"--dspy-report={argument}")
    assert outcome.ret == pytest.ExitCode.USAGE_ERROR
    outcome.stderr.fnmatch_lines([message])
    assert not (project.path / "calls.log").exists()


def test_a_report_that_could_not_be_written_is_no_success(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pathlib, pytest

        @pytest.mark.dspy_gate("baseline >= 40%")
        def test_baseline():
            pathlib.Path("run.json").mkdir()
        """
    )
    outcome = projects.run(project, "--dspy-report=run.json", "--dspy-report=run.md")
    outcome.assert_outcomes(passed=1)
    assert outcome.ret == pytest.ExitCode.TESTS_FAILED
    outcome.stdout.fnmatch_lines(["dspy report *run.json could not be written: *", "dspy report: *run.md"])
    assert (project.path / "run.md").exists()


def test_without_a_report_the_record_carries_no_content(project: pytest.Pytester) -> None:
    project.makepyfile(
        projects.LADDER
        + """
def test_record(request):
    from pytest_dspy_ft.plugin.session import session_of
    session = session_of(request.config)
    packed = session.records.pack(session.ladders) or ""
    assert '"instructions"' not in packed
    (experiment,) = session.records.run().experiments
    assert not experiment.examples
    assert not experiment.details
"""
    )
    projects.run(project, "--dspy-stage=finetune").assert_outcomes(passed=5)


# --- .json -----------------------------------------------------------------------------------------------------------


def test_the_published_schema_is_that_of_the_records() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "pytest_dspy_ft", "schema"], check=True, capture_output=True, text=True
    ).stdout
    published = (REPOSITORY / "docs" / "report.schema.json").read_text("utf-8")
    assert published == printed, "write it again: python -m pytest_dspy_ft schema > docs/report.schema.json"


def test_a_saved_record_obeys_the_schema_and_reads_back(tmp_path: Path) -> None:
    saved = complete(run(experiments=(record(),)))
    path = tmp_path / "run.json"
    write_atomically(path, rendered(saved, path))
    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema()).validate(json.loads(path.read_text("utf-8")))
    assert read_record(path) == saved


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "run.json is not JSON"),
        ("[1]", "run.json is no record of a session (write one with --dspy-report=FILE.json)"),
        ('{"a": 1}', "is no record of a session"),
        (
            '{"schema_version": 99, "experiments": []}',
            "schema version 99, this pytest-dspy-ft reads versions 1 to 2: r",
        ),
        ('{"schema_version": "x", "experiments": []}', "schema version 'x'"),
        ('{"schema_version": 1, "experiments": [{"name": 3}], "created": ""}', "experiments.0.name: "),
        ('{"schema_version": 1, "experiments": [], "created": "", "new": 1}', "new: Extra inputs are not permitted"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_no_record_is_refused_with_the_reason(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=re.escape(message)):
        read_record(path)


def test_a_missing_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"gone\.json cannot be read: No such file"):
        read_record(tmp_path / "gone.json")


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "run.md").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "run.md", "x")
    assert os.listdir(tmp_path) == ["run.md"]  # noqa: PTH208


# --- .md -------------------------------------------------------------------------------------------------------------


class Elements(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(text: str) -> Elements:
    return Elements(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


HOSTILE = record(
    name=EVIL,
    lm=EVIL,
    order=("baseline", EVIL, "finetuned"),
    stages=(build(EVIL, "prompt", "failed", reason=EVIL), build("finetuned", "finetune", "built")),
    results=(BASELINE, result(EVIL, "1" * 60), FINETUNED),
    verdicts=(gate(EVIL, EVIL, "FAIL", message=EVIL * 2), gate("x", "y", "PASS")),
)


def test_markdown_of_hostile_text_is_still_only_text() -> None:
    text = markdown.render(run(experiments=(HOSTILE,), incomplete=(EVIL,)))
    shown = page(text)
    allowed = {"h2", "p", "strong", "code", "details", "summary", "pre", "blockquote", "sub"}
    allowed |= {"table", "thead", "tbody", "tr", "th", "td"}
    assert set(shown.tags) <= allowed
    assert shown.tags.count("tr") == 3 + 5, "no cell broke its row"
    assert "\x1b" not in text
    assert "\u202e" not in text
    code = [piece for piece in shown.text if "@user" in piece]
    assert code
    assert not re.search(r"(?<!#)@user", re.sub(r"<(pre|code)>.*?</\1>", "", text, flags=re.DOTALL))


def test_markdown_shows_failed_gates_first_and_fits_a_comment() -> None:
    many = tuple(gate(f"s{i} >= {i}%", "1%", "FAIL" if i % 2 else "PASS", message="why\n" * 2000) for i in range(500))
    text = markdown.render(run(experiments=(record(verdicts=many),)))
    assert len(text) < 65_536
    assert "parts of this report left out" in text or "part of this report left out" in text
    short = markdown.render(run(experiments=(record(),)))
    assert short.index("baseline &#62;&#61; 10&#37;") < short.index("finetuned &#62;&#61; 80&#37;")
    assert "**1 of 3 gates hold**" in short
    assert "112 of 160 traces kept (70%), 30 rejected, 18 unparsed" in short


# --- GitHub Actions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["-n1"]], ids=["plain", "xdist"])
def test_github_gets_the_table_and_annotations(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    if arguments:
        pytest.importorskip("xdist")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.path.parent))
    (project.path / "summary.md").write_text("what was there\n")
    path = project.makepyfile(FAILING)
    outcome = projects.run(project, "--dspy-stage=prompt", *arguments)
    place = f"file={project.path.name}/{path.name},line=6"
    (line,) = [line for line in outcome.outlines if line.startswith("::error")]
    title = "prompt_optimized >= baseline + 70%25 on dev%3A +50.0 pts"
    assert line.startswith(f"::error {place},title={title}::Gate `prompt_optimized >= baseline + 70%25` failed")
    assert "%0A  " in line
    summary = (project.path / "summary.md").read_text("utf-8")
    assert summary.startswith("what was there\n## ❌ dspy: <code>parity</code>")


def test_elsewhere_there_are_no_annotations(project: pytest.Pytester) -> None:
    project.makepyfile(FAILING)
    assert "::error" not in projects.run(project, "--dspy-stage=prompt").stdout.str()


def test_annotations_of_hostile_text_stay_one_command() -> None:
    lines = github.annotation_lines(run(experiments=(HOSTILE,)), {"": ("a,b:c%.py", 3)})
    assert len(lines) == 2
    for line in lines:
        assert line.isprintable()
        assert line.startswith("::error ")
        properties = line.removeprefix("::error ").split("::")[0]
        assert not set(re.sub(r"(^|,)(file|line|title)=", "", properties)) & set(":,")
    assert lines[1].startswith("::error file=a%2Cb%3Ac%25.py,line=3,title=")


def test_cautions_reach_every_report() -> None:
    caution = "dev chose `prompt_optimized` @user"
    marked = gate("prompt_optimized >= 10%", "50.0%", "PASS", caution=caution)
    doubted = run(experiments=(record(verdicts=(marked,), cautions=("60 examples resolve 12 points", caution)),))
    text = markdown.render(doubted)
    assert text.count("> ⚠️ ") == 2
    assert "PASS ⚠️" in text
    assert "@user" not in text
    assert github.annotation_lines(doubted, {}) == [
        f"::warning title=dspy%3A tickets::{caution}",
        "::warning title=dspy%3A tickets::60 examples resolve 12 points",
    ]
    page = rendered(doubted, Path("x.html"))
    assert page.count("60 examples resolve 12 points") == 1


def test_a_regression_reaches_every_report() -> None:
    stage = StageComparison(
        stage="finetuned",
        on="dev",
        status="compared",
        n=60,
        before=0.95,
        after=0.883,
        interval=(-0.12, -0.01),
        change="regressed",
        broke=(FINETUNED.examples[0].id,),
    )
    comparison = ComparisonRecord(file="base.json", confidence=0.95, stages=(stage,))
    worse = run(experiments=(record(verdicts=(), comparison=comparison),))
    text = markdown.render(worse)
    assert text.startswith("## ❌ dspy: ")
    assert "95.0% then, 88.3% now, of 60" in text
    (line,) = github.annotation_lines(worse, {})
    assert line.startswith("::error title=tickets%3A compared with base.json%3A 1 REGRESSED::compared with base.json")
    assert "worse than the baseline" in rendered(worse, Path("x.html"))


# --- JUnit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["-n2"]], ids=["plain", "xdist"])
def test_scores_are_junit_properties(project: pytest.Pytester, arguments: list[str]) -> None:
    if arguments:
        pytest.importorskip("xdist")
    project.makepyfile(projects.LADDER + "\ndef test_more(dspy_evaluate):\n    dspy_evaluate('baseline', on='test')\n")
    projects.run(project, "--dspy-stage=prompt", "--junitxml=j.xml", *arguments)
    text = (project.path / "j.xml").read_text("utf-8")
    found = dict(re.findall(r'<property name="([^"]+)" value="([^"]*)"', text))
    assert found["dspy_score.baseline.dev"] == "0.500000"
    assert found["dspy_score.prompt_optimized.dev"] == "1.000000"
    assert found["dspy_score.baseline.test"] == "0.500000"
    assert found["dspy_interval.baseline.dev"] == "0.236593 0.763407"
    assert (found["dspy_n.baseline.dev"], found["dspy_errors.baseline.dev"]) == ("10", "0")


# --- the terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["yes", "no"])
def test_colour_only_where_pytest_colours(project: pytest.Pytester, colour: str) -> None:
    project.makepyfile(projects.LADDER)
    outcome = projects.run(project, f"--color={colour}")
    (line,) = [line for line in outcome.outlines if line.startswith("baseline >= 40%")]
    assert line.endswith("  \x1b[32mPASS\x1b[0m" if colour == "yes" else "  PASS")


def test_a_terminal_without_unicode_and_with_little_room(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("COLUMNS", "60")
    project.makepyfile(projects.LADDER)
    conftest = project.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("make_experiment()", "make_experiment('käse')"), "utf-8")
    outcome = project.runpytest_subprocess("--color=yes")
    outcome.assert_outcomes(passed=1, skipped=3)
    section = outcome.outlines[next(i for i, x in enumerate(outcome.outlines) if "dspy: k?se" in x) :]
    assert all(line.isascii() for line in section)
    plain = [re.sub(r"\x1b\[\d+m", "", line) for line in section]
    assert max(map(len, plain)) <= 60
