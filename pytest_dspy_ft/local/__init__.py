"""The embedded language model: weights, inference and fine-tuning on this machine.

Only this package imports torch, and only when a local LM is first used.
"""
