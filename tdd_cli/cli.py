"""The command line: the Typer app, and the one place where errors become messages and exit codes.

Exit codes: 0 ok, 1 the run failed, 2 usage or recipe, 3 data, 4 out of memory, 5 a missing or offline
component, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, NoReturn

import typer

from tdd_cli import __version__
from tdd_cli.commands.doctor import doctor
from tdd_cli.commands.recipes import recipes_app
from tdd_cli.errors import TddError

BUG_HINT = "TDD_DEBUG=1 shows the traceback; with it, please report this."
OUT_OF_MEMORY = {"OutOfMemoryError", "MemoryError"}  # torch's by its name: torch is not imported here
COMMANDS = ("distill", "sample", "eval", "export")
"""Commands that are one function of the same name in tdd_cli/commands."""

app = typer.Typer(
    name="tdd",
    help="Distil diffusion models to 4..8 sampling steps by Target-Driven Distillation.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tdd {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    pass


for _name in COMMANDS:
    if find_spec(f"tdd_cli.commands.{_name}"):
        _module = import_module(f"tdd_cli.commands.{_name}")
        app.command(_name, cls=getattr(_module, "Command", None))(getattr(_module, _name))
app.add_typer(recipes_app, name="recipes")
app.command("doctor")(doctor)


def main() -> NoReturn:
    """Run the command line; every error ends here, as one screen on stderr and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    os.environ.setdefault(
        "TRANSFORMERS_VERBOSITY", "error"
    )  # or it warns about torchvision, which is optional
    try:
        code = app(prog_name="tdd", standalone_mode=False)
    except BaseException as error:
        if os.environ.get("TDD_DEBUG") == "1":
            traceback.print_exc()
        code = _report(error)
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: BaseException) -> int:
    """Say on stderr what happened; returns the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, TddError):
        _print_error(error.message, error.hint)
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        _print_error("interrupted")
        return 130
    if isinstance(error, BrokenPipeError):  # the reader of our output, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if hasattr(error, "format_message") and hasattr(error, "show"):  # a usage error, click's or typer's own
        return _usage(error)
    if _is_out_of_memory(error):
        _print_error(f"out of memory: {_shortened(error)}", _memory_hint())
        return 4
    _print_error(f"{type(error).__name__}: {_shortened(error)}", BUG_HINT)
    return 1


def _usage(error: BaseException) -> int:
    """Show typer's own box for a wrong option; nothing more where typer has just shown the help."""
    from typer import rich_utils

    rich_utils.rich_format_error(error)  # type: ignore[arg-type]
    return int(getattr(error, "exit_code", 2))


def _print_error(message: str, hint: str | None = None) -> None:
    from rich.console import Console
    from rich.text import Text

    text = Text.assemble(("error: ", "bold red"), message)
    if hint:
        text.append("\n").append("hint: ", "bold").append(hint)
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def _is_out_of_memory(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & OUT_OF_MEMORY) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _memory_hint() -> str:
    return (
        "Lower --set train.device_batch (the result stays the same), set train.gradient_checkpointing=true, "
        "train.precision=bf16, or a smaller data.resolution."
    )


def _shortened(error: BaseException) -> str:
    """The error's message, short enough for one screen."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = "\n".join(lines[:8]) or "no message"
    return text if len(text) <= 1000 else text[:1000] + " ..."
