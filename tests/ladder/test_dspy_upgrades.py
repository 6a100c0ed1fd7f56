"""Another version of DSPy: what has the same prompts is loaded, what has not is built anew when that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BuildError, StoreError
from pytest_dspy_ft.ladder.plan import plan
from pytest_dspy_ft.report.plan import render_plan
from pytest_dspy_ft.store.build import MANIFEST
from pytest_dspy_ft.store.entries import read_entry, write_entry
from tests.finetune.programs import one_step_rule, tune
from tests.scripted import experiment, jobs_of, scripted_lm

STORE = Path("store")


def with_demos(program: Any, *, trainset: Any, teacher: Any) -> Any:
    program.demos = [{"text": "900", "label": "even"}]
    return program


class World:
    """A ladder that is declared anew for each session; LM calls and jobs of all sessions are counted."""

    def __init__(self, lm: Any = None) -> None:
        self.lm = lm or scripted_lm(one_step_rule)
        self.count = 40

    def ladder(self, **options: Any) -> Ladder:
        stages = [Stage("few", with_demos), Stage("tuned", tune(), start="few")]
        declared = experiment(dspy.Predict("text -> label"), self.lm, stages, count=self.count)
        return Ladder(declared, STORE, **options)

    def spent(self) -> tuple[int, int]:
        return len(self.lm.engine.requests), len(jobs_of(self.lm))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A store that DSPy 3.4 filled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dspy, "__version__", "3.4.1")
    made = World()
    ladder = made.ladder()
    for stage in ("baseline", "few", "tuned"):
        assert ladder.evaluate(stage, on="dev").score == 1.0
    return made


@pytest.fixture
def upgraded(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(dspy, "__version__", "3.5.0")
    return world


@pytest.fixture
def other_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter writes something else, as another DSPy's may."""
    describe = dspy.ChatAdapter.format_task_description
    monkeypatch.setattr(
        dspy.ChatAdapter, "format_task_description", lambda self, signature: describe(self, signature) + " Be brief."
    )


def manifests() -> Iterator[Path]:
    return STORE.glob(f"stages/*/*/*/*/{MANIFEST}")


def test_what_has_the_same_prompts_is_loaded_with_all_that_was_measured(upgraded: World) -> None:
    before, keys = upgraded.spent(), sorted(STORE.glob("stages/*/*/*"))
    ladder = upgraded.ladder()
    for stage in ("baseline", "few", "tuned"):
        assert ladder.evaluate(stage, on="dev").score == 1.0
    assert ladder.build("tuned").record.status == "loaded"
    assert upgraded.spent() == before
    assert sorted(STORE.glob("stages/*/*/*")) == keys
    assert ladder.evaluate("tuned", on="test").score == 1.0, "what was never measured is measured"
    [said] = [text for text in ladder.record().cautions if "'tuned'" in text]
    assert said == (
        "stage 'tuned' was built with DSPy 3.4, and DSPy 3.5 writes the same prompts: it is loaded; "
        "--dspy-rebuild=tuned builds it anew"
    )
    steps = {step.stage: step for step in plan(upgraded.ladder(), ["tuned"], []).steps}
    assert {step.action for step in steps.values()} == {"load"}
    assert "in the store, built with DSPy 3.4" in "\n".join(render_plan(plan(upgraded.ladder(), ["tuned"], [])))


def test_a_frozen_session_loads_it_too(upgraded: World) -> None:
    assert upgraded.ladder(frozen=True).evaluate("tuned", on="dev").score == 1.0


