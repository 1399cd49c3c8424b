from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.plain_conv import PlainConv
from detpretrain.models.resenc import ResEnc
from detpretrain.training.loop import fit
from detpretrain.training.parameter_groups import layer_of, parameter_groups

SMALL = {"features": [4, 8, 16], "strides": [[1] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 3}


class Detector(nn.Module):
    """An encoder, and a head with a norm of its own."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.head, self.encoder = nn.Sequential(nn.Conv3d(16, 2, 1), nn.GroupNorm(1, 2)), encoder


def named_scales(model, **arguments):
    """Parameter name -> scale, from the groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, **arguments)
    found = [(names[id(parameter)], group["scale"]) for group in groups for parameter in group["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize("backbone", [ResEnc(blocks=[1, 2, 1], **SMALL), PlainConv(**SMALL)], ids=["resenc", "plain"])
def test_convolutional_layers_are_slower_the_further_they_are_from_the_head(backbone):
    model = Detector(backbone.encoder(1))
    scales = named_scales(model, layer_decay=0.5)
    assert set(scales) == {name for name, _ in model.named_parameters()}
    expected = {
        "encoder.stem.": 1 / 16,
        "encoder.stages.0.": 1 / 8,
        "encoder.stages.1.": 1 / 4,
        "encoder.stages.2.": 1 / 2,
    }
    for name, scale in scales.items():
        prefix = next((prefix for prefix in expected if name.startswith(prefix)), None)
        assert scale == expected.get(prefix, 1.0), name
        assert (prefix is None) == name.startswith("head.")


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("stem.convs.0.conv.weight", 0),
        ("down_projection.proj.weight", 0),
        ("eva.pos_embed", 0),
        ("stages.0.blocks.3.conv1.conv.weight", 1),
        ("stages.10.0.convs.0.conv.weight", 11),
        ("eva.blocks.0.attn.q_proj.weight", 1),
        ("eva.blocks.15.norm1.weight", 16),
        ("eva.norm.weight", None),
        ("stemless.weight", None),
        ("stages.weight", None),
    ],
)
def test_layers_by_name(name, layer):
    assert layer_of(name) == layer


class Pyramid(nn.Module):
    """A vision transformer's names; of the encoder, a checkpoint fills ``vit`` only."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.pyramid = nn.Module(), nn.Linear(2, 2)
        self.vit.down_projection, self.vit.eva = nn.Linear(2, 2), nn.Module()
        self.vit.eva.pos_embed = nn.Parameter(torch.zeros(2))
        self.vit.eva.blocks, self.vit.eva.norm = nn.ModuleList([nn.Linear(2, 2) for _ in range(2)]), nn.LayerNorm(2)

    @property
    def pretrained(self) -> nn.Module:
        return self.vit


def test_of_a_transformer_the_last_norm_and_the_fresh_pyramid_are_not_slowed_down():
    scales = named_scales(Detector(Pyramid()), layer_decay=0.5, decay_norms=False)
    assert {name.removesuffix(".weight"): scale for name, scale in scales.items() if "bias" not in name} == {
        "head.0": 1.0,
        "head.1": 1.0,
        "encoder.pyramid": 1.0,
        "encoder.vit.eva.norm": 1.0,
        "encoder.vit.eva.blocks.1": 0.5,
        "encoder.vit.eva.blocks.0": 0.25,
        "encoder.vit.eva.pos_embed": 0.125,
        "encoder.vit.down_projection": 0.125,
    }


def test_a_rate_of_the_encoder_multiplies_the_decay_and_leaves_a_fresh_pyramid_alone():
    alone = named_scales(Detector(Pyramid()), encoder_rate=0.1)
    both = named_scales(Detector(Pyramid()), encoder_rate=0.1, layer_decay=0.5)
    for name, scale in alone.items():
        assert scale == (0.1 if name.startswith("encoder.vit.") else 1.0), name
    assert both["encoder.vit.eva.norm.weight"] == 0.1
    assert both["encoder.vit.eva.blocks.0.weight"] == 0.1 * 0.25
    assert both["encoder.pyramid.weight"] == both["head.0.weight"] == 1.0


def test_scale_and_decay_are_independent_and_frozen_parameters_are_in_no_group():
    model = Detector(Pyramid())
    model.encoder.vit.down_projection.requires_grad_(False)
    groups = parameter_groups(model, decay_norms=False, layer_decay=0.5)
    norms = {id(p) for norm in (model.head[1], model.encoder.vit.eva.norm) for p in norm.parameters()}
    assert [(group["scale"], group.get("weight_decay")) for group in groups] == [
        (1.0, None),
        (0.5, None),
        (0.25, None),
        (0.125, None),
        (1.0, 0.0),
    ]
    for group in groups:
        assert all((id(parameter) in norms) == ("weight_decay" in group) for parameter in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters())) - 2


def test_models_without_layers_are_one_line():
    with pytest.raises(InputError, match="layer_decay: Linear has no encoder: remove it"):
        parameter_groups(nn.Linear(2, 2), layer_decay=0.5)
    with pytest.raises(InputError, match="encoder_rate: Linear has no encoder: remove it"):
        parameter_groups(nn.Linear(2, 2), encoder_rate=0.5)
    with pytest.raises(InputError, match="layer_decay: Linear has no numbered stages or blocks"):
        parameter_groups(Detector(nn.Linear(2, 2)), layer_decay=0.5)


def test_a_step_of_every_layer_is_its_share_of_the_rate(toy_run):
    """SGD on a loss whose gradient is one: a parameter moves by the rates of all its steps, times its scale."""

    class Sum(Detector):
        def forward(self, x, y):
            return {"sum": sum(parameter.sum() for parameter in self.parameters())}

    torch.manual_seed(0)
    model = Sum(Pyramid()).double()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    changes = {"layer_decay": 0.5, "encoder_rate": 0.5, "optimizer": {"class": "torch.optim.SGD"}}
    rows = fit(toy_run(model=model, validate=lambda model: {}, **changes))
    moved = {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}
    whole = moved["head.0.weight"].mean()
    for name, scale in named_scales(model, layer_decay=0.5, encoder_rate=0.5).items():
        torch.testing.assert_close(moved[name], (whole * scale).expand_as(moved[name]), rtol=1e-9, atol=0)
    recipe = toy_run(model=model).recipe
    assert [row["lr"] for row in rows] == [recipe.build_phases()[0].rate(step, 4) for step in (3, 7, 11)]
    assert whole == pytest.approx(sum(recipe.build_phases()[0].rate(step, 4) for step in range(12)))


CONFIG = Path(__file__).resolve().parents[2] / "config"


def test_the_study_s_resenc_has_six_stages_and_a_stem():
    entry = yaml.safe_load((CONFIG / "backbones.yaml").read_text())["resenc"]["sizes"]["full"]
    with torch.device("meta"):
        encoder = ResEnc(**entry, strides=[[1] * 3] * 6, kernels=[[3] * 3] * 6, faithful_initialisation=True).encoder(1)
        scales = named_scales(Detector(encoder), layer_decay=0.75)
    assert sorted(set(scales.values())) == pytest.approx([0.75**power for power in range(7, -1, -1)])
