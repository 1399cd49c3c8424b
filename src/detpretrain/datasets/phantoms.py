"""Generated chest-CT-like data sets: nodules to detect, the same anatomy unlabelled, and the same with organ labels.

They exist so that the whole study runs, and means something, without a download. The task is made hard on purpose: lung
vessels, wall plaques, bands and cysts have the contrast of the nodules, about one standard deviation of the noise, so
that intensity finds them all and only shape tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from detpretrain.datasets import phantom_anatomy as anatomy_of
from detpretrain.datasets import phantom_structures as structures
from detpretrain.datasets.instances import one_per_value
from detpretrain.datasets.phantom_anatomy import Anatomy, draw_anatomy, extent
from detpretrain.datasets.phantom_structures import Grid, Piece, Segment
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.task_writer import TaskWriter

Range = tuple[float, float]


@dataclass(frozen=True)
class Phantom:
    """One scan: HU int16, nodule instances int16 (0 = none), organs uint8 (0 = air, else 1 + index in ORGANS)."""

    image: np.ndarray
    nodules: np.ndarray
    organs: np.ndarray
    geometry: Geometry


@dataclass(frozen=True)
class Blob:
    """Where a round structure is, mm: others keep away from it."""

    centre: np.ndarray
    radius: float


@dataclass(frozen=True)
class _Scene:
    """The lungs while they are filled. Arrays [D, H, W] are drawn into; ``blobs`` are the nodules so far.

    ``depth`` is the distance to the lung's wall in mm, positive inside; ``contrast`` is in noise standard deviations.
    """

    grid: Grid
    depth: np.ndarray
    vessels: np.ndarray
    contrast: np.ndarray
    instances: np.ndarray
    blobs: list[Blob]

    @classmethod
    def empty(cls, geometry: Geometry, anatomy: Anatomy) -> _Scene:
        vessels, contrast = np.zeros((2, *geometry.shape), np.float32)
        depth = anatomy.lung_depth * extent(geometry)
        return cls(
            Grid(geometry.shape, geometry.spacing), depth, vessels, contrast, np.zeros(geometry.shape, np.int16), []
        )

    def clear(self, centre: np.ndarray, radius: float) -> bool:
        """Whether a ball touches no nodule."""
        return all(float(np.linalg.norm(centre - blob.centre)) > radius + blob.radius for blob in self.blobs)

    def depth_at(self, centre: np.ndarray) -> float:
        """Depth at the voxel nearest to a position in mm; minus infinity outside of the volume."""
        index = np.rint(centre / self.grid.spacing).astype(int)
        if np.any(index < 0) or np.any(index >= self.grid.shape):
            return -np.inf
        return float(self.depth[tuple(index)])

    def wall_normal(self, centre: np.ndarray) -> np.ndarray:
        """Unit gradient of the depth, from the neighbours of the nearest voxel."""
        index = np.clip(np.rint(centre / self.grid.spacing).astype(int), 0, np.array(self.grid.shape) - 1)
        gradient = np.zeros(3)
        for axis in range(3):
            low, high = index.copy(), index.copy()
            low[axis], high[axis] = max(index[axis] - 1, 0), min(index[axis] + 1, self.grid.shape[axis] - 1)
            step = (high[axis] - low[axis]) * self.grid.spacing[axis]
            gradient[axis] = (self.depth[tuple(high)] - self.depth[tuple(low)]) / step
        return gradient / max(float(np.linalg.norm(gradient)), 1e-9)


@dataclass(frozen=True, kw_only=True)
class ChestPhantom:
    """How scans are drawn. The anatomy fills the field of view, whatever its size; nodules are in mm.

    Attributes:
        shape: (z, y, x) of an isotropic scan.
        spacing: mm, of an isotropic scan.
        slice_spacing: mm, range of the slice distance of an anisotropic scan, which has accordingly fewer slices.
        anisotropic: fraction of scans that are.
        nodules: fewest and most per scan.
        diameter_mm: range of the nodules' mean diameter.
        contrast: range of what a structure adds to the lung, in noise standard deviations.
        noise_sd: HU.
        noise_correlation: sigma in voxels of the in-plane smoothing of the noise (half of it across slices).
        irregularity: amplitude of the nodule border's unevenness, relative to the radius.
        attached: fraction of nodules that sit on a vessel.
        plaques, bands, rings: fewest and most of each distractor per scan.
    """

    shape: tuple[int, int, int] = (64, 64, 64)
    spacing: float = 1.4
    slice_spacing: Range = (2.0, 2.5)
    anisotropic: float = 0.3
    nodules: tuple[int, int] = (0, 6)
    diameter_mm: Range = (5.6, 13.0)
    contrast: Range = (1.0, 1.3)
    noise_sd: float = 120.0
    noise_correlation: float = 0.35
    irregularity: float = 0.18
    attached: float = 0.45
    plaques: tuple[int, int] = (5, 9)
    bands: tuple[int, int] = (5, 9)
    rings: tuple[int, int] = (1, 3)

    def draw(self, rng: np.random.Generator) -> Phantom:
        """Draws one scan; the same generator state gives the same scan."""
        geometry = self._draw_geometry(rng)
        anatomy = draw_anatomy(geometry, rng)
        scene = _Scene.empty(geometry, anatomy)
        segments = self._draw_vessels(geometry, anatomy, rng)
        for segment in segments:
            _add(scene.vessels, structures.tube(scene.grid, segment), 1.0)
        np.multiply(scene.vessels, self._draw_contrast(rng), out=scene.contrast)
        for _ in range(int(rng.integers(self.nodules[0], self.nodules[1] + 1))):
            self._add_nodule(scene, segments, rng)
        self._add_distractors(scene, rng)
        image = self._render(geometry, anatomy, scene.contrast, rng)
        return Phantom(image, scene.instances, _organ_map(anatomy, scene.vessels), geometry)

    def _draw_geometry(self, rng: np.random.Generator) -> Geometry:
        slices, distance = self.shape[0], self.spacing
        if rng.random() < self.anisotropic:
            distance = round(float(rng.uniform(*self.slice_spacing)), 2)
            slices = round(self.shape[0] * self.spacing / distance)
        origin = tuple(round(float(o), 1) for o in rng.uniform(-80, -20, 3))
        return Geometry((slices, *self.shape[1:]), (distance, self.spacing, self.spacing), origin)

    def _draw_contrast(self, rng: np.random.Generator) -> np.float32:
        return np.float32(rng.uniform(*self.contrast))

    def _draw_vessels(self, geometry: Geometry, anatomy: Anatomy, rng: np.random.Generator) -> list[Segment]:
        """Both lungs' vessel trees, in mm along the array axes."""
        half = extent(geometry)
        centre = (np.array(geometry.shape) - 1) / 2 * geometry.spacing
        segments: list[Segment] = []
        for hilum, side in zip(anatomy.hila, (-1.0, 1.0), strict=True):
            outward = np.array([0.0, 0.0, side])
            segments += structures.vessel_tree(centre + hilum * half, outward, 0.30 * half, 0.065 * half, rng)
        return segments

    def _add_nodule(self, scene: _Scene, segments: list[Segment], rng: np.random.Generator) -> None:
        """Places a nodule clear of the walls and of the others; a lung that is too narrow for it gets a smaller one."""
        on_vessel = rng.random() < self.attached
        diameter = float(rng.uniform(*self.diameter_mm))
        for _ in range(40):
            radius = diameter / 2
            inner = scene.depth > radius + 1.0
            centre = _beside_vessel(segments, radius, rng) if on_vessel else _random_voxel(inner, scene.grid, rng)
            if centre is not None and scene.clear(centre, radius + 3.0) and scene.depth_at(centre) > radius:
                break
            on_vessel = on_vessel and rng.random() < 0.9
            diameter = max(diameter * 0.97, self.diameter_mm[0])
        else:
            return
        piece = structures.nodule(scene.grid, centre, diameter, self.irregularity, rng)
        inside = piece.occupancy > 0.5
        if not inside.any():
            return
        scene.blobs.append(Blob(centre, radius))
        scene.instances[piece.block][inside & (scene.instances[piece.block] == 0)] = len(scene.blobs)
        _add(scene.contrast, piece, self._draw_contrast(rng))

    def _add_distractors(self, scene: _Scene, rng: np.random.Generator) -> None:
        """Plaques on the walls, bands and cysts in the lungs, none of them touching a nodule."""
        grid = scene.grid
        wall = np.abs(scene.depth) < 0.7 * max(grid.spacing)
        for kind, count in (("plaque", self.plaques), ("band", self.bands), ("ring", self.rings)):
            for _ in range(int(rng.integers(count[0], count[1] + 1))):
                size = float(rng.uniform(*self.diameter_mm))
                where = wall if kind == "plaque" else scene.depth > (size / 2 if kind == "ring" else 2.0)
                centre = _random_voxel(where, grid, rng)
                if centre is None or not scene.clear(centre, size / 2 + 2.0):
                    continue
                level = self._draw_contrast(rng)
                if kind == "plaque":
                    thickness = float(rng.uniform(0.22, 0.4)) * size
                    piece = structures.plaque(grid, centre, scene.wall_normal(centre), size * 1.3, thickness, rng)
                    _add(scene.contrast, piece, level)
                elif kind == "ring":
                    _add(scene.contrast, structures.ring(grid, centre, size * 0.8, 0.14 * size + 1.0), level)
                else:
                    for segment in structures.band(centre, size * 1.5, float(rng.uniform(0.13, 0.2)) * size, rng):
                        _add(scene.contrast, structures.tube(grid, segment), level)

    def _render(
        self, geometry: Geometry, anatomy: Anatomy, contrast: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Organs laid over each other from the outside in, then noise, HU."""
        a = anatomy
        lung = anatomy_of.LUNG + 25.0 * a.coordinates[1] + 0.12 * self.noise_sd * _texture(geometry.shape, rng)
        lung = lung + contrast * np.float32(self.noise_sd)
        image = np.full(geometry.shape, anatomy_of.AIR, np.float32)
        layers = (
            (a.body, anatomy_of.MUSCLE),
            (a.fat, anatomy_of.FAT),
            (a.abdomen, anatomy_of.LIVER),
            (a.heart, anatomy_of.HEART),
            (a.lungs, lung),
            (a.bones, anatomy_of.BONE),
            (a.discs, anatomy_of.DISC),
            (a.airways, anatomy_of.TRACHEA),
        )
        for occupancy, value in layers:
            image += occupancy * (value - image)
        image += self.noise_sd * _noise(geometry.shape, self.noise_correlation, rng)
        return np.clip(np.rint(image), -1024, 3071).astype(np.int16)


class PhantomNodules:
    """``cases`` scans with their nodules, class 0. ``chest`` are arguments of :class:`ChestPhantom`."""

    def __init__(self, *, cases: int, seed: int, **chest: Any) -> None:
        self.cases, self.seed, self.chest = cases, seed, ChestPhantom(**_tuples(chest))

    def write(self, raw: Path | None, writer: TaskWriter) -> None:
        writer.describe(labels=["nodule"], modalities=["CT"])
        for case, phantom in _scans("nodules", self.cases, self.seed, self.chest, writer):
            classes = dict.fromkeys(range(1, int(phantom.nodules.max()) + 1), 0)
            writer.add_case(case, [phantom.image], phantom.geometry, instances=phantom.nodules, classes=classes)


class PhantomCorpus:
    """``cases`` unlabelled scans of other patients, nodules and all: what an archive holds."""

    def __init__(self, *, cases: int, seed: int, **chest: Any) -> None:
        self.cases, self.seed, self.chest = cases, seed, ChestPhantom(**_tuples(chest))

    def write(self, raw: Path | None, writer: TaskWriter) -> None:
        writer.describe(labels=[], modalities=["CT"])
        for case, phantom in _scans("corpus", self.cases, self.seed, self.chest, writer):
            writer.add_case(case, [phantom.image], phantom.geometry)


class PhantomOrgans:
    """``cases`` scans with organ labels, for supervised segmentation pre-training.

    One instance per organ, class k - 1 for the k-th organ; nodules are there and unlabelled.

    Args:
        organs: name -> organs of ``phantom_anatomy.ORGANS`` that it unites, so that two data sets can mean different things by
            one name; default each organ by itself.
    """

    def __init__(
        self, *, cases: int, seed: int, organs: Mapping[str, Sequence[str]] | None = None, **chest: Any
    ) -> None:
        self.cases, self.seed, self.chest = cases, seed, ChestPhantom(**_tuples(chest))
        self.organs = dict(organs) if organs else {name: [name] for name in anatomy_of.ORGANS}
        self.classes = {number: number - 1 for number in range(1, len(self.organs) + 1)}
        self.values = np.zeros(len(anatomy_of.ORGANS) + 1, np.uint8)  # organ -> value in this data set's map
        for value, members in enumerate(self.organs.values(), start=1):
            unknown = sorted(set(members) - set(anatomy_of.ORGANS))
            if unknown:
                raise InputError(f"organs: no organ {unknown[0]!r}: known are {', '.join(anatomy_of.ORGANS)}")
            self.values[[anatomy_of.ORGANS.index(member) + 1 for member in members]] = value

    def write(self, raw: Path | None, writer: TaskWriter) -> None:
        writer.describe(labels=list(self.organs), modalities=["CT"])
        for case, phantom in _scans("organs", self.cases, self.seed, self.chest, writer):
            instances, classes = one_per_value(self.values[phantom.organs], self.classes)
            writer.add_case(case, [phantom.image], phantom.geometry, instances=instances, classes=classes)


def _scans(kind: str, cases: int, seed: int, chest: ChestPhantom, writer: TaskWriter) -> Iterator[tuple[str, Phantom]]:
    """Case ids and scans; each scan has a generator of its own, so that their number and exclusions do not matter."""
    for number in range(cases):
        case = f"{kind}_{number:04d}"
        if not writer.excluded(case):
            yield case, chest.draw(np.random.default_rng([seed, *kind.encode(), number]))


def _tuples(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}


def _add(field: np.ndarray, piece: Piece | None, level: float) -> None:
    """Structures do not add up where they meet: the strongest wins."""
    if piece is not None:
        np.maximum(field[piece.block], piece.occupancy * level, out=field[piece.block])


def _organ_map(anatomy: Anatomy, vessels: np.ndarray) -> np.ndarray:
    organs = (anatomy.body > 0.5).astype(np.uint8)
    layers = (anatomy.lungs, anatomy.heart, np.maximum(anatomy.bones, anatomy.discs), anatomy.abdomen)
    for number, occupancy in enumerate((*layers, vessels * anatomy.lungs), start=2):
        organs[occupancy > 0.5] = number
    return organs


def _noise(shape: tuple[int, ...], correlation: float, rng: np.random.Generator) -> np.ndarray:
    """Unit-variance noise, slightly correlated as reconstruction filters make it."""
    white = rng.standard_normal(shape, dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, (correlation / 2, correlation, correlation), mode="wrap", truncate=3.0)
    return smooth / smooth.std()


def _texture(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Slow variation of the lung tissue, unit variance before interpolation."""
    coarse = rng.standard_normal((6, 6, 6)).astype(np.float32)
    return ndimage.zoom(coarse, np.array(shape) / coarse.shape, order=1)


def _random_voxel(mask: np.ndarray, grid: Grid, rng: np.random.Generator) -> np.ndarray | None:
    """A position in mm, within a voxel of the mask."""
    candidates = np.flatnonzero(mask)
    if not len(candidates):
        return None
    index = np.array(np.unravel_index(int(rng.choice(candidates)), mask.shape))
    return (index + rng.uniform(-0.5, 0.5, 3)) * grid.spacing


def _beside_vessel(segments: list[Segment], radius: float, rng: np.random.Generator) -> np.ndarray:
    """A centre that puts a nodule of this radius onto a vessel's side."""
    segment = segments[int(rng.integers(len(segments)))]
    along = segment.end - segment.start
    side = np.cross(along, rng.normal(size=3))
    side /= max(float(np.linalg.norm(side)), 1e-9)
    return segment.start + along * rng.uniform(0.2, 0.8) + side * (radius * 0.8 + segment.radius[0] * 0.5)
