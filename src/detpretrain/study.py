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

from detpretrain import engine_entries, hub, pretraining_kinds
from detpretrain.errors import InputError, nearest
from detpretrain.files import read_yaml
from detpretrain.study_file import check_schema, merge

KINDS = ("datasets", "methods", "inits", "detectors", "recipes", "backbones")
DEFAULTS: dict[str, Any] = {
    "seeds": [0],
    "evaluation": {},
    "comparison": {},
    "runtime": {},
    "accept_overlap": {},
    "recipes": {},
}
INIT_KEYS = ("method", "corpus", "seed", "checkpoint", "stem", "neck", "patients", "kind")
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
    _check_references(study)
    return study


def _check_references(study: Study) -> None:
    """Every name that the study uses exists at its size: fails before any job, not in the middle of the night."""
    for row in study.rows:
        study.entry("datasets", row.dataset)
        detector = study.entry("detectors", row.detector)
        _check_detector(study, row, detector)
        study.entry("backbones", detector["backbone"])
        study.folds(row.dataset)
    for init in study.inits:
        _check_init(study, init, study.entry("inits", init))
    for init, datasets in study.config["accept_overlap"].items():
        study.entry("inits", init)
        for dataset in datasets:
            study.entry("datasets", dataset)
    for name, recipe in study.config["recipes"].items():
        _check_trained(study, "recipes", name)
        study.entry("recipes", recipe)
    for name in study.config["runtime"].get("steps_per_second", ()):
        _check_trained(study, "runtime.steps_per_second", name)
    if "probe" in study.config:
        study.entry("datasets", study.config["probe"]["dataset"])
    _check_processes(study)
    named = {key: study.config.get(key, ()) for key in ("raw", "allow_partial")}
    named["runtime.shards"] = study.config["runtime"].get("shards", ())
    for key, datasets in named.items():
        for dataset in datasets:
            if dataset not in study.entries["datasets"]:
                hint = nearest(dataset, study.entries["datasets"])
                raise InputError(f"study {study.name}: {key}: no data set {dataset!r}{hint}")


def _check_trained(study: Study, key: str, name: str) -> None:
    trained = [entry for kind in TRAINED for entry in study.entries[kind]]
    if name not in trained:
        raise InputError(f"study {study.name}: {key}: no detector or method {name!r}{nearest(name, trained)}")


def _check_detector(study: Study, row: Row, entry: Mapping[str, Any]) -> None:
    if "engine" not in entry:
        _check_parts(study, "detectors", row.detector, entry)
        return
    if row.detector in study.config["recipes"]:
        raise InputError(
            f"study {study.name}: recipes: {row.detector} is trained by an engine, which has its own: remove it, or change "
            "config and overrides of its entry"
        )
    engine_entries.check_detector(row.detector, entry)
    engine_entries.check_plan_of(row.detector, entry, study.plan_spec(entry["plan"]))
    engine_entries.check_start(row.detector, entry, row.init, study.entry("inits", row.init))


def _check_processes(study: Study) -> None:
    runtime = study.config["runtime"]
    gpus, nodes = runtime.get("gpus", 0), runtime.get("nodes")
    if nodes and (gpus < 2 or gpus % nodes):
        raise InputError(
            f"study {study.name}: runtime: gpus {gpus} over nodes {nodes}: gpus counts those of all nodes: give a multiple of "
            "nodes, 2 or more"
        )


def _check_init(study: Study, init: str, entry: Mapping[str, Any]) -> None:
    unknown = sorted(set(entry) - set(INIT_KEYS))
    if unknown:
        raise InputError(f"config/inits.yaml: {init}: unknown key {unknown[0]!r}{nearest(unknown[0], INIT_KEYS)}")
    if "kind" in entry and entry["kind"] not in pretraining_kinds.KINDS:
        raise InputError(
            f"config/inits.yaml: {init}: kind {entry['kind']!r}: use one of {', '.join(pretraining_kinds.KINDS)}"
        )
    if "method" in entry and "checkpoint" in entry:
        raise InputError(f"config/inits.yaml: {init} has both method and checkpoint: keep one of them")
    if "stem" in entry and len(entry.keys() & {"method", "checkpoint"}) != 1:
        raise InputError(f"config/inits.yaml: {init}: stem without a checkpoint or method: remove it")
    if not isinstance(entry.get("neck", False), bool):
        raise InputError(f"config/inits.yaml: {init}: neck {entry['neck']!r}: write true or false")
    if entry.get("neck") and "checkpoint" not in entry:
        raise InputError(f"config/inits.yaml: {init}: neck without a checkpoint: pre-training here has none, remove it")
    files = {key: entry[key] for key in ("checkpoint", "patients") if key in entry}
    if hub.is_reference(str(files.get("checkpoint"))):
        hub.parse(files.pop("checkpoint"))
    for key, file in files.items():
        if not Path(file).is_file():
            raise InputError(f"config/inits.yaml: {init}: {key} {file}: file not found: correct the path")
    if "method" in entry:
        _check_parts(study, "methods", entry["method"], study.entry("methods", entry["method"]))
        for corpus in study.corpora(init):
            study.entry("datasets", corpus)


def _check_parts(study: Study, kind: str, name: str, entry: Mapping[str, Any]) -> None:
    for key in ("class", "plan", "recipe"):
        if key not in entry:
            raise InputError(f"config/{kind}.yaml: {name} has no {key}: add it")
    study.entry("recipes", entry["recipe"])
    if "engine" in study.plan_spec(entry["plan"]):
        raise InputError(f"config/{kind}.yaml: {name}: plan {entry['plan']} is an engine's: name another one")
