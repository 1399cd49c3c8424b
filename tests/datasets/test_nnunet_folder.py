import json

import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.datasets.nnunet_folder import entries
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task

GEOMETRY = Geometry((4, 5, 6), (1.0, 1.0, 1.0))


@pytest.fixture
def raw(tmp_path):
    for name, channels in (("Dataset001_Liver-1", {"0": "ct"}), ("Dataset002_Brain.x", {"0": "T1", "1": "FLAIR"})):
        folder = tmp_path / "nnUNet_raw" / name
        for case in ("a", "b"):
            for channel in channels:
                array = np.zeros(GEOMETRY.shape, np.int16)
                volumes.write(folder / "imagesTr" / f"{case}_{int(channel):04d}.nii.gz", array, GEOMETRY)
            volumes.write(folder / "labelsTr" / f"{case}.nii.gz", np.ones(GEOMETRY.shape, np.uint8), GEOMETRY)
        content = {"channel_names": channels, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(content))
    (tmp_path / "nnUNet_raw" / "notes").mkdir()
    return tmp_path / "nnUNet_raw"


def test_one_entry_per_data_set(raw, tmp_path):
    found = entries(raw)
    assert found == {
        "001_Liver-1": {
            "from": "nnunet", "raw": str(raw / "Dataset001_Liver-1"), "splits": {"folds": 5, "seed": 12345}, "modality": "CT",
        },
        "002_Brain_x": {"from": "nnunet", "raw": str(raw / "Dataset002_Brain.x"), "splits": {"folds": 5, "seed": 12345}},
    }  # fmt: skip
    for name, entry in found.items():
        prepare(name, {**entry, "splits": {"folds": 2}}, tmp_path / name)
        assert Task.read(tmp_path / name).cases() == ["a", "b"]


def test_a_data_set_that_cannot_be_read(raw):
    (raw / "Dataset001_Liver-1" / "dataset.json").write_text('{"labels": {"a": 1}}')
    with pytest.raises(InputError, match=r"Liver-1/dataset\.json: no channel_names"):
        entries(raw)
    (raw / "Dataset001_Liver-1" / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"Liver-1/dataset\.json: file not found"):
        entries(raw)


def test_no_data_set(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no folder Dataset001_NAME in it"):
            entries(folder)
