"""The embedded language model: weights, inference and fine-tuning on this machine.

Only this package imports torch, and only when a local LM is first used.
"""

import os

# A model of this size takes hundreds of short parallel steps for each token. Where other processes keep the cores busy
# (pytest-xdist, a CI runner), OpenMP's threads spin for 8 ms at the end of each, waiting for one without a core. After
# this many turns they sleep instead. It counts when torch loads OpenMP; a setting of the user's own stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# oneDNN, and PyTorch's layer over it, keep 1024 compiled kernels each, with their buffers. Batches differ in shape, so
# most are never used again: half a GiB in a session of several trainings. Both read this with the first kernel.
for _setting in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_setting, "128")
