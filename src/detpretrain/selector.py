"""A part of a study, chosen on the command line: ``--config only="datasets=luna16,rows=mae+mg"``.

Conditions are separated by commas and must all hold; of several values of one key, separated by ``+``, one must. A name that the
study does not have is an error, and so is a choice that leaves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detpretrain import study
from detpretrain.errors import InputError, nearest
from detpretrain.study import Cell, Study

# what a cell is known by under each key
NAMES: Mapping[str, Callable[[Cell], tuple[str, ...]]] = {
    "datasets": lambda cell: (cell.dataset,),
    "rows": lambda cell: (cell.init, f"{cell.detector}/{cell.init}"),
    "detectors": lambda cell: (cell.detector,),
    "inits": lambda cell: (cell.init,),
    "folds": lambda cell: (str(cell.fold),),
    "seeds": lambda cell: (str(cell.seed),),
}
FORM = "write only=datasets=luna16,rows=mae+mg"
LONGEST_NAME = 100


@dataclass(frozen=True)
class Selection:
    """``values``: what each key may be; keys and values in order, whatever the order they were written in."""

    values: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def parse(cls, text: Any) -> Selection:
        """Reads ``key=value[+value][,key=...]``; ``InputError`` for another form, an unknown key or one that comes twice."""
        found: dict[str, tuple[str, ...]] = {}
        for condition in str(text or "").split(","):
            key, equals, values = (part.strip() for part in condition.partition("="))
            names = tuple(sorted({value.strip() for value in values.split("+")}))
            if not equals or "" in names:
                raise InputError(f"only={text}: {condition.strip() or 'nothing'!r} is no condition: {FORM}")
            if key not in NAMES:
                raise InputError(f"only={text}: unknown key {key!r}{nearest(key, NAMES)}")
            if key in found:
                raise InputError(f"only={text}: {key} comes twice: join its values with +")
            found[key] = names
        return cls(tuple(sorted(found.items())))

    def __str__(self) -> str:
        """The canonical text, which ``parse`` reads."""
        return ",".join(f"{key}={'+'.join(values)}" for key, values in self.values)

    @property
    def name(self) -> str:
        """Of the folder that holds what is made of this selection only: path-safe and the same for the same selection."""
        name = str(self).replace(",", "--").replace("/", ".")
        if len(name) <= LONGEST_NAME:
            return name
        return f"{name[:LONGEST_NAME]}-{hashlib.sha256(str(self).encode()).hexdigest()[:8]}"

    @property
    def whole_rows(self) -> bool:
        """Whether rows are kept with all their folds, so that they can be consolidated and compared."""
        return "folds" not in dict(self.values)

    def narrow(self, chosen: Study) -> Study:
        """The study with the selected cells only; entries, recipes and the folds of a data set are as before.

        Raises:
            InputError: a name that no cell of the study has (named with the nearest one), or no cell that has all of them.
        """
        for key, values in self.values:
            known = {name for cell in chosen.cells for name in NAMES[key](cell)}
            for value in values:
                if value not in known:
                    raise InputError(
                        f"only={self}: study {chosen.name} has no {value!r} in {key}{nearest(value, known)}"
                    )
        kept = frozenset(cell for cell in chosen.cells if self._keeps(cell))
        if not kept:
            raise InputError(f"only={self}: no cell of study {chosen.name} is all of that: drop a condition")
        return replace(chosen, kept=kept)

    def _keeps(self, cell: Cell) -> bool:
        return all(set(NAMES[key](cell)) & set(values) for key, values in self.values)


def load(files: Sequence[Path | str], root: Path, only: str | None) -> Study:
    """``study.load``, narrowed where a selection is given."""
    chosen = study.load(files, root)
    return Selection.parse(only).narrow(chosen) if only else chosen
