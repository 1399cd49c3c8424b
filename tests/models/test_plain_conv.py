import math
from importlib import import_module

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch.nn import functional

from detpretrain.detectors.criteria import SampledBceGiou
from detpretrain.detectors.retina_unet import RetinaUNet
from detpretrain.errors import InputError
from detpretrain.models.plain_conv import PlainConv, planned
from detpretrain.models.resenc import ResEnc
from detpretrain.models.shallow_maps import DeepenedConv3d
from detpretrain.models.sparse import sparse_encode
from detpretrain.training import adaptation, architecture

TINY = {
    "features": [4, 8, 16],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}
PLAN = {
    "dataset": "corpus",
    "plan": "tiny",
    "spacing": [1.0] * 3,
    "transpose": [0, 1, 2],
    "patch": [8, 16, 16],
    "intensity": {"scheme": [{"scheme": "zscore"}] * 2, "nonzero_mask": False},
}


def isotropic(stages):
    return {"strides": [[1] * 3] + [[2] * 3] * (stages - 1), "kernels": [[3] * 3] * stages}


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(network):
    """As after some training: no weight or bias has a special value."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(0.3 * noise(*parameter.shape, seed=number))
    return network


def test_the_retina_u_net_has_nndetection_s_size():
    plan = isotropic(5) | {"plan": "p", "dataset": "d", "channels": 1, "classes": 1, "detection_levels": [1, 2, 3, 4]}
    plan["anchors"] = {axis: [4, 6, 9] for axis in "zyx"}
    retina = RetinaUNet(backbone=planned(**isotropic(5)), plan=plan, criterion=SampledBceGiou(), head_convs=2)
    head = parameters(retina.classifier) + parameters(retina.regressor) + retina.level_scale.numel()
    parts = [parameters(retina.encoder), parameters(retina.neck) + parameters(retina.segmenter), head]
    assert [round(part / 1e6, 2) for part in (*parts, parameters(retina))] == [8.49, 2.44, 2.42, 13.36]
    assert len(retina.anchors.grid([(64 >> level,) * 3 for level in (1, 2, 3, 4)], "cpu").boxes) == 1_010_880


def test_the_fixed_encoder_has_two_convolutions_per_stage_and_no_bias():
    with torch.device("meta"):
        encoder = PlainConv([32, 64, 128, 256, 320, 320], **isotropic(6)).encoder(1)
    widths = [(1, 32), (32, 64), (64, 128), (128, 256), (256, 320), (320, 320)]
    expected = sum(27 * (before + width) * width + 2 * 2 * width for before, width in widths)
    assert parameters(encoder) == expected == 14_022_880


def by_hand(weights, images, slope):
    """nnDetection's encoder written out: ``weights`` by the names of the encoder."""
    x, maps = images, []
    for stage, (stride, kernel) in enumerate(zip(TINY["strides"], TINY["kernels"], strict=True)):
        blocks = [f"stages.{stage}.0.convs.{index}" for index in range(1 if stage == 0 else 2)]
        for place, block in enumerate(["stem.convs.0", *blocks] if stage == 0 else blocks):
            padding = [side // 2 for side in kernel]
            x = functional.conv3d(x, weights[f"{block}.conv.weight"], None, stride if place == 0 else 1, padding)
            mean, variance = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), correction=0, keepdim=True)
            scale, shift = (weights[f"{block}.norm.{leaf}"].view(1, -1, 1, 1, 1) for leaf in ("weight", "bias"))
            x = (x - mean) / (variance + 1e-5).sqrt() * scale + shift
            x = torch.where(x > 0, x, slope * x)
        maps.append(x)
    return maps


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_the_encoder_is_convolution_norm_activation_twice_per_stage(slope):
    encoder = trained(PlainConv(**TINY, negative_slope=slope).encoder(3)).double()
    images = noise(2, 3, 6, 8, 12).double()
    weights = encoder.state_dict()
    used = {name for name in weights if ".all_modules." not in name}
    assert len(used) == 3 * 6  # 6 blocks of one convolution weight, one norm scale, one norm shift
    expected = by_hand(weights, images, slope)
    assert [tuple(level.shape[1:]) for level in expected] == [(4, 6, 8, 12), (8, 6, 4, 6), (16, 3, 2, 3)]
    torch.testing.assert_close(encoder(images), expected)


