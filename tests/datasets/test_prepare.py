import json
from pathlib import Path

import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.datasets.prepare import prepare, raw_folder
from detpretrain.errors import InputError
from detpretrain.tasks import Task

BRATS = {"class": "detpretrain.datasets.brats.Brats", "splits": {"folds": 3, "seed": 1}}


def _entry(raw: Path, **kwargs) -> dict:
    return {**BRATS, "raw": str(raw / "brats"), **kwargs}


def _nothing_left(output: Path) -> bool:
    return not output.exists() and not [p for p in output.parent.iterdir() if p.name.startswith(".tmp")]


def test_whole_task(mini_raw, tmp_path):
    output = tmp_path / "data" / "task"
    prepare("brats", _entry(mini_raw), output)
    names = sorted(path.name for path in output.iterdir())
    assert names == ["cases.csv", "dataset.json", "objects.csv", "raw_splitted", "splits.json"]
    assert [path.name for path in output.parent.iterdir()] == ["task"]
    assert len(Task.read(output).folds()) == 3
    before = {name: (output / name).read_text() for name in names if name != "raw_splitted"}
    prepare("brats", _entry(mini_raw), output)  # again, over the old one
    assert {name: (output / name).read_text() for name in before} == before


def test_environment_variable_in_raw(mini_raw, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_DATA", str(mini_raw))
    assert raw_folder("d", "${SOME_DATA}/brats") == mini_raw / "brats"
    monkeypatch.delenv("SOME_DATA")
    with pytest.raises(InputError, match="environment variable SOME_DATA is not set"):
        prepare("d", {**BRATS, "raw": "${SOME_DATA}/brats"}, tmp_path / "task")
    assert _nothing_left(tmp_path / "task")


def test_missing_raw_folder(mini_raw, tmp_path):
    with pytest.raises(InputError, match="raw folder of d not found"):
        prepare("d", _entry(mini_raw / "nowhere"), tmp_path / "out" / "task")
    assert not (tmp_path / "out").exists()


def test_missing_file(mini_raw, tmp_path):
    (mini_raw / "brats" / "pat0001.1" / "FLAIR.nii.gz").unlink()
    with pytest.raises(InputError, match=r"pat0001\.1/FLAIR\.nii\.gz: file not found"):
        prepare("d", _entry(mini_raw), tmp_path / "task")
    assert _nothing_left(tmp_path / "task")


def test_damaged_file_is_in_the_table(mini_raw, tmp_path, capsys):
    path = mini_raw / "brats" / "pat0001.1" / "FLAIR.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    volumes.write(
        mini_raw / "brats" / "pat0002.1" / "T1c.nii.gz",
        np.full((20, 24, 22), np.nan, np.float32),
        volumes.read_geometry(path),
    )
    with pytest.raises(InputError, match=r"2 problems.*exclude_cases") as caught:
        prepare("d", _entry(mini_raw), tmp_path / "task")
    assert "\n" not in str(caught.value)
    table = capsys.readouterr().err
    assert "truncated" in table
    assert "NaN" in table
    assert _nothing_left(tmp_path / "task")
    entry = _entry(mini_raw, exclude_cases={"pat0001_1": "damaged", "pat0002_1": "NaN"}, splits={"folds": 1})
    with pytest.raises(InputError, match="1 patient"):
        prepare("d", entry, tmp_path / "task")


def test_excluding_the_bad_case_helps(mini_raw, tmp_path):
    path = mini_raw / "brats" / "pat0001.1" / "FLAIR.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    entry = _entry(mini_raw, exclude_cases={"pat0001_1": "damaged"}, splits={"folds": 2})
    prepare("d", entry, tmp_path / "task")
    assert Task.read(tmp_path / "task").cases() == ["pat0000_1", "pat0002_1"]


def test_a_failure_keeps_the_earlier_task(mini_raw, tmp_path):
    output = tmp_path / "task"
    prepare("d", _entry(mini_raw), output)
    (mini_raw / "brats" / "pat0001.1" / "tumour.nii.gz").unlink()
    with pytest.raises(InputError):
        prepare("d", _entry(mini_raw), output)
    assert json.loads((output / "dataset.json").read_text())["name"] == "d"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "task"]


def test_something_else_is_not_overwritten(mini_raw, tmp_path):
    output = tmp_path / "home"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis\.tex"):
        prepare("d", _entry(mini_raw), output)
    assert (output / "thesis.tex").exists()


def test_too_many_folds(mini_raw, tmp_path):
    with pytest.raises(InputError, match="5 folds for 3 patients"):
        prepare("d", _entry(mini_raw, splits={"folds": 5}), tmp_path / "task")
    assert _nothing_left(tmp_path / "task")
