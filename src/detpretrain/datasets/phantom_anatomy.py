"""A drawn chest: organs as analytic shapes, so that any voxel size samples the same anatomy without resampling.

Coordinates are normalised by half the in-plane extent of the field of view: z, y, x in about -1..1, z towards the head,
y towards the back, x towards the patient's left (index order of an LPS image). "Depth" is an approximate signed
distance to a surface in these units, positive inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detpretrain.geometry import Geometry

AIR, LUNG, FAT, MUSCLE, HEART, LIVER, BONE, DISC = -1000.0, -850.0, -100.0, 45.0, 80.0, 65.0, 420.0, 90.0  # HU
TRACHEA = -930.0
ORGANS = ("body", "lungs", "heart and great vessels", "bones", "abdomen", "lung vessels")


@dataclass(frozen=True)
class Build:
    """How this patient differs from the mean, drawn once per case."""

    rotation: np.ndarray  # [3, 3]
    shift: np.ndarray  # [3]
    scale: np.ndarray  # [3]
    heart: float
    dome: tuple[float, float]  # height of the right and left diaphragm
    rib_phase: float
    disc_phase: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Build:
        az, ay, ax = rng.uniform(-0.07, 0.07, 3)
        rotation = _turn(0, az) @ _turn(1, ay) @ _turn(2, ax)
        return cls(
            rotation=rotation.astype(np.float32),
            shift=rng.uniform(-0.03, 0.03, 3).astype(np.float32),
            scale=rng.uniform(0.95, 1.06, 3).astype(np.float32),
            heart=float(rng.uniform(0.9, 1.1)),
            dome=(float(rng.uniform(-0.6, -0.45)), float(rng.uniform(-0.68, -0.53))),
            rib_phase=float(rng.uniform(0, 1)),
            disc_phase=float(rng.uniform(0, 1)),
        )


@dataclass(frozen=True)
class Anatomy:
    """Occupancies in 0..1 [D, H, W] (partial volume at the edges), coordinates, and where the vessels start.

    ``lung_depth`` is positive inside the lungs; ``hila`` are the roots of the right and left vessel trees.
    """

    coordinates: np.ndarray  # [3, D, H, W] normalised, in the patient's own frame
    body: np.ndarray
    fat: np.ndarray
    lungs: np.ndarray
    lung_depth: np.ndarray
    heart: np.ndarray
    bones: np.ndarray
    discs: np.ndarray
    abdomen: np.ndarray
    airways: np.ndarray
    hila: tuple[np.ndarray, np.ndarray]


def draw_anatomy(geometry: Geometry, rng: np.random.Generator) -> Anatomy:
    """Draws a patient and samples its organs on the grid of ``geometry``."""
    build = Build.draw(rng)
    half = extent(geometry)
    soft = geometry.spacing[2] / half  # one in-plane voxel: the width of an edge
    grid = normalised_grid(geometry, build)
    z, y, x = grid
    body_depth = _superellipse(y, x, 0.86, 0.965, 2.3)
    taper = np.sqrt(np.clip(1 - np.clip((z - 0.35) / 0.72, 0, 1) ** 2, 0.02, None))
    cavity_depth = _superellipse(y / taper, x / taper, 0.66, 0.80, 2.5) * taper
    spine, discs, spine_space = _spine(z, y, x, build, soft)
    heart_depth = _heart(z, y, x, build)
    airway_depth, hila = _airways(z, y, x)
    middle = 0.10 + 0.05 * np.abs(z) + 0.05 * (y < -0.3)
    outside_middle = np.abs(x - 0.02) - middle
    dome = _diaphragm(y, x, build)
    lung_depth = np.minimum.reduce([cavity_depth, -heart_depth - 0.02, outside_middle, spine_space, z - dome])
    ribs = _ribs(z, y, x, cavity_depth, build)
    sternum = np.minimum(0.035 - np.abs(y + 0.735), np.minimum(0.10 - np.abs(x), z + 0.55))
    lungs = _occupancy(lung_depth, soft)
    body = _occupancy(body_depth, soft)
    return Anatomy(
        coordinates=grid,
        body=body,
        fat=body * (1 - _occupancy(body_depth - 0.055, soft)),
        lungs=lungs,
        lung_depth=lung_depth,
        heart=_occupancy(heart_depth, soft),
        bones=np.maximum.reduce([_occupancy(ribs, soft), _occupancy(sternum, soft), spine]) * (1 - lungs),
        discs=discs,
        abdomen=_occupancy(np.minimum(cavity_depth, dome - z), soft) * (1 - lungs),
        airways=_occupancy(airway_depth, soft),
        hila=hila,
    )


def extent(geometry: Geometry) -> float:
    """Half the in-plane field of view in mm: the unit of the normalised coordinates."""
    return geometry.shape[2] * geometry.spacing[2] / 2


def normalised_grid(geometry: Geometry, build: Build) -> np.ndarray:
    """Normalised coordinates [3, D, H, W] of every voxel in the patient's own frame."""
    half = extent(geometry)
    axes = [
        ((np.arange(n) - (n - 1) / 2) * s / half).astype(np.float32)
        for n, s in zip(geometry.shape, geometry.spacing, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    m, t = build.rotation / build.scale[:, None], build.shift
    return np.stack([m[i, 0] * z + m[i, 1] * y + m[i, 2] * x - t[i] for i in range(3)])


def _spine(
    z: np.ndarray, y: np.ndarray, x: np.ndarray, build: Build, soft: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Occupancy of the vertebrae and of the discs between them, and the distance to the spine and the aorta beside it."""
    axis_distance = np.hypot(y - 0.50, x)
    column = _occupancy(0.155 - axis_distance, soft)
    disc = _occupancy(0.035 - np.abs(_wave(z, 0.30, build.disc_phase)), soft)
    ring = 0.04 - np.abs(np.hypot(y - 0.70, x) - 0.075)
    process = np.minimum(0.03 - np.abs(x), 0.06 - np.abs(y - 0.80))
    between = _wave(z, 0.30, build.disc_phase)
    posterior = _occupancy(np.minimum(np.maximum(ring, process), np.abs(between) - 0.06), soft)
    space = np.minimum(axis_distance - 0.19, np.hypot(y - 0.33, x - 0.13) - 0.11)
    return np.maximum(column * (1 - disc), posterior), column * disc, space


def _heart(z: np.ndarray, y: np.ndarray, x: np.ndarray, build: Build) -> np.ndarray:
    """Depth in heart, aortic arch with its descending part, and superior vena cava."""
    size = build.heart
    r = np.sqrt(((z + 0.24) / 0.40) ** 2 + ((y + 0.20) / 0.32) ** 2 + ((x - 0.14 + 0.2 * (z + 0.24)) / 0.33) ** 2)
    heart = (size - r) * 0.34
    descending = np.minimum(0.085 - np.hypot(y - 0.33, x - 0.13), 0.42 - z)
    ascending = np.minimum(0.095 - np.hypot(y + 0.16, x + 0.02), np.minimum(0.42 - z, z + 0.2))
    arch = 0.085 - np.hypot(np.hypot((y - 0.085) / 1.0, z - 0.36) - 0.22, x - 0.06)
    arch = np.minimum(arch, z - 0.36)
    cava = np.minimum(0.06 - np.hypot(y + 0.05, x + 0.14), z + 0.1)
    return np.maximum.reduce([heart, descending, ascending, arch, cava])


def _airways(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Depth in trachea and main bronchi, and the two hila they lead to."""
    fork = np.array([0.14, 0.10, 0.0], np.float32)
    hila = np.array([-0.02, 0.12, -0.21], np.float32), np.array([0.02, 0.12, 0.23], np.float32)
    depth = np.minimum(0.06 - np.hypot(y - 0.10, x), z - 0.14)
    for hilum in hila:
        along = hilum - fork
        t = ((z - fork[0]) * along[0] + (y - fork[1]) * along[1] + (x - fork[2]) * along[2]) / (along @ along)
        t = np.clip(t, 0, 1)
        gap = np.sqrt(sum((c - f - t * a) ** 2 for c, f, a in zip((z, y, x), fork, along, strict=True)))
        depth = np.maximum(depth, 0.042 - gap)
    return depth, hila


def _diaphragm(y: np.ndarray, x: np.ndarray, build: Build) -> np.ndarray:
    """Height of the diaphragm: a dome under each lung that falls towards the wall and the back."""
    right, left = (top - 0.55 * ((x - cx) ** 2 / 0.25 + (y + 0.1) ** 2 / 0.45) for top, cx in
                   zip(build.dome, (-0.40, 0.42), strict=True))  # fmt: skip
    return np.where(x < 0, right, left)


def _ribs(z: np.ndarray, y: np.ndarray, x: np.ndarray, cavity_depth: np.ndarray, build: Build) -> np.ndarray:
    """Depth in the ribs: bars in the shell around the cavity that fall towards the front."""
    fall = z - 0.45 * y
    bar = 0.055 - np.abs(_wave(fall, 0.27, build.rib_phase))
    shell = 0.030 - np.abs(cavity_depth + 0.055)
    return np.minimum.reduce([bar, shell, np.abs(x) - 0.07])


def _superellipse(y: np.ndarray, x: np.ndarray, ry: float, rx: float, power: float) -> np.ndarray:
    r = (np.abs(y / ry) ** power + np.abs(x / rx) ** power) ** (1 / power)
    return (1 - r) * (ry + rx) / 2


def _wave(position: np.ndarray, period: float, phase: float) -> np.ndarray:
    """Signed distance to the nearest of the planes that repeat with ``period``."""
    return ((position / period + phase + 0.5) % 1.0 - 0.5) * period


def _occupancy(depth: np.ndarray, soft: float) -> np.ndarray:
    return np.clip(depth / soft + 0.5, 0, 1)


def _turn(axis: int, angle: float) -> np.ndarray:
    matrix = np.eye(3)
    i, j = [a for a in range(3) if a != axis]
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix
