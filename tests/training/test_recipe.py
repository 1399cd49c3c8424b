from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from detpretrain.errors import InputError
from detpretrain.training.recipe import Recipe

RECIPES = yaml.safe_load((Path(__file__).resolve().parents[2] / "config" / "recipes.yaml").read_text())
ENTRY = RECIPES["retina_focal_v002"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_entry_is_a_recipe(name):
    recipe = Recipe.from_entry(name, RECIPES[name])
    schedule = recipe.build_schedule()
    rates = [schedule(step, recipe.steps_per_epoch) for step in (0, recipe.total_steps // 2, recipe.total_steps - 1)]
    assert all(0 < rate <= RECIPES[name]["schedule"]["lr"] for rate in rates)


def test_schedule_decays_over_all_steps_unless_it_says_otherwise():
    assert Recipe.from_entry("r", ENTRY).build_schedule().decay_steps == 50 * 2500
    assert Recipe.from_entry("r", RECIPES["retina_bce_v001"]).build_schedule().decay_steps == 125000


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"epoch": 3}, "unknown key 'epoch'"),
        ({"precision": "half"}, "precision 'half'"),
        ({"batch_size": 5, "accumulate": 2}, "batch_size 5 is not divisible by accumulate 2"),
        ({"epochs": 0}, "epochs 0"),
        ({"steps_per_epoch": 2.5}, "steps_per_epoch 2.5"),
        ({"validation_steps": 0}, "validation_steps 0"),
        ({"clip_norm": 0}, "clip_norm 0"),
        ({"clip_norm": "1e1"}, "clip_norm '1e1' is text: write 10.0"),
        ({"schedule": ENTRY["schedule"] | {"lr": "1e-3"}}, "schedule lr '1e-3' is text: write 0.001"),
        ({"averaging": {"start_epoch": 50, "low": 1e-5, "high": 1e-3}}, "averaging starts at epoch 50 of 50"),
        ({"averaging": {"start": 3, "low": 1e-5, "high": 1e-3}}, "averaging: "),
        ({"augmentation": {"rotation_propability": 0.5}}, "rotation_propability"),
    ],
)
def test_bad_value_is_one_line_that_names_recipe_and_key(change, part):
    with pytest.raises(InputError) as error:
        Recipe.from_entry("mine", ENTRY | change)
    message = str(error.value)
    assert message.startswith("recipe mine: ")
    assert part in message
    assert "\n" not in message


def test_missing_key_is_named():
    with pytest.raises(InputError, match=r"recipe mine: .*'epochs'"):
        Recipe.from_entry("mine", {key: value for key, value in ENTRY.items() if key != "epochs"})


class _Shared(nn.Module):
    """One convolution and one norm under two names each, and a frozen norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.frozen = nn.Conv3d(2, 2, 1), nn.InstanceNorm3d(2, affine=True), nn.GroupNorm(1, 2)
        self.again = nn.Sequential(self.conv, self.norm)
        self.frozen.requires_grad_(False)


def test_norms_without_decay_are_a_group_and_shared_parameters_are_there_once():
    model = _Shared()
    optimizer = Recipe.from_entry("r", ENTRY | {"decay_norms": False}).build_optimizer(model)
    decayed, norms = optimizer.param_groups
    assert {id(p) for p in decayed["params"]} == {id(model.conv.weight), id(model.conv.bias)}
    assert {id(p) for p in norms["params"]} == {id(model.norm.weight), id(model.norm.bias)}
    assert (len(decayed["params"]), len(norms["params"])) == (2, 2)
    assert (decayed["weight_decay"], norms["weight_decay"]) == (3e-5, 0.0)
    assert decayed["momentum"] == norms["momentum"] == 0.9


def test_norms_are_decayed_with_the_rest_by_default():
    model = _Shared()
    entry = {key: value for key, value in ENTRY.items() if key != "decay_norms"}
    (group,) = Recipe.from_entry("r", entry).build_optimizer(model).param_groups
    assert len(group["params"]) == 4
    assert group["weight_decay"] == 3e-5


def test_a_step_shrinks_what_is_decayed_only():
    model = _Shared()
    nn.init.ones_(model.conv.weight)
    optimizer = Recipe.from_entry("r", ENTRY | {"decay_norms": False}).build_optimizer(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    optimizer.step()
    torch.testing.assert_close(model.norm.weight.detach(), torch.ones(2), rtol=0, atol=0)
    assert (model.conv.weight < 1).all()
