"""What an object *is*, as canonical JSON and a hash of it: the raw material of the store's keys."""

from pytest_dspy_ft.fingerprint.describe import Description, canonical, describe, digest_json, fingerprint, lm_identity
from pytest_dspy_ft.fingerprint.origin import is_user_code

__all__ = ["Description", "canonical", "describe", "digest_json", "fingerprint", "is_user_code", "lm_identity"]
