"""Packages that are installed on request only."""

from __future__ import annotations

from importlib.util import find_spec

from tdd_cli.errors import MissingComponent


def require(package: str, *, extra: str, setting: str) -> None:
    """Raise MissingComponent, naming the extra of ours that brings it, where a package is not installed.

    setting  what in the recipe asks for it
    """
    if find_spec(package) is None:
        raise MissingComponent(
            f"{setting} needs the package {package}, which is not installed",
            hint=f"Install it with: pip install 'tdd-cli[{extra}]'",
        )
