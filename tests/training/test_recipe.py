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
    for phase in recipe.build_phases():
        steps = (phase.first, (phase.first + phase.end) // 2, phase.end - 1)
        assert all(0 < phase.rate(step, recipe.steps_per_epoch) <= phase.schedule.lr for step in steps)


def decay_steps(entry):
    return [phase.schedule.decay_steps for phase in Recipe.from_entry("r", entry).build_phases()]


def test_schedule_decays_over_all_steps_of_its_phase_unless_it_says_otherwise():
    assert decay_steps(ENTRY) == [50 * 2500]
    assert decay_steps(RECIPES["retina_bce_v001"]) == [125000]
    assert decay_steps(ENTRY | {"phases": [{"epochs": 20}, {"epochs": 30}]}) == [20 * 2500, 30 * 2500]


def test_published_two_phase_recipes_warm_up_on_a_frozen_encoder():
    for name, epochs, lr in (("retina_focal_v002", 3, 0.01), ("deformable_detr_v002", 5, 3e-4)):
        recipe = Recipe.from_entry(name, RECIPES[f"{name}_two_phase"])
        frozen, whole = recipe.build_phases()
        assert (frozen.freeze, frozen.end, whole.freeze) == (("encoder",), epochs * 2500, ())
        rates = [frozen.rate(step, 2500) for step in (0, frozen.end // 2)]
        assert rates == pytest.approx([1e-6, (lr + 1e-6) / 2])
        assert recipe.epochs == RECIPES[name]["epochs"] + epochs
        # planned over the first phase's steps too: the polynomial ends above zero
        last = whole.rate(recipe.total_steps - 1, 2500)
        assert last == pytest.approx(
            lr * (epochs / (recipe.epochs - whole.schedule.warmup_steps / 2500)) ** 0.9, rel=1e-3
        )


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
        ({"layer_decay": 1.5}, "layer_decay 1.5"),
        ({"layer_decay": 0.0}, "layer_decay 0.0"),
        ({"encoder_rate": 0}, "encoder_rate 0: use a positive number"),
        ({"phases": [{"epochs": 3}, {"epochs": 40}]}, "phases: 43 epochs together, but epochs is 50"),
        ({"phases": [{"epochs": 0}, {"epochs": 50}]}, "phases: epochs 0 of phase 1"),
        ({"phases": [{"freeze": ["encoder"]}]}, "phases: epochs None of phase 1"),
        ({"phases": [{"epochs": 50, "frozen": ["encoder"]}]}, "phases: unknown key 'frozen' in phase 1"),
        (
            {"phases": [{"epochs": 50, "freeze": "encoder"}]},
            "phases: freeze 'encoder' of phase 1: write a list, [encoder]",
        ),
        ({"phases": [{"epochs": 50, "schedule": {"lr": 0.1}}]}, "names no class"),
        (
            {"phases": [{"epochs": 50, "schedule": ENTRY["schedule"] | {"lr": "1e-3"}}]},
            "lr '1e-3' is text: write 0.001",
        ),
        (
            {"phases": [{"epochs": 40}, {"epochs": 10}], "averaging": {"start_epoch": 39, "low": 1e-5, "high": 1e-3}},
            "averaging starts at epoch 39, before the last of the phases does, at epoch 40",
        ),
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
