"""Brain tumours in MR: the BraTS 2013/2015 cases in the layout of DeepMedic's example data.

Raw layout: ``CASE/{T1c,FLAIR}.nii.gz`` and ``CASE/tumour.nii.gz`` with semantic labels 1-4, all of them tumour.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detpretrain import volumes
from detpretrain.datasets.instances import from_semantic
from detpretrain.datasets.raw_layout import case_folders, existing, path_safe
from detpretrain.errors import InputError
from detpretrain.task_writer import TaskWriter


class Brats:
    """One class, "tumour": connected components (26) of everything labelled, above a minimum size.

    Args:
        channels: file names without suffix, in channel order.
        min_voxels: components with at most this many voxels are specks of the segmentation.
        min_size_mm: components whose box is not longer than this in-plane are dropped too.
    """

    def __init__(
        self, *, channels: tuple[str, ...] = ("T1c", "FLAIR"), min_voxels: int = 200, min_size_mm: float = 5.0
    ) -> None:
        self.channels = tuple(channels)
        self.min_voxels = min_voxels
        self.min_size_mm = min_size_mm

    def write(self, raw: Path | None, writer: TaskWriter) -> None:
        writer.describe(labels=["tumour"], modalities=list(self.channels))
        for folder in case_folders(raw, f"{self.channels[0]}.nii.gz"):
            case = path_safe(folder.name)
            if writer.excluded(case):
                continue
            images = [existing(folder / f"{channel}.nii.gz") for channel in self.channels]
            path = existing(folder / "tumour.nii.gz")
            mask, geometry = volumes.read(path)
            if not np.array_equal(mask, np.rint(mask)):
                raise InputError(f"{path}: holds fractions, not labels: use the unresampled segmentation")
            values = {int(value): 0 for value in np.unique(mask) if value > 0}
            instances, classes = from_semantic(
                mask, values, geometry.spacing, min_voxels=self.min_voxels, min_size_mm=self.min_size_mm
            )
            writer.add_case(
                case, images, geometry, instances=instances, classes=classes, patient=case, source_id=folder.name
            )
