"""A study of one short recipe in a copy of the repository, with its results in the copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from repository_copy import Repository

from detpretrain.files import read_yaml

RECIPE = "retina_smoke"


def write_study(repository: Repository, study: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[str, str]:
    """Writes the study file and changes the recipe; returns the arguments that name the study."""
    recipes = read_yaml(repository.root / "config" / "recipes.yaml")
    recipes[RECIPE] |= recipe
    (repository.root / "config" / "recipes.yaml").write_text(yaml.safe_dump(recipes))
    placed = {**study, "pathvars": {"results": str(repository.root / "out")}}
    (repository.root / "study.yaml").write_text(yaml.safe_dump(placed))
    return ("--configfile", "study.yaml")


def copy_with_data(new_copy: Callable[[], Repository], results: Path) -> Repository:
    """A new copy that need not prepare the data again."""
    repository = new_copy()
    shutil.copytree(results / "data", repository.root / "out" / "data")
    return repository
