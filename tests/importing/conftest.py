"""The smoke study prepared here, and the same study as another group has finished it: real tables, nothing trained."""

import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_trees import ROOT, smoke_study

from detpretrain import status, trainings
from detpretrain.evaluation import matches, raw_boxes
from detpretrain.evaluation.ensemble import Candidates
from detpretrain.files import read_json, write_json
from detpretrain.importing.prepared import Prepared
from detpretrain.inference.scoring import FoldBoxes, Truth, score_cell, scores_by_test_set
from detpretrain.study import Cell, Study
from detpretrain.tasks import read_splits

DATASET, PLAN = "smoke_nodules", "smoke"
HELD_OUT = [f"case_{number}" for number in range(6)]  # two per fold
CASES = [*HELD_OUT, "apart_0"]
SPACING = {"spacing_z": 2.0, "spacing_y": 1.0, "spacing_x": 0.5}
SHAPE = [20, 30, 40]


def objects_of(case: str) -> list[list[float]]:
    """As many boxes as the case's number says, none for the first."""
    return [[2.0 * n, 3.0 * n, 4.0, 2.0 * n + 4, 3.0 * n + 5, 12.0] for n in range(int(case[-1]) % 3)]


def properties_of(case: str) -> dict:
    boxes = objects_of(case)
    return {
        "case": case,
        "test_set": "cv" if case in HELD_OUT else "test",
        "shape": SHAPE,
        "cropped_shape": SHAPE,
        "crop_offset": [0, 0, 0],
        "transpose": [0, 1, 2],
        "geometry": {"shape": SHAPE, "spacing": list(SPACING.values()), "origin": [0.0] * 3, "direction": [1.0] * 9},
        "ids": list(range(1, len(boxes) + 1)),
        "classes": [0] * len(boxes),
        "boxes": boxes,
        "ignored": [],
        "lost": [],
        "source": f"bytes of {case}",
    }


def write_dataset(data: Path) -> None:
    task = data / DATASET / "task"
    write_json(task / "dataset.json", {"name": DATASET, "labels": {"0": "nodule"}, "modalities": {"0": "CT"}})
    folds = [
        {"train": [case for case in HELD_OUT if case not in held], "val": held}
        for held in (HELD_OUT[0:2], HELD_OUT[2:4], HELD_OUT[4:6])
    ]
    write_json(task / "splits.json", {"folds": folds})
    sizes = dict(zip(("shape_z", "shape_y", "shape_x"), SHAPE, strict=True))
    lines = [
        {
            "case": case,
            "source_id": case,
            "patient": f"patient of {case}",
            "session": "",
            "test_set": properties_of(case)["test_set"],
        }
        | SPACING
        | sizes
        for case in CASES
    ]
    pd.DataFrame(lines).to_csv(task / "cases.csv", index=False)
    rows = [
        {"case": case, "truth": number, "class": 0, **dict(zip(matches.SIDES, box, strict=True)), "ignored": False}
        for case in CASES
        for number, box in enumerate(objects_of(case), start=1)
    ]
    pd.DataFrame(rows).to_csv(task / "objects.csv", index=False)
    index = {"cases": [properties_of(case) for case in CASES], "plan": {"classes": 1}}
    write_json(data / DATASET / PLAN / "preprocessed" / "index.json", index)


def write_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(range(256)) * 20)


def write_log(path: Path) -> None:
    pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "seconds": [3.0, 3.5]}).to_csv(path, index=False)


def recorded(study: Study, cell: Cell) -> dict:
    """Provenance of the stages, as a run of now would record it."""
    return {
        stage: {"recipe": recipe, "source": "abc123", "commit": "c" * 40, "dirty": False, "seconds": 5.0}
        for stage, (recipe, _) in status.expected(study, cell).items()
    }


def candidates(case: str, seed: int) -> Candidates:
    found = np.array([*objects_of(case), [1.0, 1, 1, 6, 7, 8]], dtype=np.float32)
    noise = np.random.default_rng(seed).normal(0, 0.2, found.shape)
    n = len(found)
    scores = np.linspace(0.9, 0.3, n)
    return Candidates(
        (found + noise).astype(np.float32), scores.astype(np.float32), np.zeros(n, int), np.ones(n, np.float32), np.zeros(n, int)
    )  # fmt: skip


