"""Whether what a study file names exists and fits together: found before any job, not in the middle of the night."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detpretrain import engine_entries, hub, pretraining_kinds
from detpretrain.errors import InputError, nearest

if TYPE_CHECKING:
    from detpretrain.study import Row, Study

INIT_KEYS = ("method", "corpus", "seed", "checkpoint", "stem", "neck", "patients", "kind")


def check_names(study: Study) -> None:
    """Every name that the study uses exists at its size.

    Raises:
        InputError: one line that names the entry, what is wrong and the nearest right name.
    """
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
    trained = [entry for kind in ("detectors", "methods") for entry in study.entries[kind]]
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
