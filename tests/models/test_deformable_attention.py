import itertools
import math

import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.models.deformable_attention import (
    DeformableAttention,
    sample_levels,
    sampling_locations,
    sphere_directions,
)

SIZES = [(4, 6, 3), (2, 3, 1)]  # anisotropic, and one voxel thin
VOXELS = sum(math.prod(size) for size in SIZES)


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_attention(channels=12, heads=3, points=2, levels=2):
    torch.manual_seed(0)
    attention = DeformableAttention(channels, heads, levels, points).double()
    with torch.no_grad():  # as after some training
        for number, parameter in enumerate(attention.parameters()):
            parameter.add_(0.3 * draw(*parameter.shape, seed=number))
    return attention


def trilinear(volume, place):
    """``volume [D, H, W, C]`` at a place in fractions: voxel j of n covers j / n .. (j + 1) / n, all is zero outside."""
    position = [fraction * n - 0.5 for fraction, n in zip(place, volume.shape[:3], strict=True)]
    total = torch.zeros(volume.shape[-1], dtype=volume.dtype)
    for corner in itertools.product(*((math.floor(p), math.floor(p) + 1) for p in position)):
        if all(0 <= c < n for c, n in zip(corner, volume.shape[:3], strict=True)):
            total += math.prod(1 - abs(p - c) for p, c in zip(position, corner, strict=True)) * volume[corner]
    return total


def naive_attention(attention, queries, references, values, sizes):
    """The definition, one sample at a time."""
    heads, levels, points = attention.heads, attention.levels, attention.points
    mapped = attention.values(values)
    width = mapped.shape[-1] // heads
    result = torch.zeros_like(queries)
    for b, q in itertools.product(range(queries.shape[0]), range(queries.shape[1])):
        offsets = attention.offsets(queries[b, q]).view(heads, levels, points, 3)
        weights = attention.weights(queries[b, q]).view(heads, levels * points).softmax(-1).view(heads, levels, points)
        for head in range(heads):
            channels = slice(head * width, (head + 1) * width)
            start = 0
            for level, size in enumerate(sizes):
                volume = mapped[b, start : start + math.prod(size), channels].view(*size, width)
                start += math.prod(size)
                reference = references[b, q, level]
                for point in range(points):
                    place = []
                    for axis in range(3):
                        unit = 1 / size[axis] if len(reference) == 3 else reference[3 + axis] / 2 / points
                        place.append((reference[axis] + offsets[head, level, point, axis] * unit).item())
                    result[b, q, channels] += weights[head, level, point] * trilinear(volume, place)
    return attention.out(result)


@pytest.mark.parametrize("kind", [3, 6], ids=["points", "boxes"])
def test_it_is_the_definition_written_as_loops(kind):
    attention, queries, values = make_attention(), draw(2, 5, 12, seed=1), draw(2, VOXELS, 12, seed=2)
    references = draw(2, 5, 2, kind, seed=3).sigmoid()
    with torch.no_grad():
        expected = naive_attention(attention, queries, references, values, SIZES)
        result = attention(queries, references, values, SIZES)
    assert result.shape == (2, 5, 12)
    torch.testing.assert_close(result, expected)


def test_gradients_of_everything_are_those_of_finite_differences():
    attention = make_attention(channels=6, heads=2)
    queries, values = draw(1, 2, 6, seed=1).requires_grad_(), draw(1, VOXELS, 6, seed=2).requires_grad_()
    references = draw(1, 2, 2, 6, seed=3).sigmoid().requires_grad_()

    def call(queries, references, values, *_):
        return attention(queries, references, values, SIZES)

    assert torch.autograd.gradcheck(call, (queries, references, values, *attention.parameters()))


def test_a_voxel_s_centre_gives_the_voxel_at_every_level():
    values = torch.arange(VOXELS, dtype=torch.float64).view(1, VOXELS, 1, 1) + 1
    start = 0
    for level, size in enumerate(SIZES):
        for index, voxel in enumerate(itertools.product(*map(range, size))):
            locations = torch.full((1, 1, 1, 2, 1, 3), 9.0, dtype=torch.float64)  # far outside
            locations[0, 0, 0, level, 0] = torch.tensor([(j + 0.5) / n for j, n in zip(voxel, size, strict=True)])
            found = sample_levels(values, SIZES, locations, torch.ones(1, 1, 1, 2, 1, dtype=torch.float64))
            assert found.item() == pytest.approx(start + index + 1)
        start += math.prod(size)


