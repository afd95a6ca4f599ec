"""How much memory drawing took at most."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux; see proc(5)


def reset_peak() -> None:
    """Count from here: the GPU's peak, or the process's, where the system can forget it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        try:
            CLEAR.write_text("5")
        except OSError:  # a container may forbid it: the peak is then that of all the process did
            return


def peak_bytes() -> int:
    """Of the GPU, else of the whole process, since the last reset; 0 where that is unknown."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if STATUS.exists():
        lines = STATUS.read_text("utf-8").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
