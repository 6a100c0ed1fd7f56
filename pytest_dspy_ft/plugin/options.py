"""The command line and its ini names: one table, whose values are checked by the same rule wherever they are written.

To add an option, add an entry to :data:`TABLE` and a field of the same name to :class:`Options`.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from pytest_dspy_ft.constants import STOP_RULES, StopRule
from pytest_dspy_ft.lms.prices import Prices
from pytest_dspy_ft.plugin.option_entry import (
    PRECAUTIONS,
    Entry,
    at_least_one,
    beside_ini,
    check_constrained,
    checked,
    comma_separated,
    distinct,
    near_duplicates,
    one_of,
    report_path,
    to_addresses,
    to_path,
    to_share,
)
from pytest_dspy_ft.plugin.record_options import DEFAULT_RECORDINGS, Recordings, RecordMode, record_mode
from pytest_dspy_ft.plugin.unknown_names import refuse_unknown_names
from pytest_dspy_ft.statistics import CONFIDENCES, is_confidence
from pytest_dspy_ft.store import DEFAULT_STORE

DAY = 86_400.0


class Options(NamedTuple):
    """What the user asked for: command line first, then ini file, then the defaults that stand here."""

    lm: str
    teacher_lm: str
    store: Path
    prices: Prices
    max_errors: float
    near_duplicates: str
    near_duplicates_from: float
    selection_leak: str
    correction: str
    stages: tuple[str, ...] = ("baseline",)
    rebuild: tuple[str, ...] = ()
    frozen: bool = False
    limit: int | None = None
    num_threads: int | None = None
    confidence: float | None = None
    repeats: int = 1
    reports: tuple[Path, ...] = ()
    job_timeout: float = DAY
    lm_timeout: float | None = None
    patience: float | None = None
    constrain: bool = False
    plan: bool = False
    max_cost: float | None = None
    recordings: Recordings | None = None
    save_baseline: Path | None = None
    compare: Path | None = None
    compare_as: str = ""
    """The file to compare with, as the user named it."""
    compare_stored: bool = False
    serve: tuple[str, ...] = ()
    train: str = ""
    require: bool = False
    rescore: bool = False
    stop_early: StopRule | None = None

    @property
    def instead(self) -> str:
        """The option by which the session does something else than run tests; empty where it runs them."""
        return "--dspy-plan" if self.plan else "--dspy-rescore" if self.rescore else ""


TABLE = (
    Entry(
        "stages",
        "how far up the ladder to go: a kind of work (baseline < prompt < finetune < better_together), a stage's "
        "name, or all; repeatable, comma-separated",
        option="--dspy-stage",
        ini="dspy_stage",
        metavar="STAGE",
        collect=comma_separated,
        otherwise="baseline",
    ),
    Entry(
        "lm",
        "what the dspy_lm fixture gives: local (the embedded model), local:PATH-or-HF-ID, or a DSPy model string "
        "such as openai/gpt-4o-mini",
        option="--dspy-lm",
        ini="dspy_lm",
        metavar="MODEL",
        default="local",
        otherwise="local",
    ),
    Entry(
        "teacher_lm",
        "the same for dspy_teacher_lm",
        option="--dspy-teacher-lm",
        ini="dspy_teacher_lm",
        metavar="MODEL",
        otherwise="as --dspy-lm",
    ),
    Entry(
        "constrain",
        "have LMs of this machine keep replies to the format of the adapter that asks, typed fields to their values",
        option="--dspy-constrain",
        ini="dspy_constrain",
        switch=True,
    ),
    Entry(
        "store",
        "where stages and results are kept",
        option="--dspy-store",
        ini="dspy_store",
        metavar="DIR",
        parse=to_path,
        otherwise=f"{DEFAULT_STORE} beside the ini file",
    ),
    Entry(
        "rebuild",
        "build this stage, and what depends on it, anew; or all; or upgraded: what another version of DSPy built and "
        "this one would build otherwise; repeatable, comma-separated",
        option="--dspy-rebuild",
        metavar="STAGE",
        collect=comma_separated,
    ),
    Entry(
        "frozen",
        "build nothing and call no LM: judge from the store alone; what is missing is an error",
        option="--dspy-frozen",
        switch=True,
    ),
    Entry(
        "rescore",
        "score all outputs in the store with the metrics of now, and print both scores; build nothing, call no LM, run "
        "no test",
        option="--dspy-rescore",
        switch=True,
    ),
    Entry(
        "plan",
        "print what would be built, loaded and measured, with LM calls, tokens, time and cost as estimated; "
        "run nothing",
        option="--dspy-plan",
        switch=True,
    ),
    Entry(
        "max_cost",
        "stop before the session's spend would pass this many US dollars; what was paid for is kept",
        option="--dspy-max-cost",
        metavar="USD",
        parse=checked(float, lambda usd: 0.0 <= usd < float("inf"), "an amount of US dollars, such as 5 or 0.50"),
    ),
    Entry(
        "limit",
        "at most N examples of each split, for a quick look",
        option="--dspy-limit",
        metavar="N",
        parse=at_least_one("examples"),
    ),
    Entry(
        "num_threads",
        "evaluation threads",
        option="--dspy-num-threads",
        ini="dspy_num_threads",
        metavar="N",
        parse=at_least_one("threads"),
        otherwise="what suits the LM",
    ),
    Entry(
        "confidence",
        "default confidence of gates; without it they judge by the point estimate",
        option="--dspy-confidence",
        ini="dspy_confidence",
        metavar="P",
        parse=checked(float, is_confidence, CONFIDENCES),
    ),
    Entry(
        "require",
        "fail a session in which a declared gate was not judged (skipped, out of reach, xfailed, for another LM), "
        "naming each",
        option="--dspy-require",
        ini="dspy_require",
        switch=True,
        choices=("gates",),
        otherwise="they are counted",
    ),
    Entry(
        "stop_early",
        "end an evaluation when the verdicts of all its gates are decided: curtail, when no other example can change "
        "any; sequential, when one of ten planned looks is sure of those with a confidence",
        option="--dspy-stop-early",
        ini="dspy_stop_early",
        metavar="RULE",
        choices=STOP_RULES,
        otherwise="all examples are measured",
    ),
    Entry(
        "repeats",
        "evaluate each example K times where the LM samples (temperature above 0); its score is their mean",
        option="--dspy-repeats",
        ini="dspy_repeats",
        metavar="K",
        parse=at_least_one("repeats"),
        otherwise="1",
    ),
    Entry(
        "reports",
        "at the end, also when tests failed, write what the session found to this file: .json (the record), .md "
        "(for pull requests) or .html (one page that loads nothing from elsewhere); repeatable",
        option="--dspy-report",
        metavar="PATH",
        parse=report_path,
        collect=distinct,
    ),
    Entry(
        "job_timeout",
        "how long to wait for a hosted fine-tuning job, which goes on after that and is found again by the next "
        "session",
        option="--dspy-job-timeout",
        ini="dspy_job_timeout",
        metavar="SECONDS",
        parse=checked(float, lambda s: s > 0, "a number of seconds above 0"),
        otherwise="86400, a day",
    ),
    Entry(
        "lm_timeout",
        "how long one LM call may take in all, DSPy's own retries of it included; an LM's own timeout= wins",
        option="--dspy-lm-timeout",
        ini="dspy_lm_timeout",
        metavar="SECONDS",
        parse=checked(float, lambda s: 0 < s < float("inf"), "a number of seconds above 0"),
        otherwise="600, ten minutes",
    ),
    Entry(
        "patience",
        "how long a session waits in vain for a provider, over all calls, before what that fails is not tried again",
        option="--dspy-patience",
        ini="dspy_patience",
        metavar="SECONDS",
        parse=checked(float, lambda s: 0 <= s < float("inf"), "a number of seconds"),
        otherwise="900, a quarter of an hour",
    ),
    Entry(
        "save_baseline",
        "keep what this session measured, to commit and compare with later; refused where it is not the whole",
        option="--dspy-save-baseline",
        metavar="FILE",
        parse=to_path,
    ),
    Entry(
        "compare_as",
        "compare with a baseline, example by example; what got worse beyond noise fails in a test of its own",
        option="--dspy-compare",
        metavar="FILE",
    ),
    Entry(
        "compare_stored",
        "compare what the store or a recording holds, also of LMs that may have changed behind their names since; "
        "without it, what is compared is measured anew on those",
        option="--dspy-compare-stored",
        switch=True,
    ),
    Entry(
        "record",
        "none: answer LM calls from recordings alone, without network or key; once: record those that are not yet "
        "recorded; all: record all anew",
        option="--dspy-record",
        ini="dspy_record",
        metavar="MODE",
        choices=get_args(RecordMode),
        otherwise="neither record nor replay",
    ),
    Entry(
        "offline",
        "the same as --dspy-record=none",
        option="--dspy-offline",
        ini="dspy_offline",
        switch=True,
    ),
    Entry(
        "recordings",
        "where recordings are kept",
        ini="dspy_recordings",
        parse=to_path,
        otherwise=DEFAULT_RECORDINGS,
    ),
    Entry(
        "record_lms",
        "patterns of models whose calls are recorded",
        ini="dspy_record_lms",
        collect=tuple,
        otherwise="all that do not run on this machine",
    ),
    Entry(
        "serve",
        "evaluate models of this machine (local, local:...) and LoRAs trained on it on the OpenAI-compatible "
        "server (vLLM, SGLang) at this address, such as http://HOST:8000/v1; of several, each takes a part of the "
        "calls; repeatable, comma-separated",
        option="--dspy-serve",
        ini="dspy_serve",
        metavar="URL",
        parse=to_addresses,
        collect=comma_separated,
        otherwise="here",
    ),
    Entry(
        "train",
        "who trains models of this machine: torchrun[:N], hf-jobs:FLAVOR, skypilot:TASK.yaml or MODULE:FACTORY",
        option="--dspy-train",
        ini="dspy_train",
        metavar="LAUNCHER",
        otherwise="here, this process",
    ),
    Entry(
        "max_errors",
        "share of a stage's examples that may fail to be measured before its gates fail, such as 5% or 0.05",
        ini="dspy_max_errors",
        parse=to_share,
        default="5%",
    ),
    Entry(
        "near_duplicates",
        "what an example does that all but repeats one of another split: warn, fail or off; with the similarity from "
        "which it counts, such as: fail 90%",
        ini="dspy_near_duplicates",
        parse=near_duplicates,
        default="warn 80%",
    ),
    Entry(
        "selection_leak",
        "what a gate does on a split whose examples chose the program: warn (and be marked), fail or off",
        ini="dspy_selection_leak",
        parse=one_of(PRECAUTIONS),
        default="warn",
    ),
    Entry(
        "correction",
        "holm corrects the confidence of gates for how many of them the session judges; none judges each by itself",
        ini="dspy_correction",
        parse=one_of(("none", "holm")),
        default="none",
    ),
    Entry(
        "prices",
        "what models cost where list prices are not what you pay, a line each: MODEL = INPUT OUTPUT "
        "[cached=PRICE] [training=PRICE], in US dollars for a million tokens; MODEL may be a pattern such as local:*",
        ini="dspy_prices",
        collect=Prices.from_lines,
        ini_type="linelist",
    ),
)
"""All options and ini names, in the order of ``pytest --help``."""


def add_options(parser: pytest.Parser) -> None:
    """Register the options and their ini names."""
    group = parser.getgroup("dspy", "regression tests for DSPy programs (pytest-dspy-ft)")
    for entry in TABLE:
        entry.register(parser, group)


def read_options(config: pytest.Config) -> Options:
    """The options of this session.

    Raises:
        pytest.UsageError: If an ini value makes no sense, or options do not go together; it says what would be right.
    """
    refuse_unknown_names(config, [entry.ini for entry in TABLE if entry.ini])
    values = {entry.field: entry.read(config) for entry in TABLE}
    values["teacher_lm"] = values["teacher_lm"] or values["lm"]
    values["store"] = values["store"] or beside_ini(config) / DEFAULT_STORE
    values["near_duplicates"], values["near_duplicates_from"] = values["near_duplicates"]
    if values["constrain"]:
        check_constrained((values["lm"], values["teacher_lm"]), values["serve"])
    if file := values["compare_as"]:
        values["compare"] = config.invocation_params.dir / Path(file).expanduser()
    elif values["compare_stored"]:
        raise pytest.UsageError("--dspy-compare-stored says how to compare: add --dspy-compare=FILE")
    folder = values["recordings"] or beside_ini(config) / DEFAULT_RECORDINGS
    mode, lms = record_mode(config, values.pop("record"), offline=values.pop("offline")), values.pop("record_lms")
    values["recordings"] = Recordings(mode, folder, lms) if mode else None
    return Options(**{field: value for field, value in values.items() if value not in (None, ())})
