"""CT-RATE: 25,692 chest CT scans of 21,304 patients in 50,188 reconstructions (Hamamci et al., arXiv 2403.17834).

Raw layout, as on the Hugging Face Hub (``ibrahimhamamci/CT-RATE``): ``dataset/PART/train_1/train_1_a/train_1_a_1.nii.gz`` =
patient train_1, scan a, reconstruction 1. ``dataset/metadata`` holds ``{train,validation}_metadata.csv`` with a line per
reconstruction, and ``no_chest_{train,valid}.txt`` with those that show no chest (heads, by wrong study types; discussion 75).

The first release (``train``, ``valid``) has NIfTI headers without spacing, and values that are not rescaled to HU: both are in
the sheet only (discussion 58 on the Hub; the authors' CT-CLIP preprocessing takes them from there). ``train_fixed`` and
``valid_fixed`` are right as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from detpretrain import volumes
from detpretrain.datasets.corpus import Choice, CorpusImage, case_id, corpus_layout
from detpretrain.datasets.raw_dataset import AverageScan, Converted, Layout, Published, RawCase
from detpretrain.datasets.sheets import read_sheet
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem

# by part: number of scans ("first") and of reconstructions ("all")
PUBLISHED = {"train": {"first": 24_128, "all": 47_149}, "valid": {"first": 1_564, "all": 3_039}}
SHEETS = {"train": "train_metadata.csv", "valid": "validation_metadata.csv"}
PARTS = ("train", "train_fixed", "valid", "valid_fixed")
NAME = re.compile(r"(?P<scan>(?P<patient>(?:train|valid)_\d+)_[a-z]+)_(?P<reconstruction>\d+)\.nii\.gz")
COLUMNS = ("VolumeName", "RescaleIntercept", "RescaleSlope", "XYSpacing", "ZSpacing")


@dataclass(frozen=True)
class Repair:
    """What the sheet says of a volume: spacing in mm (z, y, x), HU = slope * value + intercept."""

    spacing: tuple[float, float, float]
    slope: float
    intercept: float

    @classmethod
    def of_line(cls, line: Mapping[str, str]) -> Repair:
        """``ValueError`` where a number is missing or impossible."""
        between, *more = (float(number) for number in line["XYSpacing"].strip("[] ").split(","))
        spacing = (float(line["ZSpacing"]), between, more[0] if more else between)
        found = cls(spacing, float(line["RescaleSlope"]), float(line["RescaleIntercept"]))
        if not (np.isfinite([*spacing, found.slope, found.intercept]).all() and min(spacing) > 0 and found.slope):
            raise ValueError("not a spacing or a rescale")
        return found


class CTRate:
    """Chest CT without labels; ``raw`` is the folder that holds ``dataset``.

    Args:
        parts: of ``train_fixed``, ``valid_fixed``, ``train``, ``valid``.
        reconstructions: ``first`` = the lowest-numbered one of every scan, ``all``.
        metadata: sheet or sheets (relative to raw) with spacing and rescale of ``train`` and ``valid``, which are then converted
            instead of linked.
        chest_only: leave out what the no_chest lists name.
        max_cases: a random subset of patients with at most this many images, drawn with ``seed``.
        check_voxels: read every volume once more; default only the headers.

    Raises:
        InputError: a choice that does not exist or does not fit the others.
    """

    labels = ()
    modalities = ("CT",)

    def __init__(
        self,
        *,
        parts: Sequence[str] = ("train_fixed",),
        reconstructions: str = "first",
        metadata: str | Sequence[str] | None = None,
        chest_only: bool = True,
        max_cases: int | None = None,
        seed: int = 0,
        check_voxels: bool = False,
    ) -> None:
        self.parts = [parts] if isinstance(parts, str) else list(parts)
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise InputError(f"parts: {unknown[0] if unknown else 'empty'}: choose of {', '.join(PARTS)}")
        groups = [_group(part) for part in self.parts]
        if len(set(groups)) < len(groups):
            raise InputError("parts: a part and its fixed form hold the same scans: choose one of them")
        if reconstructions not in ("first", "all"):
            raise InputError(f"reconstructions: {reconstructions!r} is neither first nor all")
        fixed = [part for part in self.parts if part.endswith("_fixed")]
        if metadata and fixed:
            raise InputError(f"metadata: {fixed[0]} is in HU with its spacing already: remove metadata: or the part")
        if not metadata and len(fixed) < len(self.parts):
            raise InputError(
                "metadata: the first release lacks spacing and rescale: name dataset/metadata/train_metadata.csv "
                "(validation_metadata.csv for valid), or use train_fixed"
            )
        self.metadata = [metadata] if isinstance(metadata, str) else list(metadata or ())
        self.reconstructions, self.chest_only, self.check_voxels = reconstructions, chest_only, check_voxels
        self.choice = Choice(max_cases, seed)
        self.published = Published(
            {"cv": sum(PUBLISHED[group][reconstructions] for group in groups)},
            "CC BY-NC-SA 4.0",
            "Hamamci et al., Developing Generalist Foundation Models from a Multimodal Dataset for 3D Computed Tomography, "
            "arXiv 2403.17834, 2024",
            "https://huggingface.co/datasets/ibrahimhamamci/CT-RATE",
            scan=AverageScan((300, 512, 512), (1.5, 0.75, 0.75)),
        )

    def layout(self, raw: Path) -> Layout:
        images, problems, missing, count = [], [], [], 0
        repairs, wrong = self._repairs(raw)
        problems += wrong
        for part in self.parts:
            volumes_of_part, wrong = _volumes(raw, part)
            problems += wrong
            missing += self._missing(raw, part, volumes_of_part)
            scans = {match["scan"] for match in volumes_of_part.values()}
            count += len(scans) if self.reconstructions == "first" else len(volumes_of_part)
            excluded, wrong = _no_chest(raw, part) if self.chest_only else (set(), [])
            problems += wrong
            images += self._chosen({p: m for p, m in volumes_of_part.items() if p.name not in excluded})
        layout = corpus_layout(images, self.choice, problems, found=count, missing=missing)
        return _with_repairs(layout, repairs, self.metadata) if self.metadata else layout

    def convert(self, case: RawCase) -> Converted:
        if not self.metadata:
            return Converted([case.files], check_voxels=self.check_voxels)
        path, repair = case.files
        if "fixed" in _description(path):
            raise InputError(
                f"{path}: its header says that it is fixed already: use it as a fixed part, without metadata:"
            )
        array, geometry = volumes.read(path)
        hounsfield = array.astype(np.float32) * np.float32(repair.slope) + np.float32(repair.intercept)
        whole = np.rint(hounsfield)
        if np.abs(whole).max() < np.iinfo(np.int16).max:
            hounsfield = whole.astype(np.int16)
        # The sheet's position and orientation are not used: a corpus has nothing that is placed in the world.
        return Converted([hounsfield], replace(geometry, spacing=repair.spacing), check_voxels=self.check_voxels)

    def _chosen(self, found: Mapping[Path, re.Match[str]]) -> list[CorpusImage]:
        """In a fixed order: every reconstruction, or the first of every scan."""
        order = sorted(found.items(), key=lambda item: (item[1]["scan"], int(item[1]["reconstruction"])))
        images, seen = [], set()
        for path, match in order:
            if self.reconstructions == "first" and match["scan"] in seen:
                continue
            seen.add(match["scan"])
            images.append(CorpusImage(path, path.name, match["patient"], match["scan"], "CT"))
        return images

    def _missing(self, raw: Path, part: str, found: Mapping[Path, re.Match[str]]) -> list[str]:
        """What the part's sheet lists, where it is there, and the download lacks."""
        table, _ = read_sheet(raw / "dataset" / "metadata" / SHEETS[_group(part)], COLUMNS[:1])
        listed = [] if table is None else [m for m in map(NAME.fullmatch, table["VolumeName"]) if m]
        if self.reconstructions == "all":
            return sorted({match[0] for match in listed} - {path.name for path in found})
        return sorted({match["scan"] for match in listed} - {match["scan"] for match in found.values()})

    def _repairs(self, raw: Path) -> tuple[dict[str, Repair | str], list[Problem]]:
        """By volume name: its repair, or where its line is wrong."""
        repairs: dict[str, Repair | str] = {}
        problems = []
        for name in self.metadata:
            table, wrong = read_sheet(raw / name, COLUMNS)
            problems += wrong
            for number, line in enumerate([] if table is None else table.to_dict("records"), start=2):
                try:
                    repairs[line["VolumeName"]] = Repair.of_line(line)
                except ValueError:
                    repairs[line["VolumeName"]] = f"line {number}: no spacing above 0 or no rescale"
        return repairs, problems


