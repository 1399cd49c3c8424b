"""Files that are whole or absent: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from detpretrain.errors import InputError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it becomes ``path``, on an exception it is removed.

    The temporary name keeps the suffixes (``a.nii.gz`` -> ``.tmp-PID-a.nii.gz``), because writers look at them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# the same reader in C where PyYAML has it: every job reads all entries
SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_text(path: Path | str, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Writes JSON without NaN (``ValueError``), so that every reader can parse it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def digest(paths: Iterable[Path | str]) -> str:
    """12 hex digits over the bytes of files, in their order; ``InputError`` when one is missing."""
    found = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as handle:
                found.update(hashlib.file_digest(handle, "sha256").digest())
        except FileNotFoundError:
            raise InputError(f"{path}: file not found") from None
    return found.hexdigest()[:12]


def read_json(path: Path | str) -> Any:
    """Reads JSON; ``InputError`` when the file is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}): restore or rewrite the file") from None


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Reads a YAML mapping; ``InputError`` when the file is missing, not YAML, or something else than a mapping."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=SAFE)
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())}): correct the file") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a mapping of keys to values: correct the file")
    return content
