"""The embedded LM as a DSPy engine: `dspy.LM("local:smollm2-135m", engine=LocalEngine.shared("smollm2-135m"))`.

Concurrent requests are answered in batches that share the computation of their common prefix. Replies do not depend on
which other requests were in the batch (see `inference/attention.py`), nor on the timing of threads (see `inference/scheduler.py`).
Importing this module and making an engine is cheap; torch and the weights are loaded with the first request.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy import lm15
from dspy.clients.engines.base import validate_request

from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.local import weights
from pytest_dspy_ft.local.inference.scheduler import Expectation, Job, Scheduler
from pytest_dspy_ft.local.weights import ModelSource

if TYPE_CHECKING:
    from pytest_dspy_ft.local.inference.generate import Detokenizer, Row
    from pytest_dspy_ft.local.inference.prefix_cache import PrefixCache
    from pytest_dspy_ft.local.inference.prompts import Prompt, PromptRenderer
    from pytest_dspy_ft.local.inference.runner import Runner

MODEL_PREFIX = "local:"
CLOSING_MARKER = "[[ ## completed ## ]]"
"""What DSPy's ChatAdapter has every reply end with: always a stop, and kept in the text."""

_PREFIX_BYTES = 256 * 2**20
_BATCH_BYTES = 2**30  # keys and values of one batch's own tokens, at most
_MERGED_MODELS = 1  # 0.4 GiB each for the bundled model; two would take the process past 2.5 GiB
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
_IGNORED = {  # request settings without effect on an LM that only completes text
    "response_format": "the embedded LM does not constrain its output",
    "reasoning": "the embedded LM has no reasoning setting",
    "cache": "the embedded LM reuses prefixes by itself",
    "service_tier": "there is no service",
    "user_id": "there is no service",
    "store": "there is no service",
    "extensions": "the embedded LM has no further settings",
}


@dataclass
class _Runtime:
    """What exists once the weights are loaded."""

    base: Runner
    renderer: PromptRenderer
    detokenizer: Detokenizer
    prefixes: PrefixCache
    context: int
    end_tokens: frozenset[int]
    device: str
    token_bytes: int
    merged: OrderedDict[str, Runner]


