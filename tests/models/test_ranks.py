"""Two processes with half a batch each against one with the whole: the same losses, and gradients whose mean is the same."""

import pytest
import torch
from processes import RANKS, run_together

from detpretrain.detectors.centre_net import box_losses
from detpretrain.detectors.criteria import FocalL1, SampledBceGiou, places_of_all
from detpretrain.detectors.losses import soft_dice
from detpretrain.models import ranks
from detpretrain.pretraining.multitalent import class_sums, cross_entropies, dice_losses
from detpretrain.pretraining.voco import prediction_loss

IMAGES, ANCHORS, CLASSES = 4, 300, 2


def every_case():
    return {name: function(*arguments) for name, (function, *arguments) in CASES.items()}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Name of a case -> what it returns in each of two processes, which run all of them one after the other."""
    parts = run_together(tmp_path_factory.mktemp("together"), every_case)
    return {name: [part[name] for part in parts] for name in CASES}


def batch_of(positives, levels=None):
    """``positives``: of each image, how many anchors have an object; logits take few values where ``levels`` says how many."""
    generator = torch.Generator().manual_seed(0)
    low = 10 * torch.rand(IMAGES, 3, 3, generator=generator)
    matched = torch.full((IMAGES, ANCHORS), -1)
    for image, count in enumerate(positives):
        found = torch.randperm(ANCHORS, generator=generator)[:count]
        matched[image, found] = torch.randint(3, (count,), generator=generator)
    corner = 10 * torch.rand(ANCHORS, 3, generator=generator)
    logits = torch.randn(IMAGES, ANCHORS, CLASSES, generator=generator)
    return {
        "logits": logits if levels is None else (logits.sigmoid() * levels).floor(),
        "deltas": torch.randn(IMAGES, ANCHORS, 6, generator=generator),
        "anchors": torch.cat([corner, corner + 4], dim=1),
        "matched": matched,
        "boxes": torch.cat([low, low + 1 + 5 * torch.rand(IMAGES, 3, 3, generator=generator)], dim=2),
        "labels": torch.tensor([[0, 1, 1]] * IMAGES),
    }


def own_part(batch):
    """Of several ranks, rank r has the images r, r + ranks, ..."""
    return {
        name: values if name == "anchors" else values[ranks.own() :: ranks.number()] for name, values in batch.items()
    }


def criterion_step(kind, positives, levels=None):
    """Losses of two calls (the running normaliser), gradients of the last, of this rank's images."""
    criterion, batch = kind(), own_part(batch_of(positives, levels))
    logits, deltas = batch["logits"].requires_grad_(), batch["deltas"].requires_grad_()
    for seed in range(2):
        torch.manual_seed(seed)
        lists = {name: list(batch[name]) for name in ("boxes", "labels")}
        losses = criterion(**batch | lists | {"deltas": deltas[batch["matched"] >= 0]})
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}, [logits.grad, deltas.grad]


def interleaved(parts):
    """The batch of all ranks, from each rank's rows."""
    return torch.stack(parts, dim=1).flatten(0, 1)


def assert_same_step(alone, parts):
    """Mean losses over the ranks are the whole batch's; so is the mean of gradients, to which only one rank's part adds."""
    for name, loss in alone[0].items():
        torch.testing.assert_close(torch.stack([part[0][name] for part in parts]).mean(), loss, rtol=1e-5, atol=1e-6)
    for place, gradient in enumerate(alone[1]):
        found = interleaved([part[1][place] for part in parts]) / RANKS
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-7)


