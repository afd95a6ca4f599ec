"""Errors a user can mend: each says where, what and how to mend it, and which exit code follows."""

from __future__ import annotations


class TddError(Exception):
    """A run that failed for a reason we can name. `hint` is what to do about it, in one or two lines."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TddError):
    """The command was asked for something it cannot do: an option, a path, a run folder that is none."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe, or a --set, that cannot be used; the message has the file and the line."""


class DataError(TddError):
    """The training data or the prompts are missing, unreadable or empty."""

    exit_code = 3


class OutOfMemory(TddError):
    """The device has too little memory for what was asked."""

    exit_code = 4


class MissingComponent(TddError):
    """A package, model or file is not installed, or out of reach because the hub is."""

    exit_code = 5


class Interrupted(TddError):
    """Ctrl-C or SIGTERM; raise it after the state was saved, with the command that resumes as the hint."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """The first line of what an error of a library says, its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
