"""Intracranial aneurysms in CT angiography: the "Large IA Segmentation" data of GLIA-Net (Bo et al., 2021), CTA-A for short.

Raw layout: ``imagesTr/CASE.nii.gz`` and ``labelsTr/CASE.nii.gz``, the same with ``Ts_internal`` and ``Ts_external`` for the two
test sets, ``internal_instances.csv`` (training and internal test) and ``external_instances.csv`` with a line per case:
``instance_id`` is the case, ``num_IAs`` its number of aneurysms.

The label maps say where aneurysms are, not which voxels are one of them: objects are connected components (6), corrected where
the sheet counts others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from sklearn.cluster import SpectralClustering

from detpretrain import volumes
from detpretrain.datasets import label_maps
from detpretrain.datasets.nifti_layout import EXCLUDE, NIFTI, nifti_files, pairs
from detpretrain.datasets.raw_dataset import AverageScan, Converted, Layout, Published, RawCase
from detpretrain.datasets.sheets import read_sheet, whole_number
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem
from detpretrain.tasks import CROSS_VALIDATION, folder_suffix

INTERNAL, EXTERNAL = "internal", "external"
SHEETS = {INTERNAL: (CROSS_VALIDATION, INTERNAL), EXTERNAL: (EXTERNAL,)}  # NAME_instances.csv -> its test sets
CASE, COUNT = "instance_id", "num_IAs"
MAX_NODES = 3000  # of a graph that is cut: memory and time of its eigenvectors stay small
MIN_HALF = 4  # voxels; what is smaller is the end of a vessel or a rough edge, no aneurysm of its own


@dataclass(frozen=True)
class Files:
    """``aneurysms``: their number in the sheet; None for a training case that the sheet does not name."""

    image: Path
    label: Path
    aneurysms: int | None


class CTAneurysms:
    """One class, "aneurysm". Where a case has more components than its sheet counts aneurysms, the largest ones are kept; where
    it has fewer, merged ones are split (see ``split_merged``). A training case that its sheet does not name keeps its
    components as they are; a test case has to have a line.
    """

    labels = ("aneurysm",)
    modalities = ("CT",)
    published = Published(
        cases={CROSS_VALIDATION: 1186, INTERNAL: 152, EXTERNAL: 138},
        licence="non-commercial use only, access on request",
        citation="Bo et al., Toward human intervention-free clinical diagnosis of intracranial aneurysm via deep neural "
        "network, Patterns 2, 2021",
        download="https://zenodo.org/records/6801398",
        scan=AverageScan((350, 512, 512), (0.6, 0.45, 0.45)),
    )

    def layout(self, raw: Path) -> Layout:
        problems: list[Problem] = []
        cases: list[RawCase] = []
        missing: list[str] = []
        for name, test_sets in SHEETS.items():
            sheet = raw / f"{name}_instances.csv"
            counts, sheet_problems = _counts(sheet)
            problems += sheet_problems
            for test_set in test_sets:
                found, pair_problems = _cases(raw, test_set, counts)
                cases += found
                problems += pair_problems
                problems += _without_line(found, sheet) if counts and test_set != CROSS_VALIDATION else []
            missing += [f"{case} of {sheet.name}" for case in sorted(set(counts) - _names(raw, test_sets))]
        problems += _in_two_sets(cases)
        return Layout(cases, problems, missing=missing)

    def convert(self, case: RawCase) -> Converted:
        files: Files = case.files
        geometry = volumes.read_geometry(files.image)
        labels = label_maps.read_labels(files.label)
        windows = label_maps.windows(labels)
        if files.aneurysms and not windows:
            problem = f"no aneurysm marked, but its sheet counts {files.aneurysms}"
            raise InputError(f"{files.label}: {problem}: download it again, or exclude the case")
        if not windows:
            return Converted([files.image], geometry, np.zeros(labels.shape, np.uint8), {})
        frame = label_maps.union(list(windows.values()))
        part, number = components(labels[frame])
        part, notes = as_counted(part, number, files.aneurysms, geometry.spacing)
        instances = label_maps.pasted(labels.shape, frame, part)
        classes = dict.fromkeys(range(1, int(part.max()) + 1), 0)
        return Converted([files.image], geometry, instances, classes, notes=notes)


def components(labels: NDArray[np.integer]) -> tuple[NDArray[np.int32], int]:
    """Connected components (6 neighbours) of each value above 0: a map with ids 1..N, and N."""
    found = np.zeros(labels.shape, np.int32)
    number = 0
    for value, window in label_maps.windows(labels).items():
        part, more = ndimage.label(labels[window] == value)
        part[part > 0] += number
        found[window] += part
        number += more
    return found, number


def as_counted(
    parts: NDArray[np.int32], number: int, expected: int | None, spacing: Sequence[float]
) -> tuple[NDArray[np.integer], list[str]]:
    """Components 1..``number`` -> ``expected`` objects (None = as they are), and what was done, in words."""
    if expected is None:
        return parts, [f"not in the sheet: {number} components taken as they are"]
    if number > expected:
        voxels = np.bincount(parts[parts > 0], minlength=number + 1)[1:]
        kept = sorted(np.argsort(-voxels, kind="stable")[:expected] + 1)
        parts = label_maps.renumbered(parts, {int(value): new for new, value in enumerate(kept, start=1)})
        return parts, [f"{number} components, the sheet counts {expected}: the largest kept"]
    if number < expected:
        parts, reached = split_merged(parts, number, expected, spacing)
        notes = [f"{number} components, the sheet counts {expected}: split by spectral clustering"]
        return parts, notes + ([f"the components are too small for more than {reached}"] if reached < expected else [])
    return parts, []


def split_merged(
    parts: NDArray[np.int32], number: int, expected: int, spacing: Sequence[float]
) -> tuple[NDArray[np.int32], int]:
    """Splits components until there are ``expected`` ones, always the one with the narrowest neck.

    Every component is halved by a normalised cut (Shi and Malik, 2000) of its voxels; the neck of the halves is the area
    (mm2) of the cut over the smaller half's volume (mm3) ** (2 / 3), so that neither large nor small ones are preferred.

    Args:
        parts: ids 1..``number`` [D, H, W]; 0 is background.

    Returns:
        map with more ids; their number, less than ``expected`` when all parts are too small to be halved.
    """
    parts = parts.copy()
    cuts = {}
    new = range(1, number + 1)
    while number < expected:
        where = label_maps.windows(parts)
        cuts |= {part: halved(parts[where[part]] == part, spacing) for part in new}
        necks = {part: neck(*halves, spacing) for part, halves in cuts.items() if halves is not None}
        if not necks:
            break
        narrowest = min(necks, key=lambda part: (necks[part], part))
        number += 1
        parts[where[narrowest]][cuts[narrowest][1]] = number
        new = (narrowest, number)
    return parts, number


def halved(
    mask: NDArray[np.bool_], spacing: Sequence[float], max_nodes: int = MAX_NODES
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Two connected halves of a connected object by spectral clustering of its voxels, seeded; None where one would
    have fewer than ``MIN_HALF`` voxels.

    Voxels that share a face are joined with the weight of heat flow between them, face area / distance, so that anisotropic
    voxels count as what they are. An object of more than ``max_nodes`` voxels is clustered in blocks of voxels.
    """
    if mask.sum() < 2 * MIN_HALF:
        return None
    graph, blocks = _touching(mask, spacing), None
    if graph.shape[0] > max_nodes:
        blocks = blocks_of(mask, max_nodes)
        member = sparse.csr_array((np.ones(len(blocks)), (np.arange(len(blocks)), blocks)))
        graph = (member.T @ graph @ member).tocsr()
    clustering = SpectralClustering(2, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    second = clustering.fit_predict(sparse.csr_matrix(graph)).astype(bool)
    half = np.zeros_like(mask)
    half[mask] = second if blocks is None else second[blocks]
    # Pieces that clustering left on the wrong side touch only the other half; after both moves the halves are connected.
    half |= mask & ~half & ~_largest(mask & ~half)
    half = _largest(half)
    return None if min(half.sum(), mask.sum() - half.sum()) < MIN_HALF else (mask & ~half, half)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected component (6) with most voxels."""
    found, _ = ndimage.label(mask)
    return mask & (found == np.bincount(found[mask], minlength=1).argmax())


def neck(first: NDArray[np.bool_], second: NDArray[np.bool_], spacing: Sequence[float]) -> float:
    """Area between two halves over the smaller one's volume ** (2 / 3); 0 for halves that do not touch."""
    voxel = float(np.prod(spacing))
    area = 0.0
    for axis in range(3):
        low, high = _neighbours(axis)
        faces = (first[low] & second[high]).sum() + (second[low] & first[high]).sum()
        area += faces * voxel / spacing[axis]
    return area / (min(first.sum(), second.sum()) * voxel) ** (2 / 3)


def _touching(mask: NDArray[np.bool_], spacing: Sequence[float]) -> sparse.csr_array:
    """Symmetric weights [N, N] between the N voxels of a mask that share a face, in scan order."""
    count = int(mask.sum())
    number = np.full(mask.shape, -1, np.int32)
    number[mask] = np.arange(count)
    ends, weights = [], []
    for axis in range(3):
        low, high = _neighbours(axis)
        both = mask[low] & mask[high]
        ends.append(np.stack([number[low][both], number[high][both]]))
        weights.append(np.full(ends[-1].shape[1], (min(spacing) / spacing[axis]) ** 2))
    rows, columns = np.concatenate(ends, axis=1)
    graph = sparse.csr_array((np.concatenate(weights), (rows, columns)), shape=(count, count))
    return (graph + graph.T).tocsr()


def blocks_of(mask: NDArray[np.bool_], most: int) -> NDArray[np.integer]:
    """Number of the block [N] of each voxel of a mask: cubes of the smallest side that gives at most ``most`` blocks."""
    points, side = np.argwhere(mask), 1
    while True:
        side += 1
        blocks = np.unique(points // side, axis=0, return_inverse=True)[1].reshape(-1)
        if blocks.max() < most:
            return blocks


def _neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of an array: every voxel but the last of an axis, and the one after each."""
    low, high = [slice(None)] * 3, [slice(None)] * 3
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    return tuple(low), tuple(high)


def _cases(raw: Path, test_set: str, counts: Mapping[str, int]) -> tuple[list[RawCase], list[Problem]]:
    """The cases of one test set with their numbers of aneurysms."""
    suffix = folder_suffix(test_set)
    paired, problems = pairs(raw / f"images{suffix}", raw / f"labels{suffix}")
    files = [Files(pair.image, pair.label, counts.get(pair.name)) for pair in paired]
    return [RawCase(p.case, p.case, p.name, f, test_set=test_set) for p, f in zip(paired, files, strict=True)], problems


def _names(raw: Path, test_sets: Iterable[str]) -> set[str]:
    """Names of which some test sets have an image or a label map; a half of a pair is a problem of its own."""
    folders = [raw / f"{kind}{folder_suffix(test_set)}" for test_set in test_sets for kind in ("images", "labels")]
    return {path.name.removesuffix(NIFTI) for folder in folders for path in nifti_files(folder)[0].values()}


def _without_line(cases: Sequence[RawCase], sheet: Path) -> list[Problem]:
    return [
        Problem(case.case, str(sheet), f"no line of test case {case.source_id}", EXCLUDE)
        for case in cases
        if case.files.aneurysms is None
    ]


def _in_two_sets(cases: Sequence[RawCase]) -> list[Problem]:
    first: dict[str, Path] = {}
    twice = [case for case in cases if first.setdefault(case.case, case.files.image) != case.files.image]
    return [
        Problem("", str(case.files.image), f"same case as {first[case.case]}", "keep one of the two") for case in twice
    ]


def _counts(sheet: Path) -> tuple[dict[str, int], list[Problem]]:
    """Case -> number of aneurysms of a sheet; problems by line."""
    table, problems = read_sheet(sheet, (CASE, COUNT))
    counts: dict[str, int] = {}
    for line, row in () if table is None else table.iterrows():
        case, count = row[CASE], whole_number(row[COUNT])
        wrong = None
        if not case:
            wrong = f"no {CASE}"
        elif case in counts:
            wrong = f"{case} comes twice"
        elif count is None or count < 0:
            wrong = f"{COUNT} {row[COUNT]!r} of {case} is no number of aneurysms"
        if wrong:
            problems.append(Problem("", str(sheet), f"line {line}: {wrong}", "download the sheet again"))
        if case:
            counts.setdefault(case, max(count or 0, 0))
    return counts, problems
