"""White-matter lesions in MR: multiple sclerosis, cross-sectional cases of open_ms_data (Lesjak et al., 2017).

Raw layout: ``patientNN/{FLAIR,T1,T2}.nii.gz`` and ``patientNN/consensus_gt.nii.gz`` (binary, MNI space).
"""

from __future__ import annotations

from pathlib import Path

from detpretrain import volumes
from detpretrain.datasets.instances import from_semantic
from detpretrain.datasets.raw_layout import case_folders, existing, path_safe
from detpretrain.task_writer import TaskWriter


class MSLesions:
    """One class, "lesion": connected components (26) of the consensus mask, above a minimum size.

    Args:
        channels: file names without suffix, in channel order.
        min_voxels: components with at most this many voxels are dropped; the usual clinical limit is 3 mm.
        min_size_mm: components whose box is not longer than this in-plane are dropped too.
    """

    def __init__(
        self, *, channels: tuple[str, ...] = ("FLAIR", "T1", "T2"), min_voxels: int = 10, min_size_mm: float = 3.0
    ) -> None:
        self.channels = tuple(channels)
        self.min_voxels = min_voxels
        self.min_size_mm = min_size_mm

    def write(self, raw: Path | None, writer: TaskWriter) -> None:
        writer.describe(labels=["lesion"], modalities=list(self.channels))
        for folder in case_folders(raw, f"{self.channels[0]}.nii.gz"):
            case = path_safe(folder.name)
            if writer.excluded(case):
                continue
            images = [existing(folder / f"{channel}.nii.gz") for channel in self.channels]
            mask, geometry = volumes.read(existing(folder / "consensus_gt.nii.gz"))
            instances, classes = from_semantic(
                mask, {1: 0}, geometry.spacing, min_voxels=self.min_voxels, min_size_mm=self.min_size_mm
            )
            writer.add_case(
                case, images, geometry, instances=instances, classes=classes, patient=case, source_id=folder.name
            )
