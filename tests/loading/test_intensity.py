import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from detpretrain.loading import intensity
from detpretrain.loading.augmentation import Draws


def volumes(count=3, shape=(7, 9, 11), seed=0):
    scale = torch.arange(1.0, count + 1)[:, None, None, None]
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)) * scale + scale


def neutral(channels, seed=5):
    ones = np.ones(channels)
    return Draws(None, seed, 0.0, np.zeros(channels), ones, ones, ones, ones, ones, (False,) * 3)


def test_blur_equals_scipy():
    images, sigma = volumes(), [0.5, 0.77, 1.0]
    found = intensity.blur(images, sigma)
    for image, result, s in zip(images.numpy(), found.numpy(), sigma, strict=True):
        expected = ndimage.gaussian_filter(image.astype(np.float64), s, mode="nearest", radius=intensity.BLUR_RADIUS)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_blur_of_a_volume_smaller_than_the_kernel():
    images = volumes(1, (2, 1, 20))
    expected = ndimage.gaussian_filter(images[0].double().numpy(), 1.0, mode="nearest", radius=4)
    np.testing.assert_allclose(intensity.blur(images, [1.0])[0].numpy(), expected, atol=1e-5)


def test_brightness_multiplies():
    images = volumes()
    found = intensity.brightness(images, [0.75, 1.0, 1.25])
    np.testing.assert_allclose(found.numpy(), images.numpy() * np.reshape([0.75, 1, 1.25], (3, 1, 1, 1)), rtol=1e-6)


def test_contrast_stretches_around_the_mean_and_keeps_the_range():
    images, factors = volumes(), [0.75, 1.25, 1.2]
    for image, result, f in zip(images.numpy(), intensity.contrast(images, factors).numpy(), factors, strict=True):
        expected = np.clip((image - image.mean()) * f + image.mean(), image.min(), image.max())
        np.testing.assert_allclose(result, expected, atol=1e-4)
        assert (result.min(), result.max()) >= (image.min(), image.min())
    assert intensity.contrast(images, [1.25] * 3).amax(dim=(1, 2, 3)).tolist() == images.amax(dim=(1, 2, 3)).tolist()


def numpy_gamma(image, exponent):
    low, extent = image.min(), image.max() - image.min()
    curved = ((image - low) / extent) ** exponent * extent + low
    return (curved - curved.mean()) / curved.std() * image.std() + image.mean()


