"""`tdd doctor`: what is installed, on what devices, which models are at hand, and what stands in the way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Any

import typer

OFFLINE_FLAGS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
SMALL_DISK = 2 * 2**30  # bytes: a run of the miniature with its checkpoints fits


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report versions, devices, disk, models at hand, and problems (exit code 1 if there are any)."""
    report = examine()
    typer.echo(json.dumps(report, indent=2) if as_json else _as_text(report))
    if report["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Everything `tdd doctor` reports, as plain data; `problems` lists what to mend, with the remedy."""
    from tdd_cli.versions import versions

    found = versions()
    installed = {**found, "torchvision": _version("torchvision")}
    devices, device_problems = _devices()
    bundled = _bundled()
    problems = [
        *_missing(found),
        *device_problems,
        *_broken_imports(installed),
        *_little_disk(),
        *_unbundled(bundled),
    ]
    return {
        "versions": installed,
        "devices": devices,
        "disk_free_bytes": shutil.disk_usage(".").free,
        "bundled": bundled,
        "hub": _hub(),
        "offline": {flag: os.environ[flag] for flag in OFFLINE_FLAGS if flag in os.environ},
        "problems": problems,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _missing(found: dict[str, str | None]) -> Iterator[str]:
    names = [name for name, version in found.items() if version is None]
    if names:
        yield f"not installed: {', '.join(names)}. Remedy: pip install -c constraints.txt -e ."


def _devices() -> tuple[list[str], list[str]]:
    """(the devices torch sees, in words; what is wrong with torch)."""
    try:
        torch = import_module("torch")
    except Exception as error:
        return [], [f"torch cannot be imported: {_first_line(error)}. Remedy: reinstall it."]
    devices = [f"cpu: {torch.get_num_threads()} threads"]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i}: {properties.name}, {_gigabytes(properties.total_memory)}")
    if torch.backends.mps.is_available():
        devices.append("mps: Apple GPU")
    return devices, []


def _broken_imports(found: dict[str, str | None]) -> Iterator[str]:
    """torchvision built for another torch, which makes diffusers fail with a message about something else."""
    if found["torch"] is None:
        return
    if found["torchvision"] is not None and (error := _import_error("torchvision")):
        yield (
            f"torchvision {found['torchvision']} does not fit torch {found['torch']} ({error}); diffusers "
            "and transformers then fail with misleading messages. Remedy: pip uninstall torchvision (tdd "
            "does not need it), or install the torchvision built for the same device as torch."
        )
    elif found["diffusers"] and (error := _import_error("diffusers", "StableDiffusionXLPipeline")):
        yield f"diffusers cannot be used: {error}. Remedy: pip install -c constraints.txt -e ."


def _import_error(module: str, name: str | None = None) -> str | None:
    """What goes wrong on importing a module, or a name from it; None if nothing does."""
    try:
        imported = import_module(module)
        if name is not None:
            getattr(imported, name)
    except Exception as error:
        return _first_line(error)
    return None


def _little_disk() -> Iterator[str]:
    free = shutil.disk_usage(".").free
    if free < SMALL_DISK:
        yield f"only {_gigabytes(free)} free on this disk. Remedy: make room, or run with --out on another."


def _bundled() -> dict[str, bool]:
    """Which parts of the bundled miniature are there."""
    from tdd_cli.bundled import emoji

    parts = {"data": emoji.DATA, "teacher": emoji.TEACHER, "student": emoji.STUDENT}
    return {name: path.is_file() or (path.is_dir() and any(path.iterdir())) for name, path in parts.items()}


def _unbundled(bundled: dict[str, bool]) -> Iterator[str]:
    names = [name for name, there in bundled.items() if not there]
    if names:
        yield f"of the bundled miniature, {', '.join(names)} missing. Remedy: reinstall tdd-cli."


def _hub() -> dict[str, Any]:
    """The hub's cache folder and what is in it: id -> bytes."""
    hub = import_module("huggingface_hub")
    folder = Path(hub.constants.HF_HUB_CACHE)
    if not folder.is_dir():
        return {"cache": str(folder), "repositories": {}}
    found = hub.scan_cache_dir(folder)
    return {"cache": str(folder), "repositories": {repo.repo_id: repo.size_on_disk for repo in found.repos}}


def _as_text(report: dict[str, Any]) -> str:
    """The report for people, one fact a line."""
    lines = [f"{name:<14}{version or 'not installed'}" for name, version in report["versions"].items()]
    lines += ["", *(f"device        {device}" for device in report["devices"])]
    lines += [f"disk          {_gigabytes(report['disk_free_bytes'])} free here"]
    present = {True: "present", False: "missing"}
    lines += ["", *(f"bundled       {name}: {present[there]}" for name, there in report["bundled"].items())]
    lines += [f"hub cache     {report['hub']['cache']}"]
    lines += [
        f"              {name}, {_gigabytes(size)}" for name, size in report["hub"]["repositories"].items()
    ]
    lines += [f"offline       {flag}={value}" for flag, value in report["offline"].items()]
    problems = [f"PROBLEM       {problem}" for problem in report["problems"]]
    return "\n".join([*lines, "", *(problems or ["no problems found"])])


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
