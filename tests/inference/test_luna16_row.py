"""From raw boxes to the LUNA16 challenge's score, through the commands of the workflow, on scans without any training."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from detpretrain import leaves
from detpretrain.cli import app
from detpretrain.datasets import shapes
from detpretrain.evaluation import matches, raw_boxes
from detpretrain.evaluation.ensemble import Candidates
from detpretrain.evaluation.raw_boxes import RawBoxes
from detpretrain.files import write_json
from detpretrain.geometry import Geometry
from detpretrain.inference.scoring import luna16_score
from detpretrain.task_writer import TaskWriter

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "workflow" / "scripts"
UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.{}".format
SCANS = range(6)
COLUMNS = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
SHAPE = (30, 60, 60)
OFFSET = [1, 2, 3]  # of the crop
NODULE, OTHER, EXCLUDED = (10.0, 20.0, 22.0), (20.0, 40.0, 45.0), (22.0, 15.0, 50.0)  # index z, y, x
DIAMETER = 8.0


def geometry(number: int) -> Geometry:
    """Anisotropic, far from the origin, every second one flipped along x and y."""
    direction = FLIPPED if number % 2 else Geometry((1, 1, 1), (1, 1, 1)).direction
    return Geometry(SHAPE, (2.0, 0.8, 0.7), (-101.5 + number, 33.25, -410.0), direction)


def findings(number: int, points, diameters) -> str:
    world = geometry(number).index_to_world(np.array(points))
    lines = (
        f"{UID(number)},{','.join(map(repr, point))},{d}\n" for point, d in zip(world.tolist(), diameters, strict=True)
    )
    return "".join(lines)


@pytest.fixture
def task(tmp_path) -> Path:
    """Six scans in three folds: two nodules in each but the last, an excluded finding in each; the challenge lists all."""
    root = tmp_path / "data" / "luna16" / "task"
    writer = TaskWriter(root, "luna16")
    writer.describe(["nodule"], ["CT"])
    for number in SCANS:
        points = geometry(number).index_to_world(np.array([NODULE, OTHER] if number < 5 else []).reshape(-1, 3))
        diameters = [DIAMETER] * len(points)
        boxes = shapes.sphere_boxes(geometry(number), points, diameters).tolist()
        writer.add_case(
            UID(number).replace(".", "_"),
            [np.zeros(SHAPE, np.int16)],
            geometry(number),
            instances=shapes.sphere_mm(geometry(number), points, diameters),
            classes=dict.fromkeys(range(1, len(boxes) + 1), 0),
            boxes=dict(enumerate(boxes, start=1)),
            source_id=UID(number),
        )
    names = [UID(number).replace(".", "_") for number in SCANS]
    writer.official_folds = [
        {"train": [c for c in names if c not in names[2 * f : 2 * f + 2]], "val": names[2 * f : 2 * f + 2]}
        for f in range(3)
    ]
    writer.finish()
    official = root / "official"
    official.mkdir()
    nodules = (findings(n, [NODULE, OTHER], [DIAMETER] * 2) for n in SCANS if n < 5)
    (official / "annotations.csv").write_text(COLUMNS + "".join(nodules))
    (official / "annotations_excluded.csv").write_text(COLUMNS + "".join(findings(n, [EXCLUDED], [-1]) for n in SCANS))
    (official / "seriesuids.csv").write_text("".join(f"{UID(n)}\n" for n in reversed(SCANS)))
    return root


def cube(centre, side=9.0) -> list[float]:
    """A box in preprocessed indices (the crop is taken off) around a point of the original image."""
    middle = np.array(centre) - OFFSET
    return [*(middle - side / 2), *(middle + side / 2)]


# original centre and score: scans 0-3 find NODULE, scans 0-2 find OTHER late, one false box in each scan
DETECTIONS = {
    number: [(NODULE, 0.9 - 0.01 * number)] * (number < 4)
    + [((OTHER[0] + 1, OTHER[1], OTHER[2]), 0.5)] * (number < 3)  # 2 mm beside the centre
    + [((10.0, 48.0, 12.0), 0.7 + 0.01 * number), (EXCLUDED, 0.95)]
    for number in SCANS
}


def predicted(task: Path, fold: int, numbers) -> Path:
    """raw_boxes.parquet of a fold's model: the image cropped at the front, nothing resampled, one mirror."""
    cropped = [n - o for n, o in zip(SHAPE, OFFSET, strict=True)]
    found, properties = {}, {}
    for number in numbers:
        case = UID(number).replace(".", "_")
        boxes = np.array([cube(point) for point, _ in DETECTIONS[number]], np.float32).reshape(-1, 6)
        scores = np.array([score for _, score in DETECTIONS[number]], np.float32)
        zeros = np.zeros(len(scores), np.int64)
        found[case] = Candidates(boxes, scores, zeros, np.ones(len(scores), np.float32), zeros)
        truth = [cube(NODULE), cube(OTHER)] if number < 5 else []
        properties[case] = {
            "shape": cropped,
            "cropped_shape": cropped,
            "crop_offset": OFFSET,
            "transpose": [0, 1, 2],
            "ids": list(range(1, len(truth) + 1)),
            "classes": [0] * len(truth),
            "boxes": truth,
            "ignored": [],
        }
    path = task.parents[2] / "cells" / f"fold{fold}" / "raw_boxes.parquet"
    path.parent.mkdir(parents=True)
    raw_boxes.write(path, RawBoxes(found, properties, 1, 1, {}))
    return path


