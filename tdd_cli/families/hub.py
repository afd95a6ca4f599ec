"""The model hub: whether it answers, and the snapshot of a model there."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch

from tdd_cli.errors import MissingComponent, UsageError, first_line
from tdd_cli.families.layout import CONVERT, Parts, check_index, read_index, variant_of
from tdd_cli.families.libraries import quiet

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_TIMEOUT = 10.0  # seconds to find out whether the hub answers; its own client would retry for 23 or more


def download(repo: str, family: str, parts: Parts, *, dtype: torch.dtype) -> Path:
    """The local snapshot of a hub model, of the files a family needs; the cache's where the hub is silent."""
    from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

    offline = not hub_answers()
    try:
        with quiet():
            index = Path(hf_hub_download(repo, "model_index.json", local_files_only=offline))
            check_index(read_index(index.parent), repo, family, parts)
            if offline:
                return index.parent
            wanted = files_wanted(HfApi().list_repo_files(repo), repo, parts, dtype)
            return Path(snapshot_download(repo, allow_patterns=wanted))
    except (
        errors.RepositoryNotFoundError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
    ) as error:
        raise MissingComponent(_unreachable(repo, offline), hint=_elsewhere(repo)) from error
    except errors.EntryNotFoundError as error:
        raise UsageError(
            f"the hub model {repo} is not a diffusers pipeline", hint="it has no model_index.json"
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise MissingComponent(
            f"the hub model {repo} could not be fetched: {first_line(error)}", hint=_elsewhere(repo)
        ) from error


def files_wanted(names: list[str], repo: str, parts: Parts, dtype: torch.dtype) -> list[str]:
    """Which files of a hub repository a family needs, out of their names."""
    wanted = ["model_index.json", "scheduler/*", "tokenizer*/*"]
    for part in parts.models:
        weights = [n for n in names if n.startswith(f"{part}/") and n.endswith(".safetensors")]
        if not weights:
            raise UsageError(f"the hub model {repo} has no safetensors for {part}", hint=CONVERT)
        half = variant_of(weights, dtype) == "fp16"
        chosen = [n for n in weights if (".fp16." in n) == half]
        wanted += [f"{part}/config.json", f"{part}/*.safetensors.index*.json", *chosen]
    return wanted


def hub_answers() -> bool:
    """Whether the hub answers at all, found out with one request rather than the client's many."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except Exception as error:  # the client's exception types change from version to version
        logging.getLogger(__name__).debug("the hub does not answer: %s", error)
        return False
    return True


def _unreachable(repo: str, offline: bool) -> str:
    if offline:
        return f"the hub does not answer, and {repo} is neither in its cache nor a folder here"
    return f"the hub has no model {repo} for you, and there is no such folder here"


def _elsewhere(repo: str) -> str:
    return (
        f"on a machine with access: hf download {repo} --local-dir FOLDER; then give FOLDER as the model. "
        "For a model that asks for consent: hf auth login. Without any of it: bundled:emoji"
    )
