"""Room on the disk: what is there, and what the rest of a study needs, as far as that can be known.

Known are what lies on the disk, what follows from the tables of prepared data sets and from the configuration. Of a download
that is not prepared, a rough average scan of it and the published number of cases tell about how much; where a data set has no
such figures its stages are "unknown", and the sum is a lower bound.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from detpretrain.datasets.raw_dataset import AverageScan
from detpretrain.doctor import sources, weights
from detpretrain.doctor.finding import BLOCKS, WARNING, Finding
from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.loading.staging import expanded
from detpretrain.study import Study
from detpretrain.tasks import CROSS_VALIDATION, Task

GB = 1e9
BYTES = 4  # of a float32, in arrays and in weights
TASK_BYTES = 2  # of a voxel of a canonical image before compression
BOX_BYTES = (
    36  # a line of raw_boxes.parquet before compression: six sides, score and weight in 4 bytes, label and mirror in 2
)
FILES = 3  # of a case: one channel (or all of them, preprocessed), its instances, its json
CELL_FILES = 5 + 3 * 2  # its results, and log and benchmark of three jobs


@dataclass(frozen=True)
class Need:
    """What a stage has (``there``) and still needs, in bytes and files; None = unknown; ``rough``: from an average scan.

    ``place``: the folder that it fills, ``results`` or ``data``.
    """

    name: str
    there: int
    needed: float | None
    files: int | None
    note: str = ""
    rough: bool = False
    place: str = "results"


def usage(folder: Path) -> tuple[int, int]:
    """Bytes and number of files below a folder; a link counts as itself."""
    size = files = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            size += os.lstat(os.path.join(parent, name)).st_size
            files += 1
    return size, files


def voxels(cases: pd.DataFrame, spacing: Sequence[float] | None) -> int:
    """Voxels of all cases of a cases.csv after resampling to ``spacing`` (z, y, x in mm; None = as they are), uncropped."""
    total = 0
    for case in cases.to_dict("records"):
        shape = [case[f"shape_{axis}"] for axis in "zyx"]
        if spacing is not None:
            old = [case[f"spacing_{axis}"] for axis in "zyx"]
            shape = [max(1, round(n * a / b)) for n, a, b in zip(shape, old, spacing, strict=True)]
        total += math.prod(shape)
    return total


def compression(data: Path) -> float | None:
    """Bytes on disk per byte of float32, over everything that is preprocessed already; None without any."""
    stored = raw = 0
    for path in data.glob("*/*/preprocessed/index.json"):
        index = read_json(path)
        if "engine" in index["plan"]:  # its arrays are its own
            continue
        raw += sum(math.prod(case["shape"]) for case in index["cases"]) * index["plan"]["channels"] * BYTES
        stored += sum(file.stat().st_size for file in path.parent.glob("*.b2nd"))
    return stored / raw if raw else None


def needs(study: Study) -> list[Need]:
    ratio = compression(study.data)
    data = []
    for dataset in sources.datasets_of(study):
        cases = _cases(study, dataset)
        data.append(_task(study, dataset, cases))
        data += [_preprocessed(study, dataset, plan, cases, ratio) for plan in plans_of(study, dataset)]
    found = [replace(need, place="data") for need in data]
    return [*found, *_pretrainings(study), *_models(study), _raw_boxes(study)]


def plans_of(study: Study, dataset: str) -> list[str]:
    """Plans that a data set is preprocessed by."""
    found = {study.entry("detectors", row.detector)["plan"] for row in study.rows if row.dataset == dataset}
    for init, _ in study.pretrainings:
        probed = "probe" in study.config and study.config["probe"]["dataset"] == dataset
        if probed or dataset in study.corpora(init):
            found.add(study.entry("methods", study.entry("inits", init)["method"])["plan"])
    return sorted(found)


def _cases(study: Study, dataset: str) -> pd.DataFrame | None:
    """cases.csv of a prepared data set."""
    if not sources.is_prepared(study, dataset):
        return None
    return Task.read(sources.task_folder(study, dataset)).case_table()


def _task(study: Study, dataset: str, cases: pd.DataFrame | None) -> Need:
    name = f"{dataset}: task"
    if cases is not None:
        return Need(name, usage(sources.task_folder(study, dataset))[0], 0, 0)
    count, average = _published_cases(study, dataset), _average_scan(study, dataset)
    raw = sources.download(study, dataset)
    notes = [
        f"{count} cases published" if count else "not prepared",
        *([] if raw is None else [f"download {usage(raw)[0] / GB:.1f} GB"]),
    ]
    needed = None
    if sources.is_corpus(study, dataset):
        notes, needed = [*notes, "images are linked"], 0.0
    elif average is not None:
        notes += [_say(average), "less where images can be linked"]
        needed = count * voxels(_table(average), None) * average.channels * TASK_BYTES
    return Need(name, 0, needed, FILES * count if count else None, ", ".join(notes), rough=average is not None)


def _preprocessed(study: Study, dataset: str, plan: str, cases: pd.DataFrame | None, ratio: float | None) -> Need:
    name = f"{dataset}: {plan}"
    folder = study.data / dataset / plan
    if (folder / "preprocessed" / "index.json").is_file():
        return Need(name, usage(folder)[0], 0, 0)
    if "engine" in study.plan_spec(plan):
        return Need(name, usage(folder)[0], None, None, "what its engine makes is not known before")
    spacing = _spacing(study, plan, folder / "plan.json")
    note = "compression unknown: taken as none" if ratio is None else f"compressed to {ratio:.0%} as what is there"
    if spacing is None:
        note += ", spacing not planned yet: taken as original"
    if cases is not None:
        count, size = (
            len(cases),
            voxels(cases, spacing) * len(Task.read(sources.task_folder(study, dataset)).modalities),
        )
    else:
        count, average = _published_cases(study, dataset), _average_scan(study, dataset)
        if average is None:
            return Need(name, 0, None, FILES * count if count else None, "not prepared")
        size, note = count * voxels(_table(average), spacing) * average.channels, f"{_say(average)}, {note}"
    return Need(
        name, usage(folder)[0], size * BYTES * (1 if ratio is None else ratio), FILES * count, note, cases is None
    )


def _average_scan(study: Study, dataset: str) -> AverageScan | None:
    """None where nobody says, of the scan or of their number."""
    public = sources.published(study, dataset)
    return public.scan if public and sum(public.cases.values()) else None


def _table(scan: AverageScan) -> pd.DataFrame:
    """The scan as a line of a cases.csv."""
    columns = [f"{kind}_{axis}" for kind in ("shape", "spacing") for axis in "zyx"]
    return pd.DataFrame([[*scan.shape, *scan.spacing]], columns=columns)


def _say(scan: AverageScan) -> str:
    return f"about {' x '.join(map(str, scan.shape))} voxels each"


def _published_cases(study: Study, dataset: str) -> int | None:
    """None where nobody says how many."""
    public = sources.published(study, dataset)
    return sum(public.cases.values()) or None if public else None


def _spacing(study: Study, plan: str, path: Path) -> list[float] | None:
    """Target spacing (z, y, x): the plan's, or the spec's where it names one."""
    if path.is_file():
        made = read_json(path)
        return [made["spacing"][made["transpose"].index(axis)] for axis in range(3)]
    given = study.plan_spec(plan)["spacing"]
    if isinstance(given, str):
        return None
    return [float(value) for value in given] if isinstance(given, list) else [float(given)] * 3


def _models(study: Study) -> list[Need]:
    found = []
    for detector in sorted({cell.detector for cell in study.cells}):
        paths = [study.folder / "cells" / cell.path for cell in study.cells if cell.detector == detector]
        done = [path / "model.pth" for path in paths if (path / "model.pth").is_file()]
        there, left = sum(path.stat().st_size for path in done), len(paths) - len(done)
        engine = study.engine(detector)
        count = None if engine else weights.detector(study, detector, channels=1, classes=1)
        name = f"{left} models of {detector}"
        if count is None and done:
            count = there / len(done) / BYTES
        if count is None:
            found.append(Need(name, there, None if left else 0, left * CELL_FILES, "planned per data set"))
            continue
        note = "as large as those that are there"
        if not engine:
            state = count * BYTES * weights.copies(study, detector) / GB
            note = f"{count / 1e6:.1f} million weights; {state:.2f} GB more while one is trained"
        found.append(Need(name, there, left * count * BYTES, left * CELL_FILES, note))
    return found


def _pretrainings(study: Study) -> list[Need]:
    paths = [study.folder / "pretrained" / init / backbone / "checkpoint.pth" for init, backbone in study.pretrainings]
    done = [path for path in paths if path.is_file()]
    if not paths:
        return []
    there, left = sum(path.stat().st_size for path in done), len(paths) - len(done)
    return [Need(f"{left} pre-trainings", there, None if left else 0, left * 7, "their decoders differ by method")]


def _raw_boxes(study: Study) -> Need:
    """Boxes before merging; an upper bound."""
    there, needed, unknown = 0, 0.0, False
    scored = {dataset: scored_cases(study, dataset) for dataset in {cell.dataset for cell in study.cells}}
    for cell in study.cells:
        path = study.folder / "cells" / cell.path / "raw_boxes.parquet"
        if path.is_file():
            there += path.stat().st_size
            continue
        cases = scored[cell.dataset]
        if cases is None:
            unknown = True
            continue
        settings = study.entry("detectors", cell.detector).get("inference", {})
        mirrors = 1 if study.engine(cell.detector) else 2 ** len(settings.get("mirror_axes", (0, 1, 2)))
        needed += cases * mirrors * settings.get("keep", 1000) * BOX_BYTES
    note = "at most" + (", without data sets of unknown size" if unknown else "")
    return Need("raw boxes", there, needed, 0, note)


def scored_cases(study: Study, dataset: str) -> float | None:
    """Cases that one cell predicts: its part of the folds, and the test sets."""
    table = _cases(study, dataset)
    if table is not None:
        counts = table["test_set"].value_counts().to_dict()
    elif _published_cases(study, dataset):
        counts = dict(sources.published(study, dataset).cases)
    else:
        return None
    folded = counts.pop(CROSS_VALIDATION, 0)
    return folded / study.entry("datasets", dataset).get("splits", {}).get("folds", 5) + sum(counts.values())


def findings(study: Study, found: Iterable[Need]) -> list[Finding]:
    """Free room and inodes of the results and of the data against what is needed, and the room for states and copies."""
    found = list(found)
    lines = [line for name, folder, part in _file_systems(study, found) for line in _room(name, folder, part)]
    unknown = [need.name for need in found if need.needed is None]
    if unknown:
        lines.append(
            Finding("not known yet", f"{len(unknown)} stages, see the table", WARNING, "prepare the data sets")
        )
    return [*lines, *_scratch(study)]


def _file_systems(study: Study, found: Sequence[Need]) -> list[tuple[str, Path, Sequence[Need]]]:
    """Name, folder and needs of each: results and data share the room where they lie on the same one."""
    if os.stat(_existing(study.results)).st_dev == os.stat(_existing(study.data)).st_dev:
        return [("results", study.results, found)]
    folders = {"results": study.results, "data": study.data}
    return [(name, folder, [need for need in found if need.place == name]) for name, folder in folders.items()]


def _room(name: str, folder: Path, found: Sequence[Need]) -> list[Finding]:
    place = _existing(folder)
    free, files_free = shutil.disk_usage(place).free, os.statvfs(place).f_favail
    needed = sum(need.needed or 0 for need in found)
    sure = sum(need.needed or 0 for need in found if not need.rough)
    files = sum(need.files or 0 for need in found)
    bound = "at least " if any(need.needed is None for need in found) else ""
    about = "about " if sure < needed else ""
    text = f"{folder}: {free / GB:.0f} GB free, {bound}{about}{needed / GB:.1f} GB needed"
    remedy = f"make room, or set pathvars: {{{name}: FOLDER}}"
    # nothing stops here by a rough figure
    lines = [_against(name, text, needed > free, remedy, state=BLOCKS if sure > free else WARNING)]
    if os.statvfs(place).f_files:  # 0 where the file system has no limit
        text = f"{files_free:,} free, {bound}{files:,} needed"
        what = "files (inodes)" if name == "results" else f"files of {name} (inodes)"
        lines.append(_against(what, text, files > files_free, "use another file system, or ask for more"))
    return lines


def _scratch(study: Study) -> list[Finding]:
    """Room for the states of trainings, and on this machine for copies of what they read."""
    apart = "scratch" in study.config.get("pathvars", {})
    lines = [_free("scratch", _existing(study.work) if apart else Path(tempfile.gettempdir()))]
    stage = study.config["runtime"].get("stage")
    if stage is None:
        return lines
    try:
        place = expanded(stage)
    except InputError:
        return [*lines, Finding("staging", f"{stage}: not set on this machine; every job fills it in on its own")]
    if not place.is_dir():
        return [
            *lines,
            Finding("staging", f"{place}: no such folder on this machine", WARNING, "see that nodes have it"),
        ]
    return [*lines, _free("staging", place)]


def _free(name: str, folder: Path) -> Finding:
    return Finding(name, f"{folder}: {shutil.disk_usage(folder).free / GB:.0f} GB free")


def table(found: Iterable[Need]) -> list[tuple[str, ...]]:
    """Lines for people: stage, GB there, GB needed, files needed, note."""
    return [
        (
            need.name,
            f"{need.there / GB:.2f}",
            "unknown" if need.needed is None else f"{need.needed / GB:.2f}",
            "unknown" if need.files is None else f"{need.files:,}",
            need.note,
        )
        for need in found
    ]


def _against(name: str, text: str, short: bool, remedy: str, state: str = BLOCKS) -> Finding:
    return Finding(name, text, state, remedy) if short else Finding(name, text)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
