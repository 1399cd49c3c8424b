"""Where the voxels of an array lie in the patient: the only module that knows affines.

Index coordinates are (z, y, x) with voxel i centred at i; world coordinates are (x, y, z) in mm, LPS, as SimpleITK's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Geometry:
    """Shape and spacing (mm) in array order (z, y, x); origin (mm) and direction (row-major 3x3) in world order, LPS."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise ValueError(f"not a volume: shape {self.shape}, spacing {self.spacing}")
        if len(self.direction) != 9:
            raise ValueError(f"a direction has 9 values, not {len(self.direction)}")

    @classmethod
    def of_image(cls, image: sitk.Image | sitk.ImageFileReader) -> Geometry:
        """Geometry of a 3-D image, or of a reader that has read an image's header."""
        return cls(
            shape=tuple(int(n) for n in reversed(image.GetSize())),
            # NIfTI keeps spacing in float32: 1.4 comes back as 1.39999998. A nanometre is precise enough.
            spacing=tuple(round(float(s), 6) for s in reversed(image.GetSpacing())),
            origin=tuple(float(o) for o in image.GetOrigin()),
            direction=tuple(float(d) for d in image.GetDirection()),
        )

    def apply_to(self, image: sitk.Image) -> None:
        """Sets spacing, origin and direction of an image that has this shape."""
        image.SetSpacing(tuple(reversed(self.spacing)))
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)

    def to_json(self) -> dict[str, list]:
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Geometry:
        return cls(**{key: tuple(value[key]) for key in ("shape", "spacing", "origin", "direction")})

    def matches(self, other: Geometry, tolerance: float = 1e-3) -> bool:
        """Same shape, and spacing, origin (mm) and direction equal within ``tolerance``."""
        return self.difference(other, tolerance) is None

    def difference(self, other: Geometry, tolerance: float = 1e-3) -> str | None:
        """The first field in which two geometries differ, in words with both values; None when they match."""
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        for field in ("spacing", "origin", "direction"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if not np.allclose(mine, theirs, rtol=0.0, atol=tolerance):
                return f"{field} {_rounded(mine)} against {_rounded(theirs)}"
        return None

    def index_to_world(self, points: np.ndarray) -> np.ndarray:
        """Index coordinates [N, 3] (z, y, x) -> world mm [N, 3] (x, y, z), LPS."""
        points = np.asarray(points, np.float64).reshape(-1, 3)
        return points[:, ::-1] @ self._matrix().T + np.asarray(self.origin)

    def world_to_index(self, points: np.ndarray) -> np.ndarray:
        """World mm [N, 3] (x, y, z), LPS -> index coordinates [N, 3] (z, y, x), not rounded."""
        points = np.asarray(points, np.float64).reshape(-1, 3)
        return np.linalg.solve(self._matrix(), (points - np.asarray(self.origin)).T).T[:, ::-1]

    def _matrix(self) -> np.ndarray:
        """World mm per index step; columns are the index axes x, y, z."""
        return np.asarray(self.direction, np.float64).reshape(3, 3) * np.asarray(self.spacing[::-1], np.float64)


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 4) + 0.0 for value in values)
