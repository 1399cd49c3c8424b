"""What this package writes after a pre-training, read by the classes that others build from it."""

import pydoc
from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from released_checkpoints import (
    FEATURES,
    FIRST,
    METHOD,
    assert_holds,
    assert_same_features,
    backbone,
    first_weight,
    numbered,
)
from torch import nn

from detpretrain.errors import InputError
from detpretrain.training import adaptation, checkpoints

PLAN = {
    "dataset": "corpus", "plan": "small", "spacing": [2.0, 1.0, 1.0], "patch": [16, 16, 16], "transpose": [1, 2, 0],
    "intensity": {"scheme": [{"scheme": "ct"}, {"scheme": "zscore"}, {"scheme": "raw"}], "nonzero_mask": True},
}  # fmt: skip
RECORD = {"recipe": "abc", "source": "def"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, nn.Module]:
    """A checkpoint that this package wrote, with stems, and the network it holds."""
    network = numbered(backbone().unet(1, 1)).eval()
    path = tmp_path_factory.mktemp("written") / "checkpoint.pth"
    patients = [{"space": None, "ids": ["p1"]}]
    others = {"MR": numbered(backbone().stem(2))}
    cited = adaptation.write_pretrained(
        path, network, backbone(), PLAN, [METHOD], RECORD, stems=others, default_stem="CT", patients=patients
    )
    assert cited == checkpoints.load(path)["citations"]
    return path, network


def test_written_plan_has_what_its_readers_need(written):
    content = checkpoints.load(written[0])
    plan = content["nnssl_adaptation_plan"]
    assert set(plan) == {
        "architecture_plans", "pretrain_plan", "pretrain_num_input_channels", "recommended_downstream_patchsize",
        "key_to_encoder", "key_to_stem", "keys_to_in_proj", "key_to_lpe",
    }  # fmt: skip
    assert set(plan["architecture_plans"]) == {"arch_class_name", "arch_kwargs", "arch_kwargs_requiring_import"}
    assert (plan["key_to_encoder"], plan["key_to_stem"], plan["key_to_lpe"]) == ("encoder.stages", "encoder.stem", None)
    assert plan["pretrain_num_input_channels"] == 1
    assert list(plan["recommended_downstream_patchsize"]) == [16, 16, 16]
    spatial = plan["pretrain_plan"]
    assert set(spatial) == {
        "dataset_name", "plans_name", "original_median_spacing_after_transp", "image_reader_writer", "transpose_forward",
        "transpose_backward", "experiment_planner_used", "configurations",
    }  # fmt: skip
    forward, backward = spatial["transpose_forward"], spatial["transpose_backward"]
    assert [forward[axis] for axis in backward] == [0, 1, 2]
    (configuration,) = spatial["configurations"].values()
    assert set(configuration) == {
        "data_identifier", "preprocessor_name", "spacing_style", "normalization_schemes", "use_mask_for_norm",
        "resampling_fn_data", "resampling_fn_data_kwargs", "resampling_fn_mask", "resampling_fn_mask_kwargs",
        "spacing", "patch_size",
    }  # fmt: skip
    assert (configuration["spacing"], configuration["patch_size"]) == ([2.0, 1.0, 1.0], [16, 16, 16])
    assert (configuration["normalization_schemes"], configuration["use_mask_for_norm"]) == (["CTNormalization"], [True])


def test_every_key_of_the_plan_is_in_the_weights(written):
    content = checkpoints.load(written[0])
    weights, plan = content["network_weights"], content["nnssl_adaptation_plan"]
    for key in ("key_to_encoder", "key_to_stem"):
        assert any(name.startswith(plan[key] + ".") for name in weights)
    first, second = (weights[f"{key}.weight"] for key in plan["keys_to_in_proj"])
    assert first.shape == (4, 1, 3, 3, 3)
    assert torch.equal(first, second)


