"""A LUNA16 download of eleven scans in ten subsets, sheets of the challenge and of its evaluation script."""

from pathlib import Path

import numpy as np

ROOT = "1.3.6.1.4.1.14519.5.2.1.6279.6001."
SHAPE = (12, 20, 24)
STRAIGHT, FLIPPED = "1 0 0 0 1 0 0 0 1", "-1 0 0 0 -1 0 0 0 1"
COLUMNS = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
FLIPPED_SCAN = 3


def download(folder: Path) -> Path:
    """Scans 0 .. 10, scan n in subset n, 10 in subset 0; 0 and 3 (flipped) with a nodule at the same index, 1 with two."""
    for number in range(11):
        voxels = np.random.default_rng(number).integers(-1000, 400, SHAPE)
        flipped = {"matrix": FLIPPED, "offset": "10 20 -30"} if number == FLIPPED_SCAN else {}
        write_scan(folder / f"subset{number % 10}" / uid(number), voxels, **flipped)
    lines = [(0, -6, -16, -20, 4), (3, 6, 16, -20, 4), (1, -5, -15, -18, 8), (1, -5, -15.5, -18, 3)]
    (folder / "annotations.csv").write_text(COLUMNS + "".join(f"{uid(n)},{x},{y},{z},{d}\n" for n, x, y, z, d in lines))
    package = folder / "evaluationScript" / "annotations"
    package.mkdir(parents=True)
    (package / "annotations_excluded.csv").write_text(f"{COLUMNS}{uid(5)},0,0,0,-1\n")
    (package / "seriesuids.csv").write_text("".join(f"{uid(n)}\n" for n in reversed(range(11))))
    return folder


def uid(number: int) -> str:
    return f"{ROOT}{number}"


def case_id(number: int) -> str:
    return uid(number).replace(".", "_")


def write_scan(
    path: Path, array: np.ndarray, matrix: str = STRAIGHT, offset: str = "-10 -20 -30", spacing: str = "0.5 0.5 2"
) -> None:
    """A scan as the challenge ships it: a text header and the voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    depth, height, width = array.shape
    fields = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": matrix,
        "Offset": offset,
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": spacing,
        "DimSize": f"{width} {height} {depth}",
        "ElementType": "MET_SHORT",
        "ElementDataFile": f"{path.name}.raw",
    }
    path.with_name(f"{path.name}.mhd").write_text("".join(f"{key} = {value}\n" for key, value in fields.items()))
    path.with_name(f"{path.name}.raw").write_bytes(array.astype("<i2").tobytes())
