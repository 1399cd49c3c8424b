import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.loading import augmentation
from detpretrain.loading.augmentation import Augmentation
from detpretrain.loading.patches import Patches, class_table

PATCH = (12, 12, 12)


def patches_of(data, batch_size=4, draws=None, seed=(0, "cell", "train"), **arguments):
    folder, records = data
    return Patches(folder, records, PATCH, batch_size, seed, draws or augmentation.none(), **arguments)


def as_numbers(sample):
    """Everything in a sample, comparable."""
    return pickle.dumps(
        [
            sample.image.numpy(),
            None if sample.instances is None else sample.instances.numpy(),
            sample.offset.numpy(),
            sample.classes.numpy(),
            vars(sample.draws),
        ]
    )


def whole_objects(sample, records):
    """Ids of the objects that the sample shows completely; they are cuboids."""
    sizes = {
        id: np.prod(np.subtract(box[3:], box[:3]) - 1)
        for record in records
        for id, box in zip(record["ids"], record["boxes"], strict=True)
    }
    counts = Counter(sample.instances[sample.instances > 0].tolist())
    return {id for id, count in counts.items() if count == sizes[id]}


def test_a_sample_is_the_same_for_everyone_who_asks(labelled):
    first, second = patches_of(labelled, draws=Augmentation()), patches_of(labelled, draws=Augmentation())
    late = as_numbers(second[9])
    samples = [as_numbers(first[index]) for index in range(12)]
    assert samples[9] == late
    assert len(set(samples)) == 12
    assert as_numbers(patches_of(labelled, seed=(1, "cell", "train"))[9]) != as_numbers(patches_of(labelled)[9])


def test_the_second_half_of_a_batch_shows_a_whole_object(labelled):
    patches, records = patches_of(labelled), labelled[1]
    shown = [bool(whole_objects(patches[index], records)) for index in range(200)]
    halves = np.array(shown).reshape(-1, 2, 2)
    assert halves[:, 1].all()
    assert halves[:, 0].mean() < 0.9  # the first half is drawn anywhere


def test_objects_are_drawn_evenly_whatever_their_case(labelled):
    patches = patches_of(labelled, batch_size=1, object_fraction=1.0)
    cases = Counter()
    for index in range(400):
        ids = set(patches[index].instances.unique().tolist())
        cases["few" if 3 in ids else "many"] += 1
    assert cases["many"] / 400 == pytest.approx(3 / 4, abs=0.09)


def test_random_patches_come_from_all_cases_evenly(labelled):
    patches = patches_of(labelled, object_fraction=0.0)
    cases = Counter(len(patches[index].classes) for index in range(300))  # 1, 4 and 41 entries
    assert set(cases) == {1, 4, 41}
    assert min(cases.values()) > 70


def test_without_any_object_all_patches_are_random(corpus):
    sample = patches_of(corpus, object_fraction=0.5)[3]
    assert sample.instances is None
    assert sample.image.shape == (3, *PATCH)
    assert sample.classes.tolist() == [-1]


def test_volumes_smaller_than_the_patch_are_padded_with_zeros(corpus):
    patches = patches_of(corpus, object_fraction=0.0)
    small = next(s for s in (patches[i] for i in range(20)) if (s.image[0] == 0).any())
    inside = small.image[0].nonzero()
    extent = (inside.max(dim=0).values - inside.min(dim=0).values + 1).tolist()
    assert extent == [8, 12, 9]
    assert inside.min(dim=0).values.tolist() == [2, 0, 2]  # in the middle


def test_single_channel_images_come_from_every_channel(corpus):
    patches = patches_of(corpus, object_fraction=0.0, single_channel=True)
    samples = [patches[index] for index in range(150)]
    assert {tuple(sample.image.shape) for sample in samples} == {(1, *PATCH)}
    values = Counter(sample.image.max().item() for sample in samples)
    assert set(values) == {1.0, 2.0, 3.0}
    assert min(values.values()) > 30
    assert all(len(sample.draws.gamma) == 1 for sample in samples)


def test_a_rotated_sample_brings_the_region_it_needs(labelled):
    turning = Augmentation(rotation_probability=1.0, zoom_probability=1.0)
    patches = patches_of(labelled, draws=turning)
    for index in range(20):
        sample = patches[index]
        reach = np.abs(sample.draws.matrix) @ ((np.array(PATCH) - 1) / 2)
        shape = np.array(sample.instances.shape)
        assert sample.image.shape[1:] == sample.instances.shape
        assert (sample.offset.numpy() - reach >= 0).all()
        assert (sample.offset.numpy() + reach <= shape - 1).all()
        assert (shape <= 2 * reach + 5).all()  # and no more than that


def test_in_plane_reaches_the_draws(labelled):
    patches = patches_of(labelled, draws=Augmentation(rotation_probability=1.0), in_plane=True)
    assert all(patches[index].draws.matrix[0].tolist() == [1, 0, 0] for index in range(10))


def test_classes_by_instance_id():
    table = class_table({"ids": [2, 7], "classes": [1, 0]})
    assert table.tolist() == [-1, -1, 1, -1, -1, -1, -1, 0]
    assert table.dtype == torch.int64
    assert class_table({}).tolist() == [-1]


def test_open_files_do_not_travel_to_workers(labelled):
    patches = patches_of(labelled)
    expected = as_numbers(patches[5])
    assert patches._open
    copy = pickle.loads(pickle.dumps(patches))
    assert not copy._open
    assert as_numbers(copy[5]) == expected


def test_no_cases_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no cases to draw patches from"):
        patches_of((tmp_path, []))