def test_what_lies_outside_is_zero_and_the_border_fades_out():
    values = torch.ones(1, 8, 1, 1)
    for x, expected in ((0.25, 1.0), (0.0, 0.5), (-0.25, 0.0), (-3.0, 0.0), (1.0, 0.5), (1.25, 0.0)):
        locations = torch.tensor([0.25, 0.75, x]).view(1, 1, 1, 1, 1, 3)
        found = sample_levels(values, [(2, 2, 2)], locations, torch.ones(1, 1, 1, 1, 1))
        assert found.item() == pytest.approx(expected)


def test_offsets_count_voxels_of_a_point_s_level_and_parts_of_half_a_box():
    offsets = torch.ones(1, 1, 1, 2, 4, 3)
    points = sampling_locations(torch.full((1, 1, 2, 3), 0.5), offsets, [(4, 8, 2), (2, 4, 1)])
    assert points[0, 0, 0, :, 0].tolist() == [[0.75, 0.625, 1.0], [1.0, 0.75, 1.5]]
    box = torch.tensor([0.5, 0.5, 0.5, 0.4, 0.2, 0.8]).expand(1, 1, 2, 6)
    edges = sampling_locations(box, 4 * offsets, [(4, 8, 2), (2, 4, 1)])
    torch.testing.assert_close(edges[0, 0, 0, 1, 0], torch.tensor([0.7, 0.6, 0.9]))


@pytest.mark.parametrize("number", [1, 2, 3, 4, 8, 12])
def test_directions_are_spread_over_the_sphere(number):
    directions = sphere_directions(number)
    torch.testing.assert_close(directions.abs().amax(dim=1), torch.ones(number))
    if number > 1:
        unit = torch.nn.functional.normalize(directions, dim=1)
        cosines = unit @ unit.T - 3 * torch.eye(number)
        # each direction has the area 4 pi / number for itself: no two are much closer than such squares' centres
        assert math.acos(cosines.max().item()) > 0.6 * math.sqrt(4 * math.pi / number)
        assert unit.mean(dim=0).norm() < 0.4


def test_it_starts_with_equal_weights_along_one_direction_per_head():
    attention = DeformableAttention(16, 8, 4, 4)
    queries = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    offsets = attention.offsets(queries).view(1, 3, 8, 4, 4, 3)
    for query, level, point in itertools.product(range(3), range(4), range(4)):
        torch.testing.assert_close(offsets[0, query, :, level, point], (point + 1) * sphere_directions(8))
    assert not attention.weights(queries).any()


def test_a_query_s_result_does_not_depend_on_its_batch():
    attention = make_attention().float()
    queries, values = draw(3, 4, 12, seed=1).float(), draw(3, VOXELS, 12, seed=2).float()
    references = draw(3, 4, 2, 6, seed=3).sigmoid().float()
    together = attention(queries, references, values, SIZES)
    for image in range(3):
        one = slice(image, image + 1)
        torch.testing.assert_close(attention(queries[one], references[one], values[one], SIZES), together[one])


def test_autocast_samples_at_full_precision():
    """A bright voxel among 256 is met exactly, though bf16 would miss its centre by up to half a voxel."""
    attention = DeformableAttention(1, 1, 1, 1)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        attention.values.weight.fill_(1)
        attention.out.weight.fill_(1)
    values, voxel = torch.zeros(1, 256, 1), 201
    values[0, voxel] = 1
    references = torch.full((1, 3, 1, 3), 0.5)
    references[0, :, 0, 2] = (torch.tensor([voxel - 1, voxel, voxel + 1]) + 0.5) / 256
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(torch.zeros(1, 3, 1), references, values, [(1, 1, 256)])
    assert found.flatten().tolist() == [0.0, 1.0, 0.0]


def test_heads_divide_the_channels():
    with pytest.raises(InputError, match="10 channels do not divide by 4 heads"):
        DeformableAttention(10, 4, 1, 1)
