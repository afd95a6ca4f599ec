"""Uploading an export to the hub."""

from __future__ import annotations

from pathlib import Path

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.families.hub import HUB_ID, hub_answers
from tdd_cli.families.libraries import quiet


def check_repo(repo: str) -> None:
    """Refuse what is not a hub repository's name."""
    if not HUB_ID.fullmatch(repo):
        raise UsageError(f"{repo} is not the name of a hub repository", hint="It looks like owner/name.")


def push(folder: Path, repo: str) -> str:
    """Upload a folder to a hub repository, made public if it does not exist; where it can be seen.

    The token is the one huggingface_hub has from its own login. MissingComponent where that, the network or
    the right to write is missing; the folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    later = f"The files are in {folder}. Later: hf upload {repo} {folder}"
    if not hub_answers():
        raise MissingComponent(f"the hub does not answer: {repo} is not uploaded", hint=later)
    api = HfApi()
    try:
        with quiet():
            address = api.create_repo(repo, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Add {folder.name}")
    except LocalTokenNotFoundError as error:
        raise MissingComponent(
            f"no login to the hub: {repo} is not uploaded", hint=f"hf auth login. {later}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise MissingComponent(f"{repo} is not uploaded: {reason}", hint=later) from error
    return str(address)
