"""A recipe: one complete, typed description of a distillation run; every mistake is reported with its line.

The models in data, method and train are the schema and its documentation: `tdd recipes keys` prints their
descriptions.
"""

from tdd_cli.recipe.conflicts import longest_jump
from tdd_cli.recipe.data import Data, Model
from tdd_cli.recipe.load import (
    DEFAULT_RECIPE,
    dump_recipe,
    find_recipe,
    load_recipe,
    parse_recipe,
    read_text,
    recipe_name,
)
from tdd_cli.recipe.method import (
    L2,
    CtmTarget,
    FullStudent,
    LcmTarget,
    LoraStudent,
    PcmTarget,
    PseudoHuber,
    TddTarget,
    Teacher,
)
from tdd_cli.recipe.schema import KEYS, Recipe
from tdd_cli.recipe.section import Section
from tdd_cli.recipe.train import Checkpoint, Preview, Sample, Train

__all__ = [
    "DEFAULT_RECIPE",
    "KEYS",
    "L2",
    "Checkpoint",
    "CtmTarget",
    "Data",
    "FullStudent",
    "LcmTarget",
    "LoraStudent",
    "Model",
    "PcmTarget",
    "Preview",
    "PseudoHuber",
    "Recipe",
    "Sample",
    "Section",
    "TddTarget",
    "Teacher",
    "Train",
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "longest_jump",
    "parse_recipe",
    "read_text",
    "recipe_name",
]
