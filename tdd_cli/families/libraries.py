"""The libraries underneath, kept in hand: silent, and their errors as ones that a user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from tdd_cli.errors import UsageError, first_line


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
        raise UsageError(f"{path} cannot be loaded: {first_line(error)}", hint=hint) from error
