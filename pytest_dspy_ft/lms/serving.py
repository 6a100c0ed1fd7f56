"""Evaluating models of this machine on OpenAI-compatible servers: vLLM's or SGLang's, reached by their addresses.

The base model runs there already; a LoRA trained here is loaded from the store's folder, which both must see under one
path, when it is first evaluated, and unloaded at the end. Training and the collection of traces stay here.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.lms.adapter_probe import (
    PROBES,
    HereReplies,
    Probe,
    ThereReplies,
    ask_here,
    difference,
    told_apart,
)
from pytest_dspy_ft.lms.replica import (
    LOAD_SECONDS,
    LOOKS,
    SEVERAL_PROCESSES,
    RefusedProbeError,
    Replica,
    SilentServerError,
)
from pytest_dspy_ft.lms.replicas import AdapterNotes, Replicas, ServedAdapter
from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.lms.served_engine import ServedEngine
from pytest_dspy_ft.lms.server_address import ServerAddress
from pytest_dspy_ft.local.adapters import changes_nothing


class Serving:
    """Servers that answer for models of this machine. Use it as a context, or call :meth:`close` at the end.

    Args:
        addresses: One address, such as ``http://gpu:8000/v1``, or several; ``#MODEL`` at the end of one names the base
            model, where the server has several.
        timeout: Seconds that one call may take; None for 300.
        sleep: Waits before a server that failed itself is asked again to load.

    Raises:
        ServingError: If one is no address, or two name different base models.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        timeout: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        given = [addresses] if isinstance(addresses, str) else addresses
        servers = {where.url: where for where in map(ServerAddress.read, given)}
        if not servers:
            raise ServingError("no address of a server was given; http://HOST:PORT/v1 is needed")
        self._addresses = tuple(servers.values())
        named = sorted({where.model for where in self._addresses if where.model})
        if len(named) > 1:
            raise ServingError(f"all servers must serve one base model, and these are named: {', '.join(named)}")
        self._named = named[0] if named else ""
        self._replicas = Replicas(
            [Replica(where, timeout or LOAD_SECONDS, sleep) for where in self._addresses], self._check
        )
        self._agreed = False
        self._there: dict[tuple[Replica, str], ThereReplies] = {}

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The servers' addresses, fit to be shown."""
        return ", ".join(where.url for where in self._addresses)

    @property
    def remarks(self) -> Sequence[str]:
        """What readers of the figures should know, as far as it was seen."""
        return tuple(self._replicas.remarks)

    def identity(self) -> dict[str, str]:
        """Part of the key of an evaluation made there: its numbers differ from those made here.

        Of several servers any may have answered an example, so neither their addresses nor their number count.
        """
        if len(self._addresses) == 1:
            return self._addresses[0].identity()
        return {"address": "several", "model": self._named}

    def served(self, lm: Any, prompts: Sequence[Probe] = (), notes: Callable[[], AdapterNotes] | None = None) -> Any:
        """The LM, answering from the servers; one that does not run on this machine stays as it is.

        Args:
            lm: The LM.
            prompts: Some that the LM is asked, role and text of each message: an adapter is tried with them.
            notes: Gives where adapters are written down before they are loaded; None: nowhere.

        Raises:
            ServingError: If a server is not there, has not the base model, does not load the adapter, or does not
                answer with it.
        """
        if not is_local(lm) or isinstance(lm.engine, ServedEngine):
            return lm
        if notes is not None:
            self._replicas.keep_notes(notes)
        self._agree()
        base, _, name = lm.model.partition("+")
        adapter = None
        if name:
            adapter = ServedAdapter(name, Path(lm.engine.adapter_path(name)), tuple(prompts) or PROBES)
            self._load_everywhere(lm, base, adapter)
        return lm.copy(engine=ServedEngine(self._replicas, adapter, self.identity()))

    def confirm(self, lm: Any) -> None:
        """See at the end of an evaluation that the adapter answers still: a server may have come back without it.

        Args:
            lm: What :meth:`served` gave.

        Raises:
            ServingError: If the base model answers in its place.
        """
        engine = getattr(lm, "engine", None)
        if not isinstance(engine, ServedEngine) or engine.adapter is None:
            return
        for replica in self._replicas.servers:
            before, loaded = self._there.get((replica, engine.adapter.name)), replica.adapters.get(engine.adapter.name)
            if before is None or loaded is None or replica.down_until > time.monotonic():
                continue
            try:
                replies = tuple(replica.probe(loaded.name, probe) for probe in before.probes)
            except ServingError:
                continue  # it says that it is gone, or that it does not know the adapter: calls were told so, too
            if before.lost(replies):
                raise ServingError(
                    f"the server at {replica} answers with its base model where the adapter {engine.adapter.folder} "
                    "is asked for: it lost the adapter during the evaluation, which does not count"
                )

    def close(self) -> None:
        """Unload what was loaded, in a few seconds; what may still be there is unloaded by the next session."""
        self._replicas.close()

    # --- one base model ----------------------------------------------------------------------------------------------

    def _agree(self) -> None:
        """See once that all servers are there and have one base model."""
        if self._agreed:
            return
        servers = self._replicas.servers
        names = {replica: replica.base_model() for replica in servers}
        if len(set(names.values())) > 1:
            listed = ", ".join(f"{name} at {replica}" for replica, name in names.items())
            raise ServingError(f"all servers must serve one base model, and these do not: {listed}")
        if len(servers) > 1:
            replies = {replica: replica.base_says(PROBES[0]) for replica in servers}
            first = servers[0]
            for replica in servers[1:]:
                if told_apart([replies[first], replies[replica]]):
                    self._replicas.remark(
                        f"the servers at {first} and {replica} answer one prompt differently "
                        f"({replies[first].text[:60]!r}, {replies[replica].text[:60]!r}): another dtype, or other "
                        "weights; what an example scores depends on which of them answered"
                    )
        self._agreed = True

    # --- the adapter answers -----------------------------------------------------------------------------------------

    def _load_everywhere(self, lm: Any, base: str, adapter: ServedAdapter) -> None:
        fresh = [replica for replica in self._replicas.servers if adapter.name not in replica.adapters]
        for replica in fresh:
            try:
                self._replicas.ready(replica, adapter)
            except SilentServerError as error:
                if len(self._replicas.servers) == 1:
                    raise
                self._replicas.failed(replica, error)
        there = {replica: self._there[replica, adapter.name] for replica in fresh if adapter.name in replica.adapters}
        if fresh and not there:
            raise ServingError(f"none of the servers answers any more: {self.address}")
        if there:
            self._compare(lm, base, adapter, there)

    def _check(self, replica: Replica, adapter: ServedAdapter) -> None:
        """Hold what a server says with an adapter against what its base model says."""
        name = replica.adapters[adapter.name].name
        try:
            there = _replies(replica, name, adapter.probes)
        except RefusedProbeError:  # an example may be too long for it, which is that example's failure
            there = _replies(replica, name, PROBES)
        if there.answered_by() == "base" and not changes_nothing(adapter.folder):
            raise ServingError(_base_answers(replica, adapter))
        if replica.several and told_apart([replica.probe(name, there.probes[0]) for _ in range(LOOKS)]):
            raise ServingError(
                f"the server at {replica} answers one prompt in several ways with the adapter {adapter.folder}: its "
                f"processes take one adapter for another; {SEVERAL_PROCESSES}"
            )
        self._there[replica, adapter.name] = there

    def _compare(self, lm: Any, base: str, adapter: ServedAdapter, there: dict[Replica, ThereReplies]) -> None:
        """Hold what servers say against what this machine says."""
        loaded_before = getattr(lm.engine, "loaded", True)
        ask = functools.cache(functools.partial(ask_here, lm.engine, lm.model, base))
        in_dtype = functools.cache(functools.partial(_ask_in_dtype, lm, base))
        for replica, replies in there.items():
            here = ask(replies.probes)
            if replies.answered_by() == "unknown" and not changes_nothing(adapter.folder):
                if here is not None and here.base != here.adapter:
                    raise ServingError(_base_answers(replica, adapter))
                self._replicas.remark(
                    f"it cannot be told whether the server at {replica} answers with the adapter {adapter.folder}: it "
                    "says the same without it, and no probabilities (logprobs)"
                )
            otherwise = functools.partial(in_dtype, replies.probes)
            if here is not None and (said := difference(here, replies, otherwise, str(replica))):
                self._replicas.remark(said)
        if not loaded_before:
            lm.engine.unload()


def _replies(replica: Replica, name: str, probes: tuple[Probe, ...]) -> ThereReplies:
    """What a server says to probes, with an adapter and without."""
    base = tuple(map(replica.base_says, probes))
    again = replica.probe("", probes[0])
    return ThereReplies(base, again, tuple(replica.probe(name, probe) for probe in probes), probes)


def _ask_in_dtype(lm: Any, base: str, probes: tuple[Probe, ...], dtype: str) -> HereReplies | None:
    """What this machine says in another dtype; None where its engine knows no other."""
    if not hasattr(lm.engine, "in_dtype"):
        return None
    engine = lm.engine.in_dtype(dtype)
    try:
        return ask_here(engine, lm.model, base, probes)
    finally:
        engine.shutdown()


def _base_answers(replica: Replica, adapter: ServedAdapter) -> str:
    return (
        f"the server at {replica} answers with its base model where the adapter {adapter.folder} is asked for, though "
        "it says that it has loaded it: prompts get the same reply with and without it. No score made there would be "
        "that of what was trained"
    )
