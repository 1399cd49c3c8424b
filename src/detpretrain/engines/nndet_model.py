"""``model.pth`` of nnDetection: a zip of its own files (checkpoint, configuration, plan, splits) and of where they come from.

It holds all that predictions need beside the preprocessed data, so that work folders may be removed. ``unzip model.pth`` gives
nnDetection's files back.
"""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detpretrain.errors import InputError
from detpretrain.files import atomic_path

FACTS = "engine.json"
FOLDER = "nndetection/"
CHECKPOINT = "model_last.ckpt"
NEEDED = (CHECKPOINT, "config.yaml")
# plans and splits are json, unless nnDetection could not write them so
KEPT = (*NEEDED, "plan.json", "plan.pkl", "splits.json", "splits.pkl", "meta.json")


def write(path: Path, folder: Path, facts: Mapping[str, Any]) -> None:
    """Packs nnDetection's folder of a fold; ``InputError`` when a file that predictions need is missing."""
    for name in NEEDED:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: nndet_train has not written it: see {folder / 'train.log'}")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(FACTS, json.dumps(facts, indent=1))
        for name in KEPT:
            if (folder / name).is_file():
                archive.write(folder / name, FOLDER + name)


def is_one(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return FACTS in archive.namelist()
    except Exception:  # damaged bytes make zipfile raise nearly anything
        return False


def read_facts(path: Path) -> dict[str, Any]:
    """``facts`` of ``write``; ``InputError`` for anything else than such a file."""
    if not path.is_file():
        raise InputError(f"{path}: file not found")
    if not is_one(path):
        raise InputError(f"{path}: not a model of nnDetection: train the cell again")
    with _opened(path) as archive:
        return json.loads(archive.read(FACTS))


def unpack(path: Path, folder: Path) -> None:
    """Puts nnDetection's files back into a folder of a fold; ``InputError`` when the file is damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(path) as archive:
        for name in set(archive.namelist()) & {FOLDER + kept for kept in KEPT}:
            with archive.open(name) as source, open(folder / name.removeprefix(FOLDER), "wb") as target:
                shutil.copyfileobj(source, target)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}): train the cell again") from None
