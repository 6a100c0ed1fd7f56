"""What DSPy's objects hold, by the names of their attributes; read without importing DSPy."""

from __future__ import annotations

COMPILED = "_compiled"
"""Where a program says that an optimizer made it."""

INPUT_KEYS = "_input_keys"
"""Where an example keeps which of its fields are inputs."""

NOISE = frozenset({"history", "callbacks", COMPILED, "traces", "train", "stage", "lm", "candidate_programs"})
"""State that a run leaves behind, or that is random per object: never part of what a program is."""

PREDICTOR_STATE = frozenset({"signature", "demos", "config", "fields"})

DERIVED = {
    "dspy.retrievers.embeddings.Embeddings": frozenset({"corpus_embeddings", "index", "search_fn"}),
    "dspy.predict.knn.KNN": frozenset({"trainset_vectors"}),
}
"""What follows from the rest, and differs in the last bits where a service embeds."""

# fmt: off
LM_STATE = frozenset({
    "_engine_spec", "_async_engine_spec", "_providers", "_engine_store", "_engine_lock", "model", "model_type",
    "cache", "callbacks", "num_retries", "kwargs", "history", "_warned_zero_temp_rollout", "provider",
    "finetuning_model", "launch_kwargs", "train_kwargs", "use_developer_role", "_cache_responses",
})
# fmt: on
"""What DSPy's own LM classes keep on an LM; what of it matters has its place in the identity."""

ASYNC_ENGINE = "_async_engine_spec"
"""Where an LM keeps the engine of its asynchronous calls."""

SCRIPTED_ENGINES = "dspy.clients.engines.dummy"
"""How the modules of engines begin that read their LM's answers."""
