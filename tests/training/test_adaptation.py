from pathlib import Path

import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.training import adaptation, checkpoints

PLAN = {"dataset": "corpus", "plan": "small", "spacing": [2.0, 1.0, 1.0], "patch": [16, 16, 16], "transpose": [1, 2, 0]}
RECORD = {"recipe": "abc", "source": "def"}


def backbone(features=(4, 6, 8), blocks=(1, 2, 1), stages=3):
    strides = [[1] * 3] + [[2] * 3] * (stages - 1)
    return ResEnc(list(features)[:stages], list(blocks)[:stages], strides, [[3] * 3] * stages)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """A checkpoint and the network it holds, all of whose tensors are random."""
    torch.manual_seed(0)
    network = backbone().unet(1, 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    path = tmp_path_factory.mktemp("pretrained") / "checkpoint.pth"
    adaptation.write_pretrained(path, network, backbone(), PLAN, [{"type": "Method", "name": "x"}], RECORD)
    return path, network.eval()


def test_written_plan_has_what_its_readers_need(pretrained):
    content = checkpoints.load(pretrained[0])
    assert {"network_weights", "nnssl_adaptation_plan", "citations"} <= set(content)
    plan = content["nnssl_adaptation_plan"]
    assert set(plan) == {
        "architecture_plans",
        "pretrain_plan",
        "pretrain_num_input_channels",
        "recommended_downstream_patchsize",
        "key_to_encoder",
        "key_to_stem",
        "keys_to_in_proj",
        "key_to_lpe",
    }
    assert set(plan["architecture_plans"]) == {"arch_class_name", "arch_kwargs", "arch_kwargs_requiring_import"}
    assert (plan["key_to_encoder"], plan["key_to_stem"], plan["key_to_lpe"]) == ("encoder.stages", "encoder.stem", None)
    assert plan["pretrain_num_input_channels"] == 1
    assert list(plan["recommended_downstream_patchsize"]) == [16, 16, 16]
    spatial = plan["pretrain_plan"]
    assert {"dataset_name", "plans_name", "image_reader_writer", "configurations"} <= set(spatial)
    forward, backward = spatial["transpose_forward"], spatial["transpose_backward"]
    assert [forward[axis] for axis in backward] == [0, 1, 2]
    (configuration,) = spatial["configurations"].values()
    assert set(configuration) == {
        "data_identifier",
        "preprocessor_name",
        "spacing_style",
        "normalization_schemes",
        "use_mask_for_norm",
        "resampling_fn_data",
        "resampling_fn_data_kwargs",
        "resampling_fn_mask",
        "resampling_fn_mask_kwargs",
        "spacing",
        "patch_size",
    }
    assert (configuration["spacing"], configuration["patch_size"]) == ([2.0, 1.0, 1.0], [16, 16, 16])


def test_every_key_of_the_plan_is_in_the_weights(pretrained):
    content = checkpoints.load(pretrained[0])
    weights, plan = content["network_weights"], content["nnssl_adaptation_plan"]
    for key in ("key_to_encoder", "key_to_stem"):
        assert any(name.startswith(plan[key] + ".") for name in weights)
    first, second = (weights[f"{key}.weight"] for key in plan["keys_to_in_proj"])
    assert first.shape == (4, 1, 3, 3, 3)
    assert torch.equal(first, second)


def test_network_can_be_rebuilt_from_the_written_architecture(pretrained):
    """What nnssl's consistency check does: build from the plan, load strictly."""
    import pydoc

    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    content = checkpoints.load(pretrained[0])
    architecture = content["nnssl_adaptation_plan"]["architecture_plans"]
    assert architecture["arch_class_name"] == ResidualEncoderUNet.__name__
    kwargs = dict(architecture["arch_kwargs"])
    for name in architecture["arch_kwargs_requiring_import"]:
        kwargs[name] = pydoc.locate(kwargs[name]) if kwargs[name] else None
    ResidualEncoderUNet(input_channels=1, num_classes=1, **kwargs).load_state_dict(content["network_weights"])


def test_encoder_of_one_channel_gives_the_pretrained_features(pretrained):
    path, network = pretrained
    encoder = backbone().encoder(1).eval()
    report = adaptation.load_encoder(encoder, path, 1)
    image = torch.randn(2, 1, 16, 16, 16)
    with torch.no_grad():
        for ours, theirs in zip(encoder(image), network.encoder(image), strict=True):
            assert torch.equal(ours, theirs)
    assert report.entries == len(encoder.state_dict())
    assert (
        report.parameters
        == sum(p.numel() for p in encoder.parameters())
        < sum(v.numel() for v in encoder.state_dict().values())
    )
    assert report.provenance == RECORD
    assert str(report.entries) in str(report)


def test_three_equal_channels_give_the_features_of_one(pretrained):
    path, network = pretrained
    encoder = backbone().encoder(3).eval()
    adaptation.load_encoder(encoder, path, 3)
    first, second = (encoder.state_dict()[f"{key.removeprefix('encoder.')}.weight"] for key in ResEnc.keys_to_in_proj)
    assert torch.equal(first, second)
    image = torch.randn(2, 1, 16, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        many, one = encoder.double()(image.expand(-1, 3, -1, -1, -1)), network.double().encoder(image)
    network.float()
    for ours, theirs in zip(many, one, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (backbone(features=(4, 6, 9)), "stage 2"),
        (backbone(features=(5, 6, 8)), "stem"),
        (backbone(blocks=(1, 3, 1)), "stage 1"),
        (backbone(blocks=(1, 1, 1)), "stage 1"),
        (backbone(features=(4, 6), blocks=(1, 2), stages=2), "stage 2"),
        (backbone(features=(4, 6, 8, 8), blocks=(1, 2, 1, 1), stages=4), "stage 3"),
    ],
    ids=["last width", "first width", "one block more", "one block less", "one stage less", "one stage more"],
)
def test_another_encoder_is_refused_and_left_as_it_was(pretrained, other, part):
    encoder = other.encoder(1)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(InputError, match=f"{part} differs.*nothing was loaded") as error:
        adaptation.load_encoder(encoder, pretrained[0], 1)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_partial_checkpoint_is_refused_and_names_the_stage(pretrained, tmp_path):
    content = checkpoints.load(pretrained[0])
    gone = [name for name in content["network_weights"] if name.startswith("encoder.stages.1.")]
    for name in gone:
        del content["network_weights"][name]
    checkpoints.save(tmp_path / "part.pth", content)
    encoder = backbone().encoder(1)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(InputError, match=r"part.pth: lacks stages\.1\..*stage 1"):
        adaptation.load_encoder(encoder, tmp_path / "part.pth", 1)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("key", ["network_weights", "nnssl_adaptation_plan"])
def test_checkpoint_of_another_format_is_refused(pretrained, tmp_path, key):
    content = checkpoints.load(pretrained[0])
    del content[key]
    checkpoints.save(tmp_path / "other.pth", content)
    with pytest.raises(InputError, match=f"no {key}"):
        adaptation.load_encoder(backbone().encoder(1), tmp_path / "other.pth", 1)


def test_plan_without_a_needed_key_is_refused(pretrained, tmp_path):
    content = checkpoints.load(pretrained[0])
    del content["nnssl_adaptation_plan"]["keys_to_in_proj"]
    checkpoints.save(tmp_path / "other.pth", content)
    with pytest.raises(InputError, match="keys_to_in_proj"):
        adaptation.load_encoder(backbone().encoder(1), tmp_path / "other.pth", 1)
