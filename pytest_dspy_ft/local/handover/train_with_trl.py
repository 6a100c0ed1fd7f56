"""Trains a LoRA with TRL from a folder of tokens and settings; runs by itself, where this package is not installed too.

    python -m torch.distributed.run --standalone --nproc_per_node N train_with_trl.py FOLDER [--model PLACE]

``FOLDER/order.json`` and ``FOLDER/rows.json`` say what to train; what comes of it lies in ``FOLDER/output``. The steps
are those that the order lists, whatever N is: each process takes its share of a step's rows, and the loss is the mean
over the tokens of all shares. Killed and started again, it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
IGNORED = -100


def main() -> None:
    """Train what the order asks for, or go on with it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="where the base model lies here, instead of where the order says")
    arguments = parser.parse_args()
    _end_with_the_launcher()
    folder: Path = arguments.folder
    order = json.loads((folder / "order.json").read_text("utf-8"))
    rows = json.loads((folder / "rows.json").read_text("utf-8"))
    on_cpu = not torch.cuda.is_available()
    wanted = order["processes"] or (1 if on_cpu else torch.cuda.device_count())
    if wanted != WORLD:
        sys.exit(f"{wanted} processes were ordered, and {WORLD} runs: start this with torch.distributed.run")
    output = folder / "output"
    output.mkdir(exist_ok=True)
    trainer = OrderTrainer(order, rows, output, *_model(order, folder, arguments.model, on_cpu), on_cpu=on_cpu)
    started = time.time()
    trainer.train(resume_from_checkpoint=trainer.journal.checkpoint)
    _finish(trainer, order, time.time() - started)


def _end_with_the_launcher() -> None:
    """Let this process end with the one that started it: a killed launcher must leave no training behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG


def _model(order: dict[str, Any], folder: Path, place: str | None, on_cpu: bool) -> tuple[Any, Any]:
    """The base model with the LoRA to train, and its tokenizer."""
    place = place or order["model"]
    revision = {"revision": order["revision"]} if order["revision"] and place == order["model"] else {}
    dtype = order["dtype"] or ("bfloat16" if not on_cpu and torch.cuda.is_bf16_supported(False) else "float32")
    model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=getattr(torch, dtype), **revision)
    model.requires_grad_(False)
    model.name_or_path = order["base"]  # or peft notes down this machine's path
    tokenizer: Any = AutoTokenizer.from_pretrained(place, **revision)
    if (folder / "adapter").is_dir():
        return PeftModel.from_pretrained(model, str(folder / "adapter"), is_trainable=True), tokenizer
    config, targets = order["config"], order["config"]["target_modules"]
    lora = LoraConfig(
        r=config["r"],
        lora_alpha=config["alpha"],
        lora_dropout=config["dropout"],
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=order["base"],
    )
    wrapped = get_peft_model(model, lora)
    generator = torch.Generator().manual_seed(order["seed"])  # the first weights that a training in one process has
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_A" in name:
                fresh = torch.empty(parameter.shape)
                torch.nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                parameter.copy_(fresh)
    return wrapped, tokenizer


class StepJournal(TrainerCallback):
    """Writes down each step as it is done, knows where an earlier run came to, and ends a training that gains nothing.

    Attributes:
        checkpoint: The folder of the last whole checkpoint; None where there is none.
        steps: The steps that are done, as written down.
    """

    def __init__(self, order: dict[str, Any], output: Path) -> None:
        self.order, self.path = order, output / "progress.jsonl"
        self.trainer: OrderTrainer
        self.started = time.time()
        self.rate = 0.0
        done, self.checkpoint = _last_checkpoint(output / "checkpoints")
        known = _lines(self.path) if self.checkpoint else []
        self.steps: list[dict[str, Any]] = [line for line in known if line["step"] <= done]
        self.earlier: dict[str, Any] = self.steps[-1] if self.steps else {"seconds": 0.0, "tokens": 0}
        if RANK == 0:  # as a whole: the other processes read it
            fresh = self.path.with_name(".progress.part")
            fresh.write_text("".join(json.dumps(line) + "\n" for line in self.steps), "utf-8")
            fresh.replace(self.path)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the untrained model."""
        if not self.steps:
            self.note(0, None, self.trainer.validation_loss())

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the rate that this step uses."""
        self.rate = float(kwargs["lr_scheduler"].get_last_lr()[0])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the step; at an epoch's end measure the rows that were held out, and end what gains nothing any more."""
        step, loss = state.global_step, self.trainer.step_loss
        if not math.isfinite(loss):
            rate = self.order["config"]["learning_rate"]
            sys.exit(f"the loss became {loss} at step {step}: lower learning_rate (it is {rate:g})")
        ends = step in self.order["epoch_ends"]
        self.note(step, loss, self.trainer.validation_loss() if ends else None)
        patience = self.order["config"]["early_stopping"]
        measured = [line["validation_loss"] for line in self.steps if line["validation_loss"] is not None]
        if ends and patience is not None and len(measured) > patience:
            control.should_training_stop = min(measured[-patience:]) >= min(measured[:-patience])

    def note(self, step: int, loss: float | None, validation_loss: float | None) -> None:
        """Write a step down, in the words of a training in one process."""
        ends: list[int] = self.order["epoch_ends"]
        done = sum(end <= step for end in ends)
        epoch, start = float(done), ends[done - 1] if done else 0
        if done < len(ends):
            epoch += (step - start) / (ends[done] - start)
        line = {
            "step": step,
            "epoch": round(epoch, 4),
            "loss": loss,
            "learning_rate": self.rate if step else None,
            "validation_loss": validation_loss,
            "tokens": self.earlier["tokens"] + self.trainer.tokens,
            "seconds": round(self.earlier["seconds"] + time.time() - self.started, 3),
        }
        self.steps.append(line)
        if RANK == 0:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            shown = {"step": step, "total": ends[-1], "loss": loss, "validation_loss": validation_loss}
            print(f"dspy-ft progress {json.dumps(shown)}", flush=True)


class OrderTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer over the very steps of an order, each shared out among the processes."""

    def __init__(
        self, order: dict[str, Any], rows: list[dict[str, Any]], output: Path, model: Any, tokenizer: Any, on_cpu: bool
    ) -> None:
        self.order, self.output = order, output
        self.examples = [
            {"input_ids": row["ids"], "labels": [IGNORED] * row["prompt"] + row["ids"][row["prompt"] :]} for row in rows
        ]
        self.journal = StepJournal(order, output)
        self.journal.trainer = self
        self.step_loss, self.tokens, self.rows_seen = 0.0, 0, 0
        config = order["config"]
        arguments = SFTConfig(
            output_dir=str(output / "checkpoints"),
            max_steps=len(order["batches"]),
            per_device_train_batch_size=math.ceil(config["batch_size"] / WORLD),
            learning_rate=config["learning_rate"],
            weight_decay=config["weight_decay"],
            max_grad_norm=config["max_grad_norm"],
            adam_beta2=config["adam_beta2"],
            optim="adamw_torch",
            seed=order["seed"] % 2**32,
            bf16=False,  # the weights have their type already
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            completion_only_loss=False,  # the labels say what carries the loss
            average_tokens_across_devices=True,
            gradient_checkpointing=not on_cpu,
            use_cpu=on_cpu,
            ddp_backend=("gloo" if on_cpu else "nccl") if WORLD > 1 else None,
            ddp_find_unused_parameters=False,
            save_strategy="steps",
            save_steps=order["save_steps"],
            save_total_limit=2,
            logging_strategy="no",
            eval_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        dataset = Dataset.from_list(self.examples[:1])  # what TRL looks at; the steps come from the order
        super().__init__(
            model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer, callbacks=[self.journal]
        )

    def get_train_dataloader(self) -> Any:
        """The order's steps, of each this process' share."""
        return DataLoader(self.order["batches"], batch_size=1, collate_fn=self.share)

    def share(self, steps: list[list[int]]) -> dict[str, Any]:
        """This process' rows of a step; where it has none, one that carries no loss."""
        mine = [self.examples[number] for number in steps[0][RANK::WORLD]]
        self.rows_seen += len(mine)
        if not mine:
            whole = self.examples[steps[0][0]]
            mine = [{**whole, "labels": [IGNORED] * len(whole["labels"])}]
        return cast("dict[str, Any]", self.data_collator(mine))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up and decay, no step at a rate of 0, as a training in one process has it."""
        warmup = math.ceil(num_training_steps * self.order["config"]["warmup_ratio"])

        def factor(step: int) -> float:
            factor: float = min(
                (step + 1) / (warmup + 1), (num_training_steps - step) / max(num_training_steps - warmup, 1)
            )
            return factor

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss; its mean over all processes is kept for the journal."""
        result = super().compute_loss(model, inputs, *args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        self.step_loss = float(self.accelerator.gather(loss.detach().reshape(1)).mean())
        seen = torch.tensor([inputs["input_ids"].numel()], device=loss.device)
        self.tokens += int(self.accelerator.gather(seen).sum())
        return result

    def validation_loss(self) -> float | None:
        """Mean loss over the label tokens of the rows that were held out; None without any."""
        held, size = self.order["validation"], self.args.per_device_train_batch_size
        if not held:
            return None
        model, mine = self.accelerator.unwrap_model(self.model), held[RANK::WORLD]
        was_training = model.training
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for start in range(0, len(mine), size):
                batch = self.data_collator([self.examples[number] for number in mine[start : start + size]])
                batch = {name: value.to(self.args.device) for name, value in batch.items()}
                labels = batch.pop("labels")[:, 1:].flatten()
                logits = model(**batch, use_cache=False).logits[:, :-1].flatten(0, 1).float()
                losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
                sums += torch.tensor([float(losses), float((labels != IGNORED).sum())], dtype=torch.float64)
        model.train(was_training)
        sums = self.accelerator.gather(sums.float().to(self.args.device).reshape(1, 2)).sum(0).cpu()
        total: float = float(sums[0]) / float(sums[1])
        return total


def _finish(trainer: OrderTrainer, order: dict[str, Any], seconds: float) -> None:
    """Write the LoRA, and last of all what the run was: each process speaks for itself."""
    mine = {"rank": RANK, "world": WORLD, "process": f"{os.uname().nodename}:{os.getpid()}", "rows": trainer.rows_seen}
    ranks: list[Any] = [mine]
    if WORLD > 1:
        ranks = [None] * WORLD
        dist.all_gather_object(ranks, mine)
    if RANK == 0:
        steps = trainer.journal.steps
        output, adapter = trainer.output, trainer.output / "adapter"
        shutil.rmtree(adapter, ignore_errors=True)
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(
            str(adapter), safe_serialization=True, save_embedding_layers=False
        )
        (adapter / "README.md").unlink(missing_ok=True)
        settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
        settings |= {"base_model_name_or_path": order["base"], "inference_mode": True}
        if isinstance(settings.get("target_modules"), list):
            settings["target_modules"].sort()
        _dump(adapter / "adapter_config.json", settings)
        (adapter / "training_log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps), "utf-8")
        names = ("trl", "torch", "transformers", "peft", "accelerate")
        result = {
            "order": order["digest"],
            "steps": steps[-1]["step"],
            "resumed_at": int(trainer.journal.checkpoint.rpartition("-")[2]) if trainer.journal.checkpoint else 0,
            "loss": steps[-1]["loss"],
            "validation_loss": next((s["validation_loss"] for s in reversed(steps) if s["validation_loss"]), None),
            "ranks": ranks,
            "device": "cpu" if trainer.args.device.type == "cpu" else torch.cuda.get_device_name(),
            "seconds": round(seconds, 3),
            "versions": {name: importlib.metadata.version(name) for name in names},
        }
        _dump(adapter / "training.json", {**result, "base": order["base"], "config": order["config"]})
        _dump(output / "result.json", result)
        shutil.rmtree(output / "checkpoints", ignore_errors=True)
    if WORLD > 1:
        dist.barrier()
        dist.destroy_process_group()


def _last_checkpoint(folder: Path) -> tuple[int, str | None]:
    """The last checkpoint that is whole: (its step, its folder); what a kill cut short is passed over."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:
            state = json.loads((path / "trainer_state.json").read_text("utf-8"))  # written last
            if (path / "adapter_model.safetensors").is_file() and (path / "optimizer.pt").is_file():
                return int(state["global_step"]), str(path)
        except (OSError, ValueError, KeyError):
            continue
    return 0, None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal."""
    lines = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _dump(path: Path, value: object) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
    # All is written. Threads of gloo that are still there as Python ends would abort a process that has succeeded.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
