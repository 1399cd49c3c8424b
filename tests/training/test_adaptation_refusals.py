"""Checkpoints of another encoder, another format, or none at all: one line, and nothing is loaded."""

from pathlib import Path

import pytest
import torch
from released_checkpoints import BLOCKS, SMALL, STRIDES, architecture_of, assert_holds, backbone, nnssl_content, refusal

from detpretrain.errors import InputError
from detpretrain.training import adaptation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("compared", [True, False], ids=["architectures", "tensors"])
@pytest.mark.parametrize(
    ("other", "part"),
    [
        (backbone((*SMALL[:-1], 11)), "stage 5"),
        (backbone((5, *SMALL[1:])), "stem|stage 0"),
        (backbone(blocks=(1, 3, 5, 6, 6, 6)), "stage 2"),
        (backbone(blocks=(1, 3, 3, 6, 6, 6)), "stage 2"),
        (backbone(SMALL[:5], BLOCKS[:5]), "stage 5"),
        (backbone((*SMALL, 10), (*BLOCKS, 1), [*STRIDES, [2] * 3]), "stage 6"),
        (backbone(kernels=[[1, 3, 3]] + [[3] * 3] * 5), "stem|stage 0"),
    ],
    ids=["last width", "first width", "one block more", "one block less", "one stage less", "one stage more", "kernel"],
)
def test_another_encoder_is_refused_and_left_as_it_was(released, tmp_path, other, part, compared):
    torch.save(released, tmp_path / "c.pth")
    encoder = other.encoder(1)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(InputError, match=f"^{tmp_path}/c.pth: .*({part}) differs.*nothing was loaded") as error:
        adaptation.load_encoder(encoder, tmp_path / "c.pth", 1, backbone=other if compared else None)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_other_strides_show_in_no_tensor_and_are_refused(load, released, unet):
    flat = [[1, 1, 1], [2, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    other = backbone(strides=flat)
    message = refusal(load, released, made_by=other, backbone=other)
    assert "stage 2 differs: stride 2x2x2, the detector's backbone has 1x2x2; nothing was loaded" in message
    load(released, made_by=other)  # nobody can know without the recipe


def test_without_figures_only_tensors_are_compared(load, released, unet):
    for plans in (None, {"arch_class_name": "MyNet", "arch_kwargs": None}):
        released["nnssl_adaptation_plan"]["architecture_plans"] = plans
        assert_holds(load(released, backbone=backbone())[0], unet)


def test_the_named_resenc_l_is_compared_by_its_known_figures(load, unet):
    message = refusal(load, nnssl_content(unet), backbone=backbone())
    assert "stage 0 differs: features 32, the detector's backbone has 4" in message


@pytest.mark.parametrize("figures", [{"strides": "all"}, {"n_stages": 5}, {"features_per_stage": [{}] * 6}])
def test_figures_that_make_no_sense_are_one_line(load, released, figures):
    released["nnssl_adaptation_plan"]["architecture_plans"] = architecture_of(SMALL, **figures)
    assert "architecture_plans cannot be read" in refusal(load, released, backbone=backbone())


def test_partial_checkpoint_is_refused_and_names_the_stage(load, released):
    for name in [name for name in released["network_weights"] if name.startswith("encoder.stages.1.")]:
        del released["network_weights"][name]
    assert "c.pth: lacks stages.1." in refusal(load, released)
    assert "stage 1 differs" in refusal(load, released)


def test_a_checkpoint_with_nothing_where_the_plan_points_is_refused(load, released):
    released["network_weights"] = {n: v for n, v in released["network_weights"].items() if n.startswith("decoder.")}
    assert "no tensors under encoder.stages, where its plan has the encoder" in refusal(load, released)


@pytest.mark.parametrize("key", ["network_weights", "nnssl_adaptation_plan"])
@pytest.mark.parametrize("value", [None, [1]])
def test_checkpoint_of_another_format_is_refused(load, released, key, value):
    assert f"no {key}" in refusal(load, released | {key: value})


@pytest.mark.parametrize("key", ["key_to_encoder", "key_to_stem", "keys_to_in_proj", "pretrain_num_input_channels"])
def test_plan_without_a_needed_key_is_refused(load, released, key):
    del released["nnssl_adaptation_plan"][key]
    assert f"nnssl_adaptation_plan has no {key}" in refusal(load, released)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(load, released, tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "pwned",)

    assert "which is code and is not run" in refusal(load, released | {"citations": Code()})
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_one_line(released, tmp_path, part):
    torch.save(released, tmp_path / "c.pth")
    whole = (tmp_path / "c.pth").read_bytes()
    (tmp_path / "c.pth").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError, match="not a readable checkpoint") as error:
        adaptation.load_encoder(backbone().encoder(1), tmp_path / "c.pth", 1)
    assert "\n" not in str(error.value)
