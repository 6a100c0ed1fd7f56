"""The command line and its ini names, checked as they are read.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import pytest

from pytest_dspy_ft.errors import PriceError
from pytest_dspy_ft.lms.prices import Prices

DEFAULT_STORE = ".dspy_ft"
REPORT_KINDS = (".json", ".md", ".html")
DAY = 86_400.0
_PRECAUTIONS = ("warn", "fail", "off")
DEFAULT_RECORDINGS = "dspy_recordings"
RecordMode = Literal["none", "once", "all"]
RECORD_MODES = ("none", "once", "all")


class Recordings(NamedTuple):
    """How LM calls are recorded and replayed."""

    mode: RecordMode
    folder: Path
    lms: tuple[str, ...]


class Options(NamedTuple):
    """What the user asked for: command line first, then ini file, then defaults."""

    stages: tuple[str, ...]
    lm: str
    teacher_lm: str
    store: Path
    rebuild: tuple[str, ...]
    frozen: bool
    limit: int | None
    num_threads: int | None
    confidence: float | None
    prices: Prices
    repeats: int
    max_errors: float
    near_duplicates: str
    near_duplicates_from: float
    selection_leak: str
    correction: str
    reports: tuple[Path, ...] = ()
    job_timeout: float = DAY
    plan: bool = False
    max_cost: float | None = None
    recordings: Recordings | None = None
    save_baseline: Path | None = None
    compare: Path | None = None
    compare_as: str = ""
    """The file to compare with, as the user named it."""
    serve: str = ""

    @property
    def stage_option(self) -> str:
        """The selection as it would be typed."""
        return f"--dspy-stage={','.join(self.stages)}"


def add_options(parser: pytest.Parser) -> None:
    """Register the options and their ini names."""
    group = parser.getgroup("dspy", "regression tests for DSPy programs (pytest-dspy-ft)")
    group.addoption(
        "--dspy-stage",
        action="append",
        default=None,
        metavar="STAGE",
        help="how far up the ladder to go: a kind of work (baseline < prompt < finetune < better_together), a stage's "
        "name, or all; repeatable, comma-separated (ini: dspy_stage; default: baseline)",
    )
    group.addoption(
        "--dspy-lm",
        default=None,
        metavar="MODEL",
        help="what the dspy_lm fixture gives: local (the embedded model), local:PATH-or-HF-ID, or a DSPy model string "
        "such as openai/gpt-4o-mini (ini: dspy_lm; default: local)",
    )
    group.addoption(
        "--dspy-teacher-lm",
        default=None,
        metavar="MODEL",
        help="the same for dspy_teacher_lm (ini: dspy_teacher_lm; default: as --dspy-lm)",
    )
    group.addoption(
        "--dspy-store",
        default=None,
        metavar="DIR",
        help=f"where stages and results are kept (ini: dspy_store; default: {DEFAULT_STORE} beside the ini file)",
    )
    group.addoption(
        "--dspy-rebuild",
        action="append",
        default=[],
        metavar="STAGE",
        help="build this stage, and what depends on it, anew; or all; repeatable, comma-separated",
    )
    group.addoption(
        "--dspy-frozen",
        action="store_true",
        default=False,
        help="build nothing and call no LM: judge from the store alone; what is missing is an error",
    )
    group.addoption(
        "--dspy-plan",
        action="store_true",
        default=False,
        help="print what would be built, loaded and measured, with LM calls, tokens, time and cost as estimated; "
        "run nothing",
    )
    group.addoption(
        "--dspy-max-cost",
        type=_checked(float, lambda usd: 0.0 <= usd < float("inf"), "an amount of US dollars, such as 5 or 0.50"),
        default=None,
        metavar="USD",
        help="stop before the session's spend would pass this many US dollars; what was paid for is kept",
    )
    group.addoption(
        "--dspy-limit",
        type=_checked(int, lambda n: n >= 1, "a whole number of examples, at least 1"),
        default=None,
        metavar="N",
        help="at most N examples of each split, for a quick look",
    )
    group.addoption(
        "--dspy-num-threads",
        type=_checked(int, lambda n: n >= 1, "a whole number of threads, at least 1"),
        default=None,
        metavar="N",
        help="evaluation threads (ini: dspy_num_threads; default: what suits the LM)",
    )
    group.addoption(
        "--dspy-confidence",
        type=_checked(float, lambda p: 0.0 < p < 1.0, "a probability between 0 and 1, such as 0.95"),
        default=None,
        metavar="P",
        help="default confidence of gates; without it they judge by the point estimate (ini: dspy_confidence)",
    )
    group.addoption(
        "--dspy-repeats",
        type=_checked(int, lambda n: n >= 1, "a whole number of repeats, at least 1"),
        default=None,
        metavar="K",
        help="evaluate each example K times where the LM samples (temperature above 0); its score is their mean "
        "(ini: dspy_repeats; default: 1)",
    )
    group.addoption(
        "--dspy-report",
        action="append",
        type=_report_path,
        default=[],
        metavar="PATH",
        help="at the end, also when tests failed, write what the session found to this file: .json (the record), .md "
        "(for pull requests) or .html (one page that loads nothing from elsewhere); repeatable",
    )
    group.addoption(
        "--dspy-job-timeout",
        type=_checked(float, lambda s: s > 0, "a number of seconds above 0"),
        default=None,
        metavar="SECONDS",
        help="how long to wait for a hosted fine-tuning job, which goes on after that and is found again by the next "
        "session (ini: dspy_job_timeout; default: 86400, a day)",
    )
    group.addoption(
        "--dspy-save-baseline",
        default=None,
        metavar="FILE",
        help="keep what this session measured, to commit and compare with later; refused where it is not the whole",
    )
    group.addoption(
        "--dspy-compare",
        default=None,
        metavar="FILE",
        help="compare with a baseline, example by example; what got worse beyond noise fails in a test of its own",
    )
    group.addoption(
        "--dspy-record",
        choices=RECORD_MODES,
        default=None,
        metavar="MODE",
        help="none: answer LM calls from recordings alone, without network or key; once: record those that are not yet "
        "recorded; all: record all anew (ini: dspy_record; default: neither record nor replay)",
    )
    group.addoption(
        "--dspy-offline",
        action="store_true",
        default=None,
        help="the same as --dspy-record=none (ini: dspy_offline)",
    )
    group.addoption(
        "--dspy-serve",
        default=None,
        metavar="URL",
        help="evaluate models of this machine (local, local:...) and LoRAs trained on it on the OpenAI-compatible "
        "server (vLLM, SGLang) at this address, such as http://HOST:8000/v1 (ini: dspy_serve; default: here)",
    )
    parser.addini("dspy_serve", "default of --dspy-serve", default="")
    parser.addini("dspy_record", "default of --dspy-record", default="")
    parser.addini("dspy_offline", "default of --dspy-offline", type="bool", default=False)
    parser.addini("dspy_recordings", f"where recordings are kept (default: {DEFAULT_RECORDINGS})", default="")
    parser.addini(
        "dspy_record_lms",
        "patterns of models whose calls are recorded (default: all that do not run on this machine)",
        type="args",
        default=[],
    )
    parser.addini("dspy_stage", "default of --dspy-stage", type="args", default=[])
    parser.addini("dspy_lm", "default of --dspy-lm", default="local")
    parser.addini("dspy_teacher_lm", "default of --dspy-teacher-lm", default="")
    parser.addini("dspy_store", "default of --dspy-store", default="")
    parser.addini("dspy_num_threads", "default of --dspy-num-threads", default="")
    parser.addini("dspy_repeats", "default of --dspy-repeats", default="")
    parser.addini("dspy_confidence", "default of --dspy-confidence", default="")
    parser.addini(
        "dspy_max_errors",
        "share of a stage's examples that may fail to be measured before its gates fail, such as 5% or 0.05",
        default="5%",
    )
    parser.addini(
        "dspy_near_duplicates",
        "what an example does that all but repeats one of another split: warn, fail or off; with the similarity from "
        "which it counts, such as: fail 90%",
        default="warn 80%",
    )
    parser.addini(
        "dspy_selection_leak",
        "what a gate does on a split whose examples chose the program: warn (and be marked), fail or off",
        default="warn",
    )
    parser.addini(
        "dspy_correction",
        "holm corrects the confidence of gates for how many of them the session judges; none judges each by itself",
        default="none",
    )
    parser.addini(
        "dspy_prices",
        "what models cost where list prices are not what you pay, a line each: MODEL = INPUT OUTPUT "
        "[cached=PRICE] [training=PRICE], in US dollars for a million tokens; MODEL may be a pattern such as local:*",
        type="linelist",
        default=[],
    )
    parser.addini("dspy_job_timeout", "default of --dspy-job-timeout", default="")


def read_options(config: pytest.Config) -> Options:
    """The options of this session.

    Raises:
        pytest.UsageError: If an ini value makes no sense; it names the value and what would be right.
    """
    lm = config.getoption("--dspy-lm") or config.getini("dspy_lm")
    reports = tuple(dict.fromkeys(config.invocation_params.dir / path for path in config.getoption("--dspy-report")))
    return Options(
        stages=_words(config.getoption("--dspy-stage") or config.getini("dspy_stage")) or ("baseline",),
        lm=lm,
        teacher_lm=config.getoption("--dspy-teacher-lm") or config.getini("dspy_teacher_lm") or lm,
        store=_store(config),
        rebuild=_words(config.getoption("--dspy-rebuild")),
        frozen=config.getoption("--dspy-frozen"),
        limit=config.getoption("--dspy-limit"),
        num_threads=_from_ini(
            config, "--dspy-num-threads", "dspy_num_threads", int, lambda n: n >= 1, "a whole number, at least 1"
        ),
        confidence=_from_ini(
            config, "--dspy-confidence", "dspy_confidence", float, lambda p: 0 < p < 1, "a probability between 0 and 1"
        ),
        prices=_prices(config),
        repeats=_from_ini(config, "--dspy-repeats", "dspy_repeats", int, lambda n: n >= 1, "a whole number, at least 1")
        or 1,
        max_errors=_ini_share(config, "dspy_max_errors", config.getini("dspy_max_errors")),
        near_duplicates=_ini_choice(config, "dspy_near_duplicates", 0),
        near_duplicates_from=_near_duplicates_from(config),
        selection_leak=_ini_choice(config, "dspy_selection_leak"),
        correction=_correction(config),
        reports=reports,
        job_timeout=_from_ini(
            config, "--dspy-job-timeout", "dspy_job_timeout", float, lambda s: s > 0, "a number of seconds above 0"
        )
        or DAY,
        plan=config.getoption("--dspy-plan"),
        max_cost=config.getoption("--dspy-max-cost"),
        recordings=_recordings(config),
        save_baseline=_seen_from_start(config, config.getoption("--dspy-save-baseline")),
        compare=_seen_from_start(config, config.getoption("--dspy-compare")),
        compare_as=config.getoption("--dspy-compare") or "",
        serve=_serve(config),
    )


def _recordings(config: pytest.Config) -> Recordings | None:
    ini = config.getini("dspy_record")
    if ini and ini not in RECORD_MODES:
        raise pytest.UsageError(f"{config.inipath}: dspy_record = {ini}: choices are {', '.join(RECORD_MODES)}")
    asked, offline = config.getoption("--dspy-record"), config.getoption("--dspy-offline")
    if offline and asked not in (None, "none"):
        raise pytest.UsageError(f"--dspy-offline and --dspy-record={asked}: what is recorded is asked over the network")
    # The command line counts before the ini file, whichever of the two ways it says it.
    mode = asked or ("none" if offline or config.getini("dspy_offline") else ini)
    if not mode:
        return None
    if mode != "none" and config.getoption("--dspy-frozen"):
        raise pytest.UsageError(f"--dspy-frozen and --dspy-record={mode}: a frozen session calls no LM to record")
    beside_ini = config.inipath.parent if config.inipath is not None else config.rootpath
    folder = beside_ini / Path(config.getini("dspy_recordings") or DEFAULT_RECORDINGS).expanduser()
    return Recordings(cast(RecordMode, mode), folder, tuple(config.getini("dspy_record_lms")))


def _serve(config: pytest.Config) -> str:
    address = str(config.getoption("--dspy-serve") or config.getini("dspy_serve"))
    if address and not address.startswith(("http://", "https://")):
        raise pytest.UsageError(f"--dspy-serve={address}: an address is needed, such as http://HOST:8000/v1")
    return address


def _prices(config: pytest.Config) -> Prices:
    try:
        return Prices.from_lines(config.getini("dspy_prices"))
    except PriceError as error:
        raise pytest.UsageError(f"{config.inipath}: dspy_prices: {error}") from None


def _ini_share(config: pytest.Config, ini: str, text: str) -> float:
    """A share, written as 5% or as 0.05."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise pytest.UsageError(f"{config.inipath}: {ini} = {text!r} is not a share such as 5% or 0.05")
    return value


