"""From a name or a path to a diffusers pipeline in memory. Only safetensors; nothing is unpickled."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from tdd_cli.errors import MissingComponent, UsageError

PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_TIMEOUT = 10.0  # seconds to find out whether the hub answers; its own client would retry for 23 or more
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format
CONVERT = (
    "tdd reads safetensors only, because loading a pickle runs whatever code it holds. Convert it where you "
    "trust it: load it with diffusers there and call pipe.save_pretrained(FOLDER)"
)
COPY_AGAIN = "it is incomplete, or of another model: copy it again, whole"
NAME_A_MODEL = "give a diffusers folder, a .safetensors file, a hub id owner/name, or bundled:emoji"
_LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")  # anything else is code in the folder


@dataclass(frozen=True)
class Parts:
    """How a family's diffusers pipeline is put together."""

    pipeline: str  # its class in diffusers
    models: Mapping[str, str]  # folder: class, of the parts that have weights
    tokenizers: tuple[str, ...]  # their folders
    mark: str  # how some keys begin in a single file of this family, and of no other
    without: tuple[str, ...] = ()  # parts that are left out
    flags: Mapping[str, Any] = field(default_factory=dict)  # of the pipeline's constructor
    net: str = "unet"  # the part that is distilled


def open_pipeline(
    path: str, family: str, parts: Parts, *, dtype: torch.dtype, config: str | None = None
) -> Any:
    """The pipeline at `path`: a folder, a single .safetensors file, "bundled:NAME" or a hub id.

    Raises UsageError for what cannot be used, MissingComponent for what cannot be reached.
    """
    found = find_model(path, family, parts, dtype=dtype)
    if found.is_dir():
        return open_folder(found, family, parts, dtype=dtype)
    return open_file(found, family, parts, dtype=dtype, config=config)


def find_model(path: str, family: str, parts: Parts, *, dtype: torch.dtype) -> Path:
    """The folder or file of a model, downloaded from the hub where that is its place; no weight is read yet.

    Raises as `open_pipeline`: for what is not there, of another kind, or without some of its parts' files.
    """
    if not path:
        raise UsageError("no model was named", hint=NAME_A_MODEL)
    local = Path(path).expanduser()
    if local.suffix.lower() in PICKLES:
        raise UsageError(f"{path} is a pickle", hint=CONVERT)
    if path.startswith("bundled:"):
        folder = bundled(path)
    elif local.is_file():
        check_file(local, family, parts)
        return local
    elif local.is_dir():
        folder = local
    elif not HUB_ID.fullmatch(path) or path.startswith(("./", "../")) or local.suffix == ".safetensors":
        raise UsageError(f"no model at {path}", hint=NAME_A_MODEL)
    else:
        folder = download(path, family, parts, dtype=dtype)
    check_config(folder, family, parts)
    for name in parts.models:
        weights_variant(folder / name, dtype)
    return folder


def bundled(path: str) -> Path:
    """The folder of "bundled:NAME"."""
    name = path.removeprefix("bundled:")
    root = Path(str(files("tdd_cli.bundled")))
    names = sorted(p.name for p in root.iterdir() if (p / "__init__.py").is_file())
    if name not in names:
        raise UsageError(f"no bundled model {name!r}", hint=f"bundled: {', '.join(names)}")
    folder = root / name / "teacher"
    if not folder.is_dir():
        raise MissingComponent(
            f"the bundled model {name!r} is not in this installation",
            hint="install tdd-cli again, or fetch the repository with its large files",
        )
    return folder


# --- a diffusers folder ---


def open_folder(folder: Path, family: str, parts: Parts, *, dtype: torch.dtype) -> Any:
    """The pipeline in a diffusers folder, every weight of every part accounted for."""
    import diffusers

    models: dict[str, Any] = {}
    with quiet():
        for name, class_name in parts.models.items():
            models[name] = open_part(folder / name, class_name, dtype=dtype)
        with readable(folder):
            return getattr(diffusers, parts.pipeline).from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                **models,
                **dict.fromkeys(parts.without),
                **parts.flags,
            )


