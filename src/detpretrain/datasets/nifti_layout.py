"""What names, headers and sheets of a NIfTI download tell about its cases, every defect as a ``Problem``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from detpretrain import volumes
from detpretrain.datasets.raw_layout import path_safe
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem, from_error

NIFTI = ".nii.gz"
EXCLUDE = "complete the download, or name the case under exclude_cases"


@dataclass(frozen=True)
class Pair:
    """An image with its label map; ``name`` is the part of the file names they share, ``case`` the id made of it."""

    case: str
    name: str
    image: Path
    label: Path


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Sorted entries without hidden ones: archives from macOS hold a ``._NAME`` beside every file."""
    found = ((path, path.relative_to(folder).parts) for path in folder.glob(pattern))
    return sorted(path for path, parts in found if not any(part.startswith(".") for part in parts))


def nifti_files(folder: Path, ending: str = NIFTI) -> tuple[dict[str, Path], list[Problem]]:
    """The volumes of a folder and of its subfolders (archives that come in parts may lie side by side in it).

    Returns:
        case id -> file, for all files ``CASE`` + ``ending``; problems: no such folder or file, volumes with another name,
        two files of one case.
    """
    if not folder.is_dir():
        return {}, [Problem("", str(folder), "folder not found", "complete the download, or correct raw:")]
    files: dict[str, Path] = {}
    problems = []
    for path in visible(folder, "**/*"):
        if not path.name.endswith((".nii", NIFTI)) or not path.is_file():
            continue
        name = path.name.removesuffix(ending)
        if name == path.name or not name:
            remedy = "unpack the publisher's archive again, or remove the file"
            problems.append(Problem("", str(path), f"not named CASE{ending}", remedy))
        elif (case := path_safe(name)) in files:
            problems.append(Problem("", str(path), f"same case as {files[case]}", "keep one of the two files"))
        else:
            files[case] = path
    if not files and not problems:
        problems.append(Problem("", str(folder), f"no CASE{ending} in it", "unpack the publisher's archive into it"))
    return files, problems


def pairs(
    images: Path, labels: Path, image_ending: str = NIFTI, label_ending: str = NIFTI
) -> tuple[list[Pair], list[Problem]]:
    """Images of one folder with the label maps of another, sorted by case; see ``nifti_files`` for what they may hold.

    Problems: also images without label map and the other way round, unreadable headers, different geometries.
    """
    found, image_problems = nifti_files(images, image_ending)
    maps, label_problems = nifti_files(labels, label_ending)
    problems = image_problems + label_problems
    if found and maps:  # else the folder is the problem, not each of its cases
        for case in sorted(set(found) - set(maps)):
            problems.append(Problem(case, str(found[case]), f"image without label map in {labels}", EXCLUDE))
        for case in sorted(set(maps) - set(found)):
            problems.append(Problem(case, str(maps[case]), f"label map without image in {images}", EXCLUDE))
    paired = [
        Pair(case, found[case].name.removesuffix(image_ending), found[case], maps[case])
        for case in sorted(set(found) & set(maps))
    ]
    for pair in paired:
        problems += geometry_problems(pair.case, pair.image, [pair.label])
    return paired, problems


def geometry_problems(case: str, image: Path, others: Iterable[Path]) -> list[Problem]:
    """Headers that cannot be read, and ``others`` that do not lie where ``image`` lies."""
    try:
        reference = volumes.read_geometry(image)
    except InputError as error:
        return [from_error(case, error, EXCLUDE)]
    problems = []
    for path in others:
        try:
            difference = volumes.read_geometry(path).difference(reference)
        except InputError as error:
            problems.append(from_error(case, error, EXCLUDE))
            continue
        if difference:
            remedy = "download both again, resample one onto the other, or exclude the case"
            problems.append(Problem(case, str(path), f"geometry differs from {image.name}: {difference}", remedy))
    return problems
