"""A folder of nnU-Net data sets (``nnUNet_raw``) -> one entry of config/datasets.yaml each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from detpretrain.datasets.nnunet import read_channels, read_labels
from detpretrain.errors import InputError
from detpretrain.files import read_json

FOLDER = re.compile(r"Dataset(?P<number>\d{3})_(?P<name>.+)")


def entries(folder: Path, seed: int = 12345) -> dict[str, dict[str, Any]]:
    """Entries by id, as ``218_AMOS`` of ``Dataset218_AMOS``; each data set's first of five folds is what pre-training uses.

    A data set with a single channel gets its name as ``modality:`` in upper case, so that "ct" and "CT" share a stem; correct it
    where two names mean one thing.

    Raises:
        InputError: no data set in the folder, or a dataset.json that cannot be read.
    """
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = FOLDER.fullmatch(path.name)
        if not match or not path.is_dir():
            continue
        description = path / "dataset.json"
        content = read_json(description)
        read_labels(description, content)
        channels = read_channels(description, content)
        entry: dict[str, Any] = {"from": "nnunet", "raw": str(path), "splits": {"folds": 5, "seed": seed}}
        if len(channels) == 1:
            entry["modality"] = channels[0].upper()
        found[f"{match['number']}_{re.sub(r'[^A-Za-z0-9_-]+', '_', match['name'])}"] = entry
    if not found:
        raise InputError(f"{folder}: no folder Dataset001_NAME in it: point to nnUNet_raw")
    return found
