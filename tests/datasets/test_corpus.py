from pathlib import Path

import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.datasets import conversion
from detpretrain.datasets.corpus import LONGEST_ID, Choice, CorpusImage, case_id, corpus_layout
from detpretrain.datasets.prepare import prepare
from detpretrain.datasets.raw_dataset import Converted
from detpretrain.datasets.volume_corpus import VolumeCorpus
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task


def images(*counts):
    """Patient p0 with counts[0] images, and so on."""
    return [
        CorpusImage(Path(f"/nowhere/{p}-{i}.nii.gz"), f"{p}-{i}.nii.gz", f"p{p}")
        for p, count in enumerate(counts)
        for i in range(count)
    ]


def test_a_subset_takes_whole_patients_and_is_seeded():
    every = images(*[3] * 20)
    chosen = Choice(10, seed=1).of(every)
    assert len(chosen) == 9
    assert len({image.patient for image in chosen}) == 3
    assert chosen == [image for image in every if image in chosen]
    assert Choice(10, seed=1).of(every) == chosen
    assert Choice(10, seed=2).of(every) != chosen


def test_a_smaller_subset_is_part_of_a_larger_one():
    every = images(*np.random.default_rng(0).integers(1, 6, 40))
    subsets = [{image.source_id for image in Choice(count, seed=3).of(every)} for count in (12, 25, 60)]
    assert all(len(subset) <= count for subset, count in zip(subsets, (12, 25, 60), strict=True))
    assert subsets[0] < subsets[1] < subsets[2]


def test_no_limit_takes_all():
    assert Choice().of(images(2, 3)) == images(2, 3)
    assert Choice(5).of(images(2, 3)) == images(2, 3)


@pytest.mark.parametrize("count", [0, 1, -3, 2.5, "many"])
def test_limits_that_are_none(count):
    with pytest.raises(InputError, match=r"max_cases: .* is not a whole number from 2"):
        Choice(count)


def test_a_limit_below_two_patients():
    with pytest.raises(InputError, match="fewer than those of two patients"):
        Choice(5).of(images(4, 4, 4))


def test_long_names_get_short_ids_that_differ():
    long = "ds000001/" + "a" * 300
    one, two = case_id(long + "1.nii.gz"), case_id(long + "2.nii.gz")
    assert one != two
    assert max(map(len, (one, two))) <= LONGEST_ID + 9
    assert case_id("a/b.c.nii") == "a_b_c"


def test_found_is_counted_before_the_subset(tmp_path):
    every = images(1, 1, 1)
    for image in every:
        Path(tmp_path / image.path.name).write_bytes(b"x")
    every = [CorpusImage(tmp_path / i.path.name, i.source_id, i.patient) for i in every]
    layout = corpus_layout(every, Choice(2))
    assert (len(layout.cases), layout.found) == (2, {"cv": 3})


def test_empty_files_and_names_alike_are_problems(tmp_path):
    for name in ("a.b.nii.gz", "a_b.nii.gz", "c.nii.gz"):
        (tmp_path / name).write_bytes(b"" if name[0] == "c" else b"x")
    found = [CorpusImage(path, path.name, path.name) for path in sorted(tmp_path.iterdir())]
    layout = corpus_layout(found, Choice())
    assert [(Path(p.file).name, p.case, p.problem.split()[0]) for p in layout.problems] == [
        ("a_b.nii.gz", "", "case"), ("c.nii.gz", "c", "empty"),
    ]  # fmt: skip


class TwoChannels(VolumeCorpus):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.modalities = ("T1", "T2")

    def convert(self, case):
        return Converted([case.files, case.files.with_name("other.nii.gz")], check_voxels=False)


def test_channels_on_different_grids_are_seen_in_the_headers(tmp_path):
    raw = tmp_path / "raw"
    for patient in "ab":
        for name, spacing in (("t1", 1.0), ("other", 2.0 if patient == "b" else 1.0)):
            array = np.zeros((3, 4, 5), np.int16)
            volumes.write(raw / patient / f"{name}.nii.gz", array, Geometry((3, 4, 5), (spacing, 1.0, 1.0)))
    entry = {"class": f"{__name__}.TwoChannels", "raw": str(raw), "patterns": ["*/t1.nii.gz"]}
    from detpretrain import build

    source = TwoChannels(patterns=["*/t1.nii.gz"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build", lambda _: source)
        with pytest.raises(InputError, match=r"b/other\.nii\.gz: geometry differs from channel 0: spacing"):
            prepare("corpus", entry, tmp_path / "task")


def test_an_interrupted_corpus_goes_on(tmp_path, mini_raw, monkeypatch):
    entry = {"from": "volumes", "raw": str(mini_raw), "patterns": ["brats/*/T1c.nii.gz"], "check_voxels": False}
    calls = []
    real = conversion.table_rows

    def dies(task, record, instances):
        calls.append(record.case)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(task, record)

    monkeypatch.setattr(conversion, "table_rows", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare("corpus", entry, tmp_path / "task")
    prepare("corpus", entry, tmp_path / "task")
    assert calls == ["brats_pat0000_1_T1c", "brats_pat0001_1_T1c", "brats_pat0001_1_T1c", "brats_pat0002_1_T1c"]
    assert len(Task.read(tmp_path / "task").cases()) == 3


def test_one_case_is_written_without_listing_the_others(tmp_path, mini_raw, monkeypatch):
    entry = {"from": "volumes", "raw": str(mini_raw), "patterns": ["brats/*/T1c.nii.gz"], "check_voxels": False}
    listed = []
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path.name) or real(path))
    prepare("corpus", entry, tmp_path / "task")
    assert listed.count("imagesTr") <= 1  # by the task as a whole


def test_processes_give_the_same_tables(tmp_path, mini_raw):
    entry = {"from": "volumes", "raw": str(mini_raw), "patterns": ["brats/*/T1c.nii.gz"], "check_voxels": False}
    prepare("corpus", entry, tmp_path / "one", workers=1)
    prepare("corpus", entry, tmp_path / "two", workers=2)
    for name in ("cases.csv", "splits.json"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
