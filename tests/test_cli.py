"""The command line: light to start, and every error one screen with its exit code."""

import json
import os
import subprocess
import sys
import time

import pytest

from tdd_cli import cli, errors
from tdd_cli.commands import doctor as doctor_command
from tdd_cli.commands.recipes import complete_recipe

HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "torchmetrics",
    "numpy",
    "PIL",
)
HELPS = [[], ["distill"], ["sample"], ["export"], ["recipes"], ["recipes", "copy"], ["doctor"]]


def tdd(*arguments, **environment):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "tdd_cli", *arguments]
    env = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


def raising(monkeypatch, error):
    """main() with a command that raises `error`; returns its exit code."""

    def command(**_):
        raise error

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_imports_nothing_heavy_and_answers_at_once(words):
    script = (
        f"import sys; sys.argv = ['tdd', *{words!r}, '--help']\n"
        "from tdd_cli.cli import main\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    print(f"tdd {' '.join(words)} --help: {time.perf_counter() - start:.2f} s")
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert "Usage: tdd" in done.stdout


def test_version():
    assert tdd("--version").stdout.startswith("tdd ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TddError("m"), 1),
        (errors.UsageError("m"), 2),
        (errors.RecipeError("m"), 2),
        (errors.DataError("m"), 3),
        (errors.OutOfMemory("m"), 4),
        (errors.MissingComponent("m"), 5),
        (errors.Interrupted("m"), 130),
        (KeyboardInterrupt(), 130),
        (MemoryError(), 4),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), 4),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), 4),
        (ZeroDivisionError("division by zero"), 1),
        (SystemExit(7), 7),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_error_has_its_exit_code(monkeypatch, error, code):
    assert raising(monkeypatch, error) == code


def test_an_error_is_one_screen_that_says_how_to_mend_it(monkeypatch, capsys):
    raising(monkeypatch, errors.DataError("no pictures in x", hint="Give another folder."))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: no pictures in x\nhint: Give another folder.\n"


def test_brackets_in_a_message_are_not_markup(monkeypatch, capsys):
    raising(monkeypatch, errors.TddError("[bold]x[/bold] [/red] prompts[0]"))
    assert "[bold]x[/bold] [/red] prompts[0]" in capsys.readouterr().err


def test_an_unexpected_error_names_itself_and_hides_the_traceback(monkeypatch, capsys):
    assert raising(monkeypatch, ValueError("what\n" * 500)) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ValueError: what")
    assert "TDD_DEBUG=1" in shown
    assert "Traceback" not in shown
    assert len(shown.splitlines()) < 15


def test_tdd_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setenv("TDD_DEBUG", "1")
    raising(monkeypatch, ValueError("what"))
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "No such command"),
        (["--bogus"], "No such option"),
        (["recipes", "show"], "Missing argument"),
        (["recipes", "show", "sdxl4to8"], "Did you mean 'sdxl-4to8'?"),
        (["recipes", "show", "."], "is a folder"),
    ],
)
def test_wrong_usage_is_exit_code_2_on_stderr(arguments, message):
    done = tdd(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_recipes_are_listed_with_their_descriptions():
    lines = tdd("recipes").stdout.splitlines()
    assert any(line.startswith("emoji-4to8 ") and "TDD" in line for line in lines)


def test_a_recipe_is_copied_once(tmp_path, monkeypatch):
    target = tmp_path / "my.yaml"
    assert tdd("recipes", "copy", "emoji-4to8", str(target)).returncode == 0
    assert target.read_text() == tdd("recipes", "show", str(target)).stdout
    target.write_text("mine")
    assert tdd("recipes", "copy", "emoji-4to8", str(target)).returncode == 2
    assert target.read_text() == "mine"
    assert tdd("recipes", "copy", "emoji-4to8", str(target), "--force").returncode == 0
    assert target.read_text() != "mine"


def test_every_key_is_listed():
    shown = tdd("recipes", "keys").stdout
    assert "target.k_min (tdd): an integer >= 1 and <= 1000; default 4." in shown


def test_recipe_names_complete():
    assert complete_recipe("emoji-4") == ["emoji-4to8"]
    assert complete_recipe("zz") == []


def test_shell_completion_answers():
    done = tdd("--show-completion", "bash")
    assert "Traceback" not in done.stderr  # typer looks for the shell among its ancestors; there may be none
    env = {"_TDD_COMPLETE": "complete_bash", "COMP_WORDS": "tdd rec", "COMP_CWORD": "1"}
    assert "recipes" in tdd(**env).stdout


def test_doctor_reports_as_json(monkeypatch, capsys):
    report = doctor_command.examine()
    assert {"versions", "devices", "disk_free_bytes", "bundled", "hub", "offline", "problems"} == set(report)
    assert json.loads(json.dumps(report)) == report
    assert report["devices"][0].startswith("cpu")


def test_doctor_names_the_torchvision_trap(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor_command, "import_module", broken)
    found = {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cu128", "diffusers": "0.42.1"}
    (problem,) = doctor_command._broken_imports(found)
    assert "torchvision 0.28.0+cu128 does not fit torch 2.13.0+cpu" in problem
    assert "pip uninstall torchvision" in problem


def test_doctor_fails_where_something_is_missing():
    (problem,) = doctor_command._missing({"torch": "2.13.0", "peft": None})
    assert problem.startswith("not installed: peft")
