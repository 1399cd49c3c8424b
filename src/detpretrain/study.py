"""A study: what its file selects, joined with the entries of ``config/`` at the study's size.

Every value has one home: an entry. The study file selects data sets, rows, folds, seeds and a size; ``sizes:`` of an entry
holds what differs between sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonschema

from detpretrain.errors import InputError, nearest
from detpretrain.files import read_yaml
from detpretrain.study_checks import check_names

KINDS = ("datasets", "methods", "inits", "detectors", "recipes", "backbones")
DEFAULTS: dict[str, Any] = {
    "seeds": [0],
    "evaluation": {},
    "comparison": {},
    "runtime": {},
    "accept_overlap": {},
    "recipes": {},
}
TRAINED = ("detectors", "methods")  # whose entries name a recipe, which a study may replace


@dataclass(frozen=True, order=True)
class Row:
    """One line of the tables."""

    dataset: str
    detector: str
    init: str
    seed: int

    @property
    def path(self) -> str:
        return f"{self.dataset}/{self.detector}/{self.init}/seed{self.seed}"


@dataclass(frozen=True, order=True)
class Cell:
    """One fine-tuning."""

    dataset: str
    detector: str
    init: str
    fold: int
    seed: int

    @property
    def path(self) -> str:
        return f"{self.dataset}/{self.detector}/{self.init}/fold{self.fold}-seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """``config``: the merged study file with defaults; ``entries``: by kind and name; ``plans``: plan specs by name.

    ``kept``: the cells that a selection leaves (``selector``); None = all.
    """

    config: Mapping[str, Any]
    entries: Mapping[str, Mapping[str, Any]]
    plans: Mapping[str, Any]
    kept: frozenset[Cell] | None = None

    @property
    def name(self) -> str:
        return self.config["study"]

    @property
    def results(self) -> Path:
        return Path(self._place("results") or "results")

    @property
    def data(self) -> Path:
        """Folder of the tasks, plans and preprocessed arrays, which studies share."""
        return Path(self._place("data") or self.results / "data")

    @property
    def folder(self) -> Path:
        return self.results / self.name

    @property
    def work(self) -> Path:
        """Folder of the resumable states of the study's trainings."""
        return Path(self._place("scratch") or self.results) / self.name / "work"

    def _place(self, name: str) -> str | None:
        return self.config.get("pathvars", {}).get(name)

    def entry(self, kind: str, name: str) -> dict[str, Any]:
        """An entry with the values of the study's size, and the recipe that the study gives it instead of its own.

        Raises:
            InputError: no such entry (named with the nearest one that exists), or not at this size.
        """
        known = self.entries[kind]
        if name not in known:
            raise InputError(f"config/{kind}.yaml: no entry {name!r}{nearest(name, known)}")
        entry = dict(known[name] or {})
        sizes = entry.pop("sizes", None)
        if sizes is not None:
            size = self.config["size"]
            if size not in sizes:
                raise InputError(f"config/{kind}.yaml: {name} has no size {size!r}{nearest(size, sizes)}")
            entry |= sizes[size]
        if kind == "datasets":
            entry |= {"raw": self.config["raw"][name]} if name in self.config.get("raw", {}) else {}
            entry |= {"allow_partial": True} if name in self.config.get("allow_partial", ()) else {}
        if kind in TRAINED and name in self.config.get("recipes", {}):
            entry["recipe"] = self.config["recipes"][name]
        return entry

    def engine(self, detector: str) -> str | None:
        """The program that trains and predicts a detector instead of this package (``engine_entries``)."""
        return self.entry("detectors", detector).get("engine")

    def plan_spec(self, name: str) -> dict[str, Any]:
        if name not in self.plans:
            raise InputError(f"config/plans: no plan {name!r}{nearest(name, self.plans)}")
        return self.plans[name]

    def corpora(self, init: str) -> list[str]:
        """The data sets that an initialisation is pre-trained on: its own, or those of the study that its method asks for."""
        entry = self.entry("inits", init)
        key = self.entry("methods", entry["method"]).get("corpus", "corpus")
        named = entry.get("corpus", self.config.get(key))
        if named is None:
            raise InputError(
                f"study {self.name}: init {init} is pre-trained, but no data set is named: add {key}: DATASET"
            )
        return [named] if isinstance(named, str) else list(named)

    def needs_pretraining(self, init: str) -> bool:
        return "method" in self.entry("inits", init)

    def checkpoint(self, init: str) -> str | None:
        """A checkpoint that exists already: a file, or ``hf://ORG/REPO@REVISION``; None for the study's own inits."""
        return self.entry("inits", init).get("checkpoint")

    def accepts_overlap(self, init: str, dataset: str) -> bool:
        """Whether the study file accepts that the pre-training saw scored patients of a data set."""
        return dataset in self.config["accept_overlap"].get(init, ())

    def folds(self, dataset: str) -> list[int]:
        """Folds of a data set that the study runs: its own list, or all that the entry's splits make."""
        count = self.entry("datasets", dataset).get("splits", {}).get("folds", 5)
        folds = self.config.get("folds", list(range(count)))
        beyond = [fold for fold in folds if fold >= count]
        if beyond:
            raise InputError(
                f"study {self.name}: fold {beyond[0]} of {dataset}: it has {count} folds, from 0: correct folds:"
            )
        return list(folds)

    @cached_property
    def rows(self) -> list[Row]:
        """All rows, or those of which a selection leaves a cell."""
        rows = {
            Row(dataset, row["detector"], row["init"], seed)
            for row in self.config["rows"]
            for dataset in row.get("datasets", self.config["datasets"])
            for seed in self.config["seeds"]
        }
        if self.kept is not None:
            rows &= {Row(cell.dataset, cell.detector, cell.init, cell.seed) for cell in self.kept}
        return sorted(rows)

    @cached_property
    def cells(self) -> list[Cell]:
        cells = [
            Cell(row.dataset, row.detector, row.init, fold, row.seed)
            for row in self.rows
            for fold in self.folds(row.dataset)
        ]
        return cells if self.kept is None else [cell for cell in cells if cell in self.kept]

    @cached_property
    def inits(self) -> list[str]:
        return sorted({row.init for row in self.rows})

    @cached_property
    def pretrainings(self) -> list[tuple[str, str]]:
        """(init, backbone) pairs that the study trains itself."""
        pairs = {(row.init, self.entry("detectors", row.detector)["backbone"]) for row in self.rows}
        return sorted(pair for pair in pairs if self.needs_pretraining(pair[0]))


