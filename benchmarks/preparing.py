"""Preparing and preprocessing CT-sized volumes, against bare resampling of the same arrays in the same run.

    python benchmarks/preparing.py --cases 100 --workers 2
    python benchmarks/preparing.py --cases 6 --format mhd

Synthetic scans (noise around a body, a few lesions) are written as a download; then are timed: preparing (the study's
conversion: labels to instances, checks, tables), preprocessing (reading, cropping, resampling, normalising, compressing), and
``scipy.ndimage.zoom`` of order 3 alone on the images in memory, both with the same number of processes. Planning is one pass
over the data set and is not part of it. Also printed: the largest memory of a worker.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from cells import ROOT
from scipy import ndimage

from detpretrain import volumes
from detpretrain.datasets.instances import from_semantic
from detpretrain.datasets.prepare import prepare
from detpretrain.datasets.raw_dataset import Converted, Layout, Published, RawCase
from detpretrain.files import read_json, read_yaml, write_json
from detpretrain.preprocessing.plan import plan_task
from detpretrain.preprocessing.run import preprocess_task

SLICE_DISTANCES, IN_PLANE = (
    (1.0, 1.25, 2.0, 2.5),
    (0.6, 0.9),
)  # mm; the plan takes medians, so that most scans are resampled


class SyntheticCT:
    """``CASE.FORMAT`` and ``CASE-label.nii.gz`` side by side, one class."""

    labels = ("lesion",)
    modalities = ("CT",)
    published = Published({}, "none", "generated", "nowhere")

    def __init__(self, *, suffix: str) -> None:
        self.suffix = suffix

    def layout(self, raw: Path) -> Layout:
        names = sorted(path.name.removesuffix(self.suffix) for path in raw.glob(f"scan*{self.suffix}"))
        names = [name for name in names if not name.endswith("-label")]
        return Layout([RawCase(name, name, name, (raw / name).as_posix()) for name in names])

    def convert(self, case: RawCase) -> Converted:
        mask, geometry = volumes.read(Path(f"{case.files}-label.nii.gz"))
        instances, classes = from_semantic(mask, {1: 0}, geometry.spacing)
        return Converted([Path(f"{case.files}{self.suffix}")], geometry, instances, classes)


def write_scan(folder: Path, number: int, shape: tuple[int, ...], suffix: str) -> None:
    rng = np.random.default_rng(number)
    distance, in_plane = float(rng.choice(SLICE_DISTANCES)), round(float(rng.uniform(*IN_PLANE)), 3)
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    body = (y**2 + x**2 + 0 * z) < 0.7
    image = np.where(body, 40, -1000).astype(np.int16)
    image += rng.integers(-30, 30, shape, dtype=np.int16)
    mask = np.zeros(shape, np.uint8)
    for _ in range(5):
        centre = [int(rng.integers(n // 3, 2 * n // 3)) for n in shape]
        mask[tuple(slice(c - 4, c + 5) for c in centre)] = 1
    for name, array in ((f"scan{number:04d}{suffix}", image), (f"scan{number:04d}-label.nii.gz", mask)):
        made = sitk.GetImageFromArray(array)
        made.SetSpacing((in_plane, in_plane, distance))
        sitk.WriteImage(made, str(folder / name), useCompression=name.endswith(".gz"))


def bare(job: tuple[str, list[float]]) -> float:
    """Seconds of one scan's bare resampling; reading does not count."""
    path, target = job
    image, geometry = volumes.read(path)
    started = time.perf_counter()
    factors = np.divide(geometry.spacing, target)
    ndimage.zoom(image.astype(np.float32), factors, order=3, mode="nearest", grid_mode=True)
    return time.perf_counter() - started


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    raw, task, suffix = folder / "raw", folder / "task", f".{arguments.format}"
    raw.mkdir()
    for number in range(arguments.cases):
        write_scan(raw, number, tuple(arguments.shape), suffix)
    entry = {"class": f"{__name__ if __name__ != '__main__' else 'preparing'}.SyntheticCT", "suffix": suffix}
    entry |= {"raw": str(raw), "splits": {"folds": 2, "seed": 0}}
    started = time.perf_counter()
    prepare("synthetic", entry, task, arguments.workers)
    prepared = time.perf_counter() - started
    spec = read_yaml(ROOT / "config" / "plans" / f"{arguments.plan}.yaml")
    plan_task(task, "synthetic", arguments.plan, spec, folder / "plan.json")
    plan = read_json(folder / "plan.json")
    started = time.perf_counter()
    preprocess_task(task, plan, folder / "preprocessed", arguments.workers)
    preprocessed = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    axes = np.argsort(plan["transpose"])
    target = [plan["spacing"][axis] for axis in axes]
    jobs = [(str(path), target) for path in sorted(raw.glob(f"scan*{suffix}")) if "-label" not in path.name]
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        resampled = sum(pool.map(bare, jobs)) / arguments.workers
    ours = prepared + preprocessed
    rate = 60 * arguments.cases / arguments.workers
    return {
        "cases": arguments.cases,
        "shape": arguments.shape,
        "target_spacing": target,
        "prepare_seconds": round(prepared, 1),
        "preprocess_seconds": round(preprocessed, 1),
        "bare_resampling_seconds": round(resampled, 1),
        "cases_per_minute_and_core": round(rate / ours, 2),
        "bare_cases_per_minute_and_core": round(rate / resampled, 2),
        "ratio": round(resampled / ours, 2),
        "largest_worker_gib": round(memory, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--shape", type=int, nargs=3, default=[200, 512, 512], metavar=("D", "H", "W"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--format", choices=["nii.gz", "mhd"], default="nii.gz", help="of the images; mhd is converted")
    parser.add_argument("--plan", default="resenc_l_128", help="of config/plans")
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preparing-") as folder:
        result = measure(arguments, Path(folder))
    print(json.dumps(result))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
