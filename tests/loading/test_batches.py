import dataclasses

import numpy as np
import pytest
import torch

from detpretrain.loading import augmentation, batches
from detpretrain.loading.augmentation import Augmentation
from detpretrain.loading.patches import Patches

PATCH = (12, 12, 12)
CPU = torch.device("cpu")
CLASSES = {2: 0, 3: 1, 7: 1, 40: 0}
SPATIAL = Augmentation(
    rotation_probability=0.7,
    zoom_probability=0.7,
    noise_probability=0.0,
    blur_probability=0.0,
    brightness_probability=0.0,
    contrast_probability=0.0,
    inverted_gamma_probability=0.0,
    gamma_probability=0.0,
)
EVERYTHING = Augmentation(**{f.name: 1.0 for f in dataclasses.fields(Augmentation) if f.name.endswith("probability")})


def patches_of(data, batch_size=4, draws=SPATIAL, **arguments):
    folder, records = data
    return Patches(folder, records, PATCH, batch_size, (0, "cell", "train"), draws, **arguments)


def on_device(samples):
    images = batches.images_on_device(samples, PATCH, CPU)
    instances = batches.instances_on_device(samples, PATCH, CPU)
    return images, instances, *batches.objects(instances, samples)


def images_of(stream):
    return [batches.images_on_device(samples, PATCH, CPU) for samples in stream]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_batches_do_not_depend_on_the_number_of_workers_or_on_where_a_run_starts(labelled):
    patches = patches_of(labelled, draws=EVERYTHING)
    alone = images_of(batches.iterate(patches, 0, 6, workers=0))
    assert len(alone) == 6
    assert not torch.equal(alone[0], alone[1])
    for found in (images_of(batches.iterate(patches, 0, 6, workers=2)), images_of(batches.iterate(patches, 0, 6, 0))):
        assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))
    resumed = images_of(batches.iterate(patches, 4, 6, workers=0))
    assert all(torch.equal(a, b) for a, b in zip(alone[4:], resumed, strict=True))


def seeds_of(stream):
    return [[sample.draws.seed for sample in samples] for samples in stream]


def flat(lists):
    return [value for values in lists for value in values]


def test_ranks_and_accumulated_passes_share_the_batches_of_one_process(labelled):
    patches = patches_of(labelled)
    whole = seeds_of(batches.iterate(patches, 0, 3, workers=0))
    ranks = [seeds_of(batches.iterate(patches, 0, 3, workers=0, rank=rank, ranks=2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert sorted(ranks[0][step] + ranks[1][step]) == sorted(batch)
    for accumulate in (2, 4):
        passes = seeds_of(batches.iterate(patches, 0, 3 * accumulate, workers=0, accumulate=accumulate))
        assert {len(samples) for samples in passes} == {4 // accumulate}
        assert flat(passes) == flat(whole)
        late = seeds_of(batches.iterate(patches, accumulate, 3 * accumulate, workers=0, accumulate=accumulate))
        assert flat(late) == flat(whole[1:])


def test_loading_draws_nothing_from_the_generator_of_the_training(labelled):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    images_of(batches.iterate(patches_of(labelled, draws=EVERYTHING), 0, 1, workers=0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_holds_what_its_samples_hold_alone(labelled):
    patches = patches_of(labelled, draws=EVERYTHING)
    samples = [patches[index] for index in range(4)]
    together = batches.images_on_device(samples, PATCH, CPU)
    assert together.dtype == torch.float32
    for sample, image in zip(samples, together, strict=True):
        torch.testing.assert_close(batches.images_on_device([sample], PATCH, CPU)[0], image, rtol=1e-4, atol=1e-3)


def test_images_and_instance_maps_turn_together(labelled):
    """Objects are bright: after any rotation, zoom and flip the brightness must lie where the map says.

    The nearest voxel has at least 1/8 of the trilinear weights: above 7/8 means inside, inside means 1/8 or more. No voxel
    mixes two objects here, so the ratio of both channels is 10 + id.
    """
    patches = patches_of(labelled)
    seen = turned = 0
    for index in range(40):
        sample = patches[index]
        images, instances, (boxes,), (labels,) = on_device([sample])
        assert images.shape == (1, 2, *PATCH)
        assert (instances.shape, instances.dtype) == ((1, *PATCH), torch.int32)
        (inside, coded), instances = images[0], instances[0]
        assert (inside[instances > 0] >= 0.124).all()
        assert (instances[inside > 0.876] > 0).all()
        ratio = (coded / inside.clamp(min=0.1) - 10).round().int()
        assert torch.equal(ratio[instances > 0], instances[instances > 0])
        ids = sorted(set(instances.flatten().tolist()) - {0})
        assert labels.tolist() == [CLASSES[id] for id in ids]
        for id, box in zip(ids, boxes, strict=True):
            bright = ((inside > 0.876) & (ratio == id)).nonzero()
            assert (bright > box[:3]).all()
            assert (bright < box[3:]).all()
            seen += len(bright) > 0
        turned += sample.draws.matrix is not None
    assert seen > 25
    assert turned > 25


def test_boxes_are_those_of_what_is_left_in_the_patch(labelled):
    patches = patches_of(labelled, draws=augmentation.none())
    checked = 0
    for index in range(30):
        sample = patches[index]
        _, instances, (boxes,), (labels,) = on_device([sample])
        assert torch.equal(instances[0], sample.instances)
        for box, label, id in zip(boxes, labels, [i for i in instances.unique().tolist() if i], strict=True):
            where = np.argwhere(instances[0].numpy() == id)
            assert box.tolist() == [*(where.min(axis=0) - 1), *(where.max(axis=0) + 1)]
            assert label.item() == CLASSES[id]
            checked += 1
    assert checked > 20


def test_a_patch_without_objects_has_empty_targets(labelled):
    folder, records = labelled
    patches = Patches(folder, records[:1], PATCH, 2, (0, "x"), SPATIAL)
    _, instances, boxes, labels = on_device([patches[0], patches[1]])
    assert not instances.any()
    assert [tuple(box.shape) for box in boxes] == [(0, 6), (0, 6)]
    assert [(tuple(label.shape), label.dtype) for label in labels] == [((0,), torch.int64)] * 2


def test_a_turn_by_nothing_changes_nothing(labelled):
    still = dataclasses.replace(
        SPATIAL, rotation_probability=1.0, rotation_degrees=0.0, zoom=(1.0, 1.0), mirror_axes=()
    )
    turned, plain = patches_of(labelled, draws=still), patches_of(labelled, draws=augmentation.none())
    for index in range(10):
        sample, expected = turned[index], plain[index]
        assert sample.image.shape != expected.image.shape  # it went through the resampling
        images, instances, _, _ = on_device([sample])
        torch.testing.assert_close(images[0], expected.image, rtol=1e-4, atol=1e-4)
        assert torch.equal(instances[0], expected.instances)


def test_mirroring_alone_flips_the_crop(labelled):
    patches = patches_of(labelled, draws=augmentation.none(mirror=True))
    for index in range(12):
        sample = patches[index]
        dims = [axis + 1 for axis, flip in enumerate(sample.draws.mirror) if flip]
        image = batches.images_on_device([sample], PATCH, CPU)[0]
        assert torch.equal(image, sample.image.flip(dims))
    assert len({patches[index].draws.mirror for index in range(40)}) == 8


def test_unlabelled_single_channel_batches(corpus):
    patches = patches_of(corpus, object_fraction=0.0, single_channel=True)
    (samples,) = batches.iterate(patches, 0, 1, workers=0)
    assert batches.images_on_device(samples, PATCH, CPU).shape == (4, 1, *PATCH)