def load(files: Sequence[Path | str], root: Path) -> Study:
    """Reads study files (later ones override earlier ones) and the entries of ``root/config``."""
    if not files:
        raise InputError("no study file given: use --config config/demo.yaml or another one")
    config: dict[str, Any] = {}
    for file in files:
        config = merge(config, read_yaml(Path(file)))
    return assemble(config, root, source=", ".join(str(file) for file in files))


def assemble(config: Mapping[str, Any], root: Path, source: str) -> Study:
    """Checks a merged study configuration against the schema and the entries.

    Raises:
        InputError: one line that names the wrong key or value and the nearest right one.
    """
    check_schema(config, read_yaml(root / "workflow" / "schemas" / "study.schema.yaml"), source)
    entries = {kind: read_yaml(root / "config" / f"{kind}.yaml") for kind in KINDS}
    plans = {path.stem: read_yaml(path) for path in sorted((root / "config" / "plans").glob("*.yaml"))}
    study = Study({**DEFAULTS, **config}, entries, plans)
    check_names(study)
    return study


def merge(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """``other`` over ``base``, mappings merged, all else replaced; an empty mapping changes nothing (Snakemake's rules)."""
    merged = dict(base)
    for key, value in other.items():
        if isinstance(value, Mapping):
            below = merged.get(key, {})
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value) if value else below
        else:
            merged[key] = value
    return merged


def check_schema(config: Any, schema: Mapping[str, Any], source: str) -> None:
    """``InputError`` for the first violation, in one line."""
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(config))
    if not errors:
        return
    # a misspelt key makes two errors, one unknown and one missing: the unknown one tells what to do
    error = min(errors, key=lambda error: (error.validator != "additionalProperties", list(map(str, error.path))))
    where = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = next(key for key in error.instance if key not in known)
        place = f" in {where}" if where else ""
        raise InputError(f"{source}: unknown key {unknown!r}{place}{nearest(unknown, known)}")
    raise InputError(
        f"{source}: {where + ': ' if where else ''}{error.message}: correct it, config/README.md explains every key"
    )
