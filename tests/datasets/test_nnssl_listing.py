import json

import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.datasets.nnssl_listing import NnsslListing, read_listing, write_listing
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task

ENTRY = {"from": "nnssl", "modality": "MR"}
GEOMETRY = Geometry((4, 5, 6), (1.0, 1.0, 1.2))


def image(name, path, modality, masks=None):
    return {"name": name, "image_path": path, "modality": modality, "image_info": {}, "associated_masks": masks}


def subject(name, **sessions):
    its = {key: {"session_id": key, "session_info": None, "images": images} for key, images in sessions.items()}
    return {"subject_id": name, "subject_info": None, "sessions": its}


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A listing as nnssl writes it: two data sets, a subject with two visits, masks, a variable in the paths."""
    monkeypatch.setenv("nnssl_raw", str(tmp_path / "nnssl_raw/"))
    for name in ("a1", "a2", "b", "c"):
        volumes.write(tmp_path / "nnssl_raw" / "images" / f"{name}.nii.gz", np.ones(GEOMETRY.shape, np.int16), GEOMETRY)
    masks = {"anonymization_mask": None, "anatomy_mask": "$nnssl_raw/masks/a1.nii.gz"}
    one = subject("sub-01", first=[image("t1.nii.gz", "$nnssl_raw/images/a1.nii.gz", "T1", masks)])
    one["sessions"]["second"] = {
        "session_id": "second",
        "images": [image("t2.nii.gz", "$nnssl_raw/images/a2.nii.gz", "T2")],
    }
    same_name = subject("sub-01", **{"ses-DEFAULT": [image("t1.nii.gz", "$nnssl_raw/images/b.nii.gz", "T1")]})
    absolute = str(tmp_path / "nnssl_raw" / "images" / "c.nii.gz")
    last = subject("007", **{"ses-DEFAULT": [image("t1.nii.gz", absolute, "T1")]})
    listing = {
        "collection_index": 7,
        "collection_name": "Dataset007_X",
        "datasets": {
            "one": {"dataset_index": "one", "name": None, "dataset_info": {}, "subjects": {"sub-01": one}},
            "two": {"dataset_index": 2, "name": "Two", "subjects": {"sub-01": same_name, "007": last}},
        },
    }
    folder = tmp_path / "nnssl_raw" / "Dataset007_X"
    folder.mkdir()
    (folder / "pretrain_data.json").write_text(json.dumps(listing))
    return folder


def run(raw, **arguments):
    prepare("listed", {**ENTRY, "raw": str(raw), **arguments}, raw.parent.parent / "out" / "task")
    return Task.read(raw.parent.parent / "out" / "task")


def test_every_image_is_a_case_and_a_subject_belongs_to_its_data_set(raw):
    task = run(raw)
    table = task.case_table().set_index("source_id")
    assert sorted(table.index) == [
        "Dataset007_X__one__sub-01__first__t1.nii.gz",
        "Dataset007_X__one__sub-01__second__t2.nii.gz",
        "Dataset007_X__two__007__ses-DEFAULT__t1.nii.gz",
        "Dataset007_X__two__sub-01__ses-DEFAULT__t1.nii.gz",
    ]
    assert sorted(table["patient"]) == ["one/sub-01", "one/sub-01", "two/007", "two/sub-01"]
    assert sorted(table["session"]) == ["", "", "first", "second"]
    assert sorted(table["modality"]) == ["T1", "T1", "T1", "T2"]
    assert all(task.image_paths(case)[0].is_symlink() for case in task.cases())


def test_written_and_read_again_it_lists_the_same(raw, tmp_path):
    task = run(raw)
    output = tmp_path / "nnssl_raw" / "Dataset008_Y" / "pretrain_data.json"
    assert write_listing(task, output) == 4

    def known(path):
        return sorted(
            (str(i.path), i.patient, i.session, i.modality, *sorted(i.columns.items())) for i in read_listing(path)
        )

    assert known(output) == known(raw / "pretrain_data.json")
    assert len(known(output)) == 4
    content = json.loads(output.read_text())
    assert content["collection_name"] == "listed"
    its = content["datasets"]["one"]["subjects"]["sub-01"]["sessions"]["first"]["images"][0]
    assert its == {
        "name": "t1.nii.gz",
        "image_path": "$nnssl_raw/images/a1.nii.gz",
        "modality": "T1",
        "image_info": None,
        "associated_masks": {"anonymization_mask": None, "anatomy_mask": "$nnssl_raw/masks/a1.nii.gz"},
    }
    (other,) = content["datasets"]["two"]["subjects"]["007"]["sessions"]["ses-DEFAULT"]["images"]
    assert other["associated_masks"] is None


def test_a_folder_that_is_no_finished_task(raw, tmp_path):
    task = run(raw)
    (task.root / "cases.csv").unlink()
    with pytest.raises(InputError, match=r"cases\.csv: sheet not found: prepare the task again"):
        write_listing(task, tmp_path / "x.json")


def test_any_corpus_task_can_be_written(mini_raw, tmp_path):
    prepare("corpus", {"from": "volumes", "raw": str(mini_raw), "patterns": ["brats/*/*.nii.gz"]}, tmp_path / "task")
    output = tmp_path / "pretrain_data.json"
    assert write_listing(Task.read(tmp_path / "task"), output) == 9
    images = list(read_listing(output))
    assert {i.patient for i in images} == {f"corpus/brats_pat000{n}_1" for n in range(3)}
    assert {i.path for i in images} == {p.resolve() for p in mini_raw.glob("brats/*/*.nii.gz")}
    assert {i.modality for i in images} == {"MR"}
    assert len({i.source_id for i in images}) == 9


def test_channels_become_images(mini_raw, tmp_path):
    entry = {"class": "detpretrain.datasets.brats.Brats", "raw": str(mini_raw / "brats"), "splits": {"folds": 3}}
    prepare("brats", entry, tmp_path / "task")
    assert write_listing(Task.read(tmp_path / "task"), tmp_path / "p.json") == 6
    images = list(read_listing(tmp_path / "p.json"))
    assert sorted(i.modality for i in images) == ["FLAIR"] * 3 + ["T1c"] * 3
    assert len({i.source_id for i in images}) == 6


def test_chosen_modalities(raw):
    assert len(run(raw, modalities=["T1"]).cases()) == 3
    with pytest.raises(InputError, match=r"no image of modality T3: known are T1, T2"):
        run(raw, modalities=["T3"])
    with pytest.raises(InputError, match="modalities: list at least one"):
        NnsslListing(modalities="T1")


def test_a_missing_image_stops_unless_accepted(raw, tmp_path):
    (tmp_path / "nnssl_raw" / "images" / "c.nii.gz").unlink()
    with pytest.raises(InputError, match=r"listed: 1 listed, not found: .*c\.nii\.gz: complete the download"):
        run(raw)
    assert len(run(raw, allow_partial=True).cases()) == 3


def test_none_of_the_images_is_there(raw, tmp_path, monkeypatch):
    listing = raw / "pretrain_data.json"
    listing.write_text(listing.read_text().replace(str(tmp_path / "nnssl_raw"), "/nowhere"))
    monkeypatch.setenv("nnssl_raw", "/elsewhere")
    with pytest.raises(InputError, match="none of the listed images exists: complete the data"):
        run(raw)


def test_a_variable_that_is_not_set(raw, monkeypatch):
    monkeypatch.delenv("nnssl_raw")
    with pytest.raises(InputError, match="environment variable nnssl_raw is not set: set it to the folder of"):
        run(raw)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"image_path"',
            '"path"',
            r"pretrain_data\.json: no 'image_path' in or after one/sub-01/first: write the listing",
        ),
        ('"collection_name"', '"name"', "no 'collection_name' in or after the collection"),
        ('"sessions": {"first"', '"sessions": [{"first"', "not valid JSON"),
        ('"datasets": {', '"datasets": [], "old": {', "another form than nnssl's in or after the collection"),
        ('"datasets": {', '"datasets": {}, "old": {', "lists no image"),
    ],
)
def test_another_form(raw, old, new, message):
    listing = raw / "pretrain_data.json"
    listing.write_text(listing.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        run(raw)


def test_no_listing(raw):
    with pytest.raises(InputError, match=r"other\.json: file not found"):
        run(raw, file="other.json")