def test_going_back_finds_both(upgraded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that 3.5 built is loaded by 3.4, where it has none of its own."""
    upgraded.count = 48  # another train split: 3.5 builds both stages
    upgraded.ladder().build("tuned")
    before = upgraded.spent()
    monkeypatch.setattr(dspy, "__version__", "3.4.1")
    ladder = upgraded.ladder()
    assert ladder.build("tuned").record.status == "loaded"
    assert ladder.build("tuned").recipe.version == "3.5"
    assert upgraded.spent() == before


def test_what_has_other_prompts_and_was_paid_for_is_refused_in_words(upgraded: World, other_prompts: None) -> None:
    before = upgraded.spent()
    for stage in ("baseline", "few", "tuned"):
        with pytest.raises(BuildError) as told:
            upgraded.ladder().build(stage)
        assert (
            "stage 'baseline' was built with DSPy 3.4, and DSPy 3.5 changes its prompts: built anew, it is measured "
            "again, and that may cost what it cost before. --dspy-plan shows what it takes, --dspy-rebuild=upgraded "
            "builds it; with DSPy 3.4 it is loaded"
        ) in str(told.value)
    assert upgraded.spent() == before
    with pytest.raises(StoreError, match=r"DSPy 3\.4 -> 3\.5 changes its prompts"):
        upgraded.ladder(frozen=True).build("baseline")


def test_on_this_machine_only_training_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dspy, "__version__", "3.4.1")
    here = World(scripted_lm(one_step_rule, "local:scripted"))
    here.ladder().build("tuned")
    monkeypatch.setattr(dspy, "__version__", "3.5.0")
    request.getfixturevalue("other_prompts")
    ladder = here.ladder()
    with pytest.raises(BuildError, match=r"'tuned' was .* the prompts of stage 'baseline', which it stands on: "):
        ladder.build("tuned")
    assert ladder.build("few").record.status == "built"
    with pytest.raises(BuildError, match=r"changes what it is made of \(start\): built anew, it trains again"):
        here.ladder().build("tuned")
    assert here.spent()[1] == 1


def test_the_plan_says_what_an_upgrade_takes(upgraded: World, other_prompts: None) -> None:
    steps = {step.stage: step for step in plan(upgraded.ladder(), ["tuned"], []).steps}
    assert steps["baseline"].why == "DSPy 3.4 -> 3.5 changes its prompts; --dspy-rebuild=upgraded builds it"
    assert (steps["tuned"].action, steps["tuned"].lm_calls) == ("build", 32)
    assert steps["tuned"].why == (
        "DSPy 3.4 -> 3.5 changes the prompts of stage 'baseline', which it stands on; --dspy-rebuild=upgraded builds it"
    )
    asked = {step.stage: step for step in plan(upgraded.ladder(rebuild=["upgraded"]), ["tuned"], []).steps}
    assert "--dspy-rebuild" not in asked["tuned"].why
    assert asked["tuned"].action == "build"


@pytest.mark.parametrize("rebuild", ["upgraded", "all"])
def test_what_is_asked_for_is_built_once(upgraded: World, other_prompts: None, rebuild: str) -> None:
    calls, jobs = upgraded.spent()
    assert upgraded.ladder(rebuild=[rebuild]).build("tuned").record.status == "built"
    assert upgraded.spent()[1] == jobs + 1
    spent = upgraded.spent()
    assert upgraded.ladder().build("tuned").record.status == "loaded"
    assert upgraded.ladder(rebuild=["upgraded"]).build("tuned").record.status == "loaded"
    assert upgraded.spent() == spent
    assert spent[0] > calls


def test_asking_for_it_builds_nothing_that_is_the_same(upgraded: World) -> None:
    before = upgraded.spent()
    assert upgraded.ladder(rebuild=["upgraded"]).build("tuned").record.status == "loaded"
    assert upgraded.spent() == before


def test_a_stage_that_is_named_is_built_anew(upgraded: World) -> None:
    assert upgraded.ladder(rebuild=["tuned"]).build("tuned").recipe.version == "3.5"
    assert upgraded.spent()[1] == 2
    assert upgraded.ladder().build("tuned").recipe.version == "3.5"


def test_what_the_user_changed_is_built_as_always(upgraded: World) -> None:
    upgraded.count = 48
    assert upgraded.ladder().build("tuned").record.status == "built"


def test_prompts_that_were_not_kept_are_not_taken_for_the_same(upgraded: World) -> None:
    forget_prompts()
    with pytest.raises(BuildError, match=r"DSPy 3\.5 may change its prompts: those that it had were not kept"):
        upgraded.ladder().build("baseline")


def test_loading_keeps_the_prompts_of_what_an_earlier_version_of_this_package_built(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_prompts()
    world.ladder().build("tuned")
    monkeypatch.setattr(dspy, "__version__", "3.5.0")
    before = world.spent()
    assert world.ladder().build("tuned").record.status == "loaded"
    assert world.spent() == before


def forget_prompts() -> None:
    for path in manifests():
        manifest = read_entry(path, None)
        owner = manifest.pop("owner")
        for name in ("prompts", "dspy", "checksum", "schema_version"):
            del manifest[name]
        write_entry(path, owner, manifest)


def test_a_job_that_was_ordered_is_not_ordered_again(upgraded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stage is not built yet: only the journal of the other version's key knows of it."""
    upgraded.count = 48
    monkeypatch.setattr(dspy, "__version__", "3.4.1")
    ladder = upgraded.ladder()
    ladder.build("few")
    folder = ladder.store.jobs_folder("scripted", "tuned", ladder.recipe("tuned").key)
    folder.mkdir(parents=True)
    (folder / "job-1234-1.json").write_text("{}", encoding="utf-8")
    for path in manifests():
        if "tuned" in str(path):
            path.unlink()
    monkeypatch.setattr(dspy, "__version__", "3.5.0")
    jobs = upgraded.spent()[1]
    with pytest.raises(BuildError, match=r"a fine-tuning job was ordered with DSPy 3\.4, and DSPy 3\.5 would order"):
        upgraded.ladder().build("tuned")
    assert upgraded.spent()[1] == jobs


# --- LMs -------------------------------------------------------------------------------------------------------------


def test_the_default_of_model_type_is_no_part_of_what_was_filed(upgraded: World) -> None:
    """DSPy 3.5 calls it "auto" where 3.4 said "chat": under both it is what nobody set."""
    upgraded.lm.model_type = "auto"
    before = upgraded.spent()
    ladder = upgraded.ladder()
    assert ladder.evaluate("tuned", on="dev").score == 1.0
    assert upgraded.spent() == before


def test_a_model_type_that_was_set_is(upgraded: World) -> None:
    upgraded.lm.model_type = "responses"
    with pytest.raises(BuildError, match=r"DSPy 3\.5 changes what it is made of \(lm\)"):
        upgraded.ladder().build("few")
