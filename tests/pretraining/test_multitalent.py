import pytest
import torch
from torch.nn import functional

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc
from detpretrain.pretraining.contract import Source
from detpretrain.pretraining.multitalent import MultiTalent, class_sums, cross_entropies, dice_losses

PATCH = (8, 12, 8)
CHEST = Source("chest", ["CT"], ["lungs", "heart"], [[1], [2]], [], 9)
# "lungs" means something else here, and the classes overlap
THORAX = Source("thorax", ["CT"], ["lungs", "chest"], [[1, 3], [1, 2, 3]], [4], 4)
BRAIN = Source("brain", ["T1", "T2"], ["tumour"], [[1]], [], 16)
SOURCES = [CHEST, THORAX, BRAIN]


def make(sources=SOURCES, **arguments):
    torch.manual_seed(0)
    backbone = ResEnc([4, 8], [1, 1], [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
    return MultiTalent(backbone=backbone, sources=sources, **arguments)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(method, sources, seed=0):
    """Views of one sample per entry of ``sources``, with label values 0..4."""
    images = [noise(len(method.sources[s].modalities), *PATCH, seed=seed + n) for n, s in enumerate(sources)]
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (len(sources), *PATCH), generator=generator)
    return method.views(images, labels, sources), labels


def test_targets_are_the_data_set_s_own_classes_and_regions_overlap():
    (_, targets, annotated, _), labels = batch_of(make(), [0, 1])
    assert torch.equal(targets[0], torch.stack([labels[0] == 1, labels[0] == 2]))
    lungs = (labels[1] == 1) | (labels[1] == 3)
    assert torch.equal(targets[1], torch.stack([lungs, lungs | (labels[1] == 2)]))
    assert annotated[0].all()
    assert torch.equal(annotated[1], labels[1] != 4)


def test_a_class_that_nobody_annotates_in_the_batch_gets_no_gradient_at_all():
    method = make()
    views, _ = batch_of(method, [0, 0])
    sum(method(*views).values()).backward()
    head = method.network.decoder.seg_layers[-1]
    assert head.weight.grad[:2].any(dim=1).all()
    assert head.bias.grad[:2].all()
    assert not head.weight.grad[2:].any()
    assert not head.bias.grad[2:].any()


def test_the_sample_of_one_data_set_does_not_reach_the_outputs_of_another():
    method = make()
    both, _ = batch_of(method, [0, 1])
    sum(method(*both).values()).backward()
    together = method.network.decoder.seg_layers[-1].weight.grad[:2].clone()
    method.zero_grad()
    alone = tuple(part[:1] for part in both)
    sum(method(*alone).values()).backward()
    # means run over the classes of the batch: four of them, then two
    torch.testing.assert_close(2 * together, method.network.decoder.seg_layers[-1].weight.grad[:2])


def test_outputs_do_not_depend_on_the_batch_or_its_order():
    method = make()
    views, _ = batch_of(method, [2, 0, 1, 0])
    logits = method.logits(views[0], views[3])
    assert {source: tuple(found.shape[:2]) for source, found in logits.items()} == {0: (2, 2), 1: (1, 2), 2: (1, 1)}
    for place, (source, row) in enumerate([(2, 0), (0, 0), (1, 0), (0, 1)]):
        single = method.logits(views[0][place : place + 1], [source])[source]
        torch.testing.assert_close(logits[source][row], single[0], atol=1e-5, rtol=1e-5)


def test_logits_are_those_of_the_plain_u_net():
    method = make()
    images = noise(2, 1, *PATCH)
    plain = method.network(images)
    assert plain.shape[1] == 5
    torch.testing.assert_close(method.logits(list(images), [0, 0])[0], plain[:, :2])
    torch.testing.assert_close(method.logits(list(images), [1, 1])[1], plain[:, 2:4])


def test_modalities_share_a_stem_and_data_sets_may_have_their_own():
    by_modality = make()
    assert by_modality.default_stem == "CT"
    assert by_modality.stem_of == ["CT", "CT", "T1+T2"]
    assert {name: stem.convs[0].conv.weight.shape[1] for name, stem in by_modality.extra_stems().items()} == {
        "T1+T2": 2
    }
    by_dataset = make(stems="dataset")
    assert by_dataset.default_stem == "chest"
    assert list(by_dataset.extra_stems()) == ["thorax", "brain"]


def test_the_first_data_set_s_stem_is_the_default_without_ct():
    assert make([BRAIN]).default_stem == "T1+T2"
    assert make([BRAIN]).network.encoder.stem.convs[0].conv.weight.shape[1] == 2


def test_a_batch_trains_the_stems_it_uses():
    method = make()
    views, _ = batch_of(method, [2, 2])
    sum(method(*views).values()).backward()
    assert method.extra_stems()["T1+T2"].convs[0].conv.weight.grad.any()
    assert method.network.encoder.stem.convs[0].conv.weight.grad is None


def test_dice_is_counted_over_the_samples_that_annotate_the_class():
    logits, truth = noise(2, 2, 2, 2, 2), noise(2, 2, 2, 2, 2, seed=1) > 0
    known = noise(2, 1, 2, 2, 2, seed=2) > 0
    found = dice_losses(class_sums(logits, truth, known))
    for number in range(2):
        overlap = total = 0.0
        for sample, z, y, x in torch.cartesian_prod(*[torch.arange(2)] * 4).tolist():
            if known[sample, 0, z, y, x]:
                p, t = torch.sigmoid(logits[sample, number, z, y, x]).item(), truth[sample, number, z, y, x].item()
                overlap, total = overlap + p * t, total + p + t
        assert found[number].item() == pytest.approx(1 - 2 * overlap / total, abs=1e-5)


def test_cross_entropy_is_the_mean_over_annotated_voxels():
    logits, truth = noise(2, 2, 2, 2, 2), noise(2, 2, 2, 2, 2, seed=1) > 0
    known = noise(2, 1, 2, 2, 2, seed=2) > 0
    for number, value in enumerate(cross_entropies(class_sums(logits, truth, known))):
        chosen = known[:, 0]
        expected = functional.binary_cross_entropy_with_logits(
            logits[:, number][chosen], truth[:, number][chosen].float()
        )
        torch.testing.assert_close(value, expected)


def test_what_is_not_annotated_changes_neither_loss_nor_score():
    method = make()
    (images, targets, annotated, sources), _ = batch_of(method, [1])
    before = method(images, targets, annotated, sources), method.assess(images, targets, annotated, sources)
    turned = [targets[0] ^ ~annotated[0]]
    after = method(images, turned, annotated, sources), method.assess(images, turned, annotated, sources)
    assert before[0] == after[0]
    assert {name: score.method for name, score in before[1].items()} == {n: s.method for n, s in after[1].items()}


def test_a_batch_without_an_annotated_voxel_has_finite_losses():
    method = make()
    views = method.views([noise(1, *PATCH)], torch.full((1, *PATCH), 4), [1])
    losses = method(*views)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_the_baseline_is_the_class_everywhere():
    method = make()
    views, _ = batch_of(method, [0])
    truth = views[1][0]
    scores = method.assess(*views)
    assert list(scores) == ["Dice, chest: lungs", "Dice, chest: heart"]
    score = scores["Dice, chest: lungs"]
    share = truth[0].float().mean().item()
    numerator, denominator = (float(value) for value in score.baseline)
    assert numerator / denominator == pytest.approx(2 * share / (1 + share))
    found = method.logits(views[0], [0])[0][0, 0] > 0
    hits = (found & truth[0]).sum().item()
    assert float(score.method[0]) / float(score.method[1]) == pytest.approx(
        2 * hits / (found.sum().item() + truth[0].sum().item())
    )


def test_two_optimiser_steps_change_every_encoder_tensor_but_biases_before_a_norm():
    method = make()
    before = {name: value.clone() for name, value in method.network.encoder.state_dict().items()}
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    for seed in range(2):
        optimizer.zero_grad()
        views, _ = batch_of(method, [0, 1], seed)
        sum(method(*views).values()).backward()
        optimizer.step()
    for name, value in method.network.encoder.state_dict().items():
        if not name.endswith(("conv.bias", "all_modules.0.bias")):
            assert not torch.equal(value, before[name]), name


def test_some_steps_on_one_batch_segment_it():
    method = make([CHEST])
    image = torch.zeros(1, *PATCH)
    image[:, :4], image[:, 4:, 6:] = 1, -1
    label = torch.zeros(1, *PATCH, dtype=torch.long)
    label[:, :4], label[:, 4:, 6:] = 1, 2
    views = method.views([image], label, [0])
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        sum(method(*views).values()).backward()
        optimizer.step()
    for score in method.assess(*views).values():
        assert float(score.method[0]) / float(score.method[1]) > 0.95


def test_previews_show_image_truth_and_prediction_of_each_sample():
    method = make()
    views, labels = batch_of(method, [0, 2, 0])
    rows = method.preview(*views)
    assert [[panel.kind for panel in row] for row in rows] == [["grey", "labels", "labels"]] * 3
    shown = labels[2, 4].clone()
    shown[shown > 2] = 0
    assert torch.equal(rows[2][1].values, shown)
    predicted = method.logits(views[0], views[3])[0][1, :, 4] > 0
    assert torch.equal(rows[2][2].values > 0, predicted.any(dim=0))


def test_bad_arguments_are_input_errors():
    with pytest.raises(InputError, match="use modality or dataset"):
        make(stems="patient")
    with pytest.raises(InputError, match="labelled_corpus"):
        make([])
    with pytest.raises(InputError, match="corpus has no classes"):
        make([Source("corpus", ["CT"], [], [], [], 3)])


def test_predictions_where_nobody_annotated_count_for_nothing():
    method = make()
    (images, targets, annotated, sources), _ = batch_of(method, [1])
    found, known = method.logits(images, sources)[1][0] > 0, annotated[0]
    assert (found & ~known).any()
    for number, score in enumerate(method.assess(images, targets, annotated, sources).values()):
        assert int(score.method[1]) == int((found[number] & known).sum() + (targets[0][number] & known).sum())


def test_gradients_are_those_of_the_plain_u_net():
    method, images = make([CHEST]), noise(2, 1, *PATCH)
    method.logits(list(images), [0, 0])[0].square().mean().backward()
    ours = {name: parameter.grad.clone() for name, parameter in method.network.encoder.named_parameters()}
    method.zero_grad()
    method.network(images).square().mean().backward()
    for name, parameter in method.network.encoder.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, msg=name)


def test_ct_is_the_default_stem_wherever_it_stands():
    method = make([BRAIN, CHEST])
    assert method.default_stem == "CT"
    assert method.network.encoder.stem.convs[0].conv.weight.shape[1] == 1
    assert list(method.extra_stems()) == ["T1+T2"]
