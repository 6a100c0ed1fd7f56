"""The embedded LM as a DSPy engine: `dspy.LM("local:smollm2-135m", engine=LocalEngine.shared("smollm2-135m"))`.

Concurrent requests are answered in batches that share the computation of their common prefix. Replies do not depend on
which other requests were in the batch (`inference/attention.py` says why), nor on the timing of threads
(`inference/scheduler.py`).
Importing this module and making an engine is cheap; torch and the weights are loaded with the first request.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy import lm15

from pytest_dspy_ft.constants import CLOSING_MARKER, MODEL_PREFIX
from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.insides.engines import validate_request
from pytest_dspy_ft.local import weights
from pytest_dspy_ft.local.adapters import AddedAdapter, check_adapter
from pytest_dspy_ft.local.inference.prompts import Prompt, chat_messages
from pytest_dspy_ft.local.inference.reply_grammar import asked_grammar
from pytest_dspy_ft.local.inference.requests import (
    CompletionJob,
    DecodingRow,
    Sampling,
    cut_at_stop,
    derive_seed,
    make_response,
    refuse_unsupported,
)
from pytest_dspy_ft.local.inference.scheduler import Expectation, Scheduler
from pytest_dspy_ft.local.pace import FEWEST_ROWS, NOTES, reply_work
from pytest_dspy_ft.local.process_memory import return_memory
from pytest_dspy_ft.local.weights import ModelSource
from pytest_dspy_ft.progress import task

if TYPE_CHECKING:
    from pytest_dspy_ft.local.inference.model import ServedModel

_QUICKLY_LOADED = 2 * 2**30
"""Bytes of weights on the disk."""

_COUNTS = (
    "requests",
    "failures",
    "generations",
    "input_tokens",
    "output_tokens",
    "reused_tokens",
    "prefix_hits",
    "prefix_misses",
    "adapter_merges",
)


class LocalEngine:
    """An engine for `dspy.LM` that runs a causal LM in this process. Safe to use from many threads."""

    def __init__(
        self,
        source: str | ModelSource,
        *,
        device: str | None = None,
        dtype: str | None = None,
        max_batch_size: int = 64,
        default_max_tokens: int = 256,
    ) -> None:
        """Create an engine without loading anything.

        Args:
            source: A model name as `weights.resolve_source` takes it, or its result.
            device: A torch device; by default CUDA if there is a GPU, else the CPU.
            dtype: A torch dtype's name; by default what the hardware multiplies fastest.
            max_batch_size: The most requests answered at once.
            default_max_tokens: The most tokens of a reply whose request does not say.

        Raises:
            LMError: The source is unknown.
        """
        self.source = weights.resolve_source(source) if isinstance(source, str) else source
        if max_batch_size < 1 or default_max_tokens < 1:
            raise ValueError("max_batch_size and default_max_tokens must be at least 1")
        self._device, self._dtype = device, dtype
        self._max_batch_size = max_batch_size
        self._default_max_tokens = default_max_tokens
        self._adapters: dict[str, AddedAdapter] = {}
        self._additions = itertools.count()
        self._sample_counts: Counter[int] = Counter()
        self._counts: Counter[str] = Counter()
        self._served: ServedModel | None = None
        self._lock = threading.RLock()
        self._scheduler = Scheduler(self._answer, max_batch_size)
        _engines.add(self)

    @classmethod
    def shared(cls, source: str) -> LocalEngine:
        """Return this process' one engine for a source, so that all `dspy.LM` copies share weights and batches.

        Raises:
            LMError: The source is unknown.
        """
        resolved = weights.resolve_source(source)
        with _shared_lock:
            if resolved not in _shared:
                _shared[resolved] = cls(resolved)
            return _shared[resolved]

    # --- dspy's engine contract

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Answer one request; blocks until its batch is done.

        Raises:
            lm15.ContextLengthError: The prompt leaves no room for a reply.
            lm15.UnsupportedFeatureError: Tools, images, log probabilities or penalties are asked for.
            lm15.UnsupportedModelError: The model string names another model, or an adapter that was not added.
            MissingDependencyError: A package or the weights are not installed.
        """
        return self.complete_in(request, asked_grammar(request.config))

    def complete_in(self, request: lm15.Request, grammar: str | None) -> lm15.Response:
        """Answer one request within a grammar; see `complete`."""
        validate_request(request)
        adapter = self._adapter_of(request.model)
        refuse_unsupported(request.config)
        response: lm15.Response = self._scheduler.submit(self._job(self._load(), request, adapter, grammar))
        return response

    def stream(self, request: lm15.Request) -> Iterator[Any]:
        """Answer one request as events, all at the end."""
        events: Iterator[Any] = lm15.response_to_events(self.complete(request))
        return events

    def close(self) -> None:
        """Do nothing: engines are shared and borrowed. `shutdown` ends one."""

    def dump_state(self) -> dict[str, Any]:
        """Return JSON data from which `load_state` finds this engine again. Adapters are not part of it."""
        state = {"source": self.source.name, "device": self._device, "dtype": self._dtype}
        sizes = {"max_batch_size": self._max_batch_size, "default_max_tokens": self._default_max_tokens}
        return {**state, **sizes}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> LocalEngine:
        """Return the shared engine if the state is its state, else a new one with the state's settings."""
        shared = cls.shared(state["source"])
        return shared if shared.dump_state() == state else cls(**state)

    # --- what evaluators and builders use

    @property
    def preferred_concurrency(self) -> int:
        """The number of concurrent requests that this engine answers fastest."""
        return self._max_batch_size

    @property
    def dtype(self) -> str:
        """What it computes in: what it was made with, else what suits the device."""
        return self._dtype or weights.default_dtype(self._device or weights.default_device())

    @property
    def loaded(self) -> bool:
        """True where the model is in memory."""
        return self._served is not None

    @property
    def quickly_asked(self) -> bool:
        """True where one request takes seconds: the model is loaded, or small and on this machine's disk."""
        return self.loaded or 0 < self.source.size() <= _QUICKLY_LOADED

    def in_dtype(self, dtype: str) -> LocalEngine:
        """An engine of the same model and adapters that computes in another dtype. Whoever asks for it ends it."""
        other = LocalEngine(self.source, device=self._device, dtype=dtype)
        with self._lock:
            other._adapters = dict(self._adapters)
        return other

    def expect(self, workers: int) -> AbstractContextManager[Expectation]:
        """Start batches exactly when every live worker waits for a reply.

        ::

            with engine.expect(8) as expected:
                ...  # each of the 8 threads calls expected.worker_done() at its end

        Nothing depends on it for correctness: a worker that hangs delays the others by a few seconds per batch.
        """
        return self._scheduler.expect(workers)

    def identity(self) -> dict[str, str]:
        """Say which weights answer, for records and cache keys. The device is not part of it."""
        return {"source": self.source.name, "fingerprint": self.source.fingerprint()}

    def add_adapter(self, name: str, path: Path) -> None:
        """Serve a peft LoRA folder under "local:SOURCE+NAME". Adding a name again replaces it.

        Raises:
            LMError: The name or the folder is unusable.
        """
        if not name or "/" in name or "+" in name:
            raise LMError(f"unusable adapter name {name!r}: it must not be empty nor hold '/' or '+'")
        path = Path(path)
        check_adapter(path)
        with self._lock:
            self._adapters[name] = AddedAdapter(path, next(self._additions))

    def adapter_path(self, name: str) -> Path:
        """The folder of an adapter that `add_adapter` was given.

        Raises:
            LMError: No adapter of this name was added; the message lists those that were.
        """
        with self._lock:
            if name in self._adapters:
                return self._adapters[name].folder
            known = ", ".join(sorted(self._adapters)) or "none"
        raise LMError(f"no adapter {name!r} was added to the engine (known: {known})")

    def stats(self) -> dict[str, int]:
        """Count what was done so far: requests, batches, tokens, prefix hits and misses, merges, scheduler timeouts."""
        counts = {name: self._counts[name] for name in _COUNTS}
        return {**counts, "batches": self._scheduler.batches, "timeouts": self._scheduler.timeouts}

    def reset_sampling(self) -> None:
        """Forget how often each request was sampled: from here, seedless sampling repeats what a fresh engine does."""
        with self._lock:
            self._sample_counts.clear()

    def unload(self) -> None:
        """Free the model and the prefixes it keeps; the next request loads it again. For when a training needs memory.

        Adapters stay known. Requests under way finish on the model they have.
        """
        import gc

        with self._lock:
            self._served = None
        gc.collect()
        return_memory()

    def shutdown(self) -> None:
        """End the scheduler's thread and free the model. The engine cannot be used afterwards."""
        self._scheduler.close()
        with self._lock:
            self._served = None
        with _shared_lock:
            if _shared.get(self.source) is self:
                del _shared[self.source]

    def __copy__(self) -> LocalEngine:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LocalEngine:
        # dspy deep-copies programs with their LMs; the copies must go on sharing weights and batches.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalEngine.load_state, (self.dump_state(),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source.name!r})"

    # --- in the caller's thread

    def _adapter_of(self, model: str) -> str:
        """Return the adapter that a model string asks for, "" for none."""
        base = f"{MODEL_PREFIX}{self.source.name}"
        if model == base:
            return ""
        adapter = model.removeprefix(f"{base}+")
        if adapter == model:
            raise lm15.UnsupportedModelError(f"this engine serves {base!r} and its adapters, not {model!r}")
        if adapter not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise lm15.UnsupportedModelError(
                f"{model!r}: no adapter {adapter!r} was added to the engine (known: {known}). "
                "Call engine.add_adapter(name, folder) first."
            )
        return adapter

    def _load(self) -> ServedModel:
        if self._served is None:
            with self._lock:
                if self._served is None:
                    weights.check_available(self.source)
                    started, converted = time.monotonic(), weights.is_converted(self.source)
                    with task(f"loading the LM local:{self.source.name}"):  # torch first, it takes seconds
                        from pytest_dspy_ft.local.inference.model import ServedModel

                        loaded = weights.load_private(self.source, device=self._device, dtype=self._dtype)
                        self._served = ServedModel(loaded, self._counts)
                    if converted:
                        NOTES.note(self.source.name, "loading", 1, time.monotonic() - started)
        return self._served

    def _job(
        self, served: ServedModel, request: lm15.Request, adapter: str, grammar: str | None = None
    ) -> CompletionJob:
        prompt = served.renderer.render(chat_messages(request))
        room = served.context - len(prompt)
        if room <= 0:
            raise lm15.ContextLengthError(
                f"the prompt has {len(prompt)} tokens; {self.source.name!r} reads at most {served.context} tokens, "
                "prompt and reply together. Use fewer or shorter demos, or a model with a longer context."
            )
        stops = tuple(request.config.stop)
        max_tokens = min(request.config.max_tokens or self._default_max_tokens, room)
        sampling = self._sampling(request.config, prompt, adapter)
        constraint = None if grammar is None else served.grammars.constraint(grammar)
        row = DecodingRow(list(prompt.tail), max_tokens, (*stops, CLOSING_MARKER), sampling, constraint)
        return CompletionJob(request, adapter, prompt, row, stops, grammar)

    def _sampling(self, config: lm15.Config, prompt: Prompt, adapter: str) -> Sampling:
        if not config.temperature:
            return Sampling()
        seed = config.seed
        if seed is None:
            # The same request asked again gives a new sample, and the n-th time gives the same one in every run.
            content = derive_seed(adapter, prompt.text, repr(config))
            with self._lock:
                count = self._sample_counts[content]
                self._sample_counts[content] += 1
            seed = derive_seed(str(content), str(count))
        top_p = 1.0 if config.top_p is None else config.top_p
        return Sampling(config.temperature, top_p, config.top_k, seed)

    # --- in the scheduler's thread

    def _answer(self, jobs: Sequence[Any]) -> None:
        served = self._load()
        # Jobs are sorted, so those of one adapter and prefix are neighbours.
        for _, neighbours in itertools.groupby(jobs, key=lambda job: job.group):
            group: list[CompletionJob] = list(neighbours)
            size = min(self._max_batch_size, served.batch_size(group))
            for start in range(0, len(group), size):
                self._answer_batch(served, group[start : start + size])
        return_memory()  # what a batch of long prompts took is of no use to a batch of short ones

    def _answer_batch(self, served: ServedModel, jobs: Sequence[CompletionJob]) -> None:
        started = time.monotonic()
        try:
            served.generate(jobs, self._added(jobs[0].adapter))
        except Exception as exc:
            if len(jobs) > 1:  # one by one, so that the request at fault fails alone
                for job in jobs:
                    job.row.restart()
                    self._answer_batch(served, [job])
                return
            self._counts["failures"] += 1
            jobs[0].error = exc
            return
        for job in jobs:
            text = cut_at_stop(served.text(job.row.tokens), job.stops, (CLOSING_MARKER,))
            job.result = make_response(job, text)
            self._counts["requests"] += 1
            self._counts["input_tokens"] += len(job.prompt)
            self._counts["output_tokens"] += job.row.generated
            self._counts["reused_tokens"] += job.cached_tokens
        if len(jobs) >= FEWEST_ROWS:
            work = sum(reply_work(len(job.prompt) - job.cached_tokens, job.row.generated) for job in jobs)
            NOTES.note(self.source.name, "answering", work, time.monotonic() - started)

    def _added(self, adapter: str) -> AddedAdapter | None:
        with self._lock:
            return self._adapters[adapter] if adapter else None


_shared: dict[ModelSource, LocalEngine] = {}
_shared_lock = threading.Lock()
_engines: weakref.WeakSet[LocalEngine] = weakref.WeakSet()


def _after_fork() -> None:
    """Locks that other threads held at the fork would stay locked in the child."""
    global _shared_lock
    _shared_lock = threading.Lock()
    for engine in _engines:
        engine._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
