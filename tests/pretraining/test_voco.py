import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.pretraining import voco_crops
from detpretrain.pretraining.voco import Embedding, VoCo, mean_similarity, prediction_loss, similarity

PATCH = (12, 24, 24)  # four bases of 12; the deepest map is 3 voxels a side
SEEDS = (3, 4)


def make_voco(patch_stages=3, **arguments):
    torch.manual_seed(0)
    strides = [[1, 1, 1]] + [[2, 2, 2]] * (patch_stages - 1)
    backbone = ResEnc([4, 8, 16, 16][:patch_stages], [1] * patch_stages, strides, [[3, 3, 3]] * patch_stages)
    return VoCo(backbone=backbone, **{"hidden": 24, "outputs": 20} | arguments)


def images_of(batch, patch=PATCH, seed=0):
    coarse = torch.randn(batch, 1, *(size // 4 for size in patch), generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, size=patch, mode="trilinear")


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# --- views --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch", "crop", "bases", "stages"),
    [((64, 192, 192), 64, 9, 2), ((32, 32, 32), 16, 8, 4), ((24, 24, 24), 12, 8, 3)],
    ids=["full", "demo", "smoke"],
)
def test_views_are_bases_then_targets_with_their_overlaps(patch, crop, bases, stages):
    images = images_of(1, patch)
    crops, labels = make_voco(stages).eval().views(images, [3])
    assert crops.shape == (1, bases + 4, 1, crop, crop, crop)
    assert labels.shape == (1, 4, bases)
    assert (crops.dtype, labels.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(labels.sum(dim=2), torch.ones(1, 4))
    starts = voco_crops.base_starts(patch, crop)
    for found, (z, y, x) in zip(crops[0, :bases, 0], starts, strict=True):
        assert torch.equal(found, images[0, 0, z : z + crop, y : y + crop, x : x + crop])


def test_labels_belong_to_the_targets_that_are_cut():
    """The place of a target is read off its voxels: every voxel holds the number of its base crop."""
    crop, bases = 12, voco_crops.base_starts(PATCH, 12)
    owner = torch.zeros(1, 1, *PATCH)
    for number, (z, y, x) in enumerate(bases):
        owner[0, 0, z : z + crop, y : y + crop, x : x + crop] = number
    crops, labels = make_voco(targets=7).eval().views(owner, [11])
    for target, row in zip(crops[0, len(bases) :, 0], labels[0], strict=True):
        expected = torch.bincount(target.long().flatten(), minlength=len(bases)) / crop**3
        torch.testing.assert_close(row, expected)
    assert len(labels[0].unique(dim=0)) == 7  # everywhere, not at one place


def test_seeds_decide_whatever_the_state_of_the_generators(deterministic):
    voco, images = make_voco(), images_of(2)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = voco.views(images, SEEDS)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    again, other = voco.views(images, SEEDS), voco.views(images, (5, 6))
    for part in range(2):
        assert torch.equal(first[part], again[part])
        assert not torch.equal(first[part], other[part])


def test_a_sample_does_not_depend_on_its_batch():
    voco, images = make_voco(), images_of(6)
    numbers = list(range(20, 26))
    crops, labels = voco.views(images, numbers)
    for index, number in enumerate(numbers):
        alone = voco.views(images[index : index + 1], [number])
        torch.testing.assert_close(crops[index], alone[0][0], rtol=1e-5, atol=1e-5)
        assert torch.equal(labels[index], alone[1][0])


def test_crops_are_augmented_in_training_only():
    voco, images = make_voco(), images_of(2)
    trained, labels = voco.views(images, SEEDS)
    plain, same_labels = voco.eval().views(images, SEEDS)
    assert torch.equal(labels, same_labels)  # augmentation moves no crop
    starts = voco_crops.base_starts(PATCH, 12)
    z, y, x = starts[3]
    assert torch.equal(plain[1, 3, 0], images[1, 0, z : z + 12, y : y + 12, x : x + 12])
    changed = (trained != plain).flatten(2).any(dim=2)
    assert 0.6 < changed.float().mean() <= 1  # one of eight is not even mirrored


def test_crops_of_one_image_are_augmented_differently():
    constant_along = torch.linspace(-1, 1, 12).repeat(2).expand(1, 1, *PATCH).contiguous()
    voco = make_voco(targets=1)
    crops, _ = voco.views(constant_along, [0])
    assert len(crops[0, :4].flatten(1).unique(dim=0)) > 1  # without augmentation all four are alike


def test_an_entry_changes_single_values_of_the_augmentation():
    off = {
        f"{name}_probability": 0.0
        for name in ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
    }
    voco, images = make_voco(augmentation=off), images_of(1)
    crops, _ = voco.views(images, [0])
    plain, _ = voco.eval().views(images, [0])
    torch.testing.assert_close(crops.flatten(2).sort(dim=2)[0], plain.flatten(2).sort(dim=2)[0])  # the same voxels
    assert not torch.equal(crops, plain)
    assert make_voco().augmentation == voco_crops.CROP_AUGMENTATION


# --- network ------------------------------------------------------------------------------------------------------------


def test_the_norm_between_layers_is_instance_norm_of_the_rows():
    rows = torch.randn(7, 24, generator=torch.Generator().manual_seed(0)) * 3 + 1
    embedding = make_voco().network
    norms = [layer for layer in embedding.projector if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == 2
    for norm in norms:
        torch.testing.assert_close(norm(rows), nn.InstanceNorm1d(7, affine=False)(rows))
        assert not list(norm.parameters())


class Stages(nn.Module):
    """An encoder whose two stages are known: the image, and twice its square at half the size."""

    def forward(self, images):
        return [images, 2 * functional.avg_pool3d(images**2, 2)]


def test_the_projector_sees_the_mean_of_every_stage():
    embedding = Embedding(Stages(), 2, 5, 3)
    embedding.projector = nn.Identity()
    crops = images_of(3)
    expected = torch.stack([crops.mean(dim=(1, 2, 3, 4)), 2 * (crops**2).mean(dim=(1, 2, 3, 4))], dim=1)
    torch.testing.assert_close(embedding(crops), expected)


def test_all_crops_go_through_the_encoder_in_one_pass():
    voco, sizes = make_voco(), []
    voco.network.encoder.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape))
    voco(*voco.views(images_of(2), SEEDS))
    assert sizes == [(2 * (4 + 4), 1, 12, 12, 12)]


# --- losses -------------------------------------------------------------------------------------------------------------


def embeddings(seed=0, batch=2, bases=5, targets=3, size=6):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, bases, size, generator=generator) + 0.5,
        torch.randn(batch, targets, size, generator=generator) + 0.5,
    )


def cosine(first, second):
    return max(0.0, float(np.dot(first, second) / np.linalg.norm(first) / np.linalg.norm(second)))


def some_overlaps():
    overlap = torch.zeros(2, 3, 5)
    overlap[0, 0, 0], overlap[0, 1, [1, 2]], overlap[0, 2, [0, 4]] = 1.0, torch.tensor([0.25, 0.75]), 0.5
    overlap[1, 0, :4], overlap[1, 1, 3], overlap[1, 2, [2, 3]] = 0.25, 1.0, torch.tensor([0.1, 0.9])
    return overlap


def test_the_prediction_loss_equals_a_loop_over_pairs():
    bases, targets = embeddings()
    overlap = some_overlaps()
    positive, weight, negative, pairs = 0.0, 0.0, 0.0, 0
    for image in range(2):
        for t, target in enumerate(targets[image].double().numpy()):
            for b, base in enumerate(bases[image].double().numpy()):
                similar, share = cosine(target, base), float(overlap[image, t, b])
                if share > 0:
                    positive += share * -np.log(1 - abs(share - similar) + 1e-6)
                    weight += share
                else:
                    negative, pairs = negative + similar**2, pairs + 1
    found = prediction_loss(similarity(targets, bases), overlap)
    assert pairs == 18
    assert found.item() == pytest.approx(positive / weight + negative / pairs, rel=1e-4)


def test_without_pairs_that_are_apart_the_negative_term_is_nothing():
    overlap = torch.full((1, 2, 4), 0.25)
    assert prediction_loss(overlap.clone(), overlap).item() == pytest.approx(0, abs=1e-5)


def test_the_worst_predictions_have_a_finite_loss_and_gradient():
    overlap = torch.eye(4)[None]
    predicted = (1 - overlap).requires_grad_()
    loss = prediction_loss(predicted, overlap)
    loss.backward()
    assert loss.item() == pytest.approx(-np.log(1e-6) + 1, rel=1e-2)
    assert predicted.grad.isfinite().all()


def test_the_regularisation_is_the_mean_similarity_of_pairs_of_bases():
    bases, _ = embeddings(seed=1)
    pairs = [
        cosine(image[i], image[j]) for image in bases.double().numpy() for i in range(5) for j in range(5) if i < j
    ]
    assert len(pairs) == 20
    assert mean_similarity(bases).item() == pytest.approx(np.mean(pairs), rel=1e-4)


def gradients_of(name):
    voco = make_voco(targets=3).eval()
    crops, labels = voco.views(images_of(2), SEEDS)
    crops.requires_grad_()
    voco(crops, labels)[name].backward()
    return crops.grad.flatten(2).abs().sum(dim=2)  # [B, N + T]


def test_the_prediction_loss_moves_targets_and_the_regularisation_bases():
    prediction, regularisation = gradients_of("prediction"), gradients_of("regularisation")
    assert not prediction[:, :4].any()
    assert (prediction[:, 4:] > 0).all()
    assert (regularisation[:, :4] > 0).all()
    assert not regularisation[:, 4:].any()


def test_losses_are_those_of_the_embeddings():
    voco = make_voco(targets=3)
    crops, labels = voco.views(images_of(2), SEEDS)
    embedded = voco.network(crops.flatten(0, 1)).unflatten(0, (2, 7))
    losses = voco(crops, labels)
    assert list(losses) == ["prediction", "regularisation"]
    torch.testing.assert_close(
        losses["prediction"], prediction_loss(similarity(embedded[:, 4:], embedded[:, :4]), labels)
    )
    torch.testing.assert_close(losses["regularisation"], mean_similarity(embedded[:, :4]))


