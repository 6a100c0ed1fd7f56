"""The embedded model as the trainer of services on the loopback: what they train, and what answers for it, is real."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dspy.lm15 import request_from_openai_chat

from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.provider import LocalProvider, LocalTrainingJob

SOURCE = "smollm2-135m"


def engine() -> LocalEngine:
    return LocalEngine.shared(SOURCE)


def answer_by(model: str, messages: list[dict[str, Any]]) -> str:
    """An answer of the embedded model, ``local:SOURCE`` or with an adapter."""
    body = {"model": model, "messages": messages, "max_tokens": 48}
    response = engine().complete(request_from_openai_chat(body))
    return "".join(part.text for part in response.message.parts)


_trained: dict[str, str] = {}
"""The LoRAs of this process by the rows that they were trained on: the same rows give the same one."""


def train(rows: list[Any], folder: Path) -> str:
    """Train a LoRA on rows, and give the name that answers with it; the same rows are trained once."""
    content = json.dumps(rows, sort_keys=True)
    if content not in _trained:
        settings = {"epochs": 3, "batch_size": 4, "output_dir": str(folder)}
        provider = LocalProvider(engine())
        _trained[content] = str(provider.finetune(LocalTrainingJob(), f"local:{SOURCE}", rows, "chat", settings))
    return _trained[content]


class LoraRun:
    """A LoRA in training, one pass and one step at a time."""

    def __init__(self, rank: int, seed: int | None) -> None:
        import torch

        from pytest_dspy_ft.local.compat import quiet_peft
        from pytest_dspy_ft.local.training.config import LoraTrainingConfig
        from pytest_dspy_ft.local.training.lora import add_lora, private_copy
        from pytest_dspy_ft.local.weights import load, resolve_source

        base = load(resolve_source(SOURCE))
        with quiet_peft():
            self.model = add_lora(private_copy(base.model), SOURCE, LoraTrainingConfig(r=rank), None, seed or 0)
        self.model.train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, weight_decay=0.0)

    def state(self) -> Any:
        return copy.deepcopy(([p.detach() for p in self.trained], self.optimizer.state_dict()))

    def restore(self, state: Any) -> None:
        import torch

        weights, moments = copy.deepcopy(state)
        with torch.no_grad():
            for parameter, kept in zip(self.trained, weights, strict=True):
                parameter.copy_(kept)
        self.optimizer.load_state_dict(moments)


class LoraTrainer:
    """Trains the embedded model for a service whose client drives the loop; each state that is saved can answer.

    Args:
        folder: Where adapters are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.losses = folder, list[float]()
        self._saves = 0

    def create(self, rank: int, seed: int | None) -> LoraRun:
        return LoraRun(rank, seed)

    def forward_backward(self, run: LoraRun, batch: list[dict[str, Any]]) -> float:
        import torch

        total = 0.0
        for datum in batch:
            tokens = torch.tensor([datum["tokens"]])
            targets, weights = torch.tensor(datum["target_tokens"]), torch.tensor(datum["weights"])
            logprobs = run.model(tokens).logits[0].float().log_softmax(-1)
            loss = -(logprobs[torch.arange(len(targets)), targets] * weights).sum()
            (loss / weights.sum() / len(batch)).backward()
            total += float(loss.detach())
        self.losses.append(total / sum(float(sum(datum["weights"])) for datum in batch))
        return total

    def optim_step(self, run: LoraRun, params: Mapping[str, Any]) -> None:
        for group in run.optimizer.param_groups:
            group["lr"] = params["learning_rate"]
        run.optimizer.step()
        run.optimizer.zero_grad()

    def saved(self, run: Any) -> Any:
        """What is saved of a run, or a run made of it again."""
        if isinstance(run, dict):
            fresh = LoraRun(run["rank"], 0)
            fresh.restore(run["state"])
            return fresh
        from pytest_dspy_ft.local.compat import quiet_peft

        self._saves += 1
        name = f"tinker-{self._saves}"
        with quiet_peft():
            run.model.save_pretrained(str(self.folder / name), save_embedding_layers=False)
        engine().add_adapter(name, self.folder / name)
        rank = int(run.trained[0].shape[0])
        return {"rank": rank, "state": run.state(), "name": f"local:{SOURCE}+{name}"}
