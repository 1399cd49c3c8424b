import json

import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.preprocessing.fingerprint import CaseFingerprint, Fingerprint
from detpretrain.preprocessing.plan import KEYS, box_lengths, make_plan, plan_task, read_plan
from detpretrain.preprocessing.plan_spec import parse_spec

STATISTICS = {"voxels": 50, "mean": 40.0, "sd": 10.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}


def fingerprint(modalities=("CT",), labels=("a",), shape=(160, 160, 160), spacing=(1.0, 1.0, 1.0), boxes=True):
    rng = np.random.default_rng(0)
    low = rng.integers(0, 50, (5, 8, 3))
    drawn = np.concatenate([low, low + rng.integers(3, 20, (5, 8, 3))], axis=2).tolist()
    cases = [
        CaseFingerprint(f"c{i}", shape, shape, spacing, drawn[i] if boxes else [], [0] * (8 if boxes else 0))
        for i in range(5)
    ]
    intensities = [STATISTICS] * len(modalities) if labels and boxes else None
    return Fingerprint(list(modalities), dict(enumerate(labels)), cases, intensities)


def plan(spec=None, **kwargs):
    return make_plan(fingerprint(**kwargs), "data", "p", parse_spec("p", spec or {}))


def test_everything_derived():
    result = plan(shape=(300, 300, 300))
    assert tuple(result) == KEYS
    assert result["spacing"] == [1.0, 1.0, 1.0]
    assert result["intensity"] == {
        "scheme": [{"scheme": "ct", "clip": [-100.0, 300.0], "mean": 40.0, "sd": 10.0}],
        "nonzero_mask": False,
    }
    assert result["detection_levels"] == [2, 3, 4, 5]
    assert result["strides"] == [[1, 1, 1]] + [[2, 2, 2]] * 5
    total = np.prod(result["strides"], axis=0)
    assert not (np.array(result["patch"]) % total).any()
    assert max(result["patch"]) < 300  # memory
    assert [len(result["anchors"][axis]) for axis in "zyx"] == [3, 3, 3]
    assert (result["classes"], result["channels"], result["dummy_2d"]) == (1, 1, False)
    derived = {
        "spacing",
        "transpose",
        "intensity",
        "nonzero_mask",
        "patch",
        "strides",
        "kernels",
        "detection_levels",
        "anchors",
    }
    assert derived | {"median_shape", "dummy_2d"} == set(result["reasons"])


def test_an_anisotropic_data_set_is_transposed_and_flat():
    result = plan(shape=(200, 220, 24), spacing=(0.7, 0.7, 5.0))
    assert result["transpose"] == [2, 0, 1]
    assert result["spacing"] == [5.0, 0.7, 0.7]
    assert result["median_shape"] == [24, 200, 220]
    assert result["patch"][1] == result["patch"][2]
    assert result["strides"][1] == [1, 2, 2]
    assert result["dummy_2d"] is True


def test_less_memory_gives_a_smaller_patch():
    small, large = plan({"memory_gib": 3}, shape=(300,) * 3), plan({"memory_gib": 20}, shape=(300,) * 3)
    assert np.prod(small["patch"]) < np.prod(large["patch"]) / 4
    with pytest.raises(InputError, match="raise memory_gib"):
        plan({"memory_gib": 0.05})


def test_a_fixed_architecture_keeps_its_values():
    spec = {"patch": 128, "strides": [1, 2, 2, 2, 2, 2], "kernels": 3, "detection_levels": [2, 3, 4, 5]}
    result = plan(spec)
    assert result["patch"] == [128] * 3
    assert result["kernels"] == [[3, 3, 3]] * 6
    assert result["reasons"]["patch"] == "given by the plan"


def test_fixed_strides_with_a_derived_patch():
    result = plan({"strides": [1, 2, 2, 2], "memory_gib": 4})
    assert result["strides"] == [[1] * 3] + [[2] * 3] * 3
    assert all(n % 8 == 0 for n in result["patch"])


