"""A small task for nnDetection: oblique, shifted, anisotropic volumes in a border of zeros, with two classes of objects."""

import json

import numpy as np
from nifti_files import AFFINES, write_nifti

# one more whose coarsest axis is not z, so that nnDetection permutes axes
SPACES = {**AFFINES, "sagittal": np.array([[3.0, 0, 0, 5], [0, 0.7, 0, -6], [0, 0, 0.9, 7], [0, 0, 0, 1]])}
CASES = [f"case_{number}" for number in range(6)]
TESTS = ["far_0", "far_1"]
FOLDS = [{"train": CASES[3:], "val": CASES[:3]}, {"train": CASES[:3], "val": CASES[3:]}]
LABELS = {"0": "lesion", "1": "cyst"}
IGNORED = "case_1"  # whose second object is one


def volume(number):
    """Image int16 and instances uint8 [z, y, x]; objects are boxes of 2 to 4 voxels, apart from each other."""
    rng = np.random.default_rng(number)
    shape = (14 + number % 3, 24, 21)
    image, instances = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)
    inner = (slice(2, -1), slice(3, -2), slice(1, -4))
    image[inner] = rng.integers(50, 150, image[inner].shape)
    for place in range(0 if number == 4 else 3):
        size = rng.integers(2, 5, 3)
        low = np.array([3, 4 + 6 * place, 3]) + rng.integers(0, 2, 3)
        where = tuple(slice(start, start + length) for start, length in zip(low, size, strict=True))
        image[where] = 2000 if place == 1 else 1000
        instances[where] = place + 1
    return image, instances


def write_raw_task(root):
    """In nnDetection's layout: six cases, two of a test set; every affine of ``SPACES``."""
    for number, case in enumerate([*CASES, *TESTS]):
        image, instances = volume(number)
        classes = {str(value): int(value == 2) for value in np.unique(instances) if value}
        content = {"instances": classes}
        if case == IGNORED:
            content["ignored"] = ["2"]
        part, affine = "Ts" if case in TESTS else "Tr", list(SPACES.values())[number % len(SPACES)]
        raw = root / "raw_splitted"
        write_nifti(raw / f"images{part}" / f"{case}_0000.nii.gz", image, affine)
        write_nifti(raw / f"labels{part}" / f"{case}.nii.gz", instances, affine)
        (raw / f"labels{part}" / f"{case}.json").write_text(json.dumps(content))
    facts = {"task": "Task200_Raw", "name": "Raw", "labels": LABELS, "modalities": {"0": "CT"}, "dim": 3}
    (root / "dataset.json").write_text(json.dumps(facts))
    (root / "splits.json").write_text(json.dumps({"folds": FOLDS}))
    return root
