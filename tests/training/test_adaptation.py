"""Checkpoints in nnssl's layout are read: all of the encoder, whatever wrapped it, and aliases that are no longer tied."""

import copy

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from released_checkpoints import (
    FEATURES,
    FIRST,
    METHOD,
    assert_holds,
    assert_same_features,
    backbone,
    image_of,
    kwargs_of,
    nnssl_content,
    numbered,
    refusal,
)  # fmt: skip
from torch import nn

from detpretrain.errors import InputError
from detpretrain.training import adaptation, checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")


def test_all_of_a_released_encoder_is_loaded(load, released, unet):
    encoder, report = load(released, backbone=backbone())
    assert report.entries == len(encoder.state_dict()) == 448
    assert report.parameters == sum(p.numel() for p in unet.encoder.parameters())
    assert (report.stem, report.conflicts, list(report.patients), report.provenance) == (None, 0, [], {})
    assert report.citations == [METHOD]
    assert_holds(encoder, unet)
    assert_same_features(encoder, unet)
    for text in ("448", f"{report.parameters:,}", "1 input channel(s)"):
        assert text in str(report)
    assert "stem" not in str(report)
    assert "all_modules" not in str(report)


def test_the_full_size_loads_by_its_name(tmp_path, monkeypatch):
    for name in ("kaiming_uniform_", "kaiming_normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    network = numbered(ResidualEncoderUNet(1, num_classes=1, n_conv_per_stage_decoder=1, **kwargs_of(FEATURES)))
    assert sum(parameter.numel() for parameter in network.parameters()) == 102_348_965
    torch.save(nnssl_content(network), tmp_path / "c.pth")
    made = backbone(FEATURES)
    encoder = made.encoder(4)
    report = adaptation.load_encoder(encoder, tmp_path / "c.pth", 4, backbone=made)
    assert report.entries == 448
    assert report.parameters == 90_296_576 + 3 * 32 * 27
    theirs = network.encoder.state_dict()
    for name, value in encoder.state_dict().items():
        expected = theirs[name]
        if f"encoder.{name.removesuffix('.weight')}" in FIRST:
            expected = torch.cat([expected] * 4, dim=1) / 4
        assert torch.equal(value, expected), name
    (tmp_path / "c.pth").unlink()


def test_equal_channels_give_the_features_of_one(load, released, unet):
    encoder, report = load(released, 4)
    assert report.input_channels == 4
    first, second = (encoder.state_dict()[f"{key.removeprefix('encoder.')}.weight"] for key in FIRST)
    assert first.shape == (4, 4, 3, 3, 3)
    assert torch.equal(first, second)
    image = image_of(torch.float64)
    with torch.no_grad():
        many = encoder.double()(image.expand(-1, 4, -1, -1, -1))
        one = copy.deepcopy(unet.encoder).double()(image)
    for ours, theirs in zip(many, one, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_do_not_matter(load, released, unet, prefix):
    released["network_weights"] = {f"{prefix}{name}": value for name, value in released["network_weights"].items()}
    assert_holds(load(released)[0], unet)


def test_lists_and_json_numbers_do_for_tuples(load, released, unet):
    plan = released["nnssl_adaptation_plan"]
    plan["keys_to_in_proj"] = list(FIRST)
    plan["architecture_plans"]["arch_kwargs"] |= {"kernel_sizes": 3, "strides": (1, 2, 2, 2, 2, (2, 2, 2))}
    assert_holds(load(released, backbone=backbone())[0], unet)


def test_citations_in_the_plan_are_read_too(load, released):
    released["nnssl_adaptation_plan"]["citations"] = released.pop("citations")
    assert load(released)[1].citations == [METHOD]
    del released["nnssl_adaptation_plan"]["citations"]
    assert load(released)[1].citations == []
    assert "citations: not a list" in refusal(load, released | {"citations": ["a paper"]})


# --- aliases that are no longer tied ------------------------------------------------------------------------------------


def untied(released):
    """As S3D's converter leaves them: ``.conv`` and ``.norm`` have their initial values, ``.all_modules`` are trained."""
    weights = released["network_weights"]
    stale = [name for name in weights if ".conv." in name or ".norm." in name]
    assert len(stale) * 2 < len(weights)
    for name in stale:
        weights[name] = torch.full_like(weights[name], 1000.0)
    return len([name for name in stale if name.startswith(("encoder.stem", "encoder.stages"))])


@pytest.mark.parametrize("channels", [1, 2])
def test_trained_aliases_win_and_are_counted(load, released, unet, channels):
    number = untied(released)
    encoder, report = load(released, channels)
    assert report.conflicts == number == 224
    assert "224 tensors had an alias with another value" in str(report)
    if channels == 1:
        assert_holds(encoder, unet)
    trained = unet.state_dict()[f"{FIRST[1]}.weight"]
    for key in FIRST:
        value = encoder.state_dict()[f"{key.removeprefix('encoder.')}.weight"]
        assert torch.equal(value, torch.cat([trained] * channels, dim=1) / channels)


def test_equal_copies_are_no_conflict(load, released):
    released["network_weights"] = {name: value.clone() for name, value in released["network_weights"].items()}
    assert load(released)[1].conflicts == 0


def test_two_values_of_one_tensor_leave_the_file_alone(load, released, tmp_path):
    untied(released)
    load(released)
    assert (checkpoints.load(tmp_path / "c.pth")["network_weights"][f"{FIRST[0]}.weight"] == 1000).all()


def test_a_checkpoint_that_something_else_loads_is_still_cited(released, tmp_path, capsys):
    torch.save(released | {"provenance": {"recipe": "abc"}}, tmp_path / "own.pth")
    assert adaptation.about(tmp_path / "own.pth") == {"recipe": "abc", "citations": [METHOD]}
    assert "please cite: Pretraining Method" in capsys.readouterr().out
    torch.save(released, tmp_path / "nobody.pth")
    assert adaptation.about(tmp_path / "nobody.pth") == {"citations": [METHOD]}
    torch.save({"network_weights": {}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="no nnssl_adaptation_plan"):
        adaptation.about(tmp_path / "other.pth")
