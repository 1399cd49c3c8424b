"""A PN9 download of nine scans: arrays, lists and sheets as published."""

from pathlib import Path

import numpy as np

SHAPE = (14, 18, 22)  # z, y, x
HEADER = "pid,nodule_class,xmin,xmax,ymin,ymax,zmin,zmax,nodule_id\n"
TRAIN, VAL, TEST = ["00001", "00009", "00012", "00020"], ["00004", "00031"], ["00000", "00002", "00040"]


def download(folder: Path) -> Path:
    """Four training, two validation, three test scans; 9 has two nodules, 12 a line of zeros, 2 a nodule in one slice."""
    for name, scans in (("train", TRAIN + VAL), ("test", TEST)):
        (folder / name).mkdir(parents=True)
        for scan in scans:
            voxels = np.random.default_rng(int(scan)).integers(0, 256, (1, *SHAPE)).astype(np.uint8)
            np.save(folder / name / f"{scan}_zoom.npy", voxels)
    for name, scans in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        (folder / f"{name}.txt").write_text("\n".join(scans) + "\n")
    (folder / "train_anno.csv").write_text(
        f"{HEADER}1,CN,3,7,2,6,4,8,0\n9,>5GGN,2,12,2,12,2,12,0\n9,0-3SN,6,8,6,8,6,8,1\n12,CN,0,0,0,0,0,0,0\n4,CN,10,14,8,12,3,5,0\n"
    )
    (folder / "test_anno.csv").write_text(f"{HEADER}0,3-10SN,3,7,2,6,4,8,0\n2,0-3SN,5,9,5,9,7,7,0\n")
    return folder
