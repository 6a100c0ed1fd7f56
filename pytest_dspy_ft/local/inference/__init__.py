"""Answering requests: prompts, batches, generation."""
