"""Every public data set of config/datasets.yaml, from a tiny download in its true format to metrics.

Entries, plan and scripts are those of the workflow; only the fine-tuning is one step instead of what the recipe says.
"""

import math
import operator
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from downloads import cta_a, duke_breast, kits21, lidc, luna16, msd_pancreas, pn9, ribfrac

from detpretrain import leaves, study, volumes
from detpretrain.build import build
from detpretrain.datasets import prepare, sources
from detpretrain.datasets.raw_dataset import RawDataset
from detpretrain.evaluation import matches
from detpretrain.files import read_json, read_yaml
from detpretrain.preprocessing.restore import boxes_to_original
from detpretrain.preprocessing.store import read_case
from detpretrain.tasks import CROSS_VALIDATION, Task
from detpretrain.training import checkpoints
from detpretrain.training.finetune import Cell, finetune
from detpretrain.training.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = read_yaml(ROOT / "config" / "datasets.yaml")
DETECTOR, PLAN = "retina_unet_resenc", "smoke"
ONE_STEP = {"epochs": 1, "steps_per_epoch": 1, "validation_steps": 1}
BOX = ["z1", "y1", "x1", "z2", "y2", "x2"]


@dataclass(frozen=True)
class Download:
    """A tiny download, with what it holds by hand.

    Attributes:
        write: writes it into a folder that is not there.
        case: one with an object, the first of the case.
        corners: of that object's box (low and high index), as x, y, z in mm, LPS.
        test_sets: name -> cases, beside the folds'.
        folds: that are trained, two where there are two, so that each has another one for its post-processing; every class
            has an object in what they are scored on.
    """

    write: Callable[[Path], Path]
    case: str
    corners: tuple[tuple[float, float, float], tuple[float, float, float]]
    test_sets: dict[str, list[str]] = field(default_factory=dict)
    folds: tuple[int, ...] = (0, 1)


DOWNLOADS = {
    # index (z, y, x) of the low and the high corner, and how it becomes mm by hand; the affines of `nifti_files` are RAS
    # (0, 2, -1), (3, 6, 3), turned: x = -(.64 x - .48 y + 11), y = -(.48 x + .64 y - 22), z = 33 - 2.5 z
    "msd_pancreas": Download(
        msd_pancreas.download,
        "pancreas_001",
        ((-9.4, 21.2, 33), (-10.04, 16.72, 25.5)),
        {"test": ["pancreas_005", "pancreas_010", "pancreas_015"]},
    ),
    # (0, 1, 2), (2, 4, 7): 80 - .75 x, 70 - .75 y, 40 + 1.25 z
    "ribfrac": Download(ribfrac.download, "RibFrac301", ((78.5, 69.25, 40), (74.75, 67, 42.5))),
    # (1, 2, 3), (5, 7, 9), turned as above
    "kits21": Download(kits21.download, "case_00001", ((-11.96, 19.28, 30.5), (-13.4, 13.2, 20.5)), folds=(0, 3)),
    # (1, 4, 4), (3, 8, 7): (10, -20, 5) + 2.5 z (0, -.6, .8) + .8 y (-.6, .64, .48) + .8 x (.8, .48, .36)
    "lidc": Download(
        partial(lidc.download, patients=5), "LIDC-IDRI-0001", ((10.64, -17.916, 9.688), (10.64, -17.716, 16.088))
    ),
    # (0, 8, 2), (3, 12, 9): the same directions, 2 z, .5 y and .5 x
    "duke_breast": Download(
        partial(duke_breast.download, patients=5), "Breast_MRI_001", ((8.4, -16.96, 7.28), (10.0, -17.6, 14.3))
    ),
    # 2 mm around (6, 16, -20) and half a voxel of .5, .5, 2 mm more; x and y run backwards
    "luna16": Download(luna16.download, luna16.case_id(3), ((8.25, 18.25, -23), (3.75, 13.75, -17))),
    "luna16_811": Download(luna16.download, luna16.case_id(3), ((8.25, 18.25, -23), (3.75, 13.75, -17))),
    # x 3..7, y 2..6, z 4..8 from one: from zero, and a voxel more
    "pn9": Download(pn9.download, "00001", ((1, 0, 2), (7, 6, 8)), {"test": pn9.TEST}, folds=(0,)),
    # (1, 9, 19), (5, 13, 24) as of ribfrac
    "cta_a": Download(
        cta_a.download,
        "Tr0003",
        ((65.75, 63.25, 41.25), (62, 60.25, 46.25)),
        {"external": ["TsExt01"], "internal": ["TsInt01", "TsInt02"]},
    ),
}


