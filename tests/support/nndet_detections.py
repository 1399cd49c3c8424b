"""How the stand-in for nnDetection finds objects: in preprocessed coordinates, restored by nnDetection's rule.

Preprocessed is: cropped to what is not zero, axes permuted (the coarsest first), resampled.
"""

import zlib

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

BRIGHT, VERY_BRIGHT = 500, 1500  # objects of class 0 and 1
TARGET = (1.5, 1.0, 1.25)  # spacing (z, y, x) in mm of what is preprocessed


def properties_of(path):
    """How an image is cropped to what is not zero, permuted (the coarsest axis first) and resampled."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    crop = [[part.start, part.stop] for part in ndimage.find_objects((array != 0).astype(int))[0]]
    spacing = np.array(image.GetSpacing())[::-1]
    forward = np.argsort(-spacing, kind="stable")
    return {
        "array": array,
        "crop_bbox": crop,
        "original_spacing": spacing,
        "transpose_backward": np.argsort(forward),
        "transpose_forward": forward,
        "original_size_of_raw_data": np.array(array.shape),
        "itk_origin": image.GetOrigin(),
        "itk_spacing": image.GetSpacing(),
        "itk_direction": image.GetDirection(),
    }


def preprocessed(boxes, about):
    """Boxes [N, 3 axes, (min, max)] in index coordinates -> in those of the preprocessed array."""
    low = np.array(about["crop_bbox"])[:, 0]
    moved = (boxes - low[:, None]) * (about["original_spacing"] / TARGET)[:, None]
    return moved[:, about["transpose_forward"]]


def restored(boxes, about):
    """The way back, as nnDetection goes it: axes, ratio of the spacings, crop; no half voxel."""
    turned = boxes[:, about["transpose_backward"]]
    low = np.array(about["crop_bbox"])[:, 0]
    return turned * (np.array(TARGET) / about["original_spacing"])[:, None] + low[:, None]


def in_order(boxes):
    """[N, 3, 2] -> nnDetection's columns: a0 min, a1 min, a0 max, a1 max, a2 min, a2 max."""
    return np.stack([boxes[:, axis, side] for axis, side in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1))], axis=1)


def detect(path, seed):
    """Boxes [N, 3, 2] in the original's index coordinates (by way of the preprocessed ones), scores, labels."""
    about = properties_of(path)
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    labelled, _ = ndimage.label(about["array"] > BRIGHT)
    objects = ndimage.find_objects(labelled)
    boxes = np.array([[[part.start - 1, part.stop] for part in where] for where in objects], float).reshape(-1, 3, 2)
    bright = np.array([about["array"][where].max() > VERY_BRIGHT for where in objects], bool)
    found = preprocessed(boxes, about)
    found += rng.uniform(-0.7, 0.7, found.shape)
    wrong = rng.uniform(0, 8, (3, 3, 1)) + np.array([0, 4])
    boxes = restored(np.concatenate([found, wrong]), about)
    labels = np.concatenate([bright, rng.integers(0, 2, 3)])
    scores = np.concatenate([rng.uniform(0.3, 1, len(found)), rng.uniform(0.05, 0.7, 3)])
    return boxes, scores, labels, about
