"""A job is found again, by whoever asks for the same, and asked for anew only where somebody wants another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import HostedError, JobPendingError
from tests.finetune.hosted.http_faults import Fault
from tests.finetune.hosted.server import serving
from tests.finetune.hosted.world import build, hosted_lm, make_experiment
from tests.scripted import reply


def test_another_machine_finds_the_job_by_its_marks(tmp_path: Path) -> None:
    with serving() as service:
        first = build(tmp_path / "one", hosted_lm(service))
        second = build(tmp_path / "other", hosted_lm(service))
        assert len(service.started()) == 1
    assert first.record.lm == second.record.lm
    assert not first.record.training[0].resumed
    assert second.record.training[0].resumed


def test_a_result_that_the_store_lost_is_not_paid_again(tmp_path: Path) -> None:
    with serving() as service:
        first = build(tmp_path / "store", hosted_lm(service))
        for folder in (tmp_path / "store" / "stages").iterdir():
            folder.rename(tmp_path / folder.name)
        assert build(tmp_path / "store", hosted_lm(service)).record.lm == first.record.lm
        assert len(service.started()) == 1


def test_other_rows_are_another_job(tmp_path: Path) -> None:
    with serving() as service:
        build(tmp_path / "store", hosted_lm(service), count=20)
        build(tmp_path / "store", hosted_lm(service), count=30)
        assert len(service.started()) == 2


def test_an_interrupted_build_trains_on_the_rows_it_collected(tmp_path: Path) -> None:
    """A teacher that answers otherwise the second time would make it another job."""
    answers = iter(range(10**6))

    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        return reply(label=f"answer {next(answers)}")

    def session() -> Any:
        stage = Stage("finetuned", dspy.BootstrapFinetune(metric=None))
        return Ladder(make_experiment(hosted_lm(service), stages=[stage]), tmp_path / "store", job_timeout=100)

    with serving(answer=answer, statuses=("running",)) as service:
        with pytest.raises(JobPendingError):
            session().build("finetuned")
        asked = len(service.asked)
        [job] = service.started()
        job.statuses = ["succeeded"]
        for path in (tmp_path / "store" / "responses").rglob("*.json"):
            path.unlink()
        built = session().build("finetuned")
        assert len(service.started()) == 1
        assert service.asked.count("gpt-4o-mini") == asked, "no trace was collected, and paid, again"
    assert built.record.bootstrap.kept == 16


def test_rebuild_asks_for_a_new_job_once(tmp_path: Path) -> None:
    rebuild = {"rebuild": ["finetuned"], "job_timeout": 100}
    with serving() as service:
        first = build(tmp_path / "store", hosted_lm(service))
        service.statuses = ("running",)
        with pytest.raises(JobPendingError):
            build(tmp_path / "store", hosted_lm(service), ladder=rebuild)
        assert len(service.started()) == 2
        service.started()[1].statuses = ["succeeded"]
        # The same command again goes on with the job it asked for; once that is used, it asks for another.
        second = build(tmp_path / "store", hosted_lm(service), ladder=rebuild)
        assert len(service.started()) == 2
        service.statuses = ("succeeded",)
        third = build(tmp_path / "store", hosted_lm(service), ladder=rebuild)
        assert len(service.started()) == 3
        assert len({first.record.lm, second.record.lm, third.record.lm}) == 3
        loaded = build(tmp_path / "store", hosted_lm(service))
        assert loaded.record.lm == third.record.lm
        assert loaded.record.status == "loaded"


def test_a_service_that_lists_no_jobs_is_used_but_never_asked_twice(tmp_path: Path) -> None:
    with serving(lists_jobs=False) as service:
        build(tmp_path / "store", hosted_lm(service))
        assert len(service.started()) == 1
    lost = [Fault("drop")]

    def faults(call: Any) -> Fault | None:
        return lost.pop() if call.starts_a_job and lost else None

    with serving(lists_jobs=False, faults=faults) as service:
        for _ in range(2):
            with pytest.raises(HostedError, match=r"lists no jobs.*look there.*--dspy-rebuild=finetuned asks again"):
                build(tmp_path / "other", hosted_lm(service))
        assert len(service.started()) == 1


def test_of_two_jobs_ordered_at_once_the_first_is_kept(tmp_path: Path) -> None:
    """Two machines without a common store, at the same moment."""
    with serving(statuses=("running", "succeeded")) as service:

        def faults(call: Any) -> Fault | None:
            if call.starts_a_job and not service.started():
                service.faults = lambda call: None
                build(tmp_path / "other", hosted_lm(service), ladder={"job_timeout": 300})
            return None

        service.faults = faults
        built = build(tmp_path / "store", hosted_lm(service))
        first, second = service.started()
        assert built.record.training[0].job == first.id
        assert second.shown["status"] == "cancelled"


def test_a_store_of_an_earlier_version_is_built_anew_on_the_job_that_was_paid_for(tmp_path: Path) -> None:
    """It does not say which code it rests on, so it is not believed: but nothing is ordered twice."""
    with serving() as service:
        first = build(tmp_path / "store", hosted_lm(service))
        [manifest] = (tmp_path / "store").glob("stages/*/finetuned/*/*/manifest.json")
        content = json.loads(manifest.read_text())
        del content["footprint"]
        written = {name: value for name, value in content.items() if name != "checksum"}
        manifest.write_text(json.dumps({**written, "schema_version": 1}))
        for collection in (tmp_path / "store").glob("jobs/*/*/*/collection-*.json"):
            kept = json.loads(collection.read_text())
            collection.write_text(json.dumps({k: v for k, v in kept.items() if k not in ("footprint", "checksum")}))
        again = build(tmp_path / "store", hosted_lm(service))
        assert len(service.started()) == 1
    assert (again.record.status, again.record.lm) == ("built", first.record.lm)
    assert again.record.reason == "made before what it rests on was kept"
    assert again.record.training[0].resumed
