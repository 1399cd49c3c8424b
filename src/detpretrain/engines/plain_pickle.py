"""Pickles of plain data: numpy arrays and numbers in builtin containers. Nothing else is built, so no code of a file runs.

A pickle names the functions that rebuild its objects. Only those that numpy's own arrays, dtypes and scalars name are looked
up, under the names of numpy 1 and 2, and nothing is imported because a file asks for it.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from detpretrain.errors import InputError

ARRAY = np.empty(1)
# what numpy itself puts into a pickle
RECONSTRUCT = ARRAY.__reduce__()[0]
FROM_BUFFER = ARRAY.__reduce_ex__(5)[0]
SCALAR = np.float64(0).__reduce__()[0]
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): FROM_BUFFER for core in ("core", "_core")},
    ("builtins", "bytearray"): bytearray,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
}


class Refused(pickle.UnpicklingError):
    """A pickle that names something else than plain data; ``what``: its name."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise Refused(f"{module}.{name}")
        return ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise Refused(f"a reference to {type(pid).__name__} outside the file")


def load(path: Path) -> Any:
    """Reads a pickle of plain data.

    Raises:
        InputError: it is missing or damaged, or names anything but plain data.
    """
    try:
        with open(path, "rb") as handle:
            return PlainUnpickler(handle).load()
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except Refused as error:
        raise InputError(
            f"{path}: holds {error.what}, which is code and is not run from a file: write it again as numpy arrays, numbers "
            "and builtin containers"
        ) from None
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise InputError(f"{path}: not a readable pickle ({reason}): make it again") from None