def _with_repairs(layout: Layout, repairs: Mapping[str, Repair | str], sheets: Sequence[str]) -> Layout:
    cases, problems = [], list(layout.problems)
    for case in layout.cases:
        repair = repairs.get(case.source_id, "no line")
        if isinstance(repair, str):
            remedy = "complete the sheet, or exclude the case"
            problems.append(Problem(case.case, ", ".join(sheets), f"{case.source_id}: {repair}", remedy))
        cases.append(replace(case, files=(case.files, repair)))
    return replace(layout, cases=cases, problems=problems)


def _volumes(raw: Path, part: str) -> tuple[dict[Path, re.Match[str]], list[Problem]]:
    """The volumes of a part by path; files of other names or in the wrong folder are problems."""
    folder = raw / "dataset" / part
    found, problems = {}, []
    for path in sorted(folder.glob("*/*/*.nii.gz")):
        match = NAME.fullmatch(path.name)
        if match and (path.parent.name, path.parent.parent.name) == (match["scan"], match["patient"]):
            found[path] = match
        else:
            remedy = "remove the file, or restore the layout of the download"
            problems.append(Problem(case_id(path.name), str(path), "not PATIENT/SCAN/SCAN_NUMBER.nii.gz", remedy))
    if not found:
        remedy = "download the part, or point raw: at the folder that holds dataset"
        problems.append(Problem("", str(folder), "no volume train_1/train_1_a/train_1_a_1.nii.gz in it", remedy))
    return found, problems


def _no_chest(raw: Path, part: str) -> tuple[set[str], list[Problem]]:
    path = raw / "dataset" / "metadata" / f"no_chest_{_group(part)}.txt"
    if not path.is_file():
        return set(), [Problem("", str(path), "file not found", "download it, or set chest_only: false")]
    names = (line.strip().rpartition("/")[2].removesuffix(".nii.gz") for line in path.read_text().splitlines())
    return {f"{name}.nii.gz" for name in names if name}, []


def _group(part: str) -> str:
    return part.removesuffix("_fixed")


def _description(path: Path) -> str:
    """The NIfTI header's free text; the repair script that users share writes "fixed" there."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return ""  # volumes.read says what is wrong
    return reader.GetMetaData("descrip") if reader.HasMetaDataKey("descrip") else ""
