"""Services that are not quite OpenAI's: arguments they refuse, states of their own, models that answer later."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import dspy
import httpx
import openai
import pytest

from pytest_dspy_ft.errors import BuildError, HostedError, JobPendingError
from pytest_dspy_ft.finetune.hosted.openai_api.access import access_of
from pytest_dspy_ft.finetune.hosted.openai_api.failures import is_unready, refused_argument
from pytest_dspy_ft.finetune.hosted.openai_api.lifetimes import known_limits, with_dates_of
from pytest_dspy_ft.finetune.hosted.openai_api.replies import read_job, read_list, read_progress
from pytest_dspy_ft.finetune.hosted.port import ServiceLimits, UnreadableReplyError
from pytest_dspy_ft.finetune.hosted.states import state_of
from tests.finetune.hosted.http_faults import ApiError, Call, Fault
from tests.finetune.hosted.server import FineTuningService, serving
from tests.finetune.hosted.test_job_faults import check
from tests.finetune.hosted.world import build, hosted_lm

NAMES = ("method", "metadata", "seed", "suffix")


def refusing(service: FineTuningService, *names: str, status: int = 400) -> None:
    """Have a service refuse arguments by their names."""
    create = service._create

    def strict(*, headers: Any, body: bytes, **more: Any) -> Any:
        for name in names:
            if f'"{name}":'.encode() in body:
                raise ApiError(status, f"Unrecognized request argument supplied: {name}", None, None)
        return create(headers=headers, body=body, **more)

    service._create = strict  # type: ignore[method-assign]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("names", [("method",), ("metadata",), ("seed",), NAMES])
def test_arguments_that_a_service_refuses_are_left_out(tmp_path: Path, names: tuple[str, ...], status: int) -> None:
    with serving() as service:
        refusing(service, *names, status=status)
        check(build(tmp_path / "store", hosted_lm(service), train_kwargs={"n_epochs": 2}), service)
        [start] = [text for text in service.seen if "POST /v1/fine_tuning/jobs" in text][-1:]
        assert '"hyperparameters":{"n_epochs":2}' in start
        assert ('"method"' in start) == ("method" not in names)
        assert len(service.files) == 1


def test_without_marks_the_job_is_found_from_another_machine_by_the_name_of_its_file(tmp_path: Path) -> None:
    with serving(keeps_metadata=False) as service:
        routes = service._routes
        page = ("GET", "/files", lambda **_: {"object": "list", "data": list(service.files.values())})
        service._routes = lambda: [page, *routes()]  # type: ignore[method-assign]
        first = build(tmp_path / "one", hosted_lm(service))
        second = build(tmp_path / "other", hosted_lm(service))
        assert len(service.started()) == 1
        again = build(tmp_path / "one", hosted_lm(service), ladder={"rebuild": ["finetuned"]})
        assert len(service.started()) == 2
    assert first.record.lm == second.record.lm != again.record.lm


def test_a_file_that_is_still_being_processed_is_waited_for_and_not_uploaded_again(tmp_path: Path) -> None:
    left = [4]

    def faults(call: Call) -> Fault | None:
        if call.starts_a_job and left[0]:
            left[0] -= 1
            words = "File 'file-1' is still being processed and is not ready to be used. Please try again later."
            return Fault("status", 400, error={"message": words, "param": "training_file"})
        return None

    with serving(faults=faults) as service:
        check(build(tmp_path / "store", hosted_lm(service)), service)
        assert (left, len(service.contents)) == ([0], 1)


def test_a_refused_start_leaves_no_file_behind(tmp_path: Path) -> None:
    refusal = Fault("status", 400, error={"message": "n_epochs must be <= 10", "param": "n_epochs"})
    with serving(faults=lambda call: refusal if call.starts_a_job else None) as service:
        for _ in range(2):
            with pytest.raises(HostedError, match="n_epochs must be"):
                build(tmp_path / "store", hosted_lm(service))
            assert not service.files


def error(status: int, body: Any) -> openai.APIStatusError:
    request = httpx.Request("POST", "http://service.test")
    kind = openai.BadRequestError if status == 400 else openai.UnprocessableEntityError
    return kind(str(body), response=httpx.Response(status, request=request), body=body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"message": "Unrecognized request argument supplied: method"}, "method"),
        ({"message": "Unknown parameter: 'metadata'.", "param": "metadata", "code": "unknown_parameter"}, "metadata"),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]}, "seed"),
        ({"message": "property suffix is not supported"}, "suffix"),
        ({"message": "Invalid value for seed: must be below 100", "param": "seed"}, None),
        ({"message": "unknown value 'x' of n_epochs", "param": "method.supervised.hyperparameters.n_epochs"}, None),
        ({"message": "Unknown model", "param": "model"}, None),
        ({"detail": "no"}, None),
        ("page", None),
    ],
)
def test_only_an_argument_that_is_unknown_is_left_out(body: Any, name: str | None) -> None:
    assert refused_argument(error(422, body), NAMES) == name


@pytest.mark.parametrize(
    ("message", "unready"),
    [
        ("File 'f' is still being processed", True),
        ("The file f has not been processed yet", True),
        ("training_file f is not ready", True),
        ("file status: pending", True),
        ("invalid training_file: f", False),
        ("file f has 3 examples, at least 10 are needed", False),
        ("model is not ready", False),
    ],
)
def test_what_says_that_a_file_is_not_ready(message: str, unready: bool) -> None:
    assert is_unready(error(400, {"message": message}), ("f.id",)) is unready


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("validating_files", "waiting"),
        ("JOB_STATE_PENDING", "waiting"),
        ("JOB_STATE_COMPLETED", "succeeded"),
        ("SUCCESS", "succeeded"),
        ("completed", "succeeded"),
        ("Completed", "succeeded"),
        ("cancel_requested", "running"),
        ("pausing", "running"),
        ("InProgress", "running"),
        ("paused", "paused"),
        ("user_error", "failed"),
        ("STATUS_CANCELED", "cancelled"),
        ("frobnicating", None),
        ("", None),
    ],
)
def test_words_of_many_services(word: str, state: str | None) -> None:
    assert state_of(word) == state


@pytest.mark.parametrize("word", ["completed", "SUCCESS", "JOB_STATE_COMPLETED"])
def test_a_job_that_succeeds_in_other_words(tmp_path: Path, word: str) -> None:
    with serving(statuses=("JOB_STATE_PENDING", "cancel_requested", word)) as service:
        finish = service._look

        def look(id_: str) -> dict[str, Any]:
            shown = finish(id_)
            if shown["status"] == word:
                service._job(id_).shown["fine_tuned_model"] = shown["fine_tuned_model"] = "ft:other"
            return shown

        service._look = look  # type: ignore[method-assign]
        built = build(tmp_path / "store", hosted_lm(service))
        assert built.record.lm == "openai/ft:other"


def test_a_state_that_nobody_knows_is_shown_and_not_waited_for_all_day(tmp_path: Path) -> None:
    with serving(statuses=("frobnicating",)) as service:
        words = r"has been 'frobnicating' for 1 h .*, a state that is unknown here: look there what it means"
        with pytest.raises(JobPendingError, match=words):
            build(tmp_path / "store", hosted_lm(service), ladder={"job_timeout": 86_400})


def nameless(service: FineTuningService) -> None:
    finish = service._look
    service._look = lambda id_: finish(id_) | {"fine_tuned_model": None}  # type: ignore[method-assign]


def test_a_success_that_names_no_model_is_looked_for_elsewhere_then_left_with_words(tmp_path: Path) -> None:
    with serving(statuses=("succeeded",)) as service:
        nameless(service)
        with pytest.raises(JobPendingError, match=r"has succeeded but names no model.*same command looks again"):
            build(tmp_path / "store", hosted_lm(service))
        steps = [{"step_number": n, "fine_tuned_model_checkpoint": f"ft:step-{n}"} for n in (2, 9, 5)]
        routes = service._routes
        page = ("GET", "/fine_tuning/jobs/([^/]+)/checkpoints", lambda id_, **_: {"object": "list", "data": steps})
        service._routes = lambda: [page, *routes()]  # type: ignore[method-assign]
        assert build(tmp_path / "store", hosted_lm(service)).record.lm == "openai/ft:step-9"
        assert len(service.started()) == 1


def test_a_model_that_answers_later_is_waited_for_then_left_with_words(tmp_path: Path) -> None:
    with serving() as service:
        service.deployments = set()
        with pytest.raises(JobPendingError, match=r"is trained, and .* does not answer for it yet \(HTTP 404"):
            build(tmp_path / "store", hosted_lm(service))
        asked = [0]

        def faults(call: Call) -> Fault | None:
            asked[0] += call.path == "/chat/completions"
            if asked[0] > 3:
                service.deployments = None
            return None

        service.faults = faults
        check(build(tmp_path / "store", hosted_lm(service)), service)


# --- replies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [None, "text", [], {}, {"id": 1}, {"id": ""}, {"id": "j"}, {"id": "j", "status": 3}])
def test_a_job_that_cannot_be_read_is_one_kind_of_error(reply: Any) -> None:
    with pytest.raises(UnreadableReplyError):
        read_job(reply)


@pytest.mark.parametrize("reply", [None, "text", 3, {}, {"data": None}, {"data": "x"}, {"data": {}}])
def test_a_list_that_cannot_be_read_is_one_kind_of_error(reply: Any) -> None:
    for read in (read_list, read_progress):
        with pytest.raises(UnreadableReplyError):
            read(reply)


def test_of_a_job_what_is_wrong_is_left_out() -> None:
    odd = {"id": "j", "status": "RUNNING", "metadata": "x", "created_at": "2026-11-30T10:00:00Z", "error": "bad rows"}
    job = read_job({**odd, "trained_tokens": "many", "fine_tuned_model": 3, "training_file": None})
    assert (job.state, job.word, job.marks, job.trained_tokens, job.model) == ("running", "RUNNING", {}, None, None)
    assert job.created == datetime.datetime(2026, 11, 30, 10, tzinfo=datetime.UTC).timestamp()
    assert read_job({**odd, "status": "error"}).failure == "bad rows"
    assert read_job({"id": "j", "status": "FOO", "finished_at": 3, "fine_tuned_model": "m"}).state == "succeeded"


@pytest.mark.parametrize("value", ["inf", "nan", "-5", "1e400", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_is_no_time(tmp_path: Path, value: str) -> None:
    left = [Fault("status", 429, {"Retry-After": value}, {"message": "slow down"})]
    with serving(faults=lambda call: left.pop() if left and call.method == "POST" else None) as service:
        check(build(tmp_path / "store", hosted_lm(service)), service)


# --- dates ------------------------------------------------------------------------------------------------------------

TODAY = datetime.date(2026, 11, 30)


@pytest.mark.parametrize(
    ("described", "closed", "soon"),
    [
        ({"shutdown_date": "2026-11-01"}, "since 2026-11-01 gpt-x is shut down, as the service says itself", None),
        ({"shutdown_date": "2027-01-14T00:00:00Z"}, None, "on 2027-01-14, in 45 days, gpt-x is shut down"),
        ({"shutdown_date": 1_893_456_000}, None, None),
        ({"deprecation": {"fine_tune": 1_790_000_000}}, "since 2026-09-21 the service does not train gpt-x any", None),
        ({"shutdown_date": None}, None, "as the table has it"),
        ({"shutdown_date": "some day"}, None, "as the table has it"),
        ("page", None, "as the table has it"),
    ],
)
def test_the_dates_that_a_service_gives_count(described: Any, closed: str | None, soon: str | None) -> None:
    found = with_dates_of(described, ServiceLimits(closing_soon="as the table has it"), "gpt-x", TODAY)
    for told, expected in ((found.closed, closed), (found.closing_soon, soon)):
        assert expected in str(told) if expected is not None else told is None


def test_a_model_that_is_shut_down_is_refused_before_anything_is_uploaded(tmp_path: Path) -> None:
    with serving() as service:
        routes = service._routes
        page = ("GET", "/models/(.*)", lambda id_, **_: {"id": id_, "shutdown_date": "2026-01-01"})
        service._routes = lambda: [page, *routes()]  # type: ignore[method-assign]
        with pytest.raises(BuildError, match="since 2026-01-01 gpt-4o-mini is shut down"):
            build(tmp_path / "store", hosted_lm(service))
        assert not service.files


@pytest.mark.parametrize(
    ("day", "model", "words"),
    [
        (TODAY, "gpt-4o", None),
        (datetime.date(2027, 3, 1), "gpt-4o-mini", "on 2027-04-01, in 31 days, Azure may end fine-tuning of gpt-4o"),
        (datetime.date(2027, 5, 1), "gpt-4.1", "since 2027-04-14 Azure may end fine-tuning of gpt-4.1"),
    ],
)
def test_azure_decides_itself_when_it_closes(day: datetime.date, model: str, words: str | None) -> None:
    access = access_of(dspy.LM("azure/gpt-4o", api_base="https://x.openai.azure.com", api_key="k", api_version="v"))
    found = known_limits(model, access, day)
    assert found.closed is None
    assert words in str(found.closing_soon) if words is not None else found.closing_soon is None
