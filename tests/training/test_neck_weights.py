"""The pyramid of a checkpoint in nnDetection's module names; conftest.py builds the network that wrote it."""

import pytest
import torch
from released_checkpoints import refusal
from torch import nn

from detpretrain.detectors.criteria import FocalL1
from detpretrain.detectors.retina_unet import RetinaUNet
from detpretrain.models.plain_conv import PlainConv
from detpretrain.training import adaptation
from detpretrain.training.export import export
from detpretrain.training.finetune import Cell, load_pretrained
from detpretrain.training.neck_weights import load_neck

FEATURES, WIDTHS = [4, 8, 16], [8, 16, 16]
STRIDES, KERNELS = [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
PLAN = {
    "plan": "p", "dataset": "d", "strides": STRIDES, "kernels": KERNELS, "channels": 1, "classes": 1,
    "detection_levels": [1, 2], "anchors": {axis: [4, 6, 9] for axis in "zyx"},
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def backbone(**changes):
    return PlainConv(**({"features": FEATURES, "strides": STRIDES, "kernels": KERNELS} | changes))


def detector_of(**changes):
    torch.manual_seed(0)
    plan = PLAN | changes
    made = backbone(strides=plan["strides"], kernels=plan["kernels"])
    return RetinaUNet(backbone=made, plan=plan, criterion=FocalL1(), pyramid_channels=16, head_channels=16)


def images():
    return torch.randn(2, 1, 6, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def cell_of(path, **changes):
    entry = {"class": "detpretrain.models.plain_conv.PlainConv", "features": FEATURES}
    return Cell(
        name="c", detector={}, backbone=entry, recipe={}, recipe_name="r", fold=0, seed=0, checkpoint=path,
        signature="s", **changes,
    )  # fmt: skip


def test_a_cell_that_asks_for_it_gets_the_pyramid_too(published, written, saved, capsys):
    detector = detector_of()
    others = {n: v.clone() for n, v in detector.state_dict().items() if not n.startswith(("encoder.", "neck."))}
    with torch.no_grad():
        for convolution in detector.neck.up:
            convolution.bias.fill_(5.0)  # the checkpoint has none: not these values may stay
    load_pretrained(detector, cell_of(saved(written), neck=True), PLAN)
    assert "loaded 16 neck tensors" in capsys.readouterr().out
    with torch.no_grad():
        ours = detector.double().neck(detector.encoder(images()))
        theirs = published.double().decoder(published.features(images(), "351_0"))
    torch.testing.assert_close([ours[level] for level in range(3)], theirs)
    assert others
    assert all(torch.equal(value, detector.state_dict()[name].float()) for name, value in others.items())


def test_without_asking_only_the_encoder_is_loaded(published, written, saved):
    detector = detector_of()
    before = {name: value.clone() for name, value in detector.neck.state_dict().items()}
    load_pretrained(detector, cell_of(saved(written)), PLAN)
    assert all(torch.equal(value, before[name]) for name, value in detector.neck.state_dict().items())
    with torch.no_grad():
        ours, theirs = detector.double().encoder(images()), published.double().features(images(), "351_0")
    torch.testing.assert_close(ours, theirs)


def test_biases_of_transposed_convolutions_are_loaded_where_there_are_any(written, saved):
    written["network_weights"] |= {f"decoder.up.P{i}.conv.bias": torch.full((WIDTHS[i - 1],), 1.0 * i) for i in (1, 2)}
    detector = detector_of()
    assert load_neck(detector, saved(written)) == 16
    assert [convolution.bias.detach().tolist() for convolution in detector.neck.up] == [[1.0] * 8, [2.0] * 16]
    del written["network_weights"]["decoder.up.P2.conv.bias"]
    assert "lacks up.1.bias: up differs from the detector's neck" in refusal(load_neck, detector, saved(written))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("decoder.out.P1.0.conv.weight", None, "lacks out.1.weight: out differs from the detector's neck; nothing was"),
        ("decoder.up.P2.conv.weight", None, "lacks up.1.weight: up differs"),
        (
            "decoder.lateral.P1.1.conv.bias",
            torch.zeros(16),
            "has lateral.P1.1.conv.bias, which the detector's neck lacks",
        ),
        ("decoder.lateral.P3.0.conv.bias", torch.zeros(16), "has lateral.3.bias, which the detector's neck lacks"),
    ],
)
def test_a_pyramid_that_does_not_fit_is_refused_and_left_as_it_was(written, saved, name, value, message):
    if value is None:
        del written["network_weights"][name]
    else:
        written["network_weights"][name] = value
    detector = detector_of()
    before = {key: tensor.clone() for key, tensor in detector.neck.state_dict().items()}
    assert message in refusal(load_neck, detector, saved(written))
    assert all(torch.equal(tensor, before[key]) for key, tensor in detector.neck.state_dict().items())


def test_a_pyramid_of_other_detection_levels_or_strides_is_refused(written, saved):
    path = saved(written)
    assert "lateral.0.weight has shape (8, 4, 1, 1, 1), the detector's neck wants (16, 4, 1, 1, 1)" in refusal(
        load_neck, detector_of(detection_levels=[0, 1, 2]), path
    )
    other = detector_of(strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]])
    assert "up.0.weight has shape (16, 8, 1, 2, 2), the detector's neck wants (16, 8, 2, 2, 2)" in refusal(
        load_neck, other, path
    )


def test_a_checkpoint_without_a_pyramid_is_refused(written, saved, tmp_path):
    weights = {name: value for name, value in written["network_weights"].items() if not name.startswith("decoder.")}
    message = "c.pth: has no feature pyramid: remove neck: true from the initialisation"
    assert message in refusal(load_neck, detector_of(), saved(written | {"network_weights": weights}))
    plan = PLAN | {"spacing": [1.0] * 3, "transpose": [0, 1, 2], "patch": [8] * 3}
    plan["intensity"] = {"scheme": [{"scheme": "zscore"}], "nonzero_mask": False}
    adaptation.write_pretrained(tmp_path / "c.pth", backbone().unet(1, 1), backbone(), plan, [], {})
    assert message in refusal(load_neck, detector_of(), tmp_path / "c.pth")


def test_an_exported_checkpoint_keeps_its_pyramid(published, written, saved, tmp_path):
    export(saved(written), tmp_path / "out.pth", "004")
    detector = detector_of()
    assert load_neck(detector, tmp_path / "out.pth") == 16
    assert torch.equal(detector.neck.out[2].bias, published.decoder.out["P2"][0].conv.bias)


def test_a_detector_without_a_pyramid_is_refused(written, saved):
    detector = nn.Sequential()
    detector.neck = nn.Identity()
    message = refusal(load_neck, detector, saved(written))
    assert "a Sequential has no feature pyramid to load: remove neck: true from the initialisation" in message
