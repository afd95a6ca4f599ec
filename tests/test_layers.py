"""Who may import whom: the layers of the package, read from the import statements of every file.

cli -> commands -> training, evaluation, exporting, data, run, recipe -> families, scheduler -> core -> torch.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tdd_cli"
LAYERS = {  # a name directly under tdd_cli -> its height; files import from their own height or below
    "__main__": 6,
    "cli": 5,
    "commands": 4,
    "training": 3,
    "evaluation": 3,
    "exporting": 3,
    "data": 3,
    "run": 3,
    "inference": 3,
    "recipe": 3,
    "generate": 3,
    "sampling": 3,
    "knobs": 3,
    "sheet": 3,
    "record": 3,
    "studio": 3,
    "student": 3,
    "families": 2,
    "scheduler": 2,
    "core": 1,
    "recipe_keys": 0,
    "yaml_lines": 0,
    "shipped": 0,
    "files": 0,
    "hashes": 0,
    "versions": 0,
    "processes": 0,
    "pictures": 0,
    "progress": 0,
    "errors": 0,
    "__init__": 0,
}
FREE = {"bundled"}  # data with the scripts that made it: anyone reads its paths, and it imports what it likes
CORE_MAY_IMPORT = set(sys.stdlib_module_names) | {"torch", "tdd_cli.core"}
HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "torchmetrics",
    "PIL",
    "numpy",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module(path: Path) -> str:
    """`tdd_cli/core/clip.py` as `tdd_cli.core.clip`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Every module a file imports, `from a import b` as a.b; with `top_level`, what importing it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _run_on_import(tree) if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but function bodies and `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _run_on_import(child)


def part(name: str) -> str | None:
    """The name directly under tdd_cli that a module belongs to; None for other people's modules."""
    pieces = name.split(".")
    if pieces[0] != "tdd_cli":
        return None
    return pieces[1] if len(pieces) > 1 else "__init__"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_go_down_the_layers(path):
    height = LAYERS.get(part(module(path)) or "")
    upward = [
        name for name in imports(path) if height is not None and LAYERS.get(part(name) or "", 0) > height
    ]
    assert upward == []


@pytest.mark.parametrize("path", FILES, ids=module)
def test_nobody_imports_the_command_line(path):
    if module(path) != "tdd_cli.__main__":
        assert [name for name in imports(path) if part(name) == "cli"] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("core/**/*.py")), ids=module)
def test_core_imports_torch_and_nothing_else(path):
    foreign = [
        name
        for name in imports(path)
        if name.split(".")[0] not in CORE_MAY_IMPORT and not name.startswith("tdd_cli.core.")
    ]
    assert foreign == []


def test_every_part_of_the_package_has_its_layer():
    parts = {part(module(path)) for path in FILES}
    assert parts - set(LAYERS) - FREE == set(), "give it a height in LAYERS"


def test_families_never_import_each_other():
    families = {"sd15", "sdxl", "flux", "sd3", "svd"}
    for path in PACKAGE.glob("families/*.py"):
        if path.stem in families:
            others = {f"tdd_cli.families.{other}" for other in families - {path.stem}}
            assert [name for name in imports(path) if others & {name, name.rpartition(".")[0]}] == []


@pytest.mark.parametrize("path", [*sorted(PACKAGE.glob("commands/*.py")), PACKAGE / "cli.py"], ids=module)
def test_commands_import_nothing_heavy_before_they_run(path):
    assert [name for name in imports(path, top_level=True) if name.split(".")[0] in HEAVY] == []