@dataclass(frozen=True)
class Theirs:
    """The other group's study folder. ``study``: as it is called there."""

    folder: Path
    data: Path
    own: Study

    def cell(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.path

    def write_cell(self, cell: Cell, *, study: str = "smoke", named: Cell | None = None, **changed: dict) -> Path:
        """Every file of a cell; ``changed``: fields of a stage's provenance; ``named``: whose names the tables hold."""
        folder, named = self.cell(cell), named or cell
        facts = {stage: {**record, **changed.get(stage, {})} for stage, record in recorded(self.own, cell).items()}
        facts["finetune"]["pretrain"] = facts.pop("pretrain", None)
        task = self.data / DATASET / "task"
        held = read_splits(task / "splits.json")[cell.fold]["val"]
        scored = [case for case in CASES if case in held or case not in HELD_OUT]
        found = {case: candidates(case, cell.fold) for case in scored}
        properties = {case: properties_of(case) for case in scored}
        made = {stage: facts[stage] for stage in ("finetune", "predict")}
        raw = raw_boxes.RawBoxes(found, properties, 1, 1, made)
        raw_boxes.write(folder / "raw_boxes.parquet", raw)
        run = matches.Run(study, named.dataset, "", named.detector, named.init, named.seed)
        boxes = FoldBoxes(named.fold, raw, None)
        table = score_cell(boxes, Truth.read(task), run)
        matches.write(folder / "matches.parquet", table)
        write_json(folder / "metrics.json", {"test_sets": scores_by_test_set(table, 1), "provenance": facts})
        write_archive(folder / "model.pth")
        write_log(folder / "log.csv")
        return folder

    def write_pretraining(self, **changed: object) -> Path:
        folder = self.folder / "pretrained" / "mae" / "resenc"
        cell = next(cell for cell in self.own.cells if cell.init == "mae")
        assessment = {
            "init": "mae",
            "backbone": "resenc",
            "provenance": recorded(self.own, cell)["pretrain"],
            **changed,
        }
        write_json(folder / "assessment.json", assessment)
        for name in ("checkpoint.pth", "preview.npz"):
            write_archive(folder / name)
        write_log(folder / "log.csv")
        return folder


@pytest.fixture(scope="session")
def finished_place(tmp_path_factory) -> Path:
    """``results/data``: what is prepared here, made a while ago; ``theirs``: the whole study of the other group."""
    place = tmp_path_factory.mktemp("place")
    folder = place / "results" / "data"
    write_dataset(folder)
    (folder / "smoke_corpus" / "task").mkdir(parents=True)
    (folder / "smoke_corpus" / "task" / "cases.csv").write_text("case,patient\n")
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (1e9, 1e9))
    chosen, _ = smoke_study(place)
    theirs = Theirs(place / "theirs", folder, chosen)
    for cell in chosen.cells:
        theirs.write_cell(cell)
    theirs.write_pretraining()
    return place


@pytest.fixture
def data(tmp_path, finished_place) -> Path:
    return shutil.copytree(finished_place / "results" / "data", tmp_path / "results" / "data")


@pytest.fixture
def ours(tmp_path, data, monkeypatch) -> Study:
    """The smoke study with its results in ``tmp_path/results``, and the repository's working directory."""
    chosen, _ = smoke_study(tmp_path)
    folder = tmp_path / "root"
    folder.mkdir()
    for name in ("config", "workflow"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    return chosen


@pytest.fixture
def arguments(ours, tmp_path) -> list[str]:
    return ["--config", "config/smoke.yaml", "--config", str(tmp_path / "place.yaml")]


@pytest.fixture
def theirs(tmp_path, data, ours) -> Theirs:
    """Without any cell so far."""
    folder = tmp_path / "theirs"
    (folder / "cells").mkdir(parents=True)
    return Theirs(folder, data, ours)


@pytest.fixture
def everything(theirs, finished_place) -> Theirs:
    """The whole study of the other group."""
    shutil.copytree(finished_place / "theirs", theirs.folder, dirs_exist_ok=True)
    return theirs


@pytest.fixture
def here(ours) -> Prepared:
    return Prepared.read(ours, DATASET, PLAN, [])


@pytest.fixture
def edit_json():
    """``edit_json(path, change)``: the file with a changed content."""

    def edit(path: Path, change) -> None:
        content = read_json(path)
        change(content)
        path.write_text(json.dumps(content))

    return edit


@pytest.fixture
def files_of():
    """``files_of(folder)`` -> content of every file below."""
    return lambda folder: {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def smoke_cells(ours) -> dict[str, list[Cell]]:
    """Cells of an init, by fold."""
    return {init: [cell for cell in ours.cells if cell.init == init] for init in ("mae", "scratch")}


@pytest.fixture
def at(ours):
    """``at(cell)`` -> its folder here."""
    return lambda cell: trainings.of_cell(ours, cell).folder
