"""How much memory drawing took at most."""

from __future__ import annotations

import sys

import torch


def reset_peak() -> None:
    """Count the GPU's peak from here; a process's own cannot be reset."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Of the GPU since the last reset, else of the whole process so far; 0 where that is unknown."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