@pytest.mark.parametrize("strides", [[1, 2, 2, 2, 2, 2], "derived"])
def test_a_patch_that_the_strides_do_not_divide_is_refused(strides):
    with pytest.raises(InputError, match=r"plan p of data: patch .* is not divisible by the total stride .*: use"):
        plan({"patch": 50 if strides == "derived" else 80, "strides": strides})


def test_a_level_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="detection level 4, but the encoder has stages 0 to 3"):
        plan({"patch": 48, "strides": [1, 2, 2, 2], "detection_levels": [2, 4]})


def test_a_corpus_has_no_anchors_and_is_zscored():
    result = plan(labels=(), boxes=False)
    assert result["anchors"] is None
    assert result["intensity"] == {"scheme": [{"scheme": "zscore"}], "nonzero_mask": False}
    assert result["classes"] == 0


@pytest.mark.parametrize("labelled", [False, True])
def test_a_ct_scheme_may_bring_its_numbers(labelled):
    """Of a corpus, which has no labelled voxels to take them from; where there are any, the given ones win."""
    given = {"scheme": "ct", "clip": [-1000, 1000], "mean": -300, "sd": 450.5}
    result = plan({"intensity": given}) if labelled else plan({"intensity": given}, labels=(), boxes=False)
    assert result["intensity"]["scheme"] == [given]
    assert "percentile" not in result["reasons"]["intensity"]


def test_given_numbers_stand_beside_schemes_that_take_theirs_from_the_data():
    given = {"scheme": "ct2", "clip": [-100, 100]}
    schemes = plan({"intensity": ["ct", given]}, modalities=("CT", "CT"))["intensity"]["scheme"]
    assert set(schemes[0]) == {"scheme", "clip", "mean", "sd"}
    assert schemes[1] == given


def test_labels_without_any_object_are_refused():
    with pytest.raises(InputError, match="no case has an object"):
        plan({"intensity": "zscore"}, boxes=False)


def test_given_intensities_must_fit_the_channels():
    assert plan({"intensity": "raw"}, modalities=("CT", "MR"))["intensity"]["scheme"] == [{"scheme": "raw"}] * 2
    with pytest.raises(InputError, match="1 intensity schemes for 2 channels"):
        plan({"intensity": ["ct"]}, modalities=("CT", "MR"))


def test_box_lengths_are_those_of_the_resampled_objects():
    """An object of 6 voxels at 1 mm has a box of 7; at 3 mm it has 2 voxels and a box of 3. One voxel is the least."""
    case = CaseFingerprint("c", (9, 9, 9), (9, 9, 9), (1.0, 1.0, 2.0), [[0, 0, 0, 7, 2, 4]], [0])
    lengths = box_lengths(Fingerprint(["MR"], {0: "a"}, [case], None), [3.0, 3.0, 1.0], [2, 0, 1])
    np.testing.assert_allclose(lengths, [[7, 3, 2]])


def test_plan_files_are_identical_for_any_number_of_workers(demo_task, tmp_path):
    files = []
    for number, workers in enumerate((1, 2, 1)):
        path = tmp_path / f"plan{number}.json"
        plan_task(
            demo_task.root, "demo", "p", {"patch": 16, "strides": [1, 2, 2], "detection_levels": [1, 2]}, path, workers
        )
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]
    content = read_plan(path)
    assert content == json.loads(files[0])
    assert content["modalities"] == ["MR", "CT"]
    assert [scheme["scheme"] for scheme in content["intensity"]["scheme"]] == ["zscore", "ct"]


def test_a_misspelt_key_is_found_before_the_cases_are_read(tmp_path):
    with pytest.raises(InputError, match="unknown key 'patches': did you mean 'patch'"):
        plan_task(tmp_path / "no task here", "data", "p", {"patches": 3}, tmp_path / "plan.json")
    assert not (tmp_path / "plan.json").exists()


def test_reading_something_else(tmp_path):
    (tmp_path / "plan.json").write_text('{"dataset": "d"}')
    with pytest.raises(InputError, match="not a plan"):
        read_plan(tmp_path / "plan.json")
