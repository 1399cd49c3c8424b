"""What tests of several packages share."""

import locale
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, settings

# seeded, and no opinion on how fast a shared machine is (the first draw alone can take seconds there)
settings.register_profile("project", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture
def write_series() -> Iterator[Callable[..., Path]]:
    """Writes an array [D, H, W] as a DICOM series, slices under names that are not in the order of the stack.

    ``shear`` moves each slice by so many mm along its columns against the one before (a tilted gantry).
    """

    def write(
        folder: Path, array: np.ndarray, geometry, uid: str = "1.2.826.0.1.3680043.2.1125.7", shear: float = 0.0
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array)
        geometry.apply_to(image)
        rows = [geometry.direction[index] for index in (0, 3, 6, 1, 4, 7)]
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for index in range(len(array)):
            shift = np.array([rows[3], rows[4], rows[5]]) * shear * index
            position = image.TransformIndexToPhysicalPoint((0, 0, index)) + shift
            slice_ = image[:, :, index]
            tags = {
                "0008|0018": f"{uid}.{index + 1}",
                "0008|0060": "CT",
                "0020|000d": f"{uid}.900",
                "0020|000e": uid,
                "0020|0013": str(index + 1),
                "0020|0032": "\\".join(f"{v:.12g}" for v in position),
                "0020|0037": "\\".join(f"{v:.12g}" for v in rows),
                "0028|1052": "0",
                "0028|1053": "1",
            }
            for tag, value in tags.items():
                slice_.SetMetaData(tag, value)
            writer.SetFileName(str(folder / f"{uid[-1]}_{(index * 7) % len(array):03d}.dcm"))
            writer.Execute(slice_)
        return folder

    before = locale.setlocale(locale.LC_ALL)
    yield write
    locale.setlocale(locale.LC_ALL, before)  # writing DICOM leaves the whole process in the C locale