def test_losses_in_bf16_are_finite_float32_and_near_those_in_float32():
    voco = make_voco()
    views = voco.views(images_of(2), SEEDS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = voco(*views)
    exact = voco(*views)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05)
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in voco.parameters())


# --- training and figures -----------------------------------------------------------------------------------------------


def test_two_steps_change_every_tensor_of_the_encoder(deterministic):
    voco = make_voco()
    optimizer = torch.optim.SGD(voco.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in voco.network.state_dict().items()}
    for step in range(2):  # the last norms of residual branches start at zero: what is before them moves in the second
        optimizer.zero_grad()
        sum(voco(*voco.views(images_of(2), (step, 7))).values()).backward()
        optimizer.step()
    unchanged = [name for name, value in voco.network.state_dict().items() if torch.equal(value, before[name])]
    # a bias in front of an instance norm has no effect
    assert all(name.endswith(("conv.bias", "all_modules.0.bias")) for name in unchanged)


def test_some_steps_learn_overlaps_better_than_chance():
    voco = make_voco(hidden=64, outputs=32)
    images, seeds = images_of(4), (1, 2, 3, 4)
    optimizer = torch.optim.AdamW(voco.parameters(), lr=0.003)
    losses = []
    for _ in range(25):
        voco.eval()
        optimizer.zero_grad()
        loss = sum(voco(*voco.views(images, seeds)).values())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        (score,) = voco.assess(*voco.views(images, seeds)).values()
    assert losses[-1] < 0.6 * losses[0]
    assert score.method[0] / score.method[1] < 0.7 * score.baseline[0] / score.baseline[1]


def test_the_score_compares_with_the_labels_of_the_next_target():
    voco = make_voco().eval()
    crops, labels = voco.views(images_of(2), SEEDS)
    with torch.no_grad():
        scores = voco.assess(crops, labels)
        embedded = voco.network(crops.flatten(0, 1)).unflatten(0, (2, 8))
        predicted = similarity(embedded[:, 4:], embedded[:, :4]).flatten(0, 1)
    score = scores["overlap, mean absolute error"]
    rows = labels.flatten(0, 1)
    method = sum((predicted[i] - rows[i]).abs().sum() for i in range(8))
    baseline = sum((predicted[i] - rows[i - 1]).abs().sum() for i in range(8))
    torch.testing.assert_close(score.method, (method, torch.tensor(32.0)))
    torch.testing.assert_close(score.baseline, (baseline, torch.tensor(32.0)))
    assert score.baseline_name == "shuffled labels"
    assert not score.higher_is_better
    assert not torch.equal(rows, rows.roll(1, 0))


def test_the_preview_shows_a_target_its_nearest_base_and_both_matrices():
    voco, images = make_voco().eval(), images_of(2)
    crops, labels = voco.views(images, SEEDS)
    with torch.no_grad():
        rows = voco.preview(crops, labels)
    assert len(rows) == 2
    for sample, row in enumerate(rows):
        target, base, overlap, predicted = row
        assert [panel.kind for panel in row] == ["grey", "grey", "matrix", "matrix"]
        assert torch.equal(target.values, crops[sample, 4, 0, 6])
        nearest = max(range(4), key=lambda number, first=labels[sample, 0]: first[number])
        assert torch.equal(base.values, crops[sample, nearest, 0, 6])
        assert torch.equal(overlap.values, labels[sample])
        assert predicted.values.shape == (4, 4)
        assert ((predicted.values >= 0) & (predicted.values <= 1 + 1e-5)).all()


# --- mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("crop", "stages"), [(6, 3), (4, 3)], ids=["not divisible", "one voxel left"])
def test_crops_that_do_not_suit_the_network_are_input_errors(crop, stages):
    with pytest.raises(InputError, match=rf"crops of {crop} do not suit the network's total stride \[4, 4, 4\]"):
        make_voco(stages, crop=crop).views(images_of(1), [0])


def test_crops_that_do_not_tile_the_patch_are_input_errors():
    with pytest.raises(InputError, match="crops of 8 do not tile"):
        make_voco(crop=8).views(images_of(1), [0])


@pytest.mark.parametrize(
    ("name", "value"), [("crop", 0), ("crop", 12.5), ("targets", 0), ("hidden", -1), ("outputs", None)]
)
def test_sizes_are_whole_numbers(name, value):
    with pytest.raises(InputError, match=f"VoCo: {name} .*: use a whole number of at least 1"):
        make_voco(**{name: value})


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [({"blurr_probability": 0.1}, "blurr_probability"), ({"rotation_probability": 0.2}, "not rotated or zoomed")],
)
def test_augmentation_that_crops_cannot_have_is_an_input_error(augmentation, message):
    with pytest.raises(InputError, match=message):
        make_voco(augmentation=augmentation)


def test_the_method_is_cited():
    (citation,) = VoCo.citations
    assert citation.as_data()["type"] == "Pretraining Method"
    assert "volume contrastive learning" in citation.as_data()["apa_citations"][0]