def test_gamma_bends_the_range_and_keeps_mean_and_deviation():
    images, exponents = volumes(), [0.7, 1.0, 1.5]
    found = intensity.gamma(images, exponents)
    for image, result, e in zip(images.double().numpy(), found.numpy(), exponents, strict=True):
        np.testing.assert_allclose(result, numpy_gamma(image, e), atol=1e-4)
    torch.testing.assert_close(found.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.std(dim=(1, 2, 3)), images.std(dim=(1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_inverted_gamma_bends_the_other_end():
    images = volumes()
    found = intensity.inverted_gamma(images, [0.7, 1.3, 1.5])
    for image, result, e in zip(images.double().numpy(), found.numpy(), [0.7, 1.3, 1.5], strict=True):
        np.testing.assert_allclose(result, -numpy_gamma(-image, e), atol=1e-4)


def test_low_resolution_samples_the_nearest_voxels_and_interpolates_back():
    images, factors = volumes(5, (7, 12, 16)), [0.5, 0.83, 0.99, 0.61, 0.05]
    found = intensity.low_resolution(images, factors)
    for image, result, factor in zip(images, found, factors, strict=True):
        coarse = [max(1, round(size * factor)) for size in image.shape]
        small = functional.interpolate(image[None, None], coarse, mode="nearest-exact")
        expected = functional.interpolate(small, image.shape, mode="trilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        assert factor > 0.9 or not torch.equal(result, image)


def test_low_resolution_by_hand():
    row = torch.tensor([0.0, 8.0, 0.0, 4.0]).view(1, 1, 1, 4)
    # voxels 1 and 3 are kept; their centres stand at 1 and 3 quarters, those of the output at 1, 3, 5 and 7 eighths
    assert intensity.low_resolution(row, [0.5]).flatten().tolist() == [8, 7, 5, 4]
    assert intensity.low_resolution(row, [0.25]).flatten().tolist() == [0, 0, 0, 0]  # voxel 2 is the only one


@pytest.mark.parametrize("factor", [0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("size", [1, 2, 5, 16, 61])
def test_coarse_neighbours_are_voxels_of_the_volume(size, factor):
    below, above, weight = intensity.coarse_neighbours(size, [factor])
    assert below.shape == above.shape == weight.shape == (1, size)
    assert ((below >= 0) & (below <= above) & (above < size)).all()
    assert ((weight >= 0) & (weight < 1)).all()
    assert len(np.unique(below)) <= max(1, round(size * factor))
    if factor == 1:
        np.testing.assert_array_equal(below[0], np.arange(size))
        assert not weight.any()


@pytest.mark.parametrize("name", ["contrast", "gamma", "inverted_gamma", "blur", "low_resolution"])
def test_a_constant_volume_stays_as_it_is(name):
    """Patches outside the body are constant: no NaN may come out of them."""
    constant = torch.full((2, 4, 4, 4), -1.5)
    torch.testing.assert_close(getattr(intensity, name)(constant, [0.7, 1.3]), constant)


def test_noise_has_its_deviation_and_depends_on_its_seed_alone():
    images = torch.zeros(3, 20, 20, 20)
    found = intensity.gaussian_noise(images, [0.1, 0.3, 0.1], [1, 2, 1])
    assert found.std(dim=(1, 2, 3)).tolist() == pytest.approx([0.1, 0.3, 0.1], rel=0.03)
    assert torch.equal(found[0], found[2])
    alone = intensity.gaussian_noise(images[:1], [0.3], [2])
    assert torch.equal(alone[0], found[1])
    correlation = np.corrcoef(found[0].flatten(), found[1].flatten())[0, 1]
    assert abs(correlation) < 0.05


def some_draws():
    """Four samples of two channels: everything, nothing, noise only, one channel of some."""
    everything = dataclasses.replace(
        neutral(2, seed=11),
        noise=0.2,
        blur=np.array([0.6, 0.9]),
        brightness=np.array([0.8, 1.2]),
        contrast=np.array([0.8, 1.1]),
        low_resolution=np.array([0.5, 0.7]),
        inverted_gamma=np.array([0.8, 1.2]),
        gamma=np.array([1.4, 0.7]),
    )
    noise = dataclasses.replace(neutral(2, seed=12), noise=0.1)
    part = dataclasses.replace(neutral(2, seed=13), blur=np.array([0.0, 0.7]), gamma=np.array([1.3, 1.0]))
    return [everything, neutral(2), noise, part]


def in_order(image, draws):
    """One sample, channel by channel, in the study's order."""
    channels = []
    for channel, volume in enumerate(image):
        volume = volume[None]
        if draws.noise:
            volume = intensity.gaussian_noise(volume, [draws.noise], [draws.seed + channel])
        for name in ("blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"):
            value = getattr(draws, name)[channel]
            if value != (0 if name == "blur" else 1):
                volume = getattr(intensity, name)(volume, [value])
        channels.append(volume[0])
    return torch.stack(channels)


def test_transforms_are_applied_in_order_and_only_where_drawn():
    images, draws = volumes(8).unflatten(0, (4, 2)), some_draws()
    before = images.clone()
    found = intensity.apply(images, draws)
    assert torch.equal(images, before)
    expected = torch.stack([in_order(image, draw) for image, draw in zip(images, draws, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[1], images[1])
    assert not torch.equal(found[2, 0] - images[2, 0], found[2, 1] - images[2, 1])  # channels have noise of their own


def test_a_sample_does_not_depend_on_its_batch():
    images, draws = volumes(8).unflatten(0, (4, 2)), some_draws()
    together = intensity.apply(images, draws)
    order = [2, 0, 3, 1]
    shuffled = intensity.apply(images[order], [draws[i] for i in order])
    for place, i in enumerate(order):
        torch.testing.assert_close(shuffled[place], together[i], rtol=1e-5, atol=1e-5)
        alone = intensity.apply(images[i : i + 1], draws[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)


def test_the_batched_transforms_follow_the_order_of_the_study():
    assert [name for _, name, _ in intensity.TRANSFORMS] == [
        "blur",
        "brightness",
        "contrast",
        "low_resolution",
        "inverted_gamma",
        "gamma",
    ]
