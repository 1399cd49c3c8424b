"""Rows of nnDetection (its stand-in) beside one of ours, through Snakemake: coordinates, scores, tables, failures."""

import json
import os
import re
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
import yaml
from nndet_standin import COMMIT, install, read_diary
from nndet_tasks import CASES, FOLDS, TESTS, write_raw_task
from released_checkpoints import nnssl_content, small_unet

from detpretrain import boxes as box_ops
from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.metrics import evaluate

pytestmark = pytest.mark.slow

OURS, THEIRS, INIT = "retina_unet_resenc", "retina_unet_resenc_nndet", "given"
MODEL = "RetinaUNetFocalV002_ResEnc_TL_D3V002_3d_given"  # as nnDetection calls it
STATES = """
import json, sys
from pathlib import Path
from detpretrain import status, study
chosen = study.load(sys.argv[1:], Path("."))
print(json.dumps([[state.cell.detector, state.state, dict(state.stages)] for state in status.cell_states(chosen)]))
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory, copy_repository):
    """(repository, place, arguments, environment) of a finished study; place: its raw task, diary and results."""
    repository, place = copy_repository(tmp_path_factory.mktemp("repository")), tmp_path_factory.mktemp("engine")
    torch.save(nnssl_content(small_unet()), place / "encoder.pth")
    entries = {
        "datasets": {
            "far": {"from": "nndetection_task", "raw": str(write_raw_task(place / "raw")), "splits": {"folds": 2}}
        },
        "inits": {"given": {"checkpoint": str(place / "encoder.pth")}},
    }
    for kind, content in entries.items():
        path = repository.root / "config" / f"{kind}.yaml"
        path.write_text(path.read_text() + yaml.safe_dump(content))
    rows = [{"detector": detector, "init": init} for detector, init in ((OURS, "scratch"), (THEIRS, INIT))]
    content = {
        "study": "beside", "size": "smoke", "datasets": ["far"], "rows": rows, "comparison": {"resamples": 50},
        "runtime": {"engines": {"nndet": str(install(place / "bin"))}}, "pathvars": {"results": str(place / "results")},
    }  # fmt: skip
    (place / "study.yaml").write_text(yaml.safe_dump(content))
    environment = {"NNDET_DIARY": str(place / "diary.jsonl")}
    arguments = ("--configfile", str(place / "study.yaml"))
    repository.snakemake("-c2", *arguments, **environment)
    return repository, place, arguments, environment


def truth_of(raw, case):
    """Boxes, classes and which are ignored, read from the raw task by SimpleITK alone."""
    (path,) = raw.glob(f"raw_splitted/labels*/{case}.json")
    annotation = json.loads(path.read_text())
    instances = sitk.GetArrayFromImage(sitk.ReadImage(str(path.with_name(f"{case}.nii.gz"))))
    ids, boxes = box_ops.from_instances(instances.astype(np.int64))
    classes = [annotation["instances"][str(number)] for number in ids]
    return boxes, np.array(classes, int), np.isin(ids.astype(str), annotation.get("ignored", []))


def cases_of(place, fold):
    """What the stand-in found by the model of a fold, from the corners in mm through the raw images, beside the truth."""
    found = {}
    for line in read_diary(place / "diary.jsonl"):
        if "world" not in line or not line["seed"].startswith(f"{MODEL}-{fold}-"):
            continue
        case = line["case"]
        (path,) = (place / "raw").glob(f"raw_splitted/images*/{case}_0000.nii.gz")
        image = sitk.ReadImage(str(path))
        sides = [
            [image.TransformPhysicalPointToContinuousIndex(corner)[::-1] for corner in box] for box in line["world"]
        ]
        boxes, classes, ignored = truth_of(place / "raw", case)
        found[case] = Case(
            image_id=case,
            gt_boxes=boxes.astype(float),
            gt_labels=classes,
            gt_ignore=ignored,
            pred_boxes=np.reshape(sides, (-1, 6)),
            pred_labels=np.array(line["labels"], int),
            pred_scores=np.array(line["scores"]),
        )
    return found


def same(ours, expected):
    """Nested numbers, equal but for rounding."""
    if isinstance(expected, dict):
        assert ours.keys() == expected.keys()
        for key, value in expected.items():
            same(ours[key], value)
    else:
        assert ours == pytest.approx(expected, abs=1e-9), (ours, expected)


@pytest.mark.parametrize("fold", [0, 1])
def test_cells_score_what_nndetection_found_in_the_patient(study, fold):
    _, place, *_ = study
    found = cases_of(place, fold)
    assert set(found) == {*FOLDS[fold]["val"], *TESTS}
    cell = place / "results" / "beside" / "cells" / "far" / THEIRS / INIT / f"fold{fold}-seed0"
    scores = json.loads((cell / "metrics.json").read_text())["test_sets"]
    for test_set, cases in (("cv", FOLDS[fold]["val"]), ("test", TESTS)):
        expected = evaluate([found[case] for case in cases], 2)
        same(scores[test_set], expected)
        assert 0.3 < expected["AP@0.10"] < 1.0
    matches = pd.read_parquet(cell / "matches.parquet")
    detections = matches[matches["kind"] == "detection"]
    assert len(detections) == sum(len(case.pred_scores) for case in found.values())


def test_rows_pool_every_case_once(study):
    _, place, *_ = study
    found = {**cases_of(place, 0), **cases_of(place, 1)}
    row = place / "results" / "beside" / "rows" / "far" / THEIRS / INIT / "seed0"
    expected = evaluate([found[case] for case in CASES], 2)
    same(json.loads((row / "metrics.json").read_text())["test_sets"]["cv"], expected)
    post = json.loads((row / "postprocessing.json").read_text())
    assert (post["faithful_sweep"], post["folds"]) == (True, {})


def test_tables_hold_both_programs_and_say_which_rows_are_optimistic(study):
    _, place, *_ = study
    report = place / "results" / "beside" / "report"
    table = pd.read_csv(report / "main_table.csv")
    assert set(table["detector"]) == {OURS, THEIRS}
    assert set(table["test_set"]) == {"cv", "test"}
    page = (report / "report.html").read_text()
    (told,) = set(re.findall(r"Post-processing was chosen on the scored cases[^<]*", page))
    assert "in 1 of the rows" in told
    assert told.endswith(f": far/{THEIRS}/{INIT}/seed0.")
    costs = pd.read_csv(report / "cost.csv")
    assert set(costs[costs["detector or backbone"] == THEIRS]["on"]) == {"GPU"}


def test_cells_tell_where_they_come_from(study):
    _, place, *_ = study
    cell = place / "results" / "beside" / "cells" / "far" / THEIRS / INIT / "fold0-seed0"
    assert {path.name for path in cell.iterdir()} == {
        "model.pth", "log.csv", "raw_boxes.parquet", "metrics.json", "matches.parquet",
    }  # fmt: skip
    provenance = json.loads((cell / "metrics.json").read_text())["provenance"]
    assert provenance["finetune"]["engine"]["commit"] == COMMIT
    assert "Pretraining Method" in [cited["type"] for cited in provenance["finetune"]["pretrain"]["citations"]]
    for stage in ("finetune", "predict", "evaluate"):
        assert len(provenance[stage]["recipe"]) == len(provenance[stage]["source"]) == 12
    assert pd.read_csv(cell / "log.csv")["epoch"].tolist() == [1, 2]


def test_nothing_is_left_to_do_and_all_is_fresh(study):
    repository, _, arguments, _ = study
    assert repository.planned(*arguments) == []
    states = json.loads(repository.python(STATES, *arguments[1:]))
    assert [state for state in states if state[1:] != ["fresh", {}]] == []
    assert len(states) == 4


@contextmanager
def changed(path, before, after):
    """The file with another text, its times put back afterwards."""
    stat, text = path.stat(), path.read_text()
    assert text.count(before) >= 1
    path.write_text(text.replace(before, after))
    try:
        yield
    finally:
        path.write_text(text)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_another_override_trains_the_engine_s_cells_again_and_no_other(study, count):
    repository, _, arguments, _ = study
    with changed(repository.root / "config" / "detectors.yaml", "max_num_epochs=2", "max_num_epochs=3"):
        jobs = repository.planned(*arguments)
    assert {name: count(jobs)[name] for name in ("finetune", "predict", "evaluate")} == dict.fromkeys(
        ("finetune", "predict", "evaluate"), 2
    )
    assert {job.wildcards["detector"] for job in jobs if job.rule == "finetune"} == {THEIRS}
    assert not {"preprocess", "plan", "prepare"} & set(count(jobs))


def test_its_failure_is_one_line_with_its_log(study, tmp_path):
    repository, place, arguments, environment = study
    (tmp_path / "other.yaml").write_text("study: failing\n")
    cell = place / "results" / "failing" / "cells" / "far" / THEIRS / "scratch" / "fold0-seed0"
    failing = {**environment, "NNDET_FAIL": "nndet_train"}
    repository.snakemake("-c1", cell / "model.pth", *arguments, str(tmp_path / "other.yaml"), check=False, **failing)
    assert not (cell / "model.pth").exists()
    log = place / "results" / "failing" / "logs" / "finetune" / f"far-{THEIRS}-scratch-fold0-seed0.log"
    told = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    own = place / "results" / "failing" / "work" / "far" / THEIRS / "scratch" / "fold0-seed0" / "nndet_train.log"
    assert told == [f"error: {own}: nndet_train ended with status 1: RuntimeError: CUDA out of memory"]
    assert "Traceback" not in log.read_text()
    assert "RuntimeError: CUDA out of memory" in own.read_text()
