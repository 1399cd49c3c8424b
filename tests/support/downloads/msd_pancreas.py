"""A Task07_Pancreas of ten cases: names, dataset.json and headers as in the real archive, voxels drawn by hand."""

import json
from pathlib import Path

import numpy as np
from nifti_files import AFFINES, write_nifti

NAMES = [f"pancreas_{number:03d}" for number in (1, 4, 5, 6, 10, 12, 15, 16, 18, 19)]
SHAPE = (6, 12, 14)


def download(folder: Path) -> Path:
    """All cases have one tumour of 2 x 4 x 5 voxels; some have something special."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        label = organ()
        label[2:4, 3:7, 4:9] = 2
        affine, slope = AFFINES["lps"], 1.0
        if name == "pancreas_001":  # turned; two tumours, one of two boxes that touch in a corner, and a speck
            affine = AFFINES["oblique"]
            label[4, 7:9, 9:11] = 2
            label[1:3, 3:6, 0:3] = 2
            label[5, 11, 13] = 2
        elif name == "pancreas_004":  # floats in the file: 0.5 * 2 and 0.5 * 4
            label, slope = label.astype(np.int16) * 2, 0.5
        elif name == "pancreas_005":  # 2 voxels in-plane are 2.4 mm
            label = organ()
            label[1:5, 3:5, 4:9] = 2
        elif name == "pancreas_010":
            label = organ()
        image = rng.integers(0, 2000, SHAPE).astype(np.int16)
        write_nifti(folder / "imagesTr" / f"{name}.nii.gz", image, affine, intercept=-1024.0)
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", label, affine, slope)
        for part in ("imagesTr", "labelsTr"):
            (folder / part / f"._{name}.nii.gz").write_bytes(b"\0\5\26\7Mac OS X")
    (folder / "dataset.json").write_text(json.dumps(description(NAMES)))
    return folder


def organ() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:5, 1:11, 1:13] = 1
    return mask


def description(names: list[str]) -> dict:
    return {
        "name": "Pancreas",
        "description": "Pancreas and Cancer",
        "licence": "CC-BY-SA 4.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
        "numTraining": len(names),
        "numTest": 1,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/pancreas_002.nii.gz"],
    }
