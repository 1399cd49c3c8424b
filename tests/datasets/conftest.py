"""Mini versions of raw downloads, and the real ones where the environment names them."""

import os
from pathlib import Path

import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.geometry import Geometry

GEOMETRY = Geometry((20, 24, 22), (1.0, 1.0, 1.0), (0.0, -23.0, 0.0))


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("DETPRETRAIN_REAL_DATA")
    if not folder:
        pytest.skip("DETPRETRAIN_REAL_DATA is not set: the real volumes are not tested")
    return Path(folder)


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=GEOMETRY.shape).astype(np.float32)


@pytest.fixture
def mini_raw(tmp_path) -> Path:
    """A raw folder with ``brats`` (3 cases), ``ms_lesions`` (2) and ``ct`` (1 volume), in the layout of the real ones."""
    raw = tmp_path / "raw"
    for number in range(3):
        folder = raw / "brats" / f"pat000{number}.1"
        tumour = np.zeros(GEOMETRY.shape, np.float32)
        tumour[4:12, 5:13, 6:14] = 2  # 512 voxels: oedema with a core in it
        tumour[6:9, 7:10, 8:11] = 4
        tumour[16, 20, 18] = 1  # a speck
        for name in ("T1c", "FLAIR"):
            volumes.write(folder / f"{name}.nii.gz", _image(number), GEOMETRY)
        volumes.write(folder / "tumour.nii.gz", tumour, GEOMETRY)
    for number in (7, 19):
        folder = raw / "ms_lesions" / f"patient{number:02d}"
        lesions = np.zeros(GEOMETRY.shape, np.uint8)
        lesions[2:5, 2:5, 2:5] = 1
        lesions[10:14, 10:12, 10:13] = 1
        lesions[18, 20, 20] = 1
        for name in ("FLAIR", "T1", "T2"):
            volumes.write(folder / f"{name}.nii.gz", _image(number), GEOMETRY)
        volumes.write(folder / "consensus_gt.nii.gz", lesions, GEOMETRY)
    volumes.write(raw / "ct" / "scan.nii.gz", (_image(0) * 500).astype(np.int16), GEOMETRY)
    return raw
