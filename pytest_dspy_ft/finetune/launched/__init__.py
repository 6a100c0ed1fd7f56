"""Models of this machine trained by other processes, here or elsewhere: what is asked for with ``--dspy-train``."""
