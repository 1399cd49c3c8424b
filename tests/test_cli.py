import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from detpretrain.cli import app

BOX = [0, 0, 0, 2, 2, 2]
IMAGE = {
    "image_id": "a", "gt_boxes": [BOX], "gt_labels": [0], "pred_boxes": [BOX], "pred_labels": [0], "pred_scores": [0.5],
}  # fmt: skip


def detpretrain(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def cases(tmp_path):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"num_classes": 2, "images": [IMAGE]}))
    return path


def test_evaluate_prints_or_writes_the_same_json(cases, tmp_path):
    printed = detpretrain("evaluate", cases)
    assert printed.exit_code == 0
    result = json.loads(printed.stdout)
    assert list(result) == ["mAP@0.10:0.50", "AP@0.10", "AP@0.50", "FROC@0.10", "FROC@0.50", "per_class", "counts"]
    assert result["AP@0.10"] == 1.0
    written = detpretrain("evaluate", cases, "-o", tmp_path / "new" / "metrics.json")
    assert written.exit_code == 0
    assert written.stdout == ""
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == result


@pytest.mark.parametrize(("mode", "expected"), [("exclude", 1.0), ("zero", 0.5), ("nndetection", 0.0)])
def test_evaluate_absent_class(cases, mode, expected):
    assert json.loads(detpretrain("evaluate", cases, "--absent-class", mode).stdout)["AP@0.50"] == expected


def test_bad_input_is_one_line_and_leaves_no_file(cases, tmp_path):
    cases.write_text(json.dumps({"num_classes": 2, "images": [IMAGE | {"pred_scores": [7]}]}))
    result = detpretrain("evaluate", cases, "-o", tmp_path / "metrics.json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {cases}: image 0 (a): pred_scores: entry 0 (7) is not a score")
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cases.json"]


def test_an_unwritable_output_is_one_line(cases, tmp_path):
    result = detpretrain("evaluate", cases, "-o", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}: cannot be written")


def test_luna16(tmp_path):
    findings, marks = "seriesuid,coordX,coordY,coordZ,diameter_mm\n", "seriesuid,coordX,coordY,coordZ,probability\n"
    contents = {"a": findings + "s,1,2,3,4\n", "e": findings, "s": "s\n", "m": marks + "s,1,2,4,0.5\n"}
    for name, text in contents.items():
        (tmp_path / f"{name}.csv").write_text(text)
    files = [tmp_path / f"{name}.csv" for name in "aesm"]
    options = ("--annotations", files[0], "--excluded", files[1], "--seriesuids", files[2])
    result = json.loads(detpretrain("luna16", *options, files[3]).stdout)
    assert list(result) == ["cpm", "sensitivity", "counts"]
    assert result["cpm"] == 1.0
    refused = detpretrain("luna16", *options, tmp_path / "absent.csv")
    assert refused.exit_code == 1
    assert refused.stderr == f"error: {tmp_path / 'absent.csv'}: file not found: check the path\n"


def test_help_imports_nothing_heavy():
    heavy = "{'numpy', 'pandas', 'scipy', 'torch'}"
    code = f"import sys, detpretrain.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
