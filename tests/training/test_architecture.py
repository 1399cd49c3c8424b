import pytest

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.training.architecture import Stage, difference, from_plan, is_resenc_l, read

FIGURES = {
    "n_stages": 2, "features_per_stage": [4, 8], "n_blocks_per_stage": [1, 2], "strides": [[1, 1, 1], [1, 2, 2]],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
}  # fmt: skip


def of(name="ResidualEncoderUNet", **changes):
    return from_plan({"arch_class_name": name, "arch_kwargs": FIGURES | changes})


def test_figures_become_stages():
    assert of().stages == (Stage(4, 1, (1, 1, 1), (1, 3, 3)), Stage(8, 2, (1, 2, 2), (3, 3, 3)))
    assert str(of().stages[1]) == "8 features, 2 blocks, stride 1x2x2, kernel 3x3x3"


@pytest.mark.parametrize(
    "changes",
    [
        {"features_per_stage": (4, 8), "strides": ((1, 1, 1), (1, 2, 2))},
        {"strides": [1, [1, 2, 2]]},
        {"n_stages": None},
        {"features_per_stage": [4.0, 8.0]},
    ],
    ids=["tuples", "one number for all axes", "no number of stages", "numbers of JSON"],
)
def test_one_architecture_has_many_spellings(changes):
    assert of(**changes) == of()
    assert difference(of(**changes), of()) is None


def test_one_number_stands_for_all_stages():
    assert of(kernel_sizes=3, n_blocks_per_stage=2) == of(kernel_sizes=[3, [3, 3, 3]], n_blocks_per_stage=[2, 2])


def test_a_class_may_be_named_with_its_module():
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    assert of(name) == of()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features_per_stage": [4, 9]}, "stage 1 differs: features 8, the detector's backbone has 9"),
        ({"n_blocks_per_stage": [2, 2]}, "stage 0 differs: blocks 1, the detector's backbone has 2"),
        ({"strides": [1, 2]}, "stage 1 differs: stride 1x2x2, the detector's backbone has 2x2x2"),
        ({"kernel_sizes": 3}, "stage 0 differs: kernel 1x3x3, the detector's backbone has 3x3x3"),
        ({key: [*value, value[-1]] if key != "n_stages" else 3 for key, value in FIGURES.items()},
         "stage 2 differs: 2 stages, the detector's backbone has 3"),
        ({"strides": None}, None),
    ],
)  # fmt: skip
def test_the_first_stage_that_differs_is_named(changes, message):
    assert difference(of(), of(**changes)) == message


def test_plain_and_residual_encoders_differ_as_a_whole():
    plain = from_plan({"arch_class_name": "PlainConvUNet", "arch_kwargs": {**FIGURES, "n_conv_per_stage": [1, 2]}})
    assert "the whole encoder differs: a PlainConvUNet" in difference(plain, of())
    assert difference(of("SomebodysResEnc"), of()) is None  # another name may well be the same network


@pytest.mark.parametrize("name", ["ResEncL", "NoSkipResEncL"])
def test_the_networks_that_nnssl_builds_by_name(name):
    features, blocks = [32, 64, 128, 256, 320, 320], [1, 3, 4, 6, 6, 6]
    made = ResEnc(features, blocks, [[1] * 3] + [[2] * 3] * 5, [[3] * 3] * 6).architecture_plan()
    named = from_plan({"arch_class_name": name, "arch_kwargs": None})
    assert named == from_plan(made)
    assert is_resenc_l(named)
    assert not is_resenc_l(of())


@pytest.mark.parametrize("plans", [None, {}, {"arch_class_name": "PrimusM", "arch_kwargs": None}])
def test_a_plan_without_figures_is_unknown_and_differs_from_nothing(plans):
    assert from_plan(plans) is None
    assert difference(None, of()) is difference(of(), None) is None
    assert not is_resenc_l(None)


@pytest.mark.parametrize("changes", [{"n_stages": 3}, {"strides": [[1], "x"]}, {"features_per_stage": [None, {}]}])
def test_figures_that_contradict_each_other_are_one_line(changes, tmp_path):
    plans = {"arch_class_name": "ResidualEncoderUNet", "arch_kwargs": FIGURES | changes}
    with pytest.raises(InputError, match=f"^{tmp_path}: architecture_plans cannot be read") as error:
        read(tmp_path, plans)
    assert "\n" not in str(error.value)
