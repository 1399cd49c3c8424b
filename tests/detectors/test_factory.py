import pytest

from detpretrain.detectors.factory import build_detector
from detpretrain.detectors.retina_unet import RetinaUNet
from detpretrain.errors import InputError

BACKBONE = {"class": "detpretrain.models.resenc.ResEnc", "features": [4, 8], "blocks": [1, 1]}
ENTRY = {
    "class": "detpretrain.detectors.retina_unet.RetinaUNet",
    "backbone": "resenc",
    "plan": "small",
    "recipe": "any",
    "inference": {"overlap": 0.5},
    "criterion": {"class": "detpretrain.detectors.criteria.FocalL1", "gamma": 2.0},
    "pyramid_channels": 16,
    "head_channels": 16,
}
PLAN = {
    "strides": [[1, 1, 1], [2, 2, 2]],
    "kernels": [[3, 3, 3], [3, 3, 3]],
    "detection_levels": [1],
    "anchors": {axis: [2, 4, 8] for axis in "zyx"},
    "classes": 2,
    "channels": 1,
}


def test_the_entry_without_its_references_are_the_arguments():
    detector = build_detector(ENTRY, BACKBONE, PLAN)
    assert isinstance(detector, RetinaUNet)
    assert detector.criterion.gamma == 2.0
    assert detector.classes == 2


def test_an_unknown_argument_is_an_input_error():
    with pytest.raises(InputError, match="pyramid_chanels"):
        build_detector({**ENTRY, "pyramid_chanels": 16}, BACKBONE, PLAN)
