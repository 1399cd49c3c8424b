"""Preprocessed cases on disk: compressed blosc2 arrays that are read patch by patch, and their properties as JSON.

``CASE.b2nd`` float32 [C, D, H, W], ``CASE_instances.b2nd`` integer [D, H, W] (absent without labels), ``CASE.json``, which is
written last: a case whose JSON exists is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from detpretrain.errors import InputError
from detpretrain.files import atomic_path, read_json, write_json

CHUNK = 64
BLOCK = 16


@dataclass(frozen=True)
class StoredArray:
    """An array on disk: slices like a numpy array and reads only the chunks a slice touches.

    Every read opens the file anew (some 0.1 ms), so that one object can be used from several threads and sent to other
    processes, and no handle outlives a read.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def open(cls, path: Path | str) -> StoredArray:
        array = _open(Path(path))
        return cls(Path(path), tuple(array.shape), np.dtype(array.dtype))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        return _open(self.path)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)


@dataclass(frozen=True)
class PreprocessedCase:
    """``data`` float32 [C, D, H, W], ``instances`` integer [D, H, W] or None without labels, and ``properties`` (``apply``)."""

    data: StoredArray
    instances: StoredArray | None
    properties: dict[str, Any]


def write_case(
    folder: Path | str, case: str, data: np.ndarray, instances: np.ndarray | None, properties: Mapping[str, Any]
) -> None:
    """Writes one case; each file is whole or absent, the JSON comes last."""
    data_path, instances_path, json_path = _paths(folder, case)
    json_path.unlink(missing_ok=True)
    write_array(data_path, np.asarray(data, dtype=np.float32))
    if instances is None:
        instances_path.unlink(missing_ok=True)
    else:
        largest = int(instances.max(initial=0))
        write_array(instances_path, instances.astype(np.int16 if largest <= np.iinfo(np.int16).max else np.int32))
    write_json(json_path, dict(properties))


def read_case(folder: Path | str, case: str) -> PreprocessedCase:
    """Opens one case; arrays are read when they are sliced.

    Raises:
        InputError: a file of the case is missing or is not a blosc2 array.
    """
    data_path, instances_path, json_path = _paths(folder, case)
    properties = read_json(json_path)
    instances = StoredArray.open(instances_path) if instances_path.exists() else None
    return PreprocessedCase(StoredArray.open(data_path), instances, properties)


def case_files(folder: Path | str, case: str) -> list[Path]:
    """The files of one case; that of its instances only where there are some."""
    data_path, instances_path, json_path = _paths(folder, case)
    return [data_path, *([instances_path] if instances_path.exists() else []), json_path]


def write_array(path: Path | str, array: np.ndarray) -> None:
    """Writes an array atomically: chunks of 64 and blocks of 16 voxels a side, one channel per chunk, ZSTD level 1."""
    spatial = array.shape[-3:]
    leading = (1,) * (array.ndim - 3)
    chunks = tuple(min(CHUNK, n) for n in spatial)
    blocks = tuple(min(BLOCK, n) for n in chunks)
    with atomic_path(path) as temporary:
        blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(temporary),
            mode="w",
            chunks=leading + chunks,
            blocks=leading + blocks,
            cparams={"codec": blosc2.Codec.ZSTD, "clevel": 1, "nthreads": 1},
        )


def _open(path: Path) -> blosc2.NDArray:
    if not path.is_file():
        raise InputError(f"{path}: file not found: run the preprocessing again")
    try:
        return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable blosc2 array ({error}): run the preprocessing again") from None


def _paths(folder: Path | str, case: str) -> tuple[Path, Path, Path]:
    folder = Path(folder)
    return folder / f"{case}.b2nd", folder / f"{case}_instances.b2nd", folder / f"{case}.json"
