"""Where downloads and statistics are kept for all runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder for tdd."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tdd"
