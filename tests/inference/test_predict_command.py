import json

import numpy as np
import pytest
from typer.testing import CliRunner

from detpretrain.cli import app
from detpretrain.geometry import Geometry

GEOMETRY = Geometry((30, 27, 37), (1.5, 1.5, 1.5), (-31.0, 12.5, 80.0))


def predict(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture
def scan(tmp_path, cubes, write_image):
    image, _ = cubes(GEOMETRY.shape, [(3, 5, 20), (14, 11, 2)], [0.9, 0.6])
    array = (image * 1000).astype(np.int16) + (image == 0).astype(np.int16)
    return write_image(tmp_path / "scan.nii.gz", array, GEOMETRY)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.mark.parametrize(("form", "name"), [("json", "scan.json"), ("csv", "scan.csv"), ("slicer", "scan.mrk.json")])
def test_one_file_per_case(cubes_model_file, scan, output, form, name, write_series):
    series = write_series(scan.parent / "series", np.ones((5, 6, 7), np.int16), Geometry((5, 6, 7), (1.5, 1.5, 1.5)))
    result = predict(cubes_model_file, scan, series, "-o", output, "--format", form)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"scan: 2 detections -> {output / name}",
        f"series: 0 detections -> {output / name.replace('scan', 'series')}",
    ]
    assert sorted(path.name for path in output.iterdir()) == [name, name.replace("scan", "series")]


def test_settings_of_the_command_line_are_used(cubes_model_file, scan, output):
    post = output.parent / "postprocessing.json"
    post.write_text(json.dumps({"folds": {"1": {"score_threshold": 0.7}}, "test_sets": {"min_size": 50.0}}))

    def scores(*options):
        assert predict(cubes_model_file, scan, "-o", output, *options).exit_code == 0
        return [round(found["score"], 3) for found in json.loads((output / "scan.json").read_text())["detections"]]

    assert scores() == [0.9, 0.6]
    assert scores("--min-score", 0.8) == [0.9]
    assert scores("--postprocessing", post) == []
    assert scores("--postprocessing", post, "--fold", 1) == [0.9]


def refused(words, *arguments):
    result = predict(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_bad_input_is_one_line_and_writes_nothing(cubes_model_file, scan, output, tmp_path):
    (tmp_path / "text.nii.gz").write_text("not an image")
    refused("absent.nii.gz: file not found", cubes_model_file, scan, tmp_path / "absent.nii.gz", "-o", output)
    refused("text.nii.gz: ", cubes_model_file, scan, tmp_path / "text.nii.gz", "-o", output)
    refused("the model takes 1 (CT)", cubes_model_file, f"{scan},{scan}", "-o", output)
    refused("text.nii.gz: not a readable checkpoint", tmp_path / "text.nii.gz", scan, "-o", output)
    refused("--fold", cubes_model_file, scan, "-o", output, "--fold", 0)
    assert not output.exists()
    refused("is a file", cubes_model_file, scan, "-o", tmp_path / "text.nii.gz")
    assert (tmp_path / "text.nii.gz").read_text() == "not an image"
