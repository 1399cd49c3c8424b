"""nnssl's ``pretrain_data.json``: read as a corpus, and written for any corpus task.

Form (nnssl, ``data/raw_dataset.py``): a collection has ``datasets`` -> ``subjects`` -> ``sessions`` -> ``images``, a list of
``name``, ``image_path``, ``modality``, ``image_info`` and ``associated_masks`` (null, or ``anonymization_mask`` and
``anatomy_mask``). A path may begin with ``$VARIABLE/``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detpretrain.datasets.corpus import Choice, CorpusImage, corpus_layout
from detpretrain.datasets.raw_dataset import Converted, Layout, Published, RawCase
from detpretrain.datasets.sheets import read_sheet
from detpretrain.errors import InputError
from detpretrain.files import read_json, write_json
from detpretrain.task_validation import Problem
from detpretrain.tasks import Task

MASKS = ("anonymization_mask", "anatomy_mask")
REMEDY = "write the listing again with nnssl's converter"
NO_SESSION = "ses-DEFAULT"  # nnssl's own name for it


class NnsslListing:
    """The images of a listing; ``raw`` is the folder that holds it.

    Args:
        file: name of the listing.
        modality: name of the channel.
        modalities: of the images that are taken, as the listing names them; default all.
        max_cases: a random subset of patients with at most this many images, drawn with ``seed``.
        check_voxels: read every volume once more; default only the headers.
    """

    labels = ()
    published = Published({}, licence="", citation="", download="")

    def __init__(
        self,
        *,
        file: str = "pretrain_data.json",
        modality: str = "MR",
        modalities: Sequence[str] | None = None,
        max_cases: int | None = None,
        seed: int = 0,
        check_voxels: bool = False,
    ) -> None:
        if isinstance(modalities, str) or (modalities is not None and not modalities):
            raise InputError("modalities: list at least one, [T1w] for example, or leave the key out for all")
        self.file, self.modalities, self.check_voxels = file, (modality,), check_voxels
        self.chosen = None if modalities is None else [str(name) for name in modalities]
        self.choice = Choice(max_cases, seed)

    def layout(self, raw: Path) -> Layout:
        path = raw / self.file
        try:
            images = list(read_listing(path))
        except InputError as error:
            problem, _, remedy = str(error).removeprefix(f"{path}: ").rpartition(": ")
            return Layout([], [Problem("", str(path), problem or remedy, remedy if problem else REMEDY)])
        known = sorted({image.modality for image in images})
        problems = [
            Problem("", str(path), f"no image of modality {name}", f"known are {', '.join(known)}")
            for name in self.chosen or ()
            if name not in known
        ]
        wanted = [image for image in images if self.chosen is None or image.modality in self.chosen]
        if not images:
            problems.append(Problem("", str(path), "lists no image", REMEDY))
        there = [image for image in wanted if image.path.is_file()]
        missing = [str(image.path) for image in wanted if not image.path.is_file()]
        if missing and not there:
            problems.append(
                Problem("", missing[0], "none of the listed images exists", "complete the data, or set $nnssl_raw")
            )
        return corpus_layout(there, self.choice, problems, missing=missing)

    def convert(self, case: RawCase) -> Converted:
        return Converted([case.files], check_voxels=self.check_voxels)


def read_listing(path: Path) -> Iterator[CorpusImage]:
    """The images of a listing, with variables of paths filled in.

    Patients are named DATASET/SUBJECT and images by nnssl's unique id (collection, data set, subject, session, image).

    Raises:
        InputError: no listing, a key is missing, or a variable is not set.
    """
    content = read_json(path)
    place = "the collection"
    try:
        collection = str(content["collection_name"])
        for dataset, subjects in content["datasets"].items():
            for subject, sessions in subjects["subjects"].items():
                for session, its in sessions["sessions"].items():
                    for image in its["images"]:
                        place = f"{dataset}/{subject}/{session}"
                        yield _image(path, (collection, dataset, subject, session), image)
    except KeyError as error:
        raise InputError(f"{path}: no {error} in or after {place}: {REMEDY}") from None
    except (TypeError, AttributeError):
        raise InputError(f"{path}: another form than nnssl's in or after {place}: {REMEDY}") from None


def write_listing(task: Task, output: Path, variables: Sequence[str] = ("nnssl_raw",)) -> int:
    """Writes the cases of a task (imagesTr) as a listing and returns how many images it has.

    A case of several channels is as many images. Links are followed, so that the listing outlives the task folder.

    Args:
        variables: environment variables whose folder is written as ``$VARIABLE`` at the start of a path.

    Raises:
        InputError: the task has no cases.csv.
    """
    datasets: dict[str, Any] = {}
    table, problems = read_sheet(task.root / "cases.csv", ["case", "patient", "session"])
    if table is None:
        raise InputError(f"{problems[0].file}: {problems[0].problem}: prepare the task again")
    rows = {row["case"]: row for row in table.to_dict("records")}
    count = 0
    for case in task.cases():
        row = rows[case]
        dataset = row.get("nnssl_dataset") or task.name
        session = row["session"] or NO_SESSION
        subject = row.get("nnssl_subject") or row["patient"]
        its = datasets.setdefault(
            dataset, {"dataset_index": dataset, "name": None, "dataset_info": None, "subjects": {}}
        )
        person = its["subjects"].setdefault(subject, {"subject_id": subject, "subject_info": None, "sessions": {}})
        visit = person["sessions"].setdefault(session, {"session_id": session, "session_info": None, "images": []})
        for channel, (path, modality) in enumerate(zip(task.image_paths(case), task.modalities.values(), strict=True)):
            suffix = f"_{channel:04d}" if len(task.modalities) > 1 else ""
            masks = {name: _short(row[name], variables) if row.get(name) else None for name in MASKS}
            visit["images"].append(
                {
                    "name": row.get("nnssl_image") or f"{case}{suffix}.nii.gz",
                    "image_path": _short(str(path.resolve()), variables),
                    "modality": row.get("modality") or modality,
                    "image_info": None,
                    "associated_masks": masks if any(masks.values()) else None,
                }
            )
            count += 1
    write_json(output, {"collection_index": task.name, "collection_name": task.name, "datasets": datasets})
    return count


def _image(listing: Path, place: tuple[str, str, str, str], image: Mapping[str, Any]) -> CorpusImage:
    _, dataset, subject, session = place
    masks = image.get("associated_masks") or {}
    return CorpusImage(
        Path(_filled(listing, image["image_path"])),
        "__".join([*place, str(image["name"])]),
        f"{dataset}/{subject}",
        "" if session == NO_SESSION else session,
        str(image["modality"]),
        {
            "nnssl_dataset": dataset,
            "nnssl_subject": subject,
            "nnssl_image": str(image["name"]),
            **{name: _filled(listing, masks[name]) for name in MASKS if masks.get(name)},
        },
    )


def _filled(listing: Path, path: str) -> str:
    """``$VARIABLE/...`` -> the path."""
    start, slash, rest = path.partition("/")
    if not start.startswith("$"):
        return path
    folder = os.environ.get(start[1:])
    if not folder:
        raise InputError(f"{listing}: environment variable {start[1:]} is not set: set it to the folder of {path}")
    return folder.rstrip("/") + slash + rest


def _short(path: str, variables: Sequence[str]) -> str:
    """The path with ``$VARIABLE`` for the folder that one of the variables names."""
    for name in variables:
        folder = os.environ.get(name)
        for start in (folder, str(Path(folder).resolve())) if folder else ():
            if path.startswith(start.rstrip("/") + "/"):
                return f"${name}/" + path.removeprefix(start.rstrip("/") + "/")
    return path
