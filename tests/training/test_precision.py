import pytest
import torch

from detpretrain.training import precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "device", "has_bf16", "expected"),
    [
        ("bf16", CPU, True, "bf16"),
        ("bf16", CPU, False, "fp32"),
        ("bf16", GPU, True, "bf16"),
        ("bf16", GPU, False, "fp16"),
        ("fp32", CPU, True, "fp32"),
        ("fp32", GPU, False, "fp32"),
        ("fp16", GPU, True, "fp16"),
    ],
)
def test_what_a_device_lacks_is_replaced(name, device, has_bf16, expected, monkeypatch):
    # the other device has the opposite, so that asking the wrong one shows
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16 == (device is CPU))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16 == (device is GPU))
    assert precision.used(name, device) == expected
    assert precision.autocast_dtype(name, device) is precision.PRECISIONS[expected]


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_context_casts_accordingly(has_bf16, dtype, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
    layer = torch.nn.Linear(2, 2)
    with precision.autocast("bf16", CPU):
        assert layer(torch.ones(1, 2)).dtype == dtype


def test_without_onednn_there_is_no_fast_bf16(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.cpu_has_bf16()
