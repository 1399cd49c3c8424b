"""The files of one case in a canonical task folder, and its lines in the tables; from any process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detpretrain import boxes as box_ops
from detpretrain import volumes
from detpretrain.errors import InputError
from detpretrain.files import write_json
from detpretrain.geometry import Geometry
from detpretrain.tasks import Annotation, Task

BOX_COLUMNS = ["z1", "y1", "x1", "z2", "y2", "x2"]


@dataclass(frozen=True)
class CaseRecord:
    """Where a case comes from. ``patient`` decides which cases stay together in the splits."""

    case: str
    patient: str
    source_id: str
    session: str
    test_set: str


def write_case(
    task: Task,
    record: CaseRecord,
    images: Sequence[np.ndarray | Path],
    geometry: Geometry | None = None,
    *,
    instances: np.ndarray | Path | None = None,
    classes: Mapping[int, int] | None = None,
    boxes: Mapping[int, Sequence[float]] | None = None,
    ignored: Iterable[int] = (),
) -> None:
    """Writes images, label map and annotation of one case; arguments as of ``task_writer.TaskWriter.add_case``."""
    case = record.case
    if len(images) != len(task.modalities):
        raise ValueError(f"{case}: {len(images)} images for modalities {list(task.modalities.values())}")
    if task.labelled != (instances is not None) or task.labelled != (classes is not None):
        raise ValueError(f"{case}: instances and classes belong to labelled tasks, and to all their cases")
    folder = task.image_folder(record.test_set)
    for channel, image in enumerate(images):
        _place(image, folder / f"{case}_{channel:04d}.nii.gz", geometry)
    if instances is not None:
        folder = task.label_folder(record.test_set)
        _place(_smallest_type(instances), folder / f"{case}.nii.gz", geometry)
        annotation = Annotation(dict(classes), None if boxes is None else dict(boxes), set(ignored))
        write_json(folder / f"{case}.json", annotation.to_json())


def _smallest_type(instances: np.ndarray | Path) -> np.ndarray | Path:
    """Few scans have more than 255 objects: a byte per voxel is read four times as fast as an int32."""
    if not isinstance(instances, np.ndarray) or instances.dtype.kind not in "iu" or instances.min(initial=0) < 0:
        return instances
    return instances.astype(np.min_scalar_type(int(instances.max(initial=0))), copy=False)


def _place(source: np.ndarray | Path, target: Path, geometry: Geometry | None) -> None:
    """Puts a volume under its canonical name: an array is written, a fitting file linked, another one converted."""
    if isinstance(source, np.ndarray):
        if geometry is None:
            raise ValueError(f"{target.name}: an array needs its geometry")
        volumes.write(target, source, geometry)
        return
    if not source.is_file():
        raise InputError(f"{source}: file not found: complete the raw data")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # of an attempt that was interrupted
    if source.name.endswith(".nii.gz"):
        target.symlink_to(source.resolve())
    else:
        volumes.write(target, *volumes.read(source))


def object_rows(task: Task, case: str, instances: np.ndarray | None = None) -> list[dict]:
    """The lines of objects.csv of one case: the sheet's own boxes where there are any, else those of the map.

    ``instances``: the map, where it is at hand; else it is read.
    """
    annotation = task.annotation(case)
    if annotation.boxes is not None:
        boxes = annotation.boxes
    else:
        instances = volumes.read(task.label_path(case))[0] if instances is None else instances
        ids, found = box_ops.from_instances(instances)
        boxes = dict(zip(ids.tolist(), found.tolist(), strict=True))
    return [
        {"case": case, "truth": truth, "class": annotation.classes[truth]}
        | dict(zip(BOX_COLUMNS, box, strict=True))
        | {"ignored": truth in annotation.ignored}
        for truth, box in sorted(boxes.items())
    ]


def case_row(task: Task, record: CaseRecord, objects: list[dict]) -> dict:
    """The line of cases.csv of one case; ``size`` (bytes) and ``mtime`` are those of its image files, links followed."""
    paths = task.image_paths(record.case)
    geometry = volumes.read_geometry(paths[0])
    stats = [path.stat() for path in paths]
    row = {
        "case": record.case,
        "source_id": record.source_id,
        "patient": record.patient,
        "session": record.session,
        "test_set": record.test_set,
    }
    row |= {f"spacing_{axis}": value for axis, value in zip("zyx", geometry.spacing, strict=True)}
    row |= {f"shape_{axis}": value for axis, value in zip("zyx", geometry.shape, strict=True)}
    row |= {f"objects_{label}": sum(o["class"] == label for o in objects) for label in task.labels}
    return row | {"size": sum(s.st_size for s in stats), "mtime": max(int(s.st_mtime) for s in stats)}


def table_rows(task: Task, record: CaseRecord, instances: np.ndarray | None = None) -> tuple[dict, list[dict]]:
    """The line of cases.csv and the lines of objects.csv of a case; ``instances`` as of ``object_rows``."""
    objects = object_rows(task, record.case, instances) if task.labelled else []
    return case_row(task, record, objects), objects
