"""Finding files in a raw download, with a message that says what is missing."""

from __future__ import annotations

import re
from pathlib import Path

from detpretrain.errors import InputError


def required(raw: Path | None) -> Path:
    """The raw folder of a data set that cannot do without one."""
    if raw is None:
        raise InputError("raw: missing in the data set's entry: name the folder of the download")
    return raw


def existing(path: Path) -> Path:
    """The path, if the file is there."""
    if not path.is_file():
        raise InputError(f"{path}: file not found: complete the download, or name the case under exclude_cases")
    return path


def case_folders(raw: Path | None, file: str) -> list[Path]:
    """The folders of ``raw`` with one case each, sorted; hidden ones do not count.

    Raises:
        InputError: no folder of ``raw`` holds ``file``.
    """
    raw = required(raw)
    folders = sorted(path for path in raw.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not any((folder / file).is_file() for folder in folders):
        raise InputError(f"{raw}: no CASE/{file} in it: point raw: at the folder that holds the case folders")
    return folders


def path_safe(name: str) -> str:
    """A case id from any name: letters, digits, - and _ stay, everything else becomes _."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "case"
