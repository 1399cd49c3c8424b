"""The engine, with a data set whose download is one text file per case: "VALUE", a cube of that many voxels per side."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from detpretrain import build
from detpretrain.datasets import conversion
from detpretrain.datasets.prepare import prepare
from detpretrain.datasets.raw_dataset import Converted, Layout, Published, RawCase, RawDataset
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.task_validation import Problem
from detpretrain.tasks import Task

GEOMETRY = Geometry((8, 9, 10), (2.0, 1.0, 1.0), (5.0, 6.0, 7.0))


class Cubes:
    labels = ("cube",)
    modalities = ("CT",)
    published = Published({"cv": 3, "test": 1}, "CC0", "Cubes et al., Journal of Cubes, 2020", "https://cubes.example")

    def __init__(self):
        self.converted = Counter()
        self.folds = None

    def layout(self, raw):
        files = sorted(raw.glob("*.txt"))
        problems = [Problem(f.stem, str(f), "empty", "write a number") for f in files if not f.read_text()]
        cases = [
            RawCase(f.stem, f"patient_{f.stem}", f.name, f, test_set="test" if f.stem == "t" else "cv") for f in files
        ]
        return Layout(cases, problems, self.folds)

    def convert(self, case):
        self.converted[case.case] += 1
        text = case.files.read_text()
        if not text.isdigit():
            raise InputError(f"{case.files}: {text!r} is not a number: write one")
        side = int(text)
        image = np.zeros(GEOMETRY.shape, np.int16)
        instances = np.zeros(GEOMETRY.shape, np.uint8)
        instances[1 : 1 + side, 2 : 2 + side, 3 : 3 + side] = 1
        notes = [f"side {side}"] if side > 2 else []
        return Converted([image], GEOMETRY, instances, {1: 0} if side else {}, notes=notes)


@pytest.fixture
def source(monkeypatch):
    made = Cubes()
    monkeypatch.setattr(build, "build", lambda entry: made)
    return made


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, side in {"a": 2, "b": 3, "c": 0, "t": 4}.items():
        (folder / f"{name}.txt").write_text(str(side))
    return folder


@pytest.fixture
def run(raw, tmp_path):
    def prepared(**entry):
        prepare("cubes", {"raw": str(raw), "splits": {"folds": 3, "seed": 0}, **entry}, tmp_path / "out" / "task")
        return tmp_path / "out" / "task"

    return prepared


def test_it_is_a_raw_dataset_and_a_simple_one_is_not():
    assert isinstance(Cubes(), RawDataset)
    assert not isinstance(object(), RawDataset)


def test_the_whole_task(source, run):
    folder = run()
    assert sorted(path.name for path in folder.iterdir()) == [
        "cases.csv", "conversion.csv", "dataset.json", "objects.csv", "raw_splitted", "splits.json",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["task"]
    task = Task.read(folder)
    assert (task.cases("cv"), task.cases("test")) == (["a", "b", "c"], ["t"])
    objects = task.objects().set_index("case")
    assert objects.loc["b", ["z1", "y1", "x1", "z2", "y2", "x2"]].tolist() == [0, 1, 2, 4, 5, 6]
    assert set(objects.index) == {"a", "b", "t"}
    table = task.case_table().set_index("case")
    assert table.loc["t", ["patient", "source_id", "test_set", "objects_0"]].tolist() == [
        "patient_t",
        "t.txt",
        "test",
        1,
    ]
    assert table.loc["c", ["spacing_z", "shape_x", "objects_0"]].tolist() == [2.0, 10, 0]
    content = json.loads((folder / "dataset.json").read_text())
    assert (content["licence"], content["download"]) == ("CC0", "https://cubes.example")
    assert "Journal of Cubes" in content["citation"]


def test_the_log_names_every_case_with_its_notes(source, run):
    log = pd.read_csv(run() / "conversion.csv", keep_default_na=False).set_index("case")
    assert log["notes"].to_dict() == {"a": "", "b": "side 3", "c": "", "t": "side 4"}
    assert (log["seconds"] >= 0).all()


def test_tables_are_those_that_reading_the_task_again_gives(source, run):
    from detpretrain.case_files import CaseRecord, table_rows

    folder = run()
    task = Task.read(folder)
    for row in task.case_table().to_dict("records"):
        record = CaseRecord(*(row[key] for key in ("case", "patient", "source_id", "session", "test_set")))
        again, objects = table_rows(task, record)
        assert {key: str(value) for key, value in again.items()} == {key: str(value) for key, value in row.items()}
        assert len(objects) == (task.objects()["case"] == row["case"]).sum()


def test_problems_stop_before_any_case_is_read_all_in_one_table(source, run, raw, capsys):
    (raw / "a.txt").write_text("")
    (raw / "c.txt").write_text("")
    with pytest.raises(InputError, match=r"a\.txt: empty: write a number \(2 problems, see the table\)"):
        run()
    shown = "".join(capsys.readouterr().err.split())
    assert "cubes.example" in shown
    assert shown.count("writeanumber") == 2
    assert not source.converted


def test_an_excluded_case_takes_its_problem_along(source, run, raw):
    (raw / "a.txt").write_text("")
    folder = run(exclude_cases={"a": "empty"}, splits={"folds": 2, "seed": 0})
    assert Task.read(folder).cases("cv") == ["b", "c"]
    with pytest.raises(InputError, match="exclude_cases names nobody"):
        run(exclude_cases={"a": "empty", "nobody": "x"}, splits={"folds": 2, "seed": 0})


def test_other_counts_than_published_stop_unless_accepted(source, run, raw, capsys):
    (raw / "t.txt").unlink()
    (raw / "a.txt").unlink()
    message = r"cubes: cases: 2 found, 3 published; cases of test set test: 0 found, 1 published: complete the download"
    with pytest.raises(InputError, match=message):
        run(splits={"folds": 2, "seed": 0})
    assert not source.converted
    run(splits={"folds": 2, "seed": 0}, allow_partial=True)
    assert "2 found, 3 published" in capsys.readouterr().out


def test_excluded_cases_count_as_found(source, run):
    run(exclude_cases={"a": "a reason"}, splits={"folds": 2, "seed": 0})


def test_a_bad_case_keeps_the_others_and_the_next_attempt_converts_what_is_left(source, run, raw):
    (raw / "b.txt").write_text("big")
    with pytest.raises(InputError, match=r"1 of 4 cases cannot be converted: b: .*b\.txt: 'big' is not a number"):
        run()
    assert not (raw.parent / "out" / "task").exists()
    (raw / "b.txt").write_text("1")
    folder = run()
    assert source.converted == {"a": 1, "b": 2, "c": 1, "t": 1}
    assert Task.read(folder).objects().set_index("case").loc["b", "z2"] == 2
    assert [path.name for path in folder.parent.iterdir()] == ["task"]


def test_another_entry_starts_anew(source, run, raw):
    (raw / "b.txt").write_text("big")
    with pytest.raises(InputError, match="cannot be converted"):
        run()
    (raw / "b.txt").write_text("1")
    run(splits={"folds": 2, "seed": 0})
    assert source.converted == {"a": 2, "b": 2, "c": 2, "t": 2}


def test_half_a_case_of_an_attempt_that_was_killed_is_written_again(source, run, raw, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "table_rows", dies)
        with pytest.raises(KeyboardInterrupt):
            run()
    folder = run()
    assert source.converted == {"a": 2, "b": 1, "c": 1, "t": 1}
    assert len(Task.read(folder).objects()) == 3


def test_a_second_preparation_at_the_same_time_is_refused(source, run, tmp_path):
    folder, message = tmp_path / "out" / ".unfinished-task", "another process is preparing this data set"
    with conversion.resumable(folder, {"someone": "else"}), pytest.raises(InputError, match=message):
        run()
    assert not source.converted


def test_written_files_are_checked(source, run, monkeypatch):
    def cannot(case):
        return Converted([np.zeros((8, 9, 10), np.int16)], GEOMETRY, np.zeros(GEOMETRY.shape, np.uint8), {1: 0})

    monkeypatch.setattr(source, "convert", cannot)
    with pytest.raises(InputError, match=r"4 of 4 cases cannot be converted: a: .*a\.nii\.gz: empty instance map"):
        run()


def test_official_folds_are_used_and_a_patient_in_both_parts_is_refused(source, run):
    source.folds = [{"train": ["a", "b"], "val": ["c"]}]
    assert Task.read(run()).folds() == source.folds
    source.folds = [{"train": ["a", "b"], "val": ["b"]}]
    with pytest.raises(InputError, match="patient patient_b in both train and val"):
        run()
