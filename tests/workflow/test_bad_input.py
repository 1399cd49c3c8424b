"""Bad raw data end in one line that names the file, a failed run, and nothing under a final name."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import yaml


def write_task(root):
    """Two cases with an object each."""
    rng = np.random.default_rng(0)
    names = {"labels": {"0": "lesion"}, "modalities": {"0": "MR"}}
    for folder in ("imagesTr", "labelsTr"):
        (root / "raw_splitted" / folder).mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps({"name": root.name, **names}))
    for case in ("one", "two"):
        image = sitk.GetImageFromArray(rng.normal(size=(12, 12, 12)).astype(np.float32))
        sitk.WriteImage(image, str(root / "raw_splitted" / "imagesTr" / f"{case}_0000.nii.gz"))
        instances = np.zeros((12, 12, 12), np.uint8)
        instances[3:6, 3:6, 3:6], instances[8:10, 8:10, 8:10] = 1, 2
        sitk.WriteImage(sitk.GetImageFromArray(instances), str(root / "raw_splitted" / "labelsTr" / f"{case}.nii.gz"))
        (root / "raw_splitted" / "labelsTr" / f"{case}.json").write_text(json.dumps({"instances": {"1": 0, "2": 0}}))
    return root


@pytest.fixture(scope="module")
def outcome(repository, tmp_path_factory):
    """One run over three bad data sets and a good one: results folder, what was printed."""
    place = tmp_path_factory.mktemp("bad")
    for name in ("corrupted", "lacking", "good"):
        write_task(place / name)
    image = place / "corrupted" / "raw_splitted" / "imagesTr" / "two_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:300])
    annotation = place / "lacking" / "raw_splitted" / "labelsTr" / "two.json"
    annotation.write_text(json.dumps({"instances": {"1": 0}}))
    path = repository.root / "config" / "datasets.yaml"
    before = path.read_text()
    entry = {"class": "detpretrain.datasets.task_folder.TaskFolder", "splits": {"folds": 2}}
    names = ["corrupted", "lacking", "missing", "good"]
    path.write_text(before + yaml.safe_dump({name: {**entry, "raw": str(place / name)} for name in names}))
    results = place / "results"
    study = {
        "datasets": names,
        "pathvars": {"results": str(results)},
        "rows": [{"detector": "retina_unet_resenc", "init": "scratch"}],
    }
    (place / "study.yaml").write_text(yaml.safe_dump(study))
    targets = [results / "data" / name / "task" / "dataset.json" for name in names]
    try:
        text = repository.snakemake(
            "-c2", "-k", *targets, "--configfile", "config/smoke.yaml", place / "study.yaml", check=False
        )
    finally:
        path.write_text(before)
    return results, text


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("corrupted", ["corrupted/raw_splitted/imagesTr/two_0000.nii.gz: truncated or damaged"]),
        ("lacking", ["lacking/raw_splitted/labelsTr/two.json: ids 2 of the instance map are not in the json"]),
        ("missing", ["missing: raw folder of missing not found: download the data, or correct raw:"]),
    ],
)
def test_bad_data_set_is_named_and_leaves_nothing(outcome, name, parts):
    results, text = outcome
    log = (results / "logs" / "prepare" / f"{name}.log").read_text()
    assert "Traceback" not in log
    (told,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert log.rstrip().endswith(told)
    assert told in text  # shown at the end of the run as well
    for part in parts:
        assert part in told
    assert not [path for path in (results / "data").glob(f"{name}/**/*") if path.is_file()]


def test_good_data_set_beside_them_is_prepared(outcome):
    results, _ = outcome
    task = results / "data" / "good" / "task"
    assert {"dataset.json", "cases.csv", "objects.csv", "splits.json"} <= {path.name for path in task.iterdir()}
