"""The disk: builds, evaluations, what a store holds, and what of it no longer counts."""
