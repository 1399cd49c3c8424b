"""OpenMind: 114k head-and-neck MR volumes out of 800 OpenNeuro data sets (Wald et al., arXiv 2412.17041).

Raw layout, as on the Hugging Face Hub (``AnonRes/OpenMind``): ``openneuro_metadata.csv`` with a line per image, whose paths
(``image_path``, ``anat_mask_path``, ``anon_mask_path``) are relative to the folder ``OpenMind`` beside it:
``ds000001/sub-01[/ses-1]/...``. ``image_quality_score`` is 1 for the best to 5.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from detpretrain.datasets.corpus import Choice, CorpusImage, case_id, corpus_layout
from detpretrain.datasets.raw_dataset import AverageScan, Converted, Layout, Published, RawCase
from detpretrain.datasets.sheets import read_sheet
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem

SHEET, FOLDER = "openneuro_metadata.csv", "OpenMind"
MASKS = {
    "anat_mask_path": "anatomy_mask",
    "anon_mask_path": "anonymization_mask",
}  # column of the sheet -> of cases.csv


class OpenMind:
    """Brain MR without labels; ``raw`` is the folder that holds the sheet.

    Args:
        modalities: of the sheet's column ``modality`` (T1w, T2w, FLAIR, ...); default all.
        max_quality_score: leave out images with a higher score, which are worse ones (nnssl tries 1.5, 2.5, 3.0 and 3.5).
        modality: name of the channel.
        max_cases: a random subset of patients with at most this many images, drawn with ``seed``.
        check_voxels: read every volume once more; default only the headers.
    """

    labels = ()
    published = Published(
        {"cv": 113_921},
        "CC BY 4.0",
        "Wald et al., An OpenMind for 3D medical vision self-supervised learning, arXiv 2412.17041, 2024",
        "https://huggingface.co/datasets/AnonRes/OpenMind",
        scan=AverageScan((170, 240, 240), (1.0, 1.0, 1.0)),
    )

    def __init__(
        self,
        *,
        modalities: Sequence[str] | None = None,
        max_quality_score: float | None = None,
        modality: str = "MR",
        max_cases: int | None = None,
        seed: int = 0,
        check_voxels: bool = False,
    ) -> None:
        if isinstance(modalities, str) or (modalities is not None and not modalities):
            raise InputError("modalities: list at least one, [T1w] for example, or leave the key out for all")
        self.chosen = None if modalities is None else [str(name) for name in modalities]
        self.max_quality_score, self.check_voxels = max_quality_score, check_voxels
        self.modalities = (modality,)
        self.choice = Choice(max_cases, seed)

    def layout(self, raw: Path) -> Layout:
        sheet = raw / SHEET
        score = ["image_quality_score"] if self.max_quality_score is not None else []
        table, problems = read_sheet(sheet, ["image_path", "modality", *score])
        if table is None:
            return Layout([], problems)
        problems += self._unknown(sheet, set(table["modality"]))
        images, missing, present, seen = [], [], 0, {}
        for number, line in enumerate(table.to_dict("records"), start=2):
            wrong = _line_problem(sheet, number, line, seen)
            if wrong:
                problems.append(wrong)
            elif not (raw / FOLDER / line["image_path"]).is_file():
                missing.append(line["image_path"])
            else:
                present += 1
                taken, wrong = self._takes(sheet, number, line)
                problems += wrong
                images += [_image(raw, line)] if taken else []
        if not images and not problems:
            remedy = "download the folder OpenMind, or correct modalities: or max_quality_score:"
            problems.append(Problem("", str(raw / FOLDER), "no image of those that are asked for", remedy))
        return corpus_layout(images, self.choice, problems, found=present, missing=missing)

    def convert(self, case: RawCase) -> Converted:
        return Converted([case.files], check_voxels=self.check_voxels)

    def _unknown(self, sheet: Path, known: set[str]) -> list[Problem]:
        found = []
        for name in self.chosen or ():
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
                found.append(Problem("", str(sheet), f"no image of modality {name}", remedy))
        return found

    def _takes(self, sheet: Path, number: int, line: Mapping[str, str]) -> tuple[bool, list[Problem]]:
        """Whether the arguments ask for an image."""
        if self.chosen is not None and line["modality"] not in self.chosen:
            return False, []
        if self.max_quality_score is None:
            return True, []
        try:
            return float(line["image_quality_score"]) <= self.max_quality_score, []
        except ValueError:
            problem = f"line {number}: image_quality_score {line['image_quality_score']!r} is not a number"
            remedy = "correct the line, or exclude the case"
            return False, [Problem(case_id(line["image_path"]), str(sheet), problem, remedy)]


def _line_problem(sheet: Path, number: int, line: Mapping[str, str], seen: dict[str, int]) -> Problem | None:
    path = line["image_path"]
    parts = PurePosixPath(path).parts
    if len(parts) < 3 or not parts[1].startswith("sub-") or ".." in parts:
        problem = f"line {number}: image_path {path!r} is not DATASET/sub-.../..."
        return Problem(case_id(path) if path else "", str(sheet), problem, "download the sheet again")
    if seen.setdefault(path, number) != number:
        problem = f"line {number}: the same image as in line {seen[path]}"
        return Problem("", str(sheet), problem, "remove one of the lines")
    return None


def _image(raw: Path, line: Mapping[str, str]) -> CorpusImage:
    """Subjects are numbered per data set of OpenNeuro, so that the patient is named by both."""
    dataset, subject, third = PurePosixPath(line["image_path"]).parts[:3]
    masks = {ours: str(raw / FOLDER / line[column]) for column, ours in MASKS.items() if line.get(column)}
    return CorpusImage(
        raw / FOLDER / line["image_path"],
        line["image_path"],
        f"{dataset}/{subject}",
        third if third.startswith("ses-") else "",
        line["modality"],
        {"nnssl_dataset": dataset, "nnssl_subject": subject, **masks},
    )
