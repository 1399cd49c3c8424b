"""Lung nodules in CT: PN9, scans already resampled to 1 mm and rescaled to 0 .. 255.

Raw layout: ``train/ID_zoom.npy`` (training and validation scans) and ``test/ID_zoom.npy``, arrays [1, D, H, W] with axes z, y, x;
``train_anno.csv`` and ``test_anno.csv`` (pid, nodule_class, xmin, xmax, ymin, ymax, zmin, zmax, ...: the first and the last voxel
of a nodule, counted from 1); ``train.txt``, ``val.txt``, ``test.txt`` with an ID a line. A pid is an ID without leading zeros. In
the publisher's loader (SANet, bbox_reader.py) a line whose numbers are all 0 is no nodule.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detpretrain.datasets import shapes
from detpretrain.datasets.raw_dataset import AverageScan, Converted, Layout, Published, RawCase
from detpretrain.datasets.sheets import read_sheet
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.task_validation import Problem
from detpretrain.tasks import CROSS_VALIDATION

SUFFIX = "_zoom.npy"
FIRST, LAST = ("zmin", "ymin", "xmin"), ("zmax", "ymax", "xmax")
COLUMNS = ("pid", *FIRST, *LAST)
GREATEST = 255
# folder, its lists, its sheet
PARTS = (("train", ("train", "val"), "train_anno.csv"), ("test", ("test",), "test_anno.csv"))
AGAIN = "download it again, or name the case under exclude_cases"


@dataclass(frozen=True)
class Scan:
    """``voxels``: first and last voxel (z, y, x, z, y, x) of each nodule, counted from 1, as in the sheet."""

    image: Path
    voxels: tuple[tuple[int, ...], ...]


class PN9:
    """One class, "nodule" (the nine kinds of the sheet pooled): the sheet's boxes, with an ellipsoid in each as its mask.

    One fold, the official one: ``train.txt`` trains, ``val.txt`` validates; ``test.txt`` is the test set "test". The scans are no
    Hounsfield units any more, so that the modality is not called CT and every scan is z-scored.
    """

    labels = ("nodule",)
    modalities = ("CT_rescaled",)
    published = Published(
        cases={CROSS_VALIDATION: 6037 + 670, "test": 2091},
        licence="for non-commercial research purposes only",
        citation=(
            "Mei J, Cheng MM, Xu G, Wan LR, Zhang H. SANet: a slice-aware network for pulmonary nodule detection. IEEE "
            "Transactions on Pattern Analysis and Machine Intelligence 44(8), 2022"
        ),
        download="https://github.com/mj129/SANet",
        scan=AverageScan((340, 340, 340), (1.0, 1.0, 1.0)),
    )

    def layout(self, raw: Path) -> Layout:
        cases: list[RawCase] = []
        problems: list[Problem] = []
        missing: list[str] = []
        members: dict[str, list[str]] = {}
        for folder, lists, sheet in PARTS:
            files, found = _files(raw / folder)
            problems += found
            for name in lists:
                members[name], found = _ids(raw / f"{name}.txt")
                problems += found
            listed = [scan for name in lists for scan in members[name]]
            problems += _list_problems(raw, lists, listed, files)
            nodules, found = _nodules(raw / sheet, {int(scan): scan for scan in [*files, *listed]}, lists)
            problems += found
            for scan, path in files.items():
                problems += _scan_problems(scan, path, raw / sheet, nodules[scan])
                test_set = "test" if folder == "test" else CROSS_VALIDATION
                cases.append(RawCase(scan, scan, scan, Scan(path, tuple(nodules[scan])), test_set=test_set))
            missing += [f"{folder}/{scan}{SUFFIX}" for scan in listed if scan not in files]
        problems += _twice(raw, cases)
        there = {case.case for case in cases}
        fold = {part: [scan for scan in members[part] if scan in there] for part in ("train", "val")}
        return Layout(cases, problems, [fold], missing=missing)

    def convert(self, case: RawCase) -> Converted:
        scan: Scan = case.files
        image = _read(scan.image)[0]
        low, high = image.min(), image.max()
        if not (low >= 0 and high <= GREATEST):  # NaN is neither
            raise InputError(f"{scan.image}: values {low:g} .. {high:g}, not 0 .. {GREATEST}: {AGAIN}")
        kept = list(dict.fromkeys(scan.voxels))
        boxes = np.array([_box(line) for line in kept]).reshape(-1, 6)
        notes = [f"{len(scan.voxels) - len(kept)} lines come twice"] if len(kept) < len(scan.voxels) else []
        beyond = ((boxes[:, :3] < -1) | (boxes[:, 3:] > image.shape)).any(axis=1)
        notes += [f"nodule {number + 1} reaches beyond the scan" for number in np.flatnonzero(beyond)]
        ids = range(1, len(kept) + 1)
        return Converted(
            [image],
            Geometry(tuple(image.shape), (1.0, 1.0, 1.0)),
            shapes.ellipsoid(image.shape, boxes),
            dict.fromkeys(ids, 0),
            boxes={number: boxes[number - 1].tolist() for number in ids},
            notes=notes,
        )


def _box(voxels: Sequence[int]) -> list[float]:
    """First and last voxel, counted from 1 -> the box from one voxel before the first to one after the last, from 0."""
    return [float(first - 2) for first in voxels[:3]] + [float(last) for last in voxels[3:]]


def _read(path: Path) -> NDArray:
    """The array [1, D, H, W] of a file, mapped and not yet read; ``InputError`` when it is something else."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: truncated or damaged ({' '.join(str(error).split())}): {AGAIN}") from None
    if array.ndim != 4 or array.shape[0] != 1 or not array.size or array.dtype.kind not in "uif":
        raise InputError(f"{path}: {array.dtype} {array.shape}, not numbers [1, D, H, W]: {AGAIN}")
    return array


