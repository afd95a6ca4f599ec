"""Which software a result was made by: versions of packages, and the checkout's commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from tdd_cli import __version__

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "torchmetrics",
    "safetensors",
    "numpy",
)


def versions() -> dict[str, str | None]:
    """The versions of Python, tdd and the packages results depend on; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "tdd-cli": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """The commit of the checkout the package runs from ("-dirty" with changes), None outside one."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
