import numpy as np
import pandas as pd
import pytest

from detpretrain import volumes
from detpretrain.datasets.openmind import OpenMind
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.openmind.OpenMind", "allow_partial": True}
GEOMETRY = Geometry((5, 6, 7), (1.0, 1.0, 1.2))
IMAGES = {  # path: modality, score
    "ds000001/sub-01/anat/sub-01_T1w.nii.gz": ("T1w", 1.5),
    "ds000001/sub-01/anat/sub-01_T2w.nii.gz": ("T2w", 2.0),
    "ds000002/sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz": ("T1w", 4.0),
    "ds000002/sub-02/ses-a/dwi/sub-02_ses-a_dwi/FA.nii.gz": ("FA", 2.5),
}


@pytest.fixture
def raw(tmp_path):
    raw = tmp_path / "OpenMind_download"
    for path in IMAGES:
        volumes.write(raw / "OpenMind" / path, np.ones(GEOMETRY.shape, np.float32), GEOMETRY)
    sheet(raw, list(IMAGES))
    return raw


def sheet(raw, paths, **columns):
    table = {
        "unique_id": [path.replace("/", "__") for path in paths],
        "image_path": paths,
        "anat_mask_path": [path.replace(".nii", "_anat.nii") for path in paths],
        "anon_mask_path": ["" for _ in paths],
        "modality": [IMAGES[path][0] for path in paths],
        "image_quality_score": [IMAGES[path][1] for path in paths],
    }
    pd.DataFrame(table | columns).to_csv(raw / "openneuro_metadata.csv", index=False)


def run(raw, **arguments):
    prepare("openmind", {**ENTRY, "raw": str(raw), **arguments}, raw.parent / "out" / "task")
    return Task.read(raw.parent / "out" / "task")


def test_all_images_with_patients_of_their_own_data_set(raw):
    task = run(raw)
    table = task.case_table().set_index("source_id")
    assert sorted(table.index) == sorted(IMAGES)
    assert table.loc[list(IMAGES), "patient"].tolist() == [
        "ds000001/sub-01", "ds000001/sub-01", "ds000002/sub-01", "ds000002/sub-02",
    ]  # fmt: skip
    assert table.loc[list(IMAGES), "session"].tolist() == ["", "", "ses-a", "ses-a"]
    assert table.loc[list(IMAGES), "modality"].tolist() == ["T1w", "T2w", "T1w", "FA"]
    first = table.loc["ds000001/sub-01/anat/sub-01_T1w.nii.gz"]
    assert first["anatomy_mask"] == str(raw / "OpenMind/ds000001/sub-01/anat/sub-01_T1w_anat.nii.gz")
    assert all(task.image_paths(case)[0].is_symlink() for case in task.cases())


@pytest.mark.parametrize(
    ("arguments", "scores"),
    [
        ({"modalities": ["T1w", "T2w"]}, [1.5, 2.0, 4.0]),
        ({"max_quality_score": 2.5}, [1.5, 2.0, 2.5]),
        ({"modalities": ["T1w", "FA"], "max_quality_score": 3}, [1.5, 2.5]),
    ],
)
def test_chosen_images(raw, arguments, scores):
    chosen = run(raw, **arguments).case_table()["source_id"]
    assert sorted(IMAGES[path][1] for path in chosen) == scores


def test_a_choice_does_not_change_what_counts_as_downloaded(raw):
    (raw / "OpenMind" / "ds000001/sub-01/anat/sub-01_T2w.nii.gz").unlink()
    message = r"3 found, 113921 published; 1 listed, not found: ds000001/sub-01/anat/sub-01_T2w\.nii\.gz: complete"
    with pytest.raises(InputError, match=message):
        run(raw, modalities=["T1w"], allow_partial=False)
    assert len(run(raw, modalities=["T1w"]).cases()) == 2


PATHS = list(IMAGES)


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (lambda raw: (raw / "openneuro_metadata.csv").unlink(), {}, r"openneuro_metadata\.csv: sheet not found: complete"),
        (lambda raw: sheet(raw, PATHS, modality="T1w"), {"modalities": ["T2w"]}, r"no image of modality T2w: did you mean T1w\?"),
        (lambda raw: sheet(raw, [*PATHS, PATHS[0]]), {}, r"line 6: the same image as in line 2: remove one"),
        (lambda raw: sheet(raw, PATHS, image_path="T1.nii.gz"), {}, r"line 2: image_path 'T1\.nii\.gz' is not DATASET/sub-"),
        (lambda raw: sheet(raw, PATHS, image_quality_score="good"), {"max_quality_score": 2}, "line 2: image_quality_score"),
        (lambda raw: sheet(raw, PATHS, image_path="ds1/sub-01/../../../a.nii"), {}, "line 2: image_path"),
        (lambda raw: (raw / "OpenMind").rename(raw / "Other"), {}, "OpenMind: no image of those that are asked for: download"),
        (lambda raw: (raw / "openneuro_metadata.csv").write_text("image_path\nx\n"), {}, "no column modality"),
        (lambda raw: (raw / "openneuro_metadata.csv").write_text("image_path,modality\n"), {}, "no lines below the header"),
    ],
)  # fmt: skip
def test_defects_of_the_download(raw, spoil, arguments, message):
    spoil(raw)
    with pytest.raises(InputError, match=message):
        run(raw, **arguments)


def test_modalities_are_a_list():
    with pytest.raises(InputError, match="modalities: list at least one"):
        OpenMind(modalities="T1w")