def test_the_u_net_computes_what_the_library_s_does():
    backbone = PlainConv(**TINY)
    network = trained(backbone.unet(2, 5))
    arguments = imported(backbone.architecture_plan())
    reference = PlainConvUNet(input_channels=2, num_classes=5, **arguments)
    reference.load_state_dict({library_name(name): value for name, value in network.state_dict().items()}, strict=True)
    images = noise(2, 2, 6, 8, 12)
    assert network(images).shape == (2, 5, 6, 8, 12)
    torch.testing.assert_close(network(images), reference(images))


def library_name(name):
    """The stem is the first of two blocks of stage 0 there."""
    first = "stages.0.0.convs."
    return name.replace(f"{first}0.", f"{first}1.").replace("stem.convs.", first)


def imported(plan):
    arguments = dict(plan["arch_kwargs"])
    for key in plan["arch_kwargs_requiring_import"]:
        arguments[key] = attribute(arguments[key])
    return arguments


def attribute(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_the_architecture_plan_is_plain_data_that_rebuilds_the_network():
    backbone = PlainConv(**TINY, negative_slope=0.2)
    plan = backbone.architecture_plan()
    rebuilt = attribute(plan["arch_class_name"])(1, num_classes=1, **imported(plan))
    network = trained(backbone.unet(1, 1))
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    images = noise(1, 1, 6, 8, 12)
    torch.testing.assert_close(rebuilt(images), network(images))


def test_its_architecture_is_told_apart_from_others():
    known = architecture.from_plan(PlainConv(**TINY).architecture_plan())
    assert [str(stage) for stage in known.stages][1] == "8 features, 2 blocks, stride 1x2x2, kernel 3x3x3"
    residual = architecture.from_plan(ResEnc(**TINY, blocks=[2, 2, 2]).architecture_plan())
    assert "the whole encoder differs" in architecture.difference(residual, known)
    strided = PlainConv(**{**TINY, "strides": [[1] * 3, [2] * 3, [1] * 3]}).architecture_plan()
    assert "stage 1 differs: stride" in architecture.difference(architecture.from_plan(strided), known)


def test_the_encoder_and_the_stem_name_their_tensors_as_the_u_net_does():
    backbone = PlainConv(**TINY)
    alone, whole = backbone.encoder(2).state_dict(), backbone.unet(2, 3).state_dict()
    parts = (f"{backbone.key_to_encoder}.", f"{backbone.key_to_stem}.")
    in_unet = {name.removeprefix("encoder."): value.shape for name, value in whole.items() if name.startswith(parts)}
    assert in_unet == {name: value.shape for name, value in alone.items()}
    for key in backbone.keys_to_in_proj:
        assert whole[f"{key}.weight"].shape[1] == 2  # the layer that sees the input channels
    stem = backbone.stem(2).state_dict()
    assert {name: value.shape for name, value in stem.items()} == {
        name.removeprefix("stem."): value.shape for name, value in alone.items() if name.startswith("stem.")
    }


def test_a_stem_replaces_the_encoder_s():
    backbone = PlainConv(**TINY)
    encoder, stem, images = trained(backbone.encoder(1)), trained(backbone.stem(3)), noise(1, 3, 6, 8, 12)
    maps = stem(images)
    assert maps.shape == (1, 4, 6, 8, 12)
    encoder.stem = stem
    torch.testing.assert_close(encoder(images)[0], encoder.stages[0](maps))


def test_the_sparse_encoder_walks_the_stem_too():
    encoder, image = trained(PlainConv(**TINY).encoder(1)), noise(1, 1, 8, 16, 16)
    everything = torch.ones_like(image)
    torch.testing.assert_close(sparse_encode(encoder, image, everything, 4)[0], encoder(image))
    visible = everything.clone()
    visible[..., :8] = 0
    features, masks = sparse_encode(encoder, image * visible, visible, 4)
    # alone in a volume of its own, the visible half meets the same zeros beyond its border
    alone, _ = sparse_encode(encoder, image[..., 8:], visible[..., 8:], 4)
    for level, half, mask in zip(features, alone, masks, strict=True):
        torch.testing.assert_close(level[..., level.shape[4] // 2 :], half)
        assert not (level * (1 - mask)).any()


def write(path, backbone, stems=None):
    network = trained(backbone.unet(1, 2))
    adaptation.write_pretrained(
        path, network, backbone, PLAN, [], {}, stems=stems, default_stem="CT" if stems else None
    )
    return network


def test_a_checkpoint_fills_an_encoder_and_repeats_the_stem_for_more_channels(tmp_path):
    backbone, path = PlainConv(**TINY), tmp_path / "checkpoint.pth"
    network = write(path, backbone)
    encoder = backbone.encoder(1)
    report = adaptation.load_encoder(encoder, path, 1, backbone=backbone)
    assert (report.entries, report.parameters) == (len(encoder.state_dict()), parameters(network.encoder))
    image = noise(1, 1, 8, 16, 16)
    expected = network.encoder(image)
    torch.testing.assert_close(encoder(image), expected)
    wide = backbone.encoder(2)
    adaptation.load_encoder(wide, path, 2, backbone=backbone)
    torch.testing.assert_close(wide(image.expand(-1, 2, -1, -1, -1)), expected)


def test_a_checkpoint_of_several_stems_gives_the_one_that_is_asked_for(tmp_path):
    backbone, path = PlainConv(**TINY), tmp_path / "checkpoint.pth"
    other = trained(backbone.stem(2))
    network = write(path, backbone, {"MR": other})
    encoder = backbone.encoder(2)
    assert adaptation.load_encoder(encoder, path, 2, stem="MR", backbone=backbone).stem == "MR"
    images = noise(1, 2, 8, 16, 16)
    torch.testing.assert_close(encoder(images)[0], network.encoder.stages[0](other(images)))


@pytest.mark.parametrize(("slope", "squares"), [(1.0, 2.0), (0.0, 1.0)])
def test_initialisation_is_he_for_the_activation(slope, squares):
    torch.manual_seed(0)
    backbone = PlainConv(**{**TINY, "features": [16, 32, 64]}, negative_slope=slope)
    for network in (backbone.encoder(1), backbone.stem(2)):
        for convolution in [module for module in network.modules() if isinstance(module, nn.Conv3d)]:
            expected = math.sqrt(2 / squares / convolution.weight[0].numel())
            assert convolution.weight.std().item() == pytest.approx(expected, rel=0.15)
            assert convolution.bias is None


def test_the_faithful_switch_keeps_pytorchs_initialisation():
    torch.manual_seed(0)
    encoder = planned(TINY["strides"], TINY["kernels"], start=16, faithful_initialisation=True).encoder(1)
    weight = encoder.stages[2][0].convs[1].conv.weight
    bound = 1 / math.sqrt(weight[0].numel())  # kaiming_uniform with a = sqrt(5)
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_shallow_maps_are_guarded_in_every_part():
    backbone = PlainConv([4, 8], **isotropic(2))
    for network, convolutions in ((backbone.encoder(1), 3), (backbone.stem(1), 1), (backbone.unet(1, 1), 4)):
        guarded = {module for module in network.modules() if isinstance(module, DeepenedConv3d)}
        assert len(guarded) == convolutions  # all of side 3 but the strided one


def test_planned_channels_double_up_to_the_largest_for_any_number_of_stages():
    assert planned(**isotropic(7)).features == [32, 64, 128, 256, 320, 320, 320]
    assert planned(**isotropic(3), start=4, largest=8).features == [4, 8, 8]


def test_settings_that_do_not_fit_the_plan_are_refused():
    with pytest.raises(InputError, match="2 features, 3 strides, 3 kernels"):
        PlainConv(**{**TINY, "features": [4, 8]})
    with pytest.raises(InputError, match=r"stride \[2, 2, 2\] into the first stage"):
        PlainConv(**{**TINY, "strides": [[2] * 3] * 3})
