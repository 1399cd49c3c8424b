import numpy as np
import pytest
import torch

from detpretrain.loading import augmentation, batches
from detpretrain.loading.mixture import Mixture
from detpretrain.loading.patches import Patches

PATCH = (6, 6, 6)


@pytest.fixture
def parts(labelled, corpus):
    return [
        Patches(folder, records, PATCH, 4, (0, "train"), augmentation.none()) for folder, records in (labelled, corpus)
    ]


def test_a_single_data_set_is_passed_on_as_it_is(parts):
    mixture = Mixture(parts[:1], [3.0], (0, "train"))
    for index in range(5):
        ours, theirs = mixture[index], parts[0][index]
        assert torch.equal(ours.image, theirs.image)
        assert ours.draws.seed == theirs.draws.seed
        assert ours.source == 0


def test_data_sets_are_drawn_by_their_weights(parts):
    mixture = Mixture(parts, [np.sqrt(16), np.sqrt(4)], (0, "train"))
    share = np.mean([mixture.source(index) == 0 for index in range(3000)])
    assert share == pytest.approx(2 / 3, abs=4 * (2 / 9 / 3000) ** 0.5)


def test_a_sample_is_that_of_its_data_set_whatever_the_order_and_the_workers(parts):
    mixture = Mixture(parts, [1, 1], (0, "train"))
    sources = [mixture[index].source for index in range(12)]
    assert set(sources) == {0, 1}
    for index in (11, 3, 7):
        sample = mixture[index]
        assert sample.source == sources[index]
        assert torch.equal(sample.image, parts[sources[index]][index].image)
        assert len(sample.image) == (2, 3)[sample.source]
    loaded = [sample for part in batches.iterate(mixture, 1, 3, workers=2) for sample in part]
    assert [sample.source for sample in loaded] == sources[4:]


def test_another_seed_mixes_otherwise(parts):
    first, second = (Mixture(parts, [1, 1], (seed, "train")) for seed in range(2))
    assert [first.source(i) for i in range(40)] != [second.source(i) for i in range(40)]


def test_semantic_maps_hold_class_plus_one(labelled):
    folder, records = labelled
    patches = Patches(folder, records, (20, 24, 22), 1, (0, "train"), augmentation.none(), object_fraction=0.0)
    classes = {0: 0, 2: 1, 3: 2, 7: 2, 40: 1}  # of the ids in the fixture, plus one
    for index in range(8):
        sample = patches[index]
        semantic = batches.semantic_on_device([sample], (20, 24, 22), torch.device("cpu"))[0]
        expected = sample.instances.clone()
        for key, value in classes.items():
            expected[sample.instances == key] = value
        assert torch.equal(semantic, expected.long())
