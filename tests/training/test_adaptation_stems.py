"""Checkpoints with several stems: which one is taken, and how its channels are repeated."""

import pytest
import torch
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from released_checkpoints import SMALL, backbone, first_weight, kwargs_of, numbered, refusal

pytestmark = pytest.mark.usefixtures("one_thread")


def stem_of(channels, value):
    made = numbered(ResidualEncoder(channels, **kwargs_of(SMALL)).stem)
    with torch.no_grad():
        made.convs[0].conv.weight.add_(value)
    return made.state_dict()


STEMS = {"351_0": (1, 3.0), "004": (1, 5.0), "two": (2, 7.0)}


def with_stems(released, key, ids=STEMS):
    """``encoder.stem.ID...`` instead of ``encoder.stem...``; ``key``: what the plan points at."""
    plan = released["nnssl_adaptation_plan"]
    weights = {name: value for name, value in released["network_weights"].items() if ".stem." not in name}
    for name, arguments in ids.items():
        for inner, value in stem_of(*arguments).items():
            weights[f"encoder.stem.{name}.{inner}"] = weights[f"decoder.encoder.stem.{name}.{inner}"] = value
    plan |= {
        "key_to_stem": key,
        "keys_to_in_proj": [f"{key}.convs.0.{alias}" for alias in ("conv", "all_modules.0")],
    }
    return released | {"network_weights": weights}


def expected_weight(channels, value, repeats=1):
    return torch.cat([stem_of(channels, value)["convs.0.conv.weight"]] * repeats, dim=1) / repeats


def test_the_plan_points_at_the_default_of_several_stems(load, released):
    """As the published MultiTalent checkpoints do."""
    content = with_stems(released, "encoder.stem.351_0")
    encoder, report = load(content, backbone=backbone())
    assert (report.stem, report.entries) == ("351_0", 448)
    assert "stem 351_0" in str(report)
    assert torch.equal(first_weight(encoder), expected_weight(1, 3.0))
    encoder, report = load(content, stem="004")
    assert report.stem == "004"
    assert torch.equal(first_weight(encoder), expected_weight(1, 5.0))
    encoder, _ = load(content, 3, stem="004")
    assert torch.equal(first_weight(encoder), expected_weight(1, 5.0, 3))


def test_a_stem_keeps_its_own_channels(load, released):
    content = with_stems(released, "encoder.stem.351_0")
    assert torch.equal(first_weight(load(content, 2, stem="two")[0]), expected_weight(2, 7.0))
    assert torch.equal(first_weight(load(content, 4, stem="two")[0]), expected_weight(2, 7.0, 2))
    for channels in (1, 3):
        assert f"its stem takes 2 channels, the data set has {channels}" in refusal(load, content, channels, stem="two")


@pytest.mark.parametrize("name", ["CT", "ct", "Ct"])
def test_a_container_of_stems_defaults_to_ct(load, released, name):
    content = with_stems(released, "encoder.stem", {"MR": (1, 9.0), name: (1, 4.0)})
    encoder, report = load(content)
    assert report.stem == name
    assert torch.equal(first_weight(encoder), expected_weight(1, 4.0))
    assert torch.equal(first_weight(load(content, stem="MR")[0]), expected_weight(1, 9.0))


def test_a_container_with_one_stem_needs_no_name(load, released):
    encoder, report = load(with_stems(released, "encoder.stem", {"PET": (1, 2.0)}))
    assert report.stem == "PET"
    assert torch.equal(first_weight(encoder), expected_weight(1, 2.0))


def test_a_container_may_name_a_stem_in_its_projections(load, released):
    content = with_stems(released, "encoder.stem", {"PET": (1, 2.0)})
    content["nnssl_adaptation_plan"]["keys_to_in_proj"] = [
        "encoder.stem.PET.convs.0.conv",
        "encoder.stem.PET.convs.0.all_modules.0",
    ]
    assert torch.equal(first_weight(load(content, 2)[0]), expected_weight(1, 2.0, 2))


def test_several_stems_without_a_default_are_listed(load, released):
    content = with_stems(released, "encoder.stem", {"MR": (1, 9.0), "PET": (1, 4.0)})
    assert "has the stems MR, PET and names no default: choose one with stem:" in refusal(load, content)


def test_an_unknown_stem_is_refused(load, released):
    assert "has one stem, without an id: remove stem: x" in refusal(load, released, stem="x")
    content = with_stems(released, "encoder.stem.351_0")
    assert "no stem 'x', its stems are 004, 351_0, two" in refusal(load, content, stem="x")
    content["nnssl_adaptation_plan"]["key_to_stem"] = "encoder.stem.gone"
    assert "no stem 'gone', its stems are 004, 351_0, two" in refusal(load, content)


def test_stems_of_another_form_are_refused(load, released):
    for stems in ([1], {"CT": None}):
        assert "stems: not a mapping of ids" in refusal(load, released | {"stems": stems})