class _CompletionJob(Job):
    """One request on its way through a batch."""

    def __init__(self, request: lm15.Request, adapter: str, prompt: Prompt, row: Row, stops: tuple[str, ...]) -> None:
        super().__init__((adapter, prompt.prefix, prompt.tail, row.max_tokens, repr((stops, row.sampling))))
        self.request = request
        self.adapter = adapter
        self.prompt = prompt
        self.row = row
        self.stops = stops
        self.cached_tokens = 0


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
        self._adapters: dict[str, Path] = {}
        self._stale_adapters: set[str] = set()
        self._sample_counts: Counter[int] = Counter()
        self._counts: Counter[str] = Counter()
        self._runtime: _Runtime | None = None
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
        validate_request(request)
        adapter = self._adapter_of(request.model)
        _refuse_unsupported(request.config)
        runtime = self._load()
        response: lm15.Response = self._scheduler.submit(self._job(runtime, request, adapter))
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
        """How many requests at once this engine answers fastest."""
        return self._max_batch_size

    def expect(self, workers: int) -> AbstractContextManager[Expectation]:
        """Start batches exactly when every live worker waits for a reply.

        ::

            with engine.expect(8) as expected:   # then in each of the 8 threads:
                with expected.worker():          # or call expected.worker_done() at its end
                    ...

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
        from pytest_dspy_ft.local.adapters import check_adapter

        if not name or "/" in name or "+" in name:
            raise LMError(f"unusable adapter name {name!r}: it must not be empty nor hold '/' or '+'")
        path = Path(path)
        check_adapter(path)
        with self._lock:
            self._adapters[name] = path
            self._stale_adapters.add(name)

    def adapter_path(self, name: str) -> Path:
        """The folder of an adapter that `add_adapter` was given.

        Raises:
            LMError: No adapter of this name was added; the message lists those that were.
        """
        with self._lock:
            if name in self._adapters:
                return self._adapters[name]
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
            self._runtime = None
            self._stale_adapters.clear()  # whatever loads next has merged none of them
        gc.collect()
        weights.return_memory()

    def shutdown(self) -> None:
        """End the scheduler's thread and free the model. The engine cannot be used afterwards."""
        self._scheduler.close()
        with self._lock:
            self._runtime = None
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

    def _load(self) -> _Runtime:
        if self._runtime is None:
            with self._lock:
                if self._runtime is None:
                    self._runtime = _start(self.source, self._device, self._dtype)
        return self._runtime

    def _job(self, runtime: _Runtime, request: lm15.Request, adapter: str) -> _CompletionJob:
        from pytest_dspy_ft.local.inference.generate import Row, Sampling, derive_seed
        from pytest_dspy_ft.local.inference.prompts import chat_messages

        config = request.config
        prompt = runtime.renderer.render(chat_messages(request))
        if len(prompt) >= runtime.context:
            raise lm15.ContextLengthError(
                f"the prompt has {len(prompt)} tokens; {self.source.name!r} reads at most {runtime.context} tokens, "
                "prompt and reply together. Use fewer or shorter demos, or a model with a longer context."
            )
        sampling = Sampling()
        if config.temperature:
            seed = config.seed
            if seed is None:
                # The same request asked again gives a new sample, and the n-th time gives the same one in every run.
                content = derive_seed(adapter, prompt.text, repr(config))
                with self._lock:
                    count = self._sample_counts[content]
                    self._sample_counts[content] += 1
                seed = derive_seed(str(content), str(count))
            top_p = 1.0 if config.top_p is None else config.top_p
            sampling = Sampling(config.temperature, top_p, config.top_k, seed)
        wanted = config.max_tokens or self._default_max_tokens
        stops = tuple(config.stop)
        row = Row(list(prompt.tail), min(wanted, runtime.context - len(prompt)), (*stops, CLOSING_MARKER), sampling)
        return _CompletionJob(request, adapter, prompt, row, stops)

    # --- in the scheduler's thread

    def _answer(self, jobs: Sequence[Any]) -> None:
        runtime = self._load()
        start = 0
        while start < len(jobs):  # jobs are sorted, so those of one model and prefix are neighbours
            key = _group_key(jobs[start])
            end = start + 1
            while end < len(jobs) and _group_key(jobs[end]) == key:
                end += 1
            for chunk in self._chunks(runtime, jobs[start:end]):
                self._answer_group(runtime, chunk)
            start = end
        weights.return_memory()  # what a batch of long prompts took is of no use to a batch of short ones

    def _chunks(self, runtime: _Runtime, jobs: Sequence[_CompletionJob]) -> Iterator[Sequence[_CompletionJob]]:
        """Cut a group so that a batch's size and its keys and values stay bounded."""
        width = max(len(job.row.tail) + min(job.row.max_tokens, 256) for job in jobs)
        size = max(1, min(self._max_batch_size, _BATCH_BYTES // (width * runtime.token_bytes)))
        for start in range(0, len(jobs), size):
            yield jobs[start : start + size]

    def _answer_group(self, runtime: _Runtime, jobs: Sequence[_CompletionJob]) -> None:
        try:
            self._generate(runtime, jobs)
        except Exception as exc:
            if len(jobs) > 1:  # one by one, so that the request at fault fails alone
                for job in jobs:
                    job.row.restart()
                    self._answer_group(runtime, [job])
                return
            self._counts["failures"] += 1
            jobs[0].error = exc
            return
        for job in jobs:
            job.result = self._response(runtime, job)

    def _generate(self, runtime: _Runtime, jobs: Sequence[_CompletionJob]) -> None:
        import torch

        from pytest_dspy_ft.local.inference.generate import decode

        adapter, tokens = _group_key(jobs[0])
        runner = self._runner(runtime, adapter)
        prefix = None
        if tokens:
            with torch.inference_mode():
                prefix, found = runtime.prefixes.get((adapter, tokens), lambda: runner.prefix(tokens))
            self._counts["prefix_hits" if found else "prefix_misses"] += 1
            for index, job in enumerate(jobs):
                job.cached_tokens = len(tokens) if found or index else 0
        self._counts["generations"] += 1
        decode(runner, prefix, [job.row for job in jobs], runtime.end_tokens, runtime.detokenizer)

    def _runner(self, runtime: _Runtime, adapter: str) -> Runner:
        from pytest_dspy_ft.local.merging import merged_model

        if not adapter:
            return runtime.base
        with self._lock:
            if adapter in self._stale_adapters:
                self._stale_adapters.discard(adapter)
                self._forget(runtime, adapter)
            path = self._adapters[adapter]
        if adapter not in runtime.merged:
            while len(runtime.merged) >= _MERGED_MODELS:
                self._forget(runtime, next(iter(runtime.merged)))
            self._counts["adapter_merges"] += 1
            runtime.merged[adapter] = runtime.base.with_model(merged_model(runtime.base.model, path))
        runtime.merged.move_to_end(adapter)
        return runtime.merged[adapter]

    @staticmethod
    def _forget(runtime: _Runtime, adapter: str) -> None:
        runtime.merged.pop(adapter, None)
        runtime.prefixes.drop(lambda key: bool(key[0] == adapter))

    def _response(self, runtime: _Runtime, job: _CompletionJob) -> lm15.Response:
        from pytest_dspy_ft.local.inference.generate import cut_at_stop

        row, config = job.row, job.request.config
        text = cut_at_stop(runtime.detokenizer.text(row.tokens), job.stops, (CLOSING_MARKER,))
        usage = lm15.Usage(
            input_tokens=len(job.prompt), output_tokens=row.generated, cache_read_tokens=job.cached_tokens
        )
        self._counts["requests"] += 1
        self._counts["input_tokens"] += len(job.prompt)
        self._counts["output_tokens"] += row.generated
        self._counts["reused_tokens"] += job.cached_tokens
        dropped = [name for name in _IGNORED if getattr(config, name) not in (None, ())]
        return lm15.Response(
            id=None,
            model=job.request.model,
            message=lm15.Message.assistant(text),
            finish_reason=row.finish_reason or "length",
            usage=usage,
            adaptations=tuple(
                lm15.Adaptation(field=f"config.{name}", action="dropped", reason=_IGNORED[name]) for name in dropped
            ),
        )


class AsyncLocalEngine:
    """The asynchronous counterpart: `dspy.LM(..., engine=engine, async_engine=AsyncLocalEngine(engine))`."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """See `LocalEngine.complete`."""
        import asyncio

        return await asyncio.to_thread(self.engine.complete, request)

    async def aclose(self) -> None:
        """Do nothing; the engine is borrowed."""

    def dump_state(self) -> dict[str, Any]:
        """See `LocalEngine.dump_state`."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> AsyncLocalEngine:
        """See `LocalEngine.load_state`."""
        return cls(LocalEngine.load_state(state))


def _group_key(job: _CompletionJob) -> tuple[str, tuple[int, ...]]:
    return job.adapter, job.prompt.prefix


def _refuse_unsupported(config: lm15.Config) -> None:
    asked = [name for name in ("logprobs",) if getattr(config, name) is not None]
    asked += [name for name in ("frequency_penalty", "presence_penalty") if getattr(config, name)]
    asked += ["probabilities"] if config.probabilities == "required" else []
    if asked:
        raise lm15.UnsupportedFeatureError(f"the embedded LM does not support {', '.join(asked)}")


def _start(source: ModelSource, device: str | None, dtype: str | None) -> _Runtime:
    """Load a model for this engine alone (it will be changed) and prepare it for inference."""
    weights.check_available(source)
    from pytest_dspy_ft.local.inference.generate import Detokenizer
    from pytest_dspy_ft.local.inference.prefix_cache import PrefixCache
    from pytest_dspy_ft.local.inference.prompts import PromptRenderer
    from pytest_dspy_ft.local.inference.runner import choose_runner

    loaded = weights.load_private(source, device=device, dtype=dtype)
    config = loaded.model.config
    ends: set[int] = set()
    for owner in (loaded.model.generation_config, config, loaded.tokenizer):
        end = getattr(owner, "eos_token_id", None)
        ends.update(end if isinstance(end, (list, tuple)) else [] if end is None else [end])
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return _Runtime(
        base=choose_runner(loaded.model, loaded.device),
        renderer=PromptRenderer(loaded.tokenizer),
        detokenizer=Detokenizer(loaded.tokenizer),
        prefixes=PrefixCache(_PREFIX_BYTES),
        context=config.max_position_embeddings,
        end_tokens=frozenset(ends),
        device=loaded.device,
        token_bytes=2 * config.num_hidden_layers * heads * size * loaded.model.dtype.itemsize,
        merged=OrderedDict(),
    )


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