def open_part(folder: Path, class_name: str, *, dtype: torch.dtype) -> nn.Module:
    """One network of a pipeline from its own folder; weights that the file lacks are an error, not noise."""
    import diffusers
    import transformers

    library = diffusers if hasattr(diffusers, class_name) else transformers
    variant = weights_variant(folder, dtype)
    with readable(folder):
        part, info = getattr(library, class_name).from_pretrained(
            folder,
            torch_dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    lost = sorted(info["missing_keys"])
    if lost:
        raise UsageError(f"{folder} lacks {len(lost)} weights, the first {lost[0]}", hint=COPY_AGAIN)
    return cast(nn.Module, part)


def check_index(index: Mapping[str, Any], folder: Path | str, family: str, parts: Parts) -> None:
    """Refuse another family's pipeline, a part of another kind, and parts that are code in the folder."""
    found = index.get("_class_name")
    if found != parts.pipeline:
        raise UsageError(
            f"{folder} holds a {found}, not {family}'s {parts.pipeline}", hint=_family_hint(found)
        )
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or len(entry) != 2:
            continue
        library, class_name = entry
        wanted = parts.models.get(name)
        if library not in _LIBRARIES:
            raise UsageError(
                f"{folder}: {name} is {library}.{class_name}, code of the model's own",
                hint="tdd runs only the classes of diffusers and transformers",
            )
        if wanted and class_name != wanted:
            raise UsageError(f"{folder}: {name} is a {class_name}", hint=f"{family} needs a {wanted} there")


def check_tokenizers(folder: Path, parts: Parts) -> None:
    """Refuse a folder without its vocabularies: transformers would make tokenizers that know no word."""
    for name in parts.tokenizers:
        have = {path.name for path in (folder / name).glob("*")}
        if not ("tokenizer.json" in have or {"vocab.json", "merges.txt"} <= have):
            raise UsageError(
                f"{folder / name} has no vocabulary",
                hint="it needs vocab.json and merges.txt, or tokenizer.json: copy the model again, whole",
            )


def weights_variant(folder: Path, dtype: torch.dtype) -> str | None:
    """The variant of a part's weights to read (see `variant_of`), its files' headers checked."""
    if not folder.is_dir():
        raise UsageError(
            f"the folder {folder.name} is missing in {folder.parent}", hint="copy the model again, whole"
        )
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickles = [p.name for p in folder.iterdir() if p.suffix in PICKLES]
        if pickles:
            raise UsageError(f"{folder} has its weights only as a pickle ({pickles[0]})", hint=CONVERT)
        raise UsageError(f"{folder} has no weights", hint="it needs a .safetensors file")
    for path in found:
        check_header(path)
    return variant_of([path.name for path in found], dtype)


def variant_of(names: list[str], dtype: torch.dtype) -> str | None:
    """The variant to read among the weight files of one part: float16's own for float16, if there is one."""
    half = [name for name in names if ".fp16." in name]
    return "fp16" if half and (dtype == torch.float16 or len(half) == len(names)) else None


def check_header(path: Path) -> None:
    """Refuse what is called .safetensors and is not: a renamed pickle, a git-lfs pointer, half a download."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) == 9 and start[8:] == b"{" and length <= min(MAX_HEADER, path.stat().st_size):
        return
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise UsageError(f"{path} is a pickle, whatever its name says", hint=CONVERT)
    if start.startswith(b"version "):
        raise UsageError(f"{path} is a git-lfs pointer, not the weights", hint="run: git lfs pull")
    raise UsageError(f"{path} is not a safetensors file", hint="it is damaged or cut short: copy it again")


# --- a single file ---


def open_file(path: Path, family: str, parts: Parts, *, dtype: torch.dtype, config: str | None) -> Any:
    """The pipeline in a single .safetensors file in the original layout, as model sites offer them."""
    import diffusers

    folder = None if config is None else check_config(Path(config).expanduser(), family, parts)
    if folder is None and not hub_answers():
        raise MissingComponent(
            f"{path.name} has weights only; its configuration is on the hub, which does not answer",
            hint=f"set the model's config to a {family} diffusers folder (weights not needed)",
        )
    lacks = UsageError(f"{path} lacks some of {family}'s weights", hint=COPY_AGAIN)
    with quiet(), readable(path):
        try:
            pipe = getattr(diffusers, parts.pipeline).from_single_file(
                str(path),
                config=None if folder is None else str(folder),
                local_files_only=folder is not None,
                torch_dtype=dtype,
                **dict.fromkeys(parts.without),
                **parts.flags,
            )
        except NotImplementedError as error:  # raised where a weight that was never filled is moved
            raise lacks from error
    if any(weight.is_meta for part in parts.models for weight in getattr(pipe, part).parameters()):
        raise lacks
    return pipe


def check_config(folder: Path, family: str, parts: Parts) -> Path:
    """Refuse a folder that cannot say how a single file of this family is put together."""
    check_index(_read_json(folder / "model_index.json", folder), folder, family, parts)
    check_tokenizers(folder, parts)
    return folder


def check_file(path: Path, family: str, parts: Parts) -> None:
    """Refuse pickles, LoRA files, parts of a model, and other families' files."""
    if path.suffix.lower() != ".safetensors":
        raise UsageError(f"{path} is not a .safetensors file", hint=CONVERT)
    check_header(path)
    with readable(path), safe_open(path, framework="pt") as file:
        keys = list(file.keys())
    if any("lora" in key for key in keys):
        raise UsageError(
            f"{path} is a LoRA, not a model", hint="give the model it was made for, and this as --lora"
        )
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        raise UsageError(
            f"{path} is not a whole model in the original layout",
            hint="give the whole diffusers folder, or the whole file",
        )
    if not any(key.startswith(parts.mark) for key in keys):
        raise UsageError(
            f"{path} is not a {family} model", hint="is it of another family, or without text encoders?"
        )


# --- the hub ---


def download(repo: str, family: str, parts: Parts, *, dtype: torch.dtype) -> Path:
    """The local snapshot of a hub model, of the files a family needs; the cache's where the hub is silent."""
    from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

    offline = not hub_answers()
    try:
        with quiet():
            index = Path(hf_hub_download(repo, "model_index.json", local_files_only=offline))
            check_index(_read_json(index, Path(repo)), repo, family, parts)
            if offline:
                return index.parent
            wanted = files_wanted(HfApi().list_repo_files(repo), repo, parts, dtype)
            return Path(snapshot_download(repo, allow_patterns=wanted))
    except (
        errors.RepositoryNotFoundError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
    ) as error:
        raise MissingComponent(_unreachable(repo, offline, error), hint=_elsewhere(repo)) from error
    except errors.EntryNotFoundError as error:
        raise UsageError(
            f"the hub model {repo} is not a diffusers pipeline", hint="it has no model_index.json"
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise MissingComponent(
            f"the hub model {repo} could not be fetched: {_first_line(error)}", hint=_elsewhere(repo)
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


def _unreachable(repo: str, offline: bool, error: Exception) -> str:
    if offline:
        return f"the hub does not answer, and {repo} is neither in its cache nor a folder here"
    return f"the hub has no model {repo} for you, and there is no such folder here"


def _elsewhere(repo: str) -> str:
    return (
        f"on a machine with access: hf download {repo} --local-dir FOLDER; then give FOLDER as the model. "
        "For a model that asks for consent: hf auth login. Without any of it: bundled:emoji"
    )


# --- small things ---


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers, transformers and the hub from printing bars and warnings nobody here can act on."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    loggers = (diffusers_logging, transformers_logging, hub_logging)
    before = [logger.get_verbosity() for logger in loggers]
    bars = [logger.is_progress_bar_enabled() for logger in loggers[:2]]
    try:
        for logger in loggers:
            logger.set_verbosity_error()
        for logger in loggers[:2]:
            logger.disable_progress_bar()
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.set_verbosity(level)
        for logger, shown in zip(loggers[:2], bars, strict=True):
            if shown:
                logger.enable_progress_bar()


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever a library raises at `path`, as a UsageError; out of memory stays what it is."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = "is it complete, and of this family?"
        raise UsageError(f"{path} cannot be loaded: {_first_line(error)}", hint=hint) from error


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"{folder} is not a diffusers pipeline", hint=f"it has no {path.name}")
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", hint="copy the model again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is not a pipeline's description", hint="copy the model again")
    return found


def _family_hint(class_name: object) -> str:
    from tdd_cli.families import FAMILIES, family_class

    for name in FAMILIES:
        if family_class(name).parts.pipeline == class_name:
            return f"that is the family {name}"
    return f"families: {', '.join(FAMILIES)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
