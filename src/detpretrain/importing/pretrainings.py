"""The pre-trainings behind imported cells: their folders, and what was found about patients they have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detpretrain import leaves
from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.importing.cell_checks import FACTS, check_archive, check_log, check_recipes
from detpretrain.study import Study
from detpretrain.tasks import read_table

PROBE = "probe.json"


def check(study: Study, init: str, backbone: str, folder: Path) -> tuple[dict[str, Any], list[list[str]]]:
    """Looks at all files of a pre-training in ``folder``.

    Returns:
        ``FACTS`` of its stage, and the names of the files to take, by stage: with the probe, where the study has that one.

    Raises:
        InputError: the first thing that does not fit.
    """
    path = folder / "assessment.json"
    found = read_json(path)
    recorded = _provenance(path, found)
    if (found.get("init"), found.get("backbone")) != (init, backbone):
        raise InputError(f"{path}: is of {found.get('init')} and {found.get('backbone')}, not of {init} and {backbone}")
    expected = leaves.recipe("pretrain", leaves.pretrain(study, init, backbone))
    check_recipes(path, {"pretrain": recorded}, {"pretrain": expected})
    for name in ("checkpoint.pth", "preview.npz"):
        check_archive(folder / name)
    check_log(folder / "log.csv")
    names = [["checkpoint.pth", "log.csv", "assessment.json", "preview.npz"]]
    if _has_probe(study, backbone, folder / PROBE, recorded):
        names.append([PROBE])
    return {"pretrain": {key: recorded.get(key) for key in FACTS}}, names


def same_training(assessment: Path, pretrain: Mapping[str, Any]) -> bool:
    """Whether a cell that recorded ``pretrain`` started from the checkpoint that ``assessment`` (a file) lies beside."""
    own = {key: value for key, value in pretrain.items() if key != "citations"}
    return _provenance(assessment, read_json(assessment)) == own


def inputs(study: Study, init: str) -> list[Path]:
    """What the pre-training is made from, whether or not it is there."""
    plan = study.entry("methods", study.entry("inits", init)["method"])["plan"]
    folders = [study.data / corpus for corpus in study.corpora(init)]
    files = ("task/dataset.json", "task/splits.json", f"{plan}/preprocessed/index.json")
    return [folder / file for folder in folders for file in files]


def unprepared(study: Study, init: str) -> list[str]:
    """The corpora of an initialisation that are not prepared here: Snakemake cannot look for leaks without preparing them."""
    return [corpus for corpus in study.corpora(init) if not (study.data / corpus / "task" / "cases.csv").exists()]


def probe_benchmark(study: Study, init: str, backbone: str) -> Path:
    return study.folder / "benchmarks" / "probe" / f"{init}-{backbone}.tsv"


def leakage_file(folder: Path, init: str, dataset: str) -> Path:
    return folder / "leakage" / init / f"{dataset}.json"


def check_leakage(study: Study, init: str, dataset: str, path: Path) -> None:
    """Looks at a finding about scored patients.

    Raises:
        InputError: it is of something else, or accepts another overlap than this study does.
    """
    found = read_json(path)
    patients = set(read_table(study.data / dataset / "task" / "cases.csv")["patient"])
    try:
        names, accepted, seen = (found["init"], found["dataset"]), found["accepted"], set(found["patients"])
    except (KeyError, TypeError):
        raise InputError(f"{path}: not a finding of the leakage guard") from None
    if names != (init, dataset):
        raise InputError(f"{path}: is of {names[0]} and {names[1]}, not of {init} and {dataset}")
    if accepted != study.accepts_overlap(init, dataset):
        raise InputError(f"{path}: accept_overlap of {init} and {dataset} differs from this study's")
    if not seen <= patients:
        raise InputError(f"{path}: names patient {min(seen - patients)}, whom {dataset} does not have here")


def _provenance(path: Path, content: Any) -> dict[str, Any]:
    try:
        return dict(content["provenance"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not the assessment of a pre-training, with its provenance") from None


def _has_probe(study: Study, backbone: str, path: Path, recorded: Mapping[str, Any]) -> bool:
    """Whether it is this study's probe of this very checkpoint; another one is made again here."""
    if "probe" not in study.config or not path.exists():
        return False
    found: Sequence[Any] | Mapping[str, Any] = read_json(path)
    provenance = found.get("provenance", {}) if isinstance(found, Mapping) else {}
    expected = leaves.recipe("probe", leaves.probe(study, backbone))
    return provenance.get("recipe") == expected and provenance.get("pretrain") == recorded
