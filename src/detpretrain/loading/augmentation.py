"""What is drawn for one training sample: decided on the CPU from the sample's own seed, applied on the device in batches.

Transforms, order and probabilities are those of the study's fine-tuning (nnDetection's ``more_modular_ord1``): rotation, zoom,
Gaussian noise, blur, brightness, contrast, gamma on the inverted image, gamma, mirroring. Low resolution (after contrast) is
nnU-Net's, for methods that ask for it; the study has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Draws:
    """One sample's augmentation; factors have one value per channel, neutral where a transform was not drawn.

    Attributes:
        matrix: ``[3, 3]`` from output to source offsets around the patch centre, or None for the identity.
        seed: for the noise field, which is made on the device.
        noise: standard deviation (0 = none); blur: sigma in voxels (0 = none); the others multiply or exponentiate (1 = none);
            low_resolution multiplies the number of voxels per axis.
        mirror: per axis.
    """

    matrix: np.ndarray | None
    seed: int
    noise: float
    blur: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    low_resolution: np.ndarray
    inverted_gamma: np.ndarray
    gamma: np.ndarray
    mirror: tuple[bool, bool, bool]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Probabilities and ranges; the defaults are the study's. A probability of 0 switches a transform off.

    Zoom factors multiply the sampling offsets (above 1 shrinks the content); half of them are drawn below 1. Noise is given as
    the range of its variance. ``mirror_axes`` are axes (0 = z); each is flipped with probability 0.5.
    """

    rotation_probability: float = 0.2
    rotation_degrees: float = 30.0
    zoom_probability: float = 0.2
    zoom: Range = (0.7, 1.4)
    noise_probability: float = 0.1
    noise_variance: Range = (0.0, 0.1)
    blur_probability: float = 0.2
    blur_channel_probability: float = 0.5
    blur_sigma: Range = (0.5, 1.0)
    brightness_probability: float = 0.15
    brightness: Range = (0.75, 1.25)
    contrast_probability: float = 0.15
    contrast: Range = (0.75, 1.25)
    low_resolution_probability: float = 0.0
    low_resolution: Range = (0.5, 1.0)
    inverted_gamma_probability: float = 0.1
    gamma_probability: float = 0.3
    gamma: Range = (0.7, 1.5)
    mirror_axes: tuple[int, ...] = (0, 1, 2)

    def draw(self, rng: np.random.Generator, channels: int, in_plane: bool = False) -> Draws:
        """Draws for one sample. ``in_plane``: very anisotropic patches rotate about z only, by up to 180 degrees.

        Every transform takes its numbers from ``rng`` whether it is drawn or not, so that another probability of one leaves
        the others as they are.
        """
        drawn = {
            "matrix": self._matrix(rng, in_plane),
            "seed": int(rng.integers(2**62)),
            "noise": self._noise(rng),
            "blur": self._blur(rng, channels),
            "brightness": _factors(rng, self.brightness_probability, self.brightness, channels),
            "contrast": _factors(rng, self.contrast_probability, self.contrast, channels),
            "inverted_gamma": _split_factors(rng, self.inverted_gamma_probability, self.gamma, channels),
            "gamma": _split_factors(rng, self.gamma_probability, self.gamma, channels),
            "mirror": tuple(axis in self.mirror_axes and rng.random() < 0.5 for axis in range(3)),
        }
        # last, so that everything else is what it was before there was this transform
        low_resolution = _factors(rng, self.low_resolution_probability, self.low_resolution, channels)
        return Draws(**drawn, low_resolution=low_resolution)

    def _matrix(self, rng: np.random.Generator, in_plane: bool) -> np.ndarray | None:
        rotate, zoom = rng.random() < self.rotation_probability, rng.random() < self.zoom_probability
        limit = 180.0 if in_plane else self.rotation_degrees
        angles = np.deg2rad(rng.uniform(-limit, limit, 3)) * ([1, 0, 0] if in_plane else [1, 1, 1])
        factor = _split(rng, self.zoom)
        if not rotate and not zoom:
            return None
        matrix = rotation(angles) if rotate else np.eye(3)
        scale = np.array([1, factor, factor] if in_plane else [factor] * 3) if zoom else np.ones(3)
        return matrix * scale

    def _noise(self, rng: np.random.Generator) -> float:
        drawn, variance = rng.random() < self.noise_probability, rng.uniform(*self.noise_variance)
        return float(np.sqrt(variance)) if drawn else 0.0

    def _blur(self, rng: np.random.Generator, channels: int) -> np.ndarray:
        drawn = rng.random() < self.blur_probability
        chosen = rng.random(channels) < self.blur_channel_probability
        return rng.uniform(*self.blur_sigma, channels) * (chosen & drawn)


def none(mirror: bool = False) -> Augmentation:
    """No augmentation at all (validation), or mirroring only."""
    names = (
        "rotation", "zoom", "noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma",
    )  # fmt: skip
    axes = (0, 1, 2) if mirror else ()
    return Augmentation(**{f"{name}_probability": 0.0 for name in names}, mirror_axes=axes)


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation about the z, then y, then x axis by ``angles [3]`` (radians), for offsets in (z, y, x): ``[3, 3]``."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _factors(rng: np.random.Generator, probability: float, bounds: Range, channels: int) -> np.ndarray:
    drawn = rng.random() < probability
    values = rng.uniform(*bounds, channels)
    return values if drawn else np.ones(channels)


def _split_factors(rng: np.random.Generator, probability: float, bounds: Range, channels: int) -> np.ndarray:
    drawn = rng.random() < probability
    values = np.array([_split(rng, bounds) for _ in range(channels)])
    return values if drawn else np.ones(channels)


def _split(rng: np.random.Generator, bounds: Range) -> float:
    """Half of the draws below 1, half above (batchgenerators' rule)."""
    low, high = bounds
    return float(rng.uniform(low, min(1.0, high)) if rng.random() < 0.5 else rng.uniform(max(1.0, low), high))
