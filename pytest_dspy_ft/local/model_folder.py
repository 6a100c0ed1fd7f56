"""The embedded LM as a Hugging Face folder, for servers that read one: vLLM, SGLang, TRL."""

from __future__ import annotations

from pathlib import Path

from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.local import weights


def write_model_folder(name: str, folder: Path | str, *, dtype: str = "float32") -> Path:
    """Write a model of this machine as a Hugging Face folder: configuration, tokenizer with chat template, weights.

    Args:
        name: As ``--dspy-lm=local:NAME`` takes it; ``smollm2-135m`` is the embedded LM.
        folder: Where to; made where it is missing, and has to be empty.
        dtype: Of the weights: ``float32`` (as they are), ``bfloat16`` or ``float16``.

    Returns:
        The folder.

    Raises:
        LMError: The name is unknown, the weights cannot be loaded, or the folder holds something.
        MissingDependencyError: A package or the embedded LM's weights are not installed.
    """
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LMError(f"{target} is not empty: name a new folder for the model")
    loaded = weights.load_private(weights.resolve_source(name), device="cpu", dtype=dtype)
    target.mkdir(parents=True, exist_ok=True)
    from pytest_dspy_ft.local.compat import quiet_loading

    with quiet_loading():
        loaded.model.save_pretrained(target)
        loaded.tokenizer.save_pretrained(target)
    return target
