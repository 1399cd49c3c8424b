"""A checkpoint in nnDetection's module names; conftest.py builds the network that wrote it."""

import pytest
import torch
from released_checkpoints import refusal

from detpretrain.models.plain_conv import PlainConv
from detpretrain.training import adaptation, architecture, checkpoints
from detpretrain.training.export import export
from detpretrain.training.inspection import inspect
from detpretrain.training.nndetection_names import our_names

FEATURES = [4, 8, 16]
STRIDES, KERNELS = [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]]


pytestmark = pytest.mark.usefixtures("one_thread")


def backbone(**changes):
    return PlainConv(**({"features": FEATURES, "strides": STRIDES, "kernels": KERNELS} | changes))


def load(path, channels=1, made=None, **options):
    made = made or backbone()
    encoder = made.encoder(channels)
    return encoder, adaptation.load_encoder(encoder, path, channels, backbone=made, **options)


def images():
    return torch.randn(2, 1, 6, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_same_features(encoder, network, stem="351_0"):
    with torch.no_grad():
        ours, theirs = encoder.double()(images()), network.double().features(images(), stem)
    assert len(ours) == 3
    torch.testing.assert_close(ours, theirs)


# --- names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stem.351_0.0.weight", ["encoder.stem.351_0.convs.0.conv.weight", "encoder.stem.351_0.convs.0.all_modules.0.weight"]),
        ("stem.004.1.bias", ["encoder.stem.004.convs.0.norm.bias", "encoder.stem.004.convs.0.all_modules.1.bias"]),
        ("encoder.stem.004.1.bias", ["encoder.stem.004.convs.0.norm.bias", "encoder.stem.004.convs.0.all_modules.1.bias"]),
        (
            "backbone.levels.0.component.0.conv.weight",
            ["encoder.stages.0.0.convs.0.conv.weight", "encoder.stages.0.0.convs.0.all_modules.0.weight"],
        ),
        (
            "backbone.levels.5.component.1.norm.weight",
            ["encoder.stages.5.0.convs.1.norm.weight", "encoder.stages.5.0.convs.1.all_modules.1.weight"],
        ),
        ("decoder.lateral.P0.0.conv.bias", ["neck.lateral.0.bias"]),
        ("decoder.out.P5.0.conv.weight", ["neck.out.5.weight"]),
        ("neck.up.P3.conv.weight", ["neck.up.2.weight"]),
        ("decoder.fusion.P1.0.conv.weight", ["neck.fusion.P1.0.conv.weight"]),
        ("seg_layer.351_0.weight", []),
        ("head.classifier.conv_out.conv.bias", []),
    ],
)  # fmt: skip
def test_each_name_has_its_translation(theirs, ours):
    assert sorted(our_names(theirs)) == sorted(ours)


def test_the_network_built_here_has_the_names_of_the_published_one(published):
    names = set(published.state_dict())
    assert len(names) == 2 * 3 + 5 * 3 + 3 * 4 + 2 + 2 * 2
    assert names >= {
        "stem.351_0.0.weight", "stem.351_0.1.weight", "stem.351_0.1.bias", "backbone.levels.0.component.0.conv.weight",
        "backbone.levels.2.component.1.norm.bias", "decoder.lateral.P0.0.conv.weight", "decoder.up.P2.conv.weight",
        "decoder.out.P2.0.conv.bias",
    }  # fmt: skip


# --- the encoder ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["351_0", "004"])
def test_the_loaded_encoder_computes_the_features_of_the_network_that_was_saved(published, written, saved, stem):
    encoder, report = load(saved(written), stem=None if stem == "351_0" else stem)
    assert (report.stem, report.entries, report.conflicts) == (stem, 2 * 6 * 3, 0)
    assert report.parameters == sum(
        p.numel() for p in (*published.backbone.parameters(), *published.stem[stem].parameters())
    )
    assert_same_features(encoder, published, stem)


def test_equal_channels_give_the_features_of_one(published, written, saved):
    encoder, _ = load(saved(written), 3)
    with torch.no_grad():
        many = encoder.double()(images().expand(-1, 3, -1, -1, -1))
        torch.testing.assert_close(many, published.double().features(images(), "351_0"))


