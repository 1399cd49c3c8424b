"""What lies in the lungs of a phantom: branching vessels, nodules, and what only looks like a nodule.

Every structure is a ``Piece``: an occupancy in a small block of the volume, in mm geometry. Positions and sizes are in
mm along the array axes (z, y, x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Piece:
    """Occupancy 0..1 of one structure inside ``block`` of the volume."""

    block: tuple[slice, slice, slice]
    occupancy: np.ndarray


@dataclass(frozen=True)
class Segment:
    """A straight piece of vessel with a radius at each end, mm."""

    start: np.ndarray
    end: np.ndarray
    radius: tuple[float, float]


@dataclass(frozen=True)
class Grid:
    """The volume on which structures are drawn: voxel i lies at ``i * spacing`` mm."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def block(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice] | None:
        """The voxels between two points in mm; None when there are none."""
        # plain numbers: a scan has a thousand blocks, and arrays of three are slow
        axes = list(zip(np.asarray(low).tolist(), np.asarray(high).tolist(), self.spacing, self.shape, strict=True))
        first = [max(math.floor(a / s), 0) for a, _, s, _ in axes]
        last = [min(math.ceil(b / s) + 1, n) for _, b, s, n in axes]
        if any(b <= a for a, b in zip(first, last, strict=True)):
            return None
        return tuple(slice(a, b) for a, b in zip(first, last, strict=True))

    def axes(self, block: tuple[slice, slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions in mm of the voxels of a block along each axis, [d, 1, 1], [1, h, 1] and [1, 1, w]."""
        steps = (np.arange(b.start, b.stop, dtype=np.float32) * s for b, s in zip(block, self.spacing, strict=True))
        z, y, x = steps
        return z[:, None, None], y[None, :, None], x[None, None, :]

    def positions(self, block: tuple[slice, slice, slice]) -> np.ndarray:
        """Positions in mm [3, d, h, w] of the voxels of a block."""
        return np.stack(np.broadcast_arrays(*self.axes(block)))

    @property
    def soft(self) -> float:
        """Width of an edge: one in-plane voxel, mm."""
        return self.spacing[2]


def vessel_tree(root: np.ndarray, outward: np.ndarray, length: float, radius: float, rng: np.random.Generator) -> list:
    """A branching tree of segments from the hilum, five generations, bending and thinning (Murray's law, roughly).

    Args:
        root: hilum, mm.
        outward: direction (z, y, x) into the lung.
        length: of the first branches, mm.
        radius: of the first branches, mm.
    """
    segments: list[Segment] = []
    stems = [outward + lift for lift in ((0.9, 0.0, 0.0), (0.2, -0.7, 0.0), (0.0, 0.6, 0.0), (-0.9, 0.3, 0.0))]
    growing = [(root, stem, length * 0.9, radius, 0) for stem in stems]
    while growing:
        start, direction, reach, width, generation = growing.pop()
        direction = _unit(direction + rng.normal(0, 0.15, 3))
        middle = start + direction * reach / 2
        direction = _unit(direction + rng.normal(0, 0.25, 3))
        end = middle + direction * reach / 2
        thin = width * 0.86
        segments += [
            Segment(start, middle, (width, (width + thin) / 2)),
            Segment(middle, end, ((width + thin) / 2, thin)),
        ]
        if generation == 4:
            continue
        side = _unit(np.cross(direction, rng.normal(size=3)))
        for sign in (1, -1):
            child = direction + sign * side * rng.uniform(0.5, 0.9)
            growing.append((end, child, reach * rng.uniform(0.7, 0.9), thin * rng.uniform(0.78, 0.9), generation + 1))
    return segments


def tube(grid: Grid, segment: Segment) -> Piece | None:
    """A segment with round ends."""
    width = max(segment.radius) + grid.soft
    low, high = np.minimum(segment.start, segment.end) - width, np.maximum(segment.start, segment.end) + width
    block = grid.block(low, high)
    if block is None:
        return None
    offset = [axis - start for axis, start in zip(grid.axes(block), segment.start.tolist(), strict=True)]
    along = (segment.end - segment.start).tolist()
    length = max(sum(a * a for a in along), 1e-6)
    t = np.clip(sum(o * (a / length) for o, a in zip(offset, along, strict=True)), 0, 1)
    gap = np.sqrt(sum((o - t * a) ** 2 for o, a in zip(offset, along, strict=True)))
    radius = segment.radius[0] + (segment.radius[1] - segment.radius[0]) * t
    return Piece(block, np.clip((radius - gap) / grid.soft + 0.5, 0, 1))


def nodule(
    grid: Grid, centre: np.ndarray, diameter: float, irregularity: float, rng: np.random.Generator
) -> Piece | None:
    """An ellipsoid with a low-frequency uneven border; its mean diameter is ``diameter`` mm."""
    axes = rng.uniform(0.8, 1.25, 3)
    radii = diameter / 2 * axes / np.prod(axes) ** (1 / 3)
    return _blob(grid, centre, radii, _rotation(rng), irregularity, rng)


def plaque(
    grid: Grid, centre: np.ndarray, normal: np.ndarray, width: float, thickness: float, rng: np.random.Generator
) -> Piece | None:
    """A lens that lies flat on the lung's wall (pleural thickening)."""
    along = _unit(np.cross(normal, rng.normal(size=3)))
    frame = np.stack([normal, along, np.cross(normal, along)])
    return _blob(grid, centre, np.array([thickness, width / 2, width / 2 * rng.uniform(0.7, 1.0)]), frame, 0.1, rng)


def ring(grid: Grid, centre: np.ndarray, diameter: float, wall: float) -> Piece | None:
    """A thin-walled cyst: a sphere's shell with lung inside."""
    radius = diameter / 2
    block = grid.block(centre - radius - wall, centre + radius + wall)
    if block is None:
        return None
    gap = np.sqrt(((grid.positions(block) - centre.astype(np.float32)[:, None, None, None]) ** 2).sum(0))
    return Piece(block, np.clip((wall / 2 - np.abs(gap - radius)) / grid.soft + 0.5, 0, 1))


def band(centre: np.ndarray, length: float, radius: float, rng: np.random.Generator) -> list[Segment]:
    """A bent, unbranched band (scar) of two segments."""
    first = _unit(rng.normal(size=3))
    second = _unit(first + rng.normal(0, 0.35, 3))
    ends = centre - first * length / 2, centre + second * length / 2
    return [Segment(ends[0], centre, (radius * 0.8, radius)), Segment(centre, ends[1], (radius, radius * 0.8))]


def _blob(
    grid: Grid, centre: np.ndarray, radii: np.ndarray, frame: np.ndarray, irregularity: float, rng: np.random.Generator
) -> Piece | None:
    """Ellipsoid whose radius is modulated by three random long waves over its surface."""
    reach = float(radii.max()) * (1 + 1.5 * irregularity) + grid.soft
    block = grid.block(centre - reach, centre + reach)
    if block is None:
        return None
    offset = grid.positions(block) - centre.astype(np.float32)[:, None, None, None]
    scaled = np.tensordot((frame / radii[:, None]).astype(np.float32), offset, 1)
    r = np.sqrt((scaled**2).sum(0))
    surface = scaled / np.maximum(r, 1e-3)
    border = np.full_like(r, 1 - irregularity**2)  # keeps the mean volume: E[(m + wave)^3] = m^3 + 3 m irregularity^2
    for _ in range(3):
        wave = (_unit(rng.normal(size=3)) * rng.uniform(1.5, 3.0)).astype(np.float32)
        border += (
            irregularity / np.sqrt(1.5) * np.sin(np.tensordot(wave, surface, 1) + np.float32(rng.uniform(0, 2 * np.pi)))
        )
    return Piece(block, np.clip((border - r) * float(radii.min()) / grid.soft + 0.5, 0, 1))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q