def run(script: str, task: Path, *arguments: object) -> None:
    """One of the workflow's scripts in this process; its imports take longer than what it does here."""
    named = ["--study", "s", "--dataset", "luna16", "--detector", "d", "--init", "scratch", "--seed", "0"]
    command = [script, *named, "--task", task / "cases.csv", "--splits", task / "splits.json", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in command])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 0


def consolidated(task: Path, folds: dict[int, list[int]]) -> Path:
    """The row's folder."""
    row = task.parents[2] / "rows"
    recipe = leaves.recipe("consolidate", leaves.consolidate(False, list(folds)))
    boxes = [predicted(task, fold, numbers) for fold, numbers in folds.items()]
    outputs = ["--metrics", row / "metrics.json", "--matches", row / "matches.parquet"]
    outputs += ["--postprocessing", row / "postprocessing.json"]
    run("consolidate", task, "--folds", *folds, "--recipe", recipe, "--raw-boxes", *boxes, *outputs)
    return row


def official_command(task: Path, row: Path, seriesuids: Path) -> dict:
    official, output = task / "official", row / "again.json"
    sheets = ["--annotations", official / "annotations.csv", "--excluded", official / "annotations_excluded.csv"]
    command = ["luna16", *sheets, "--seriesuids", seriesuids, row / "luna16_submission.csv", "-o", output]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.output
    return json.loads(output.read_text())


def test_a_row_s_score_is_that_of_its_submission(task):
    row = consolidated(task, {fold: [2 * fold, 2 * fold + 1] for fold in range(3)})
    scored = json.loads((row / "metrics.json").read_text())["test_sets"]["cv"]
    # 10 nodules, 6 scans; in order of score: 4 hits (0.9 .. 0.87), 6 misses (0.75 .. 0.70), 3 hits (0.5)
    expected = dict.fromkeys(("0.125", "0.25", "0.5"), 0.4) | {"1": 0.7, "2": 0.7, "4": 0.7, "8": 0.7}
    assert scored["luna16"]["sensitivity"] == pytest.approx(expected)
    assert scored["luna16"]["cpm"] == pytest.approx((3 * 0.4 + 4 * 0.7) / 7)
    assert scored["luna16"]["counts"] == {
        "scans": 6, "nodules": 10, "found": 7, "marks": 19, "false_positives": 6, "ignored_marks": 6
    }  # fmt: skip
    assert scored["luna16"] == official_command(task, row, row / "luna16_seriesuids.csv")
    assert scored["luna16"] == official_command(task, row, task / "official" / "seriesuids.csv")
    assert scored["AP@0.10"] > 0
    assert {path.name for path in row.iterdir()} == {
        "metrics.json", "matches.parquet", "postprocessing.json", "luna16_submission.csv", "luna16_seriesuids.csv", "again.json"
    }  # fmt: skip


def test_marks_are_the_centres_in_world_millimetres(task):
    row = consolidated(task, {fold: [2 * fold, 2 * fold + 1] for fold in range(3)})
    with (row / "luna16_submission.csv").open() as handle:
        marks = list(csv.DictReader(handle))
    for number in SCANS:
        found = {
            round(float(mark["probability"]), 4): [float(mark[f"coord{axis}"]) for axis in "XYZ"]
            for mark in marks
            if mark["seriesuid"] == UID(number)
        }
        sign = -1.0 if number % 2 else 1.0
        for (z, y, x), score in DETECTIONS[number]:
            by_hand = [-101.5 + number + sign * 0.7 * x, 33.25 + sign * 0.8 * y, -410.0 + 2.0 * z]
            np.testing.assert_allclose(found[round(score, 4)], by_hand, atol=1e-4)


