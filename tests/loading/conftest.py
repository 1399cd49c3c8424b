"""A small preprocessed data set. Channel 0 is 1 inside objects, channel 1 is 10 + id there; everything else is 0."""

import numpy as np
import pytest
import torch

from detpretrain import boxes
from detpretrain.preprocessing.store import write_case

torch.set_num_threads(1)

SHAPE = (20, 24, 22)
# per case: instance id -> class, first voxel, size. Ids have gaps; one case has no object, one has most of them.
CASES = {
    "bare": {},
    "few": {3: (1, (4, 5, 6), (5, 4, 6))},
    "many": {
        2: (0, (1, 1, 1), (4, 4, 4)),
        7: (1, (8, 12, 3), (5, 6, 4)),
        40: (0, (14, 3, 12), (4, 5, 7)),
    },
}


def make_case(objects):
    instances = np.zeros(SHAPE, dtype=np.int32)
    for id, (_, first, size) in objects.items():
        instances[tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))] = id
    inside = instances > 0
    return np.stack([inside, (10 + instances) * inside]).astype(np.float32), instances


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """(folder, records of index.json)"""
    folder, records = tmp_path_factory.mktemp("labelled"), []
    for case, objects in CASES.items():
        data, instances = make_case(objects)
        ids, found = boxes.from_instances(instances)
        record = {
            "case": case,
            "test_set": "cv",
            "shape": list(SHAPE),
            "ids": ids.tolist(),
            "classes": [objects[id][0] for id in ids.tolist()],
            "boxes": found.tolist(),
        }
        write_case(folder, case, data, instances, record)
        records.append(record)
    return folder, records


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Unlabelled volumes of three channels with constant values 1, 2 and 3 inside, one of them smaller than a patch."""
    folder, records = tmp_path_factory.mktemp("corpus"), []
    for case, shape in {"large": SHAPE, "small": (8, 30, 9)}.items():
        data = np.ones((3, *shape), dtype=np.float32) * np.array([1, 2, 3], dtype=np.float32)[:, None, None, None]
        record = {"case": case, "test_set": "cv", "shape": list(shape), "ids": [], "classes": [], "boxes": []}
        write_case(folder, case, data, None, record)
        records.append(record)
    return folder, records