def _ini_choice(config: pytest.Config, ini: str, word: int | None = None) -> str:
    text = config.getini(ini)
    value = text if word is None else (text.split() or [""])[word]
    if value not in _PRECAUTIONS:
        raise pytest.UsageError(f"{config.inipath}: {ini} = {text!r} is none of {', '.join(_PRECAUTIONS)}")
    return str(value)


def _correction(config: pytest.Config) -> str:
    text = str(config.getini("dspy_correction"))
    if text not in ("none", "holm"):
        raise pytest.UsageError(f"{config.inipath}: dspy_correction = {text!r} is none of none, holm")
    return text


def _near_duplicates_from(config: pytest.Config) -> float:
    words = config.getini("dspy_near_duplicates").split()
    if len(words) > 2:
        raise pytest.UsageError(
            f"{config.inipath}: dspy_near_duplicates = {' '.join(words)!r}; give a word and a similarity, such as "
            "fail 90%"
        )
    share = _ini_share(config, "dspy_near_duplicates", words[1] if len(words) == 2 else "80%")
    if not share:
        raise pytest.UsageError(f"{config.inipath}: dspy_near_duplicates: a similarity of 0 makes all examples alike")
    return share


def check_writable(reports: Sequence[Path]) -> None:
    """Find out that a report cannot be written before anything is spent on what it is to say.

    Raises:
        pytest.UsageError: If a path is a folder, or its folder can neither be written nor made.
    """
    for path in reports:
        if path.is_dir():
            raise pytest.UsageError(f"--dspy-report={path}: that is a folder; name a file in it")
        folder = next(parent for parent in path.parents if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise pytest.UsageError(f"--dspy-report={path}: cannot write to {folder}: {error.strerror}") from None


def _report_path(text: str) -> Path:
    path = Path(text).expanduser()
    if path.suffix.lower() not in REPORT_KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no report: choose a name that ends in {', '.join(REPORT_KINDS)}")
    return path


def _store(config: pytest.Config) -> Path:
    """A path on the command line is seen from where pytest was started, one in the ini file from where that lies."""
    beside_ini = config.inipath.parent if config.inipath is not None else config.rootpath
    if given := config.getoption("--dspy-store"):
        return config.invocation_params.dir / Path(given).expanduser()
    return beside_ini / Path(config.getini("dspy_store") or DEFAULT_STORE).expanduser()


def _seen_from_start(config: pytest.Config, given: str | None) -> Path | None:
    return config.invocation_params.dir / Path(given).expanduser() if given else None


def _words(values: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for value in values for word in value.split(",") if word.strip()))


def _checked(kind: Callable[[str], Any], valid: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not valid(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


def _from_ini(
    config: pytest.Config, option: str, ini: str, kind: Callable[[str], Any], valid: Callable[[Any], bool], wanted: str
) -> Any:
    value = config.getoption(option)
    text = config.getini(ini)
    if value is not None or not text:
        return value
    try:
        return _checked(kind, valid, wanted)(text)
    except argparse.ArgumentTypeError as error:
        raise pytest.UsageError(f"{config.inipath}: {ini} = {error}") from None
