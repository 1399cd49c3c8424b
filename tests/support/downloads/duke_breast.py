"""A mini download of Duke-Breast-Cancer-MRI: patients whose series are stored in three ways, and both sheets."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import openpyxl
from dicom_files import write_slices

from detpretrain.geometry import Geometry

OBLIQUE = (0.8, -0.6, 0.0, 0.48, 0.64, -0.6, 0.36, 0.48, 0.8)
TILTED = Geometry((5, 16, 18), (2.0, 0.5, 0.5), (10.0, -20.0, 5.0), OBLIQUE)
STRAIGHT = Geometry((5, 16, 16), (1.1, 0.7, 0.7), (-100.0, -110.0, -50.0))
# a quarter of a voxel further along x and two slices up
SHIFTED = Geometry((5, 16, 16), (1.1, 0.7, 0.7), (-99.825, -110.0, -47.8))
PHASES = ("pre", "post_1", "post_2", "post_3")
UID = "1.3.6.1.4.1.14519.5.2.1.186051"
BOXES = "Annotation_Boxes.xlsx"
MAPPING = "Breast-Cancer-MRI-filepath_filename-mapping.xlsx"
# Start Row, End Row, Start Column, End Column, Start Slice, End Slice, from 1
LINES = {
    "Breast_MRI_001": [10, 12, 4, 9, 2, 3],
    "Breast_MRI_002": [5, 5, 2, 16, 1, 2],
    "Breast_MRI_003": [3, 8, 6, 7, 5, 5],
}
FURTHER = [4, 9, 3, 8, 2, 4]


def download(folder: Path, patients: int = 3) -> Path:
    """From the fourth on, patients are stored as the first, on the grid of the others."""
    top = folder / "manifest-1" / "Duke-Breast-Cancer-MRI"
    lines = LINES | {f"Breast_MRI_{number:03d}": FURTHER for number in range(4, patients + 1)}
    for seed, phase in enumerate(PHASES):
        for patient in lines:
            if patient == "Breast_MRI_002":
                _series_by_description(top, patient, seed, phase)
            elif patient == "Breast_MRI_003":
                _series_of_several_phases(top, patient, seed, phase)
            else:
                _series_by_uid(top, patient, seed, phase, TILTED if patient == "Breast_MRI_001" else STRAIGHT)
    columns = ["Patient ID", "Start Row", "End Row", "Start Column", "End Column", "Start Slice", "End Slice"]
    write_sheet(folder / BOXES, columns, [[patient, *line] for patient, line in lines.items()])
    columns = ["original_path_and_filename", "classic_path", "descriptive_path"]
    write_sheet(folder / MAPPING, columns, _mapping_lines(lines))
    return folder


def _series_by_uid(top: Path, patient: str, seed: int, phase: str, grid: Geometry) -> None:
    uid = series(patient, phase)
    write_slices(
        top / patient / f"{UID}.5" / uid, 3 * values(grid, seed) - 7, grid, uid, patient, slope=3, intercept=-7,
        name="1-{:02d}.dcm".format, Modality="MR",
    )  # fmt: skip


def _series_by_description(top: Path, patient: str, seed: int, phase: str) -> None:
    grid = SHIFTED if phase == "post_2" else STRAIGHT
    place = top / patient / "01-01-1990-MRI BREAST" / f"{seed}.000000-ax dyn {phase}-12345"
    write_slices(place, values(grid, seed), grid, series(patient, phase), patient, inverted=True, Modality="MR")


def _series_of_several_phases(top: Path, patient: str, seed: int, phase: str) -> None:
    uid, offset = series(patient, phase), 5 * max(PHASES.index(phase) - 1, 0)
    write_slices(
        top / patient / "study" / uid, values(STRAIGHT, seed), STRAIGHT, uid, patient, Modality="MR",
        name=lambda number: f"1-{number + offset:03d}.dcm",
    )  # fmt: skip


def _mapping_lines(patients: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """The publisher's files and the delivered ones; the third patient's phases after contrast are one series."""
    for patient in patients:
        for phase in (*PHASES, "T1"):
            for number in range(1, 6):
                uid = f"{UID}.99" if phase == "T1" else series(patient, phase)
                file = number
                if patient == "Breast_MRI_003" and phase.startswith("post"):
                    file += 5 * (PHASES.index(phase) - 1)
                original = f"DICOM_Images/{patient}/{phase}/{patient}_{phase}_{number:03d}.dcm"
                classic = f"Duke-Breast-Cancer-MRI/{patient}/{UID}.5/{uid}/1-{file:03d}.dcm"
                yield original, classic, f"Duke-Breast-Cancer-MRI/{patient}/01-01-1990-X//2.000000-ax/1-{file:03d}.dcm"


def series(patient: str, phase: str) -> str:
    return f"{UID}.{int(patient[-3:])}.{7 if patient == 'Breast_MRI_003' and phase != 'pre' else PHASES.index(phase)}"


def values(geometry: Geometry, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 900, geometry.shape).astype(np.int16)


def write_sheet(path: Path, columns: Sequence[str], lines: Iterable[Sequence]) -> None:
    book = openpyxl.Workbook()
    book.active.append(list(columns))
    for line in lines:
        book.active.append(list(line))
    book.save(path)
