import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
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


@pytest.fixture
def task(tmp_path):
    root = tmp_path / "task"
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (root / "raw_splitted" / folder).mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps({"labels": {"0": "lesion"}, "modalities": {"0": "MR"}}))
    instances = np.zeros((6, 7, 8), np.uint8)
    instances[2:4, 2:4, 2:4] = 1
    for case, suffix in (("a", "Tr"), ("b", "Tr"), ("c", "Ts")):
        raw = root / "raw_splitted"
        sitk.WriteImage(sitk.GetImageFromArray(instances * 9), str(raw / f"images{suffix}" / f"{case}_0000.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(instances), str(raw / f"labels{suffix}" / f"{case}.nii.gz"))
        (raw / f"labels{suffix}" / f"{case}.json").write_text('{"instances": {"1": 0}}')
    return root


def test_task_validate(task):
    good = detpretrain("task", "validate", task)
    assert (good.exit_code, good.stdout, good.stderr) == (0, "no problems: 3 cases\n", "")
    (task / "raw_splitted" / "labelsTr" / "a.json").unlink()
    (task / "raw_splitted" / "labelsTs" / "c.json").write_text('{"instances": {"1": 4}}')
    bad = detpretrain("task", "validate", task)
    assert bad.exit_code == 1
    assert bad.stdout == ""
    words = " ".join(bad.stderr.replace("│", " ").split())
    assert "problems found: 2" in words
    assert "label without json" in words
    assert detpretrain("task", "validate", task / "absent").exit_code == 1


def test_checkpoint_inspect(tmp_path):
    plan = {"dataset": "d", "channels": 1, "modalities": ["CT"], "classes": 1, "patch": [8, 8, 8], "spacing": [1, 1, 1]}
    content = {"weights": {"encoder.stem.w": torch.zeros(2, 3)}, "detector": {"class": "x.Y"}, "plan": plan}
    torch.save(content, tmp_path / "model.pth")
    result = detpretrain("checkpoint", "inspect", tmp_path / "model.pth")
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["kind"] == "detector"
    assert (lines["parameters"], lines["patch"]) == ("6", "[8, 8, 8]")
    refused = detpretrain("checkpoint", "inspect", tmp_path / "absent.pth")
    assert (refused.exit_code, refused.stderr) == (1, f"error: {tmp_path / 'absent.pth'}: file not found\n")


def test_checkpoint_inspect_prints_lists_one_below_the_other(tmp_path):
    plan = {"architecture_plans": {"arch_class_name": "ResEncL"}, "recommended_downstream_patchsize": (8, 8, 8)}
    torch.save({"network_weights": {}, "nnssl_adaptation_plan": plan}, tmp_path / "c.pth")
    lines = detpretrain("checkpoint", "inspect", tmp_path / "c.pth").stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("stages"))
    assert lines[first] == f"{'stages':<17}0: 32 features, 1 blocks, stride 1x1x1, kernel 3x3x3"
    assert lines[first + 5].strip() == "5: 320 features, 6 blocks, stride 2x2x2, kernel 3x3x3"
    assert f"{'patients':<17}none" in lines
    assert f"{'patch':<17}[8, 8, 8]" in lines


def test_checkpoint_export(tmp_path):
    backbone = {"class": "detpretrain.models.resenc.ResEnc", "features": [2], "blocks": [1]}
    plan = {
        "dataset": "d", "plan": "p", "channels": 1, "patch": [8, 8, 8], "spacing": [1, 1, 1], "transpose": [0, 1, 2],
        "strides": [[1, 1, 1]], "kernels": [[3, 3, 3]], "intensity": {"scheme": [{"scheme": "ct"}], "nonzero_mask": False},
    }  # fmt: skip
    content = {"weights": {"encoder.stem.w": torch.zeros(2, 3)}, "detector": {}, "backbone": backbone, "plan": plan}
    torch.save(content, tmp_path / "model.pth")
    result = detpretrain("checkpoint", "export", tmp_path / "model.pth", "-o", tmp_path / "out.pth")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'out.pth'}: 1 tensors, 1 input channel(s)\n")
    assert detpretrain("checkpoint", "inspect", tmp_path / "out.pth").exit_code == 1  # has no stages: not an encoder
    for options in (("-o", tmp_path / "model.pth"), ("-o", tmp_path / "other.pth", "--stem", "CT")):
        refused = detpretrain("checkpoint", "export", tmp_path / "model.pth", *options)
        assert refused.exit_code == 1
        assert refused.stderr.startswith("error: ")
        assert refused.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pth", "out.pth"]


def test_help_imports_nothing_heavy():
    heavy = "{'numpy', 'pandas', 'scipy', 'torch'}"
    code = f"import sys, detpretrain.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
