"""Rib fractures in chest CT: RibFrac (Jin et al., 2020), training and validation part of the challenge of MICCAI 2020.

Raw layout: ``imagesTr/RibFracN-image.nii.gz`` and ``labelsTr/RibFracN-label.nii.gz`` (instance maps; the parts of the archive
may stay in subfolders), ``ribfrac-train-info-1.csv``, ``ribfrac-train-info-2.csv`` and ``ribfrac-val-info.csv`` with
``public_id,label_id,label_code``: one line per instance (1 displaced, 2 non-displaced, 3 buckle, 4 segmental, -1 not classified)
and one for the background (0). The images of the challenge's test part have no public labels and are not used.

Known defect: a few instances lie on several ribs (RibFrac114, RibFrac445); they stay one object with one box, as labelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from detpretrain import volumes
from detpretrain.datasets import label_maps
from detpretrain.datasets.nifti_layout import EXCLUDE, pairs, visible
from detpretrain.datasets.raw_dataset import AverageScan, Converted, Layout, Published, RawCase
from detpretrain.datasets.sheets import read_sheet, whole_number
from detpretrain.task_validation import Problem
from detpretrain.tasks import CROSS_VALIDATION

IMAGES, LABELS = "imagesTr", "labelsTr"
IMAGE_ENDING, LABEL_ENDING = "-image.nii.gz", "-label.nii.gz"
SHEETS = ("ribfrac-train-info-1.csv", "ribfrac-train-info-2.csv", "ribfrac-val-info.csv")
COLUMNS = ("public_id", "label_id", "label_code")
BACKGROUND, CODES = 0, (-1, 0, 1, 2, 3, 4)
REMEDY = "download the sheet again"


@dataclass(frozen=True)
class Files:
    """``fractures``: ids of the label map whose line in the sheet is not background."""

    image: Path
    label: Path
    fractures: tuple[int, ...]


class RibFrac:
    """One class, "fracture", of all kinds: the instances of the label map that a sheet lists with another code than 0.

    Map and sheet have to name the same instances. Where they do not, only those that both name become objects, and the log
    names the others.
    """

    labels = ("fracture",)
    modalities = ("CT",)
    published = Published(
        cases={CROSS_VALIDATION: 420 + 80},
        licence="CC BY-NC 4.0",
        citation="Jin et al., Deep-learning-assisted detection and segmentation of rib fractures from CT scans: Development "
        "and validation of FracNet, EBioMedicine 62, 2020",
        download="https://ribfrac.grand-challenge.org/dataset (Zenodo records 3893508, 3893498 and 3893496)",
        scan=AverageScan((360, 512, 512), (1.25, 0.75, 0.75)),
    )

    def layout(self, raw: Path) -> Layout:
        paired, problems = pairs(raw / IMAGES, raw / LABELS, IMAGE_ENDING, LABEL_ENDING)
        fractures: dict[str, list[int]] = {}
        tables: dict[Path, pd.DataFrame] = {}
        for sheet in (raw / name for name in SHEETS):
            table, sheet_problems = read_sheet(sheet, COLUMNS)
            problems += sheet_problems
            if table is not None:
                tables[sheet] = table
        for sheet, table in tables.items():
            problems += _line_problems(sheet, table, fractures)
        if len(tables) == len(SHEETS):  # else a missing sheet is the problem, not each of its cases
            for pair in paired:
                if pair.name not in fractures:
                    problem = f"{pair.name} has no line in {', '.join(SHEETS)}"
                    problems.append(Problem(pair.case, str(pair.image), problem, EXCLUDE))
        cases = [
            RawCase(pair.case, pair.case, pair.name, Files(pair.image, pair.label, tuple(fractures.get(pair.name, ()))))
            for pair in paired
        ]
        return Layout(cases, problems, missing=_missing(raw, fractures))

    def convert(self, case: RawCase) -> Converted:
        files: Files = case.files
        labels = label_maps.read_labels(files.label)
        present, listed = set(label_maps.windows(labels)), set(files.fractures)
        ids = {value: new for new, value in enumerate(sorted(present & listed), start=1)}
        notes = []
        if absent := sorted(listed - present):
            notes.append(
                f"instances {', '.join(map(str, absent))} of the sheet have no voxels in {files.label.name}: dropped"
            )
        if unlisted := sorted(present - listed):
            notes.append(
                f"ids {', '.join(map(str, unlisted))} of {files.label.name} are no fractures of the sheet: dropped"
            )
        return Converted(
            images=[files.image],
            geometry=volumes.read_geometry(files.image),
            instances=label_maps.renumbered(labels, ids),
            classes=dict.fromkeys(ids.values(), 0),
            notes=notes,
        )


def _line_problems(sheet: Path, table: pd.DataFrame, fractures: dict[str, list[int]]) -> list[Problem]:
    """Adds the fracture ids of a sheet to ``fractures`` (case -> ids, empty for a case without); problems by line."""
    problems = []
    earlier = set(fractures)
    seen: set[tuple[str, int]] = set()
    for line, row in table.iterrows():
        case, where = row["public_id"], f"line {line}"
        instance, code = whole_number(row["label_id"]), whole_number(row["label_code"])
        wrong = _wrong_line(row, instance, code)
        if wrong is None and case in earlier:
            wrong = f"{case} is in an earlier sheet too"
        elif wrong is None and (case, instance) in seen:
            wrong = f"{case} has label_id {instance} twice"
        if wrong is not None:
            problems.append(Problem("", str(sheet), f"{where}: {wrong}", REMEDY))
            continue
        seen.add((case, instance))
        listed = fractures.setdefault(case, [])
        if code != BACKGROUND:
            listed.append(instance)
    return problems


def _wrong_line(row: Mapping[str, str], instance: int | None, code: int | None) -> str | None:
    """What is wrong with one line by itself."""
    if not row["public_id"]:
        return "no public_id"
    if instance is None or instance < 0:
        return f"label_id {row['label_id']!r} is no id of a label map"
    if code not in CODES:
        return f"label_code {row['label_code']!r} is none of {', '.join(map(str, CODES))}"
    if instance == 0 and code != BACKGROUND:
        return f"label_id 0 is background, but has label_code {code}"
    return None


def _missing(raw: Path, listed: Iterable[str]) -> list[str]:
    """Listed cases of which the download has neither image nor label map; a half of a pair is a problem of its own."""
    names = {path.name.rpartition("-")[0] for folder in (IMAGES, LABELS) for path in visible(raw / folder, "**/*")}
    return [f"{IMAGES}/{name}{IMAGE_ENDING}" for name in sorted(set(listed) - names)]
