import pytest

from detpretrain.errors import InputError
from detpretrain.models.factory import build_backbone
from detpretrain.models.resenc import ResEnc

PLAN = {"strides": [[1, 1, 1], [2, 2, 2]], "kernels": [[3, 3, 3], [3, 3, 3]]}


def test_strides_and_kernels_come_from_the_plan():
    entry = {"class": "detpretrain.models.resenc.ResEnc", "features": [4, 8], "blocks": [1, 1]}
    assert build_backbone(entry, PLAN) == ResEnc([4, 8], [1, 1], PLAN["strides"], PLAN["kernels"])


def test_a_plan_of_another_depth_is_an_input_error():
    entry = {"class": "detpretrain.models.resenc.ResEnc", "features": [4], "blocks": [1]}
    with pytest.raises(InputError, match="same number of stages"):
        build_backbone(entry, PLAN)
