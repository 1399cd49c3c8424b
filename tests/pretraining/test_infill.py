import pytest
import torch

from detpretrain.pretraining.infill import neighbour_mean


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def brute_force(volume, known):
    """``[D, H, W]``: voxel by voxel, round by round."""
    values = {tuple(index): volume[tuple(index)].item() for index in known.nonzero().tolist()}
    places = [tuple(index) for index in torch.ones_like(volume).nonzero().tolist()]
    while values:
        found = {}
        for place in set(places) - set(values):
            near = [
                values[other]
                for other in ((place[0] + dz, place[1] + dy, place[2] + dx) for dz, dy, dx in OFFSETS)
                if other in values
            ]
            if near:
                found[place] = sum(near) / len(near)
        if not found:
            break
        values |= found
    return torch.tensor([values.get(place, 0.0) for place in places]).view(volume.shape)


OFFSETS = [(dz, dy, dx) for dz in (-1, 0, 1) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dz, dy, dx) != (0, 0, 0)]


def random_case(batch, shape, share, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 1, *shape, generator=generator) + 3
    return images, torch.rand(batch, 1, *shape, generator=generator) < share


@pytest.mark.parametrize("share", [0.02, 0.2, 0.8])
@pytest.mark.parametrize("shape", [(6, 5, 7), (1, 9, 4)])
def test_it_is_what_a_loop_over_voxels_finds(shape, share):
    images, known = random_case(3, shape, share, seed=4)
    filled = neighbour_mean(images, known)
    for sample in range(3):
        expected = brute_force(images[sample, 0], known[sample, 0])
        torch.testing.assert_close(filled[sample, 0], expected, rtol=1e-4, atol=1e-5)


def test_layers_follow_each_other_in_a_case_done_by_hand():
    line = torch.tensor([4.0, 0, 0, 0, 8.0, 0]).view(1, 1, 1, 1, 6)
    known = torch.tensor([1.0, 0, 0, 0, 1.0, 0]).view(1, 1, 1, 1, 6)
    # round 1: the neighbours of 4 and 8; round 2: the mean of those two
    torch.testing.assert_close(neighbour_mean(line, known).flatten(), torch.tensor([4.0, 4, 6, 8, 8, 8]))


def test_known_voxels_stay_and_unknown_values_are_of_no_consequence():
    images, known = random_case(2, (6, 6, 6), 0.3, seed=1)
    filled = neighbour_mean(images, known.float())
    assert torch.equal(filled[known], images[known])
    assert torch.equal(neighbour_mean(torch.where(known, images, torch.nan), known), filled)
    assert filled[~known].min() >= images[known].min() - 1e-5
    assert filled[~known].max() <= images[known].max() + 1e-5


def test_a_sample_without_anything_known_is_0_and_the_others_are_filled_as_if_alone():
    images, known = random_case(3, (5, 5, 5), 0.1, seed=2)
    known[1] = False
    filled = neighbour_mean(images, known)
    assert not filled[1].any()
    assert filled.isfinite().all()
    for sample in (0, 2):
        alone = neighbour_mean(images[sample : sample + 1], known[sample : sample + 1])
        assert torch.equal(alone[0], filled[sample])
