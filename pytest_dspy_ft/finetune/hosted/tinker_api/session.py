"""Tinker's client, call by call, each with a time limit.

A session of Tinker's is opened with the first training and lasts until it is closed; what is only looked up needs none.
Its client repeats a request whose reply was lost under the same number, so that no step is made twice.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_dspy_ft.finetune.hosted.client_errors import vendor_client
from pytest_dspy_ft.finetune.hosted.port import UnreadableReplyError

WAIT_SECONDS = 900.0
"""For one call: the service may be short of GPUs, and says so while it is waited for."""
_PAGE, _PAGES = 100, 10
"""So many of the newest training runs are looked through."""


class TinkerSession:
    """The calls that a training needs.

    Args:
        address: Where the service is.
        key: The key.
        wait: Seconds for one call.
    """

    def __init__(self, address: str, key: str, wait: float = WAIT_SECONDS) -> None:
        self._tinker = vendor_client("tinker", "Tinker")
        self._address, self._key, self._wait = address, key, wait
        self._service: Any = None
        self._rest: Any = None

    def context_of(self, model: str) -> int | None:
        """Tokens of one row of a model.

        Raises:
            LookupError: The service does not train it; the message lists what it trains.
        """
        told = self._result(self._lookups.get_server_capabilities)
        known = {str(m.model_name): m for m in told.supported_models if m.trainable is not False}
        if model not in known:
            raise LookupError(f"it trains {', '.join(sorted(known)) or 'no model'}")
        found: int | None = known[model].max_context_length
        return found

    def runs(self) -> list[Any]:
        """The newest training runs of the key's owner."""
        found: list[Any] = []
        for page in range(_PAGES):
            told = self._result(self._lookups.list_training_runs, limit=_PAGE, offset=page * _PAGE)
            found += told.training_runs
            if len(told.training_runs) < _PAGE:
                break
        return found

    def states(self, run: str) -> list[str]:
        """The states that a training run saved."""
        told = self._result(self._lookups.list_checkpoints, run).checkpoints
        return [str(checkpoint.tinker_path) for checkpoint in told if checkpoint.checkpoint_type == "training"]

    def create(self, model: str, marks: Mapping[str, str], **lora: Any) -> Any:
        """Begin a training."""
        return self._result(
            self._training.create_lora_training_client, base_model=model, user_metadata=dict(marks), **lora
        )

    def resume(self, state: str, marks: Mapping[str, str]) -> Any:
        """Go on from a state that was saved, its optimizer's included."""
        return self._result(
            self._training.create_training_client_from_state_with_optimizer, state, user_metadata=dict(marks)
        )

    def step(self, training: Any, batch: Sequence[tuple[list[int], list[float]]], **adam: float) -> float:
        """Train on one batch of (tokens, weight of each), and give the loss of a weighted token."""
        with _one_try():
            return self._step(training, batch, adam)

    def _step(self, training: Any, batch: Sequence[tuple[list[int], list[float]]], adam: Mapping[str, float]) -> float:
        types = self._tinker.types
        data = [
            types.Datum(
                model_input=types.ModelInput.from_ints(tokens[:-1]),
                loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights[1:]},
            )
            for tokens, weights in batch
        ]
        # Both are on their way before either is waited for: one turn of the service's instead of two.
        passed = training.forward_backward(data, "cross_entropy")
        stepped = training.optim_step(types.AdamParams(**adam))
        metrics = passed.result(self._wait).metrics
        stepped.result(self._wait)
        weighted = sum(sum(weights[1:]) for _, weights in batch)
        return float(metrics.get("loss:sum", 0.0)) / max(weighted, 1.0)

    def save(self, training: Any, name: str, marks: Mapping[str, str], seconds: int) -> str:
        """Save the state that a later session may go on from; it is deleted after so many seconds by itself."""
        told = self._result(training.save_state, name, ttl_seconds=seconds, overwrite=True, user_metadata=dict(marks))
        return str(told.path)

    def save_result(self, training: Any, name: str, marks: Mapping[str, str]) -> str:
        """Save weights that can be asked."""
        return str(self._result(training.save_weights_for_sampler, name, user_metadata=dict(marks)).path)

    def delete(self, path: str) -> None:
        """Delete a state."""
        self._result(self._lookups.delete_checkpoint_from_tinker_path, path)

    def drop(self) -> None:
        """Leave the session, in whatever state it is: the service ends it when no more is heard of it."""
        self._service = None

    def close(self) -> None:
        """Say that the session is over, where one was opened."""
        if self._service is not None:
            with contextlib.suppress(Exception):  # the service ends it by itself, some minutes later
                self._service.close("success").result(5.0)
            self._service = None

    def _result(self, ask: Any, *arguments: Any, **more: Any) -> Any:
        """What a call of the client gives, once it is there."""
        with _one_try():
            return ask(*arguments, **more).result(self._wait)

    @property
    def _training(self) -> Any:
        if self._service is None:
            self._service = self._tinker.ServiceClient(base_url=self._address, api_key=self._key)
        return self._service

    @property
    def _lookups(self) -> Any:
        if self._rest is None:
            self._rest = self._tinker.RestClient(base_url=self._address, api_key=self._key)
        return self._rest


@contextlib.contextmanager
def _one_try() -> Iterator[None]:
    """What the client says when its session has gone bad: it is gone on with in another."""
    try:
        yield
    except (RuntimeError, concurrent.futures.CancelledError) as error:
        raise UnreadableReplyError(f"Tinker's client gave up: {error}") from error