def _files(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """The scans of a folder by id."""
    if not folder.is_dir():
        return {}, [Problem("", str(folder), "folder not found", "unpack the .npy archive of the download there")]
    files, problems = {}, []
    for path in sorted(folder.glob("*.npy")):
        scan = path.name.removesuffix(SUFFIX)
        if scan.isascii() and scan.isdigit():
            files[scan] = path
        elif not path.name.startswith("."):
            problems.append(Problem("", str(path), f"not named ID{SUFFIX} with a number", "remove or rename it"))
    if not files:
        problems.append(
            Problem("", str(folder), f"no ID{SUFFIX} in it", "unpack the .npy archive of the download there")
        )
    return files, problems


def _ids(path: Path) -> tuple[list[str], list[Problem]]:
    """The scans that a list names, in its order."""
    if not path.is_file():
        return [], [Problem("", str(path), "file not found", "take the list from the publisher's repository")]
    ids = path.read_text(encoding="utf-8", errors="replace").split()
    wrong = [scan for scan in ids if not (scan.isascii() and scan.isdigit())]
    if wrong or not ids:
        problem = f"{wrong[0]!r} is no scan's number" if wrong else "empty"
        return [], [Problem("", str(path), problem, "write one number a line, as in the file names")]
    return ids, []


def _list_problems(raw: Path, lists: Sequence[str], listed: Sequence[str], files: Mapping[str, Path]) -> list[Problem]:
    """Scans that a list names twice, or two lists, or none."""
    names = " or ".join(f"{name}.txt" for name in lists)
    problems = []
    for scan in sorted(scan for scan, times in Counter(listed).items() if times > 1):
        problems.append(
            Problem(scan, str(raw / f"{lists[0]}.txt"), f"scan {scan} is named twice in {names}", "keep one")
        )
    for scan in sorted(files.keys() - set(listed)):
        problems.append(Problem(scan, str(files[scan]), f"not in {names}", "add it to its list, or remove the file"))
    return problems


def _nodules(
    sheet: Path, scans: Mapping[int, str], lists: Sequence[str]
) -> tuple[defaultdict[str, list[tuple[int, ...]]], list[Problem]]:
    """scan -> first and last voxels of its nodules, in the order of the sheet; ``scans``: pid -> id of the part's scans."""
    nodules: defaultdict[str, list[tuple[int, ...]]] = defaultdict(list)
    table, problems = read_sheet(sheet, COLUMNS)
    if table is None:
        return nodules, problems
    for line, *texts in table[list(COLUMNS)].itertuples(name=None):
        try:
            pid, *voxels = (_whole(text) for text in texts)
        except ValueError as error:
            problems.append(Problem("", str(sheet), f"line {line}: {error}", "write whole numbers"))
            continue
        if pid not in scans:
            where = f"{sheet.name.split('_')[0]}/"
            problem = f"line {line}: pid {pid} is no scan of {where} and not in {', '.join(f'{n}.txt' for n in lists)}"
            problems.append(Problem("", str(sheet), problem, "correct the pid, or remove the line"))
        elif any(voxels) and any(first > last for first, last in zip(voxels[:3], voxels[3:], strict=True)):
            problem = (
                f"line {line}: the first voxel {tuple(voxels[:3])} (z, y, x) lies behind the last {tuple(voxels[3:])}"
            )
            problems.append(Problem(scans[pid], str(sheet), problem, "correct the line"))
        elif any(voxels):
            nodules[scans[pid]].append(tuple(voxels))
    return nodules, problems


def _whole(text: str) -> int:
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"{text!r} is no whole number")
    return int(number)


def _scan_problems(scan: str, path: Path, sheet: Path, nodules: Sequence[Sequence[int]]) -> list[Problem]:
    """A file that is no scan, and nodules that lie outside it as a whole."""
    try:
        shape = np.array(_read(path).shape[1:])
    except InputError as error:
        file, _, rest = str(error).partition(": ")
        problem, _, remedy = rest.rpartition(": ")
        return [Problem(scan, file, problem, remedy)]
    return [
        Problem(
            scan,
            str(sheet),
            f"pid {int(scan)}: nodule {tuple(voxels)} (zmin, ymin, xmin, zmax, ymax, xmax) lies outside {tuple(shape.tolist())}",
            "correct the line, or name the case under exclude_cases",
        )
        for voxels in nodules
        if (np.array(voxels[:3]) > shape).any() or (np.array(voxels[3:]) < 1).any()
    ]


def _twice(raw: Path, cases: Sequence[RawCase]) -> list[Problem]:
    """Scans with the same number, in two folders or written differently."""
    seen: dict[int, Path] = {}
    problems = []
    for case in cases:
        first = seen.setdefault(int(case.case), case.files.image)
        if first != case.files.image:
            problem = f"the scan is {first.relative_to(raw)}, too"
            problems.append(Problem("", str(case.files.image), problem, "keep it where its list has it"))
    return problems
