"""The canonical task as nnDetection's branch ``finetuning`` wants it: folder, label maps, splits, environment.

Its commands look tasks up in ``det_data`` and models in ``det_models``; each of these folders holds a single task here, because
names are matched in part. Paths must be plain: nnDetection cuts names at dots and passes over files with "_seg" in their path
without a word.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from detpretrain import boxes as box_ops
from detpretrain import volumes
from detpretrain.errors import InputError
from detpretrain.files import atomic_path, write_json
from detpretrain.preprocessing.raw_case import CaseFiles, find_cases
from detpretrain.tasks import Annotation, Task

NUMBER = 100  # nnDetection keeps those below for its own data sets
SPLITS = "splits_final"
PLAIN_PATH = re.compile(r"[A-Za-z0-9_/-]+")
HIDDEN = "_seg"
# of the surroundings, what would lead nnDetection elsewhere
LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "det_logging")


def task_name(dataset: str) -> str:
    return f"Task{NUMBER}_{dataset}"


def task_folder(folder: Path, dataset: str) -> Path:
    """The task below a working folder, whose ``data`` is ``det_data``."""
    return folder / "data" / task_name(dataset)


def check_folder(folder: Path) -> Path:
    """The absolute path of a working folder; ``InputError`` when nnDetection cannot work there."""
    path = folder.absolute()
    if not PLAIN_PATH.fullmatch(str(path)) or HIDDEN in str(path):
        raise InputError(
            f"{path}: nnDetection takes only paths of letters, digits, '-' and '_', without '{HIDDEN}': "
            "set pathvars: {results: FOLDER} to such a folder"
        )
    return path


def environment(folder: Path, workers: int, device: str = "auto") -> dict[str, str]:
    """The variables that nnDetection reads, over those of this process.

    Args:
        folder: holds ``data`` and ``models``.
        workers: processes that load and augment.
        device: ``cuda:N`` shows one GPU alone, anything else what there is.
    """
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    if device.startswith("cuda:"):
        visible = kept.get("CUDA_VISIBLE_DEVICES", "").split(",")
        number = int(device.removeprefix("cuda:"))
        kept["CUDA_VISIBLE_DEVICES"] = visible[number] if 0 <= number < len(visible) and visible[0] else str(number)
    return kept | {
        "det_data": str(folder / "data"),
        "det_models": str(folder / "models"),
        "OMP_NUM_THREADS": "1",
        "det_num_threads": str(max(1, workers)),
        "det_verbose": "0",
        "det_logger": "none",  # its csv logger is always there
    }


def write_task(task: Task, dataset: str, folder: Path) -> None:
    """Writes dataset.json and raw_splitted/{imagesTr,labelsTr} of the cases of the folds; images are links.

    Test sets are left out: they are predicted from folders of their own (``link_images``).

    Raises:
        InputError: a case whose name nnDetection passes over, a missing file, a task without labels.
    """
    if not task.labelled:
        raise InputError(f"{task.root}: has no labels: nnDetection cannot be trained on it")
    cases = find_cases(task)
    link_images(cases, folder / "raw_splitted" / "imagesTr")
    weak = [_write_label(case, folder / "raw_splitted" / "labelsTr") for case in cases]
    write_json(
        folder / "dataset.json",
        {
            "task": task_name(dataset),
            "name": dataset,
            "dim": 3,
            "target_class": None,
            "test_labels": False,
            "session_id": False,
            "annotation_style": "weak" if any(weak) else "seg",
            "labels": {str(number): name for number, name in task.labels.items()},
            "modalities": {str(number): name for number, name in task.modalities.items()},
        },
    )


def link_images(cases: Iterable[CaseFiles], folder: Path) -> None:
    """CASE_0000.nii.gz of every channel of the cases, as links; ``InputError`` as ``write_task``."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        if HIDDEN in case.case:
            raise InputError(f"case {case.case}: nnDetection passes over names with '{HIDDEN}': rename the case")
        for channel, image in enumerate(case.images):
            if not image.is_file():
                raise InputError(f"{image}: file not found: prepare the task again")
            link(image, folder / f"{case.case}_{channel:04d}.nii.gz")


def link(source: Path, target: Path) -> None:
    """A link in place of what is there, to a file or a folder by its absolute path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source.resolve())


def _write_label(case: CaseFiles, folder: Path) -> bool:
    """Writes the label of a case; returns whether it stands for boxes.

    nnDetection wants ids from 1 without a gap and all of them in the map, knows no ignored objects, and reads no other key
    than ``instances``: a map that is like that is linked, another one is written anew.
    """
    annotation = Annotation.read(case.annotation)
    target, ids = folder / f"{case.case}.nii.gz", sorted(annotation.classes)
    if annotation.boxes is None and not annotation.ignored and ids == [*range(1, len(ids) + 1)]:
        link(case.label, target)
    else:
        instances, geometry = volumes.read(case.label)
        instances = instances.astype(np.int64)
        present = set(box_ops.from_instances(instances)[0].tolist())
        wanted = [number for number in ids if number not in annotation.ignored]
        ids = [number for number in wanted if number in present]
        if len(ids) < len(wanted):  # a box that others cover
            print(
                f"{case.case}: {len(wanted) - len(ids)} objects without a voxel, which nnDetection does not see",
                flush=True,
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # what a link points at stays
        volumes.write(target, renumbered(instances, ids), geometry)
    classes = {str(new): annotation.classes[old] for new, old in enumerate(ids, start=1)}
    write_json(folder / f"{case.case}.json", {"instances": classes})
    return annotation.boxes is not None


def renumbered(instances: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """The map with ``ids`` as 1, 2, ... and everything else as background."""
    numbers = np.zeros(max([int(instances.max(initial=0)), *ids]) + 1, dtype=np.uint8 if len(ids) < 256 else np.int32)
    numbers[list(ids)] = np.arange(1, len(ids) + 1)
    return numbers[np.maximum(instances, 0)]


def write_splits(preprocessed: Path, folds: Sequence[Mapping[str, Sequence[str]]]) -> None:
    """``splits_final`` as nnDetection writes it: json and pickle, per fold the sorted cases of ``train`` and ``val``."""
    content = [{part: sorted(fold[part]) for part in ("train", "val")} for fold in folds]
    write_json(preprocessed / f"{SPLITS}.json", content)
    with atomic_path(preprocessed / f"{SPLITS}.pkl") as temporary:
        temporary.write_bytes(pickle.dumps(content, protocol=4))


def with_own_splits(prepared: Path, folder: Path, folds: Sequence[Mapping[str, Sequence[str]]]) -> None:
    """A task folder that shares everything but its splits with a prepared one.

    Args:
        prepared: task folder with what ``nndet_prep`` made of it.
        folder: the new task folder.
        folds: those of splits.json.
    """
    for source in sorted(prepared.iterdir()):
        if source.name != "preprocessed":
            link(source, folder / source.name)
    for source in sorted((prepared / "preprocessed").iterdir()):
        if source.stem != SPLITS:
            link(source, folder / "preprocessed" / source.name)
    write_splits(folder / "preprocessed", folds)
