"""The four transforms of Models Genesis: flipping, local pixel shuffling, a non-linear intensity curve, painting with noise.

Decided per sample on the CPU from the sample's seed, applied to one volume ``[D, H, W]`` on its device. Details as the original
implementation (Zhou et al., Medical Image Analysis 67, 2021) and nnssl's port of it, range and flip axes excepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from detpretrain.errors import InputError

FLIPS = 3  # at most, per sample
BLOCKS = 5  # painted or kept, at most
BORDER = 3  # voxels between such a block and the side of the patch
SMALLEST_SIDE = 14  # the largest kept block, side - 3 * side // 7, has to fit between two borders
SMALLEST_LONGEST_SIDE = 20  # windows have sides up to side // 10: below, none has two voxels to swap
CURVE_ENTRIES = 4096


@dataclass(frozen=True)
class Boxes:
    """Cuboids: ``starts`` and ``sizes``, int64 ``[N, 3]`` in voxels (z, y, x)."""

    starts: np.ndarray
    sizes: np.ndarray

    def slices(self) -> list[tuple[slice, ...]]:
        corners = zip(self.starts.tolist(), self.sizes.tolist(), strict=True)
        return [tuple(slice(low, low + size) for low, size in zip(*corner, strict=True)) for corner in corners]


@dataclass(frozen=True)
class Shuffle:
    """``windows`` in the order in which they are written; ``seed`` of their permutations."""

    windows: Boxes
    seed: int


@dataclass(frozen=True)
class Curve:
    """Bezier curve from (0, 0) to (1, 1): inner control points ``[2, 2]`` (point, xy) in [0, 1]; or its mirror image."""

    points: np.ndarray
    decreasing: bool


@dataclass(frozen=True)
class Paint:
    """Noise in ``blocks``, or everywhere else (``outside``: out-painting); ``seed`` of the noise."""

    blocks: Boxes
    outside: bool
    seed: int


@dataclass(frozen=True)
class Draws:
    """What happens to one sample, in this order; ``flips``: which axes (z, y, x), for the target as well."""

    flips: tuple[bool, bool, bool]
    shuffle: Shuffle | None
    curve: Curve | None
    paint: Paint | None


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """Probabilities and numbers; the defaults are the original's.

    Args:
        windows: of the pixel shuffling, for which the original's 10,000 are meant for patches of 160.
        flip_probability: of a flip, and of each further one (at most 3) along an axis drawn anew.
        shuffle_probability, curve_probability, paint_probability: of the transforms, independent of each other.
        inpaint_probability: that painting is in-painting; otherwise it is out-painting.
        block_probability: that there is another block (at most 5). Out-painting keeps one at least, in-painting may have none.
        faithful_intensity_range: curve and noise as in nnssl's port: both as for images in [0, 1] although images are z-scored,
            so that the curve has a single value each for all voxels below 0 and above 1. By default both live in the range
            from the patch's minimum to its maximum.
        faithful_flip_axes: axes as in the original, which draws from (channel, z, y): x is never flipped.

    Raises:
        InputError: a probability outside [0, 1], or no windows.
    """

    windows: int = 10000
    flip_probability: float = 0.4
    shuffle_probability: float = 0.5
    curve_probability: float = 0.9
    paint_probability: float = 0.9
    inpaint_probability: float = 0.2
    block_probability: float = 0.95
    faithful_intensity_range: bool = False
    faithful_flip_axes: bool = False

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise InputError(
                f"Models Genesis: windows {self.windows}: use 1 or more, or shuffle_probability 0 for none"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("probability") and not 0 <= value <= 1:
                raise InputError(f"Models Genesis: {field.name} {value}: must lie between 0 and 1")

    def draw(self, shape: Sequence[int], seed: int) -> Draws:
        """Draws for a patch of ``shape`` (D, H, W).

        Transforms have random streams of their own, so that another probability of one leaves the others as they are.

        Raises:
            InputError: the patch is too small for the blocks or for the windows.
        """
        if min(shape) < SMALLEST_SIDE or max(shape) < SMALLEST_LONGEST_SIDE:
            raise InputError(
                f"Models Genesis: patch {tuple(shape)} is too small for its windows: all sides need "
                f"{SMALLEST_SIDE} voxels and one of them {SMALLEST_LONGEST_SIDE}: use a plan with a larger patch"
            )
        sides = np.array(shape)
        streams = np.random.default_rng(seed).spawn(4)
        return Draws(
            self._draw_flips(streams[0]),
            self._draw_shuffle(streams[1], sides),
            self._draw_curve(streams[2]),
            self._draw_paint(streams[3], sides),
        )

    def corrupt(self, volume: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """``volume [D, H, W]`` -> what the network sees, what it has to restore (flipped only), and bool ``touched``:
        shuffled or painted voxels, i.e. those of which the curve is not all that happened."""
        target = flip(volume, draws.flips)
        low, span = torch.zeros(()), torch.ones(())
        if not self.faithful_intensity_range:
            low, high = target.aminmax()
            span = high - low
        corrupted, touched = target, torch.zeros_like(target, dtype=torch.bool)
        if draws.shuffle:
            corrupted, touched = shuffle(corrupted, draws.shuffle)
        if draws.curve:
            corrupted = bend(corrupted, curve_table(draws.curve), low, span)
        if draws.paint:
            corrupted, painted = paint(corrupted, draws.paint, low, span)
            touched = touched | painted
        return corrupted, target, touched

    def _draw_flips(self, rng: np.random.Generator) -> tuple[bool, bool, bool]:
        axes = (None, 0, 1) if self.faithful_flip_axes else (0, 1, 2)
        flips = [False, False, False]
        for _ in range(FLIPS):
            if rng.random() >= self.flip_probability:
                break
            axis = axes[rng.integers(3)]
            if axis is not None:
                flips[axis] = not flips[axis]
        return tuple(flips)

    def _draw_shuffle(self, rng: np.random.Generator, sides: np.ndarray) -> Shuffle | None:
        if rng.random() >= self.shuffle_probability:
            return None
        sizes = rng.integers(1, np.maximum(sides // 10, 1), size=(self.windows, 3), endpoint=True)
        starts = rng.integers(0, sides - sizes, endpoint=True)
        return Shuffle(Boxes(starts, sizes), int(rng.integers(2**62)))

    def _draw_curve(self, rng: np.random.Generator) -> Curve | None:
        if rng.random() >= self.curve_probability:
            return None
        return Curve(rng.random((2, 2)), bool(rng.random() < 0.5))

    def _draw_paint(self, rng: np.random.Generator, sides: np.ndarray) -> Paint | None:
        if rng.random() >= self.paint_probability:
            return None
        outside = bool(rng.random() >= self.inpaint_probability)
        count = int(outside)
        while count < BLOCKS and rng.random() < self.block_probability:
            count += 1
        if outside:
            sizes = sides - rng.integers(3 * sides // 7, 4 * sides // 7, size=(count, 3), endpoint=True)
        else:
            sizes = rng.integers(sides // 6, sides // 3, size=(count, 3), endpoint=True)
        starts = rng.integers(BORDER, sides - sizes - BORDER, endpoint=True)
        return Paint(Boxes(starts, sizes), outside, int(rng.integers(2**62)))


def flip(volume: Tensor, flips: Sequence[bool]) -> Tensor:
    """``[D, H, W]`` mirrored along the axes (z, y, x) that say so."""
    return volume.flip([axis for axis, flipped in enumerate(flips) if flipped])


def shuffle(volume: Tensor, drawn: Shuffle) -> tuple[Tensor, Tensor]:
    """Permutes the voxels within each window, and says which voxels lie in a window of more than one.

    Windows are filled from the original volume and written one after the other: of several the last one stays, exactly as if
    in a loop. ``volume [D, H, W]`` -> shuffled, touched.
    """
    voxels, sources, windows = window_permutations(drawn, volume.shape, volume.device)
    # one number says who writes and what; its maximum is what the last window writes
    writes = windows * volume.numel() + sources
    untouched = torch.full((volume.numel(),), -1, device=volume.device)
    last = untouched.scatter_reduce(0, voxels, writes, "amax").view(volume.shape)
    itself = torch.arange(volume.numel(), device=volume.device).view_as(last)
    sources = torch.where(last >= 0, last % volume.numel(), itself)
    several = torch.from_numpy(drawn.windows.sizes.prod(axis=1) > 1).to(volume.device)
    touched = (last >= 0) & several[(last // volume.numel()).clamp(min=0)]
    return volume.flatten()[sources], touched


def window_permutations(drawn: Shuffle, shape: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels of all windows one after the other: where to write, where to read, number of the window; int64 ``[M]``.

    Places are indices into the flattened volume. Within a window those to read are a uniform permutation of those to write.
    """
    voxels, windows = window_voxels(drawn.windows, shape, device)
    generator = torch.Generator(device).manual_seed(drawn.seed)
    keys = torch.randint(2**31, voxels.shape, generator=generator, device=device)
    order = (windows * 2**31 + keys).sort(stable=True).indices  # random within a window, windows stay where they are
    return voxels, voxels[order], windows


