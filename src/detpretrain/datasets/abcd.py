"""ABCD Study: brain MR of children, T1w and T2w, several visits (Casey et al., Developmental Cognitive Neuroscience 2018).

Raw layout: the BIDS folder that its archives unpack into, ``sub-NDARINV.../ses-.../anat/*_T1w.nii[.gz]``, with
``participants.tsv`` beside them where the release has one. Access is by agreement, and how many images it is depends on the
release: no number is checked but that every listed participant has one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from detpretrain.datasets.corpus import Choice, CorpusImage, corpus_layout
from detpretrain.datasets.raw_dataset import Converted, Layout, Published, RawCase
from detpretrain.datasets.sheets import read_sheet
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem

NAME = re.compile(
    r"(?P<subject>sub-[A-Za-z0-9]+)_(?:(?P<session>ses-[A-Za-z0-9]+)_)?.*?(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?"
)


class ABCD:
    """Structural images of a BIDS folder as a corpus.

    Args:
        suffixes: BIDS suffixes that are taken.
        modality: name of the channel.
        max_cases: a random subset of patients with at most this many images, drawn with ``seed``.
        check_voxels: read every volume once more; default only the headers.

    Raises:
        InputError: no suffix.
    """

    labels = ()
    published = Published(
        {},
        "NIMH Data Archive data use certification",
        "Casey et al., The Adolescent Brain Cognitive Development (ABCD) study: Imaging acquisition across 21 sites, "
        "Developmental Cognitive Neuroscience 32, 2018",
        "https://abcdstudy.org",
    )

    def __init__(
        self,
        *,
        suffixes: Sequence[str] = ("T1w", "T2w"),
        modality: str = "MR",
        max_cases: int | None = None,
        seed: int = 0,
        check_voxels: bool = False,
    ) -> None:
        if isinstance(suffixes, str) or not suffixes:
            raise InputError("suffixes: list at least one, [T1w] for example")
        self.suffixes, self.modalities, self.check_voxels = tuple(suffixes), (modality,), check_voxels
        self.choice = Choice(max_cases, seed)

    def layout(self, raw: Path) -> Layout:
        found = [*raw.glob("sub-*/ses-*/anat/*.nii*"), *raw.glob("sub-*/anat/*.nii*")]
        images, problems = [], []
        for path in sorted(found):
            match = NAME.fullmatch(path.name)
            folders = path.relative_to(raw).parts
            session = folders[1] if len(folders) == 4 else ""
            if not match or match["subject"] != folders[0] or (match["session"] or "") != session:
                remedy = "rename or remove the file"
                problem = "its name does not say the subject and session of its folder"
                problems.append(Problem("", str(path), problem, remedy))
            elif match["suffix"] in self.suffixes:
                source = path.relative_to(raw).as_posix()
                images.append(CorpusImage(path, source, folders[0], session, match["suffix"]))
        if not images:
            wanted = f"no sub-*/ses-*/anat/*_{self.suffixes[0]}.nii.gz in it"
            problems.append(Problem("", str(raw), wanted, "unpack the archives, or correct raw: or suffixes:"))
        missing, wrong = _missing(raw, {image.patient for image in images})
        return corpus_layout(images, self.choice, [*problems, *wrong], missing=missing)

    def convert(self, case: RawCase) -> Converted:
        return Converted([case.files], check_voxels=self.check_voxels)


def _missing(raw: Path, with_image: set[str]) -> tuple[list[str], list[Problem]]:
    """Participants that the sheet or a folder names and that have no image."""
    named = {path.name for path in raw.glob("sub-*") if path.is_dir()}
    sheet = raw / "participants.tsv"
    problems: list[Problem] = []
    if sheet.is_file():
        table, problems = read_sheet(sheet, ["participant_id"], separator="\t")
        named |= (
            set() if table is None else {f"sub-{name.removeprefix('sub-')}" for name in table["participant_id"] if name}
        )
    return sorted(named - with_image), problems
