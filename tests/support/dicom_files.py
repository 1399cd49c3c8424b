"""DICOM series written slice by slice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.valuerep import format_number_as_ds

from detpretrain.geometry import Geometry


def write_slices(
    folder: Path,
    array: np.ndarray,
    geometry: Geometry,
    series: str,
    patient: str,
    *,
    inverted: bool = False,
    slope: int = 1,
    intercept: int = 0,
    name: Callable[[int], str] = "1-{:03d}.dcm".format,
    **tags: Any,
) -> list[str]:
    """Writes an array [D, H, W] of whole multiples of ``slope`` as the 16-bit slices of a series.

    Their names are not in the order of the stack, and their instance numbers run against it with ``inverted``. Returns the SOP
    instance uids along the stack; ``tags``: more header fields, None removes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    matrix = np.reshape(geometry.direction, (3, 3))
    uids = []
    for index, pixels in enumerate(array):
        number = len(array) - index if inverted else index + 1
        position = geometry.index_to_world([[index, 0, 0]])[0]
        dataset = pydicom.Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"{series}.{index + 1}"
        dataset.Modality, dataset.PatientID = "CT", patient
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{series}.900", series
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [format_number_as_ds(float(v)) for v in position]
        dataset.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in (*matrix[:, 0], *matrix[:, 1])]
        dataset.PixelSpacing, dataset.SliceThickness = list(geometry.spacing[1:]), geometry.spacing[0]
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.PixelData = ((pixels - intercept) // slope).astype("<i2").tobytes()
        for key, value in tags.items():
            if value is None:
                delattr(dataset, key)
            else:
                setattr(dataset, key, value)
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.save_as(folder / name(number), enforce_file_format=True)
        uids.append(dataset.SOPInstanceUID)
    return uids
