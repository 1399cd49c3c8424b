from pathlib import Path

import pytest

from detpretrain.errors import InputError
from detpretrain.preprocessing.plan_spec import PlanSpec, parse_spec, read_spec

FOLDER = Path(__file__).parents[2] / "config" / "plans"
PLANS = [path for path in sorted(FOLDER.glob("*.yaml")) if "engine" not in read_spec(path)]  # an engine's say who plans


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_plan_of_the_repository_is_valid(path):
    spec = parse_spec(path.stem, read_spec(path))
    if spec.strides and spec.patch:
        assert len(spec.strides) > max(spec.detection_levels)


def test_resenc_l_is_the_pretrained_architecture():
    path = next(path for path in PLANS if path.stem == "resenc_l_128")
    spec = parse_spec(path.stem, read_spec(path))
    assert spec.patch == [128] * 3
    assert spec.strides == [[1] * 3] + [[2] * 3] * 5
    assert spec.detection_levels == [2, 3, 4, 5]
    assert (spec.spacing, spec.intensity, spec.anchors) == (None, None, None)


def test_derived_and_absent_are_the_same_and_short_forms_expand():
    spec = parse_spec(
        "p", {"spacing": "derived", "patch": 48, "strides": [1, [1, 2, 2]], "kernels": 3, "anchors": None}
    )
    assert spec == PlanSpec(patch=[48] * 3, strides=[[1] * 3, [1, 2, 2]], kernels=[[3] * 3])


def test_an_unknown_key_names_the_nearest_one():
    with pytest.raises(InputError, match="plan p: unknown key 'detection_level': did you mean 'detection_levels'"):
        parse_spec("p", {"detection_level": [1]})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch", 0),
        ("patch", [32, 32]),
        ("patch", 32.5),
        ("patch", True),
        ("spacing", -1),
        ("spacing", "1mm"),
        ("intensity", "z-score"),
        ("intensity", ["ct", "minmax"]),
        ("intensity", {"scheme": "ct", "clip": [-1000, 1000]}),
        ("intensity", {"scheme": "zscore", "clip": [-1000, 1000]}),
        ("intensity", ["raw", {"scheme": "ct2", "clip": [1000, -1000]}]),
        ("intensity", {"scheme": "ct2", "clip": 1000}),
        ("intensity", {"scheme": "ct", "clip": [-1000, 1000], "mean": 0, "sd": 0}),
        ("intensity", {"scheme": "ct", "clip": [-1000, 1000], "mean": "tissue", "sd": 1}),
        ("strides", []),
        ("strides", 2),
        ("kernels", 2),
        ("detection_levels", [2, 1]),
        ("detection_levels", [-1]),
        ("anchors", {"z": [1, 2, 3]}),
        ("anchors", {"z": [1, 2, 3], "y": [1, 2, 3], "x": [1, 2]}),
        ("nonzero_mask", "yes"),
        ("memory_gib", 0),
    ],
)
def test_a_value_of_another_form_is_refused(key, value):
    with pytest.raises(InputError, match=f"plan p: {key}: "):
        parse_spec("p", {key: value})


def test_kernels_must_fit_the_strides():
    with pytest.raises(InputError, match="kernels without strides"):
        parse_spec("p", {"kernels": 3})
    with pytest.raises(InputError, match="kernels of 2 stages, strides of 3"):
        parse_spec("p", {"kernels": [3, 3], "strides": [1, 2, 2]})


def test_reading_a_spec(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_spec(tmp_path / "empty.yaml") == {}
    (tmp_path / "list.yaml").write_text("- patch\n")
    with pytest.raises(InputError, match="holds no mapping"):
        read_spec(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("patch: [1\n")
    with pytest.raises(InputError, match="not valid YAML"):
        read_spec(tmp_path / "bad.yaml")
    with pytest.raises(InputError, match="file not found"):
        read_spec(tmp_path / "none.yaml")