def script(name: str, **arguments: Any) -> None:
    """One of the workflow's scripts in this process: starting another one takes longer than what it does here."""
    words = [name]
    for key, value in arguments.items():
        words += [f"--{key.replace('_', '-')}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "workflow" / "scripts" / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0, name


@dataclass(frozen=True)
class Workplace:
    """A data set's folders, and the study of one row on it."""

    root: Path
    dataset: str

    @cached_property
    def task(self) -> Task:
        return Task.read(self.root / "task")

    @property
    def folds(self) -> list[int]:
        return list(DOWNLOADS[self.dataset].folds)

    @property
    def config(self) -> Path:
        return self.root / "study.yaml"

    @cached_property
    def study(self) -> study.Study:
        return study.load([self.config], ROOT)

    @cached_property
    def properties(self) -> dict[str, dict[str, Any]]:
        """Of the preprocessed cases."""
        cases = [record["case"] for record in read_json(self.root / "preprocessed" / "index.json")["cases"]]
        return {case: read_case(self.root / "preprocessed", case).properties for case in cases}

    def cell(self, fold: int) -> Path:
        return self.root / f"fold{fold}"

    def prepare(self) -> None:
        """Config entry, download -> preprocessed cases."""
        config = {"study": "downloads", "size": "smoke", "datasets": [self.dataset], "allow_partial": [self.dataset]}
        self.config.write_text(yaml.safe_dump(config | {"rows": [{"detector": DETECTOR, "init": "scratch"}]}))
        task, index = self.root / "task" / "dataset.json", self.root / "preprocessed" / "index.json"
        chosen, named = self.study, {"config": self.config, "dataset": self.dataset}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DETPRETRAIN_RAW", str(self.root / "raw"))
            DOWNLOADS[self.dataset].write(raw_folder(self.dataset))
            recipe = leaves.recipe("prepare", leaves.prepare(chosen, self.dataset))
            script("prepare", **named, recipe=recipe, output=task)
        plan, recipe = self.root / "plan.json", leaves.recipe("plan", leaves.plan(chosen, PLAN))
        script("plan", **named, plan=PLAN, recipe=recipe, task=task, output=plan)
        script("preprocess", recipe=leaves.recipe("preprocess", {}), task=task, plan=plan, output=index)

    def train_and_predict(self, fold: int) -> None:
        folder, chosen, splits = self.cell(fold), self.study, self.root / "task" / "splits.json"
        defining = leaves.finetune(chosen, DETECTOR, "scratch", fold, 0)
        cell = Cell(
            name=f"{self.dataset}/{DETECTOR}/scratch/fold{fold}-seed0",
            detector=chosen.entry("detectors", DETECTOR),
            backbone=defining["backbone"],
            recipe=defining["recipe"] | ONE_STEP,
            recipe_name="one step",
            fold=fold,
            seed=0,
            checkpoint=None,
            signature="downloads",
        )
        preprocessed, model, log = self.root / "preprocessed", folder / "model.pth", folder / "log.csv"
        finetune(cell, preprocessed, splits, folder / "work", model, log, Runtime("cpu"))
        recipe = leaves.recipe("predict", leaves.predict(chosen, DETECTOR))
        script(
            "predict", config=self.config, detector=DETECTOR, fold=fold, recipe=recipe, device="cpu", splits=splits,
            model=model, index=preprocessed / "index.json", output=folder / "raw_boxes.parquet",
        )  # fmt: skip

    def consolidate(self) -> None:
        row = {name: self.root / f"{name}.json" for name in ("metrics", "postprocessing")}
        script(
            "consolidate", study="downloads", dataset=self.dataset, detector=DETECTOR, init="scratch", seed=0,
            recipe=leaves.recipe("consolidate", leaves.consolidate(False, self.folds)), folds=self.folds,
            raw_boxes=[self.cell(fold) / "raw_boxes.parquet" for fold in self.folds],
            task=self.root / "task" / "cases.csv", splits=self.root / "task" / "splits.json",
            matches=self.root / "matches.parquet", **row,
        )  # fmt: skip


def raw_folder(dataset: str) -> Path:
    return Path(os.path.expandvars(ENTRIES[dataset]["raw"]))


@pytest.fixture(scope="module", params=DOWNLOADS)
def workplace(request, tmp_path_factory) -> Workplace:
    """One data set, through every stage."""
    made = Workplace(tmp_path_factory.mktemp(request.param), request.param)
    made.prepare()
    for fold in made.folds:
        made.train_and_predict(fold)
    made.consolidate()
    return made


def test_an_object_is_where_the_hand_puts_it(workplace):
    known, task = DOWNLOADS[workplace.dataset], workplace.task
    box = task.objects().query("case == @known.case")[BOX].to_numpy(np.float64)[0]
    for path in (*task.image_paths(known.case), task.label_path(known.case)):
        corners = volumes.read_geometry(path).index_to_world(box.reshape(2, 3))
        np.testing.assert_allclose(corners, known.corners, atol=1e-3, err_msg=path.name)


def test_preprocessed_boxes_lead_back_to_the_task_s(workplace):
    """A sheet's boxes exactly; an object of a label map to the voxel that its border is sampled in."""
    task, compared = workplace.task, 0
    for case, properties in workplace.properties.items():
        lines = task.objects().query("case == @case").set_index("truth")
        assert sorted([*properties["ids"], *properties["lost"]]) == sorted(lines.index)
        if not properties["ids"]:
            continue
        expected = lines.loc[properties["ids"], BOX].to_numpy(np.float64)
        assert lines.loc[properties["ids"], "class"].tolist() == properties["classes"]
        found = boxes_to_original(np.array(properties["boxes"]), properties)
        grown = (found - expected).reshape(-1, 2, 3) * [[[-1], [1]]]  # on either side
        step = np.array(properties["cropped_shape"]) / properties["shape"]
        if task.annotation(case).boxes or (step == 1).all():
            np.testing.assert_allclose(grown, 0, atol=1e-6)
        # the first voxel whose centre is sampled in the object lies less than a step behind the object's first border
        assert (grown > -0.5 - 1e-6).all()
        assert (grown < step - 0.5 + 1e-6).all()
        compared += len(found)
    assert compared >= 4


def test_every_scored_case_has_its_line_and_its_objects(workplace):
    task, table = workplace.task, matches.read(workplace.root / "matches.parquet")
    folds = [task.folds()[number] for number in workplace.folds]
    scored = [case for fold in folds for case in fold.get("test", fold["val"])]
    expected = {CROSS_VALIDATION: scored, **DOWNLOADS[workplace.dataset].test_sets}
    cases = table[table["kind"] == "case"].groupby("test_set")["case"].apply(sorted).to_dict()
    assert cases == {name: sorted(names) for name, names in expected.items()}
    assert task.test_sets == [CROSS_VALIDATION, *sorted(DOWNLOADS[workplace.dataset].test_sets)]
    in_mm = table[table["kind"] == "truth"].set_index(["case", "truth"])
    objects = task.objects().query("case in @in_mm.index.levels[0]").set_index(["case", "truth"])
    assert 0 < len(objects) == len(in_mm)
    spacing = task.case_table().set_index("case")[[f"spacing_{axis}" for axis in "zyx"]]
    by_case = spacing.loc[in_mm.index.get_level_values(0)].to_numpy()
    expected_mm = objects.loc[in_mm.index, BOX].to_numpy() * np.tile(by_case, 2)
    np.testing.assert_allclose(in_mm[BOX].to_numpy(np.float64), expected_mm, atol=1e-6)
    assert (table["kind"] == "detection").any()


def numbers(value: Any) -> Iterator[Any]:
    """All of a JSON content, None included."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif not isinstance(value, str):
        yield value


def test_metrics_are_numbers(workplace):
    scores = read_json(workplace.root / "metrics.json")["test_sets"]
    assert set(scores) == {CROSS_VALIDATION, *DOWNLOADS[workplace.dataset].test_sets}
    for score in scores.values():
        assert score["counts"]["objects"] > 0
        assert 0 <= score["AP@0.10"] <= 1
        assert set(score["per_class"]) == {str(label) for label in workplace.task.labels}
        for number in numbers(score):
            assert number is not None
            assert math.isfinite(number)
    challenge = scores[CROSS_VALIDATION].get("luna16")
    assert (challenge is not None) == workplace.dataset.startswith("luna16")
    if challenge is not None:
        assert 0 <= challenge["cpm"] <= 1
        assert challenge["counts"]["nodules"] == 3  # of scans 0 and 1
        assert challenge["counts"]["scans"] == 3


def test_the_model_says_what_it_was_trained_on(workplace):
    for fold in workplace.folds:
        saved = checkpoints.load(workplace.cell(fold) / "model.pth")
        assert sorted(saved["trained_on"]) == workplace.task.folds()[fold]["train"]
        assert all(value.isfinite().all() for value in saved["weights"].values())


# --- entries --------------------------------------------------------------------------------------------------------------

GENERIC = set(sources.SOURCES.values())  # readers of the user's own data: nothing is published of it
BUILT = {
    name: build({key: value for key, value in entry.items() if key not in prepare.RESERVED})
    for name, entry in ENTRIES.items()
}
RAW = sorted(name for name, source in BUILT.items() if isinstance(source, RawDataset))
PUBLIC = [name for name in RAW if ENTRIES[name]["class"] not in GENERIC]


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    """Spawned, as those of a preparation are."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def test_every_public_data_set_has_a_download_here():
    assert {name for name in PUBLIC if BUILT[name].labels} == set(DOWNLOADS)


@pytest.mark.parametrize("name", PUBLIC)
def test_licence_citation_and_download_are_known(name):
    published = BUILT[name].published
    for fact in (published.licence, published.citation, published.download):
        assert fact.strip()
    assert published.download.startswith(("https://", "http://"))


@pytest.mark.parametrize("name", RAW)
def test_data_sets_travel_to_another_process(name, other_process):
    source = BUILT[name]
    assert list(other_process.submit(operator.attrgetter("labels"), source).result()) == list(source.labels)
    assert other_process.submit(operator.attrgetter("published"), source).result() == source.published


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_case_is_converted_alike_in_another_process(name, other_process, tmp_path, monkeypatch):
    monkeypatch.setenv("DETPRETRAIN_RAW", str(tmp_path))
    source = BUILT[name]
    case = source.layout(DOWNLOADS[name].write(raw_folder(name))).cases[0]
    here, there = source.convert(case), other_process.submit(source.convert, case).result()
    np.testing.assert_array_equal(there.instances, here.instances)
    assert (there.classes, there.boxes, there.notes) == (here.classes, here.boxes, here.notes)
    assert there.geometry == here.geometry
    assert len(there.images) == len(here.images) == len(source.modalities)