def window_voxels(windows: Boxes, shape: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices into the flattened volume of all windows' voxels, and the number of the window of each; int64 ``[M]``."""
    starts, sizes = (torch.from_numpy(values.T.copy()).to(device) for values in (windows.starts, windows.sizes))
    totals = windows.sizes.cumprod(axis=1).sum(axis=0).tolist()  # planes, rows, voxels
    place = torch.zeros(len(windows.sizes), dtype=torch.int64, device=device)
    number = torch.arange(len(windows.sizes), device=device)
    for axis in range(3):  # windows become planes, planes rows, rows voxels
        counts = sizes[axis][number]
        first = starts[axis][number] - (counts.cumsum(0) - counts)  # start less the count of what comes before
        place, number = (
            values.repeat_interleave(counts, output_size=totals[axis])
            for values in (place * shape[axis] + first, number)
        )
        place += torch.arange(totals[axis], device=device)
    return place, number


def curve_table(curve: Curve, entries: int = CURVE_ENTRIES) -> Tensor:
    """The curve's y at ``entries`` equidistant x from 0 to 1; float32 on the CPU.

    With control points in [0, 1] both coordinates grow with the curve's parameter, so y is a function of x. The decreasing
    curve pairs x with y at the mirrored parameter, as the original does by sorting x alone.
    """
    t = np.linspace(0, 1, entries)[:, None]
    first, second = curve.points
    x, y = (3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3).T
    values = np.interp(np.linspace(0, 1, entries), x, y[::-1] if curve.decreasing else y)
    return torch.from_numpy(values.astype(np.float32))


def bend(volume: Tensor, table: Tensor, low: Tensor, span: Tensor) -> Tensor:
    """Intensities through a curve from ``low .. low + span`` to itself; what lies beyond gets the value at the end.

    ``table``: the curve on [0, 1] at equidistant places, linear between them. Scalars; a span of 0 changes nothing.
    """
    last = len(table) - 1
    values = low + span * table.to(volume.device)
    position = ((volume - low) * (last / torch.where(span > 0, span, 1))).clamp(0, last)
    index = position.long().clamp(max=last - 1)
    left = values[index]
    return left + (position - index) * (values[index + 1] - left)


def paint(volume: Tensor, drawn: Paint, low: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform noise from ``low .. low + span`` in the blocks or everywhere else, and where it is: ``[D, H, W]``, bool."""
    painted = torch.full(volume.shape, drawn.outside, device=volume.device)
    for block in drawn.blocks.slices():
        painted[block] = not drawn.outside
    generator = torch.Generator(volume.device).manual_seed(drawn.seed)
    noise = torch.rand(volume.shape, generator=generator, device=volume.device)
    return torch.where(painted, low + span * noise, volume), painted