def losses_of_sums():
    """Losses that are no mean over samples, and the gradient of each."""
    generator = torch.Generator().manual_seed(1)
    part = slice(ranks.own(), None, ranks.number())
    maps = torch.randn(IMAGES, 3, 4, 4, 4, generator=generator)
    truth = torch.rand(IMAGES, 3, 4, 4, 4, generator=generator) < torch.tensor([0.1, 0.5, 0.9])[:, None, None, None]
    known = (
        torch.rand(IMAGES, 1, 4, 4, 4, generator=generator) < torch.linspace(0.2, 1, IMAGES)[:, None, None, None, None]
    )
    overlap = torch.rand(IMAGES, 2, 5, generator=generator) * (torch.rand(IMAGES, 2, 5, generator=generator) < 0.4)
    guesses = torch.rand(IMAGES, 2, 5, generator=generator) * 0.9
    maps, guesses = maps[part].requires_grad_(), guesses[part].requires_grad_()
    sums = ranks.total(class_sums(maps, truth[part], known[part]))
    losses = {
        "dice": soft_dice(maps[:, 0].sigmoid(), truth[part, 0], 0.0),
        "classes": dice_losses(sums).mean() + cross_entropies(sums).mean(),
        "voco": prediction_loss(guesses, overlap[part]),
    }
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}, [maps.grad, guesses.grad]


def centre_boxes():
    batch = batch_of((3, 0, 1, 9))
    image, place = (own_part(batch)["matched"] >= 0).nonzero(as_tuple=True)
    deltas = (0.1 * own_part(batch)["deltas"]).requires_grad_()
    losses = box_losses(deltas[image, place], batch["anchors"][place], own_part(batch)["boxes"][image, 0])
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}, [deltas.grad]


def exchanged():
    mine = torch.arange(3.0 * ranks.own(), 3.0 * ranks.own() + ranks.own() + 1)[:, None]
    positive = (
        torch.tensor([[True, False, True], [False, False, False]])
        if ranks.own()
        else torch.ones(2, 3, dtype=torch.bool)
    )
    return {
        "gathered": ranks.gather(mine),
        "empty": ranks.gather(mine[:0]),
        "first": ranks.from_first(mine[:1].clone()),
        "total": ranks.total(torch.tensor(ranks.own() + 1)),
        "per rank": ranks.per_rank(torch.tensor(3 * ranks.own())),
        "none": ranks.per_rank(torch.tensor(0)),
        "objects": ranks.gather_objects({"rank": ranks.own()}),
        "any": [ranks.any_of(ranks.own() == 1), ranks.any_of(False)],
        "largest": ranks.largest(5 + ranks.own()),
        "places": places_of_all(positive),
    }


# positives lie unevenly on the ranks, are more than are drawn, or are none
POSITIVES = {"uneven": (5, 0, 90, 2), "on one rank": (0, 30, 0, 30), "none": (0, 0, 0, 0)}
STEPS = {
    **{f"focal, {name}": (criterion_step, FocalL1, counts) for name, counts in POSITIVES.items()},
    **{f"sampled, {name}": (criterion_step, SampledBceGiou, counts) for name, counts in POSITIVES.items()},
    "sampled among equals": (criterion_step, SampledBceGiou, (5, 0, 20, 2), 4),
    "sums": (losses_of_sums,),
    "centre net": (centre_boxes,),
}
CASES = {**STEPS, "exchanged": (exchanged,)}


@pytest.mark.parametrize("name", STEPS)
def test_two_take_the_step_of_one(together, name):
    function, *arguments = STEPS[name]
    assert_same_step(function(*arguments), together[name])


def test_what_is_exchanged(together):
    first, second = together["exchanged"]
    for found in (first, second):
        assert [part.flatten().tolist() for part in found["gathered"]] == [[0.0], [3.0, 4.0]]
        assert [part.shape for part in found["empty"]] == [(0, 1), (0, 1)]
        assert found["first"].tolist() == [[0.0]]
        assert found["total"].item() == 3
        assert found["per rank"].item() == 1.5
        assert found["none"].item() == 0.5
        assert found["objects"] == [{"rank": 0}, {"rank": 1}]
        assert found["any"] == [True, False]
        assert found["largest"] == 6
    # image by image of the whole batch: 3 of rank 0, 2 of rank 1, 3 of rank 0, none
    assert first["places"].tolist() == [0, 1, 2, 5, 6, 7]
    assert second["places"].tolist() == [3, 4]


def test_alone_nothing_is_exchanged():
    found = exchanged()
    assert (ranks.number(), ranks.own(), ranks.is_first()) == (1, 0, True)
    assert [part.tolist() for part in found["gathered"]] == [[[0.0]]]
    assert found["places"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["none"].item() == 1
    assert found["largest"] == 5