def test_what_is_written_loads_strictly_into_the_original_classes(written):
    """What nnssl's consistency check does: build from the plan, load strictly."""
    content = checkpoints.load(written[0])
    architecture = content["nnssl_adaptation_plan"]["architecture_plans"]
    assert architecture["arch_class_name"] == ResidualEncoderUNet.__name__
    kwargs = dict(architecture["arch_kwargs"])
    for name in architecture["arch_kwargs_requiring_import"]:
        kwargs[name] = pydoc.locate(kwargs[name]) if kwargs[name] else None
    network = ResidualEncoderUNet(input_channels=1, num_classes=1, **kwargs)
    network.load_state_dict(content["network_weights"], strict=True)
    assert_same_features(network.encoder, written[1])
    del kwargs["n_conv_per_stage_decoder"]
    encoder = ResidualEncoder(1, **kwargs, return_skips=True)
    encoder.load_state_dict(
        {n.removeprefix("encoder."): v for n, v in content["network_weights"].items() if n.startswith("encoder.")},
        strict=True,
    )
    assert_holds(encoder, written[1])


def test_resenc_l_is_written_by_its_name_and_nothing_else_is():
    plans = [
        adaptation.adaptation_plan(made, PLAN)["architecture_plans"]
        for made in (backbone(FEATURES), backbone(), backbone(FEATURES, strides=[[1] * 3, [1, 2, 2]] + [[2] * 3] * 4))
    ]
    assert plans[0] == {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None}
    assert [plan["arch_class_name"] for plan in plans[1:]] == ["ResidualEncoderUNet"] * 2


def test_method_architecture_and_framework_are_cited(written):
    types = [citation["type"] for citation in checkpoints.load(written[0])["citations"]]
    assert types == ["Pretraining Method", "Architecture", "Framework"]


def test_stems_patients_and_provenance_come_back(written):
    encoder = backbone().encoder(1).eval()
    report = adaptation.load_encoder(encoder, written[0], 1, backbone=backbone())
    assert (report.stem, report.provenance, report.patients) == ("CT", RECORD, [{"space": None, "ids": ["p1"]}])
    assert_holds(encoder, written[1])
    assert adaptation.load_encoder(encoder, written[0], 1, stem="CT").stem == "CT"
    assert_holds(encoder, written[1])
    encoder = backbone().encoder(2)
    adaptation.load_encoder(encoder, written[0], 2, stem="MR")
    assert torch.equal(first_weight(encoder), numbered(backbone().stem(2)).convs[0].conv.weight.detach())
    with pytest.raises(InputError, match="no stem 'PET', its stems are CT, MR"):
        adaptation.load_encoder(encoder, written[0], 2, stem="PET")


def test_the_default_stem_is_not_stored_twice(written):
    content = checkpoints.load(written[0])
    own, network = content["stems"]["CT"]["convs.0.conv.weight"], content["network_weights"]
    assert (
        own.data_ptr() == network[f"{FIRST[0]}.weight"].data_ptr() == network[f"decoder.{FIRST[1]}.weight"].data_ptr()
    )


def test_a_method_with_one_stem_writes_none(tmp_path):
    network = backbone().unet(3, 1)
    adaptation.write_pretrained(tmp_path / "c.pth", network, backbone(), PLAN, [METHOD], RECORD, dataset_name="a+b")
    content = checkpoints.load(tmp_path / "c.pth")
    assert not {"stems", "default_stem"} & set(content)
    plan = content["nnssl_adaptation_plan"]
    assert (plan["pretrain_num_input_channels"], plan["pretrain_plan"]["dataset_name"]) == (3, "a+b")
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    assert configuration["normalization_schemes"] == ["CTNormalization", "ZScoreNormalization", "NoNormalization"]
    encoder = backbone().encoder(3)
    assert adaptation.load_encoder(encoder, tmp_path / "c.pth", 3).stem is None
    assert torch.equal(first_weight(encoder), network.encoder.stem.convs[0].conv.weight)
