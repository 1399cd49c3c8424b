import pytest

from detpretrain import engine_entries
from detpretrain.errors import InputError

DETECTOR = {"engine": "nndet", "backbone": "resenc", "plan": "p", "config": "c", "module": "M"}
PLAN = {"engine": "nndet", "planner": "D3V002"}


def test_whole_entries_are_accepted():
    engine_entries.check_detector("d", DETECTOR)
    engine_entries.check_detector("d", DETECTOR | {"transfer": "M_TL", "overrides": ["a=1"]})
    engine_entries.check_plan("p", PLAN | {"gpu": True, "overrides": []})
    engine_entries.check_plan_of("d", DETECTOR, PLAN)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"engine": "nndett"}, "engine 'nndett': did you mean 'nndet'?"),
        ({"engine": "monai"}, "engine 'monai': known are nndet"),
        ({"recipe": "r"}, "unknown key 'recipe' for engine nndet: known are"),
        ({"modul": "M"}, "unknown key 'modul' for engine nndet: did you mean 'module'?"),
        ({"config": 3}, "config: 3: write a word"),
        ({"overrides": "a=1"}, "overrides: 'a=1': write a list of KEY=VALUE"),
        ({"overrides": [1]}, "write a list of KEY=VALUE"),
    ],
)
def test_mistakes_of_a_detector_are_one_line(changes, told):
    with pytest.raises(InputError) as error:
        engine_entries.check_detector("d", DETECTOR | changes)
    assert str(error.value).startswith("config/detectors.yaml: d: ")
    assert told in str(error.value)


@pytest.mark.parametrize("key", ["backbone", "plan", "config", "module"])
def test_missing_keys_are_named(key):
    with pytest.raises(InputError, match=f"config/detectors.yaml: d has no {key}: add it"):
        engine_entries.check_detector("d", {name: value for name, value in DETECTOR.items() if name != key})


def test_mistakes_of_a_plan_are_one_line():
    with pytest.raises(InputError, match="plan p has no planner: add it"):
        engine_entries.check_plan("p", {"engine": "nndet"})
    with pytest.raises(InputError, match="plan p: gpu: 1: write true or false"):
        engine_entries.check_plan("p", PLAN | {"gpu": 1})
    with pytest.raises(InputError, match=r"d: plan p is not one of engine nndet: name one of config/plans"):
        engine_entries.check_plan_of("d", DETECTOR, {"patch": 64})


@pytest.mark.parametrize(
    ("start", "told"),
    [
        ({"method": "mae"}, "d has no transfer .*so it only starts from scratch: leave the row with init i out"),
        ({"checkpoint": "x.pth", "neck": True}, "i: d loads no neck"),
        ({"checkpoint": "x.pth", "stem": "mr"}, "i: d takes a checkpoint's default stem"),
    ],
)
def test_starts_that_are_not_possible(start, told):
    entry = DETECTOR if "method" in start else DETECTOR | {"transfer": "M_TL"}
    with pytest.raises(InputError, match=told):
        engine_entries.check_start("d", entry, "i", start)


def test_starts_that_are_possible():
    engine_entries.check_start("d", DETECTOR, "scratch", {})
    engine_entries.check_start("d", DETECTOR | {"transfer": "M_TL"}, "i", {"method": "mae"})


def test_executables_are_those_of_the_folder_then_of_path(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "nndet_train").write_text("#!/bin/sh\n")
        (tmp_path / folder / "nndet_train").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "two"))
    assert engine_entries.executable("nndet_train") == str(tmp_path / "two" / "nndet_train")
    assert engine_entries.executable("nndet_train", str(tmp_path / "one")) == str(tmp_path / "one" / "nndet_train")
    assert engine_entries.executable("nndet_train", str(tmp_path / "three")) == str(tmp_path / "two" / "nndet_train")
    assert engine_entries.executable("nndet_prep", str(tmp_path / "one")) is None
