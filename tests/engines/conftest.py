"""nnDetection's stand-in on PATH, and a task for it."""

import json
import os
import shutil
from contextlib import contextmanager

import nndet_standin
import pytest
from nndet_tasks import CASES, FOLDS, TESTS, write_raw_task

from detpretrain.engines import nndet_prepare
from detpretrain.files import read_json

SPEC = {"engine": "nndet", "planner": "D3V002"}


@contextmanager
def _on_path(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(nndet_standin.install(place / "bin")), prepend=os.pathsep)
        patch.setenv("NNDET_DIARY", str(place / "diary.jsonl"))
        yield


@pytest.fixture(scope="session")
def on_path():
    """``with on_path(folder)``: the stand-in's commands, in the folder's ``bin``, come first on PATH; its diary lies beside."""
    return _on_path


@pytest.fixture(scope="session")
def ready(tmp_path_factory, on_path):
    """A folder with ``task``, ``plan.json`` and ``preprocessed``: nothing changes it, tests take copies.

    ``splits.json`` has another order of cases than nnDetection's, and ``cases.csv`` is beside it.
    """
    place = tmp_path_factory.mktemp("ready")
    task = write_raw_task(place / "task")
    folds = [{part: cases[::-1] for part, cases in fold.items()} for fold in FOLDS]
    (task / "splits.json").write_text(json.dumps({"folds": folds}))
    lines = [f"{case},{case},cv" for case in CASES] + [f"{case},{case},test" for case in TESTS]
    (task / "cases.csv").write_text("\n".join(["case,patient,test_set", *lines]) + "\n")
    nndet_prepare.plan_task(task, "far", "nndet_v002", SPEC, place / "plan.json")
    with on_path(place):
        nndet_prepare.preprocess_task(task, read_json(place / "plan.json"), place / "preprocessed", 2)
    return place


@pytest.fixture
def diary(tmp_path, on_path):
    """The stand-in's commands are there; called, it gives what they were asked and what they found."""
    with on_path(tmp_path):
        yield lambda: nndet_standin.read_diary(tmp_path / "diary.jsonl")


@pytest.fixture
def commands(diary):
    """Called, it gives the words of every command so far."""
    return lambda: [[line["command"], *line["argv"]] for line in diary() if "command" in line]


@pytest.fixture
def task(ready, tmp_path):
    return shutil.copytree(ready / "task", tmp_path / "task")


@pytest.fixture
def splits(task):
    return task / "splits.json"


@pytest.fixture
def plan(ready):
    """plan.json's content."""
    return read_json(ready / "plan.json")


@pytest.fixture
def prepared(ready, tmp_path):
    """The folder of index.json."""
    return shutil.copytree(ready / "preprocessed", tmp_path / "preprocessed", symlinks=True)