def test_test_sets_are_no_part_of_it(task):
    row = consolidated(task, {0: [0, 1], 1: [2, 3]})
    table = matches.read(row / "matches.parquet")
    scored = luna16_score(table, task, row)
    assert scored == json.loads((row / "metrics.json").read_text())["test_sets"]["cv"]["luna16"]
    assert luna16_score(pd.concat([table, table.assign(test_set="outside")]), task, row) == scored


def test_a_part_of_the_scans_says_so(task):
    row = consolidated(task, {0: [0, 1], 2: [4, 5]})
    scored = json.loads((row / "metrics.json").read_text())["test_sets"]["cv"]["luna16"]
    assert scored["counts"]["scans"] == 4
    assert scored["counts"]["official_scans"] == 6
    assert (row / "luna16_seriesuids.csv").read_text().split() == [UID(n) for n in (5, 4, 1, 0)]  # the official order
    del scored["counts"]["official_scans"]
    assert scored == official_command(task, row, row / "luna16_seriesuids.csv")
    assert scored["counts"]["nodules"] == 6


def test_folds_with_a_test_part_score_it_and_nothing_else(task):
    names = [UID(number).replace(".", "_") for number in SCANS]
    parts = [{"test": [2 * f, 2 * f + 1], "val": [(2 * f + 2) % 6, (2 * f + 3) % 6]} for f in range(3)]
    folds = [{name: [names[n] for n in part] for name, part in fold.items()} for fold in parts]
    for fold in folds:
        fold["train"] = [name for name in names if name not in fold["test"] + fold["val"]]
    write_json(task / "splits.json", {"folds": folds})
    row = consolidated(task, {f: sorted(part["test"] + part["val"]) for f, part in enumerate(parts)})
    table = matches.read(row / "matches.parquet")
    cases = table[table["kind"] == "case"].set_index("case")["fold"]
    assert cases.to_dict() == {names[n]: f for f, part in enumerate(parts) for n in part["test"]}
    scored = json.loads((row / "metrics.json").read_text())["test_sets"]["cv"]
    assert scored["luna16"]["counts"]["scans"] == scored["counts"]["images"] == 6
    cell = task.parents[2] / "cells" / "fold1"
    outputs = ["--metrics", cell / "metrics.json", "--matches", cell / "matches.parquet"]
    boxes = cell / "raw_boxes.parquet"
    run("evaluate", task, "--fold", 1, "--recipe", leaves.recipe("evaluate", {}), "--raw-boxes", boxes, *outputs)
    assert matches.read(cell / "matches.parquet")["case"].unique().tolist() == names[2:4]


def test_a_task_without_the_challenge_s_files_has_no_such_score(task):
    for path in (task / "official").iterdir():
        path.unlink()
    row = consolidated(task, {0: [0, 1], 1: [2, 3]})
    assert "luna16" not in json.loads((row / "metrics.json").read_text())["test_sets"]["cv"]
    assert {path.name for path in row.iterdir()} == {"metrics.json", "matches.parquet", "postprocessing.json"}


def test_a_scored_scan_that_the_challenge_does_not_list_is_refused(task, capsys):
    (task / "official" / "seriesuids.csv").write_text("".join(f"{UID(n)}\n" for n in SCANS if n != 3))
    with pytest.raises(AssertionError):
        consolidated(task, {0: [0, 1], 1: [2, 3]})
    error = capsys.readouterr().err
    assert f"seriesuids.csv: does not list {UID(3)}, which is scored: exclude the scan" in error


def test_no_detection_at_all_scores_nothing(task, monkeypatch):
    for number in SCANS:
        monkeypatch.setitem(DETECTIONS, number, [])
    row = consolidated(task, {0: [0, 1], 1: [2, 3]})
    scored = json.loads((row / "metrics.json").read_text())["test_sets"]["cv"]["luna16"]
    assert scored["cpm"] == 0.0
    assert scored["counts"]["marks"] == 0
    assert pd.read_csv(row / "luna16_submission.csv").columns.tolist()[-1] == "probability"
