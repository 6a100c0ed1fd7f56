"""Handing a training over to TRL in other processes: files of tokens and settings out, a LoRA folder back."""