@pytest.mark.parametrize("prefix", ["stem", "encoder.stem"])
@pytest.mark.parametrize("key", ["stem.004", "encoder.stem.004", "module.stem.004"])
def test_a_stem_may_be_named_with_or_without_its_part(published, written, saved, prefix, key):
    weights = written["network_weights"]
    written["network_weights"] = {
        f"module.{prefix}{name.removeprefix('stem')}" if name.startswith("stem.") else name: value
        for name, value in weights.items()
    }
    written["nnssl_adaptation_plan"]["key_to_stem"] = key
    encoder, report = load(saved(written))
    assert report.stem == "004"
    assert_same_features(encoder, published, "004")


def test_what_else_a_plan_points_at_does_not_matter(published, written, saved):
    for key in ("key_to_encoder", "keys_to_in_proj"):
        del written["nnssl_adaptation_plan"][key]
    assert_same_features(load(saved(written))[0], published)


@pytest.mark.parametrize("key", ["stem", None])
def test_several_stems_without_a_default_are_listed(written, saved, key):
    written["nnssl_adaptation_plan"]["key_to_stem"] = key
    message = refusal(load, saved(written))
    assert "has the stems 004, 351_0 and names no default: choose one with stem:" in message


def test_an_unknown_stem_is_refused(written, saved):
    assert "no stem '005', its stems are 004, 351_0" in refusal(load, saved(written), stem="005")


def test_strides_are_compared_although_the_plan_leaves_out_the_first(written, saved):
    other = backbone(strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]])
    message = refusal(load, saved(written), made=other)
    assert "stage 1 differs: stride 1x2x2, the detector's backbone has 2x2x2; nothing was loaded" in message
    found = architecture.from_plan(written["nnssl_adaptation_plan"]["architecture_plans"])
    assert [stage.stride for stage in found.stages] == [(1, 1, 1), (1, 2, 2), (2, 2, 2)]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("backbone.levels.0.component.0.norm.bias", "stage 0"),
        ("backbone.levels.2.component.1.conv.weight", "stage 2"),
        ("stem.351_0.0.weight", "stem"),
    ],
)
def test_a_missing_tensor_is_named_and_nothing_is_loaded(written, saved, name, part):
    del written["network_weights"][name]
    encoder = backbone().encoder(1)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    message = refusal(adaptation.load_encoder, encoder, saved(written), 1)
    assert our_names(name)[0].removeprefix("encoder.").replace(".351_0", "") in message
    assert f": {part} differs" in message
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("backbone.levels.1.component.0.conv.bias", "has stages.1.0.convs.0.conv.bias, which"),
        ("backbone.levels.0.component.1.conv.weight", "has stages.0.0.convs.1.conv.weight, which"),
        ("backbone.levels.1.component.0.shortcut.1.conv.weight", "levels.1.component.0.shortcut.1.conv.weight, which"),
        ("stem.351_0.3.weight", "has stem.3.weight, which"),
    ],
)
def test_a_tensor_too_many_is_named(written, saved, name, part):
    written["network_weights"][name] = torch.zeros(4)
    assert part in refusal(load, saved(written))


def test_other_stems_may_be_of_another_kind(published, written, saved):
    written["network_weights"]["stem.004.3.weight"] = torch.zeros(4)
    assert_same_features(load(saved(written))[0], published)


# --- what else reads checkpoints ---------------------------------------------------------------------------------------------


def test_inspection_shows_stems_encoder_and_pyramid(published, written, saved):
    facts = inspect(saved(written))
    assert facts["architecture"] == "ConvBackbone"
    assert facts["stages"][1] == "1: 8 features, ? blocks, stride 1x2x2, kernel 3x3x3"
    assert facts["stems"] == ["004: 1 channel(s)", "351_0: 1 channel(s), default"]
    encoder = [*published.backbone.parameters(), *published.stem["004"].parameters()]
    assert facts["encoder"] == {"entries": 36, "aliases": 18, "parameters": sum(p.numel() for p in encoder)}
    pyramid = sum(parameter.numel() for parameter in published.decoder.parameters())
    assert facts["neck"] == {"entries": 14, "aliases": 0, "parameters": pyramid}
    assert facts["citations"] == ["Pretraining Method, MultiTalent: U. (2023)."]


def test_an_exported_checkpoint_has_our_names_and_loads_alike(published, written, saved, tmp_path):
    export(saved(written), tmp_path / "out.pth", "004")
    written = checkpoints.load(tmp_path / "out.pth")
    assert {name.split(".")[0] for name in written["network_weights"]} == {"encoder", "neck"}
    encoder, report = load(tmp_path / "out.pth")
    assert report.stem is None
    assert_same_features(encoder, published, "004")
