"""A mini download of LIDC-IDRI: CT scans, a radiograph, XML beside the slices and in a folder of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from dicom_files import write_slices

from detpretrain.geometry import Geometry

OBLIQUE = (0.8, -0.6, 0.0, 0.48, 0.64, -0.6, 0.36, 0.48, 0.8)
TILTED = Geometry((6, 16, 18), (2.5, 0.8, 0.8), (10.0, -20.0, 5.0), OBLIQUE)
STRAIGHT = Geometry((5, 16, 16), (1.25, 0.7, 0.7), (-100.0, -110.0, -250.0))
ROOT = "1.3.6.1.4.1.14519.5.2.1.6279.6001"
FIRST, EARLY, LATE = f"{ROOT}.1", f"{ROOT}.2", f"{ROOT}.3"
BESIDE = Path("LIDC-IDRI-0001/01-01-2000-30178/3000566.000000-03192/069.xml")


def download(folder: Path, patients: int = 2) -> Path:
    """Patient 1 has a tilted scan, patient 2 an early one without nodules, a late one with one, and a film; further patients
    have a scan as the late one.
    """
    _first_patient(folder)
    _patient(folder, 2, "01-01-2000-1", EARLY, outlined=False)
    _patient(folder, 2, "01-01-2001-2", LATE)
    for number in range(3, patients + 1):
        _patient(folder, number, "01-01-2000-1", f"{ROOT}.{number}0")
    film = folder / "LIDC-IDRI-0002" / "01-01-2000-1" / "a film"
    write_slices(
        film, values(STRAIGHT, 0)[:1], STRAIGHT, f"{ROOT}.4", "LIDC-IDRI-0002", Modality="DX",
        ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None,
    )  # fmt: skip
    (film / "070.xml").write_text(
        '<IdriReadMessage xmlns="http://www.nih.gov/idri"><ResponseHeader>'
        f"<CTSeriesInstanceUid>{EARLY}</CTSeriesInstanceUid></ResponseHeader></IdriReadMessage>"
    )
    (folder / "LIDC-IDRI-0001" / "._junk.xml").write_text("not XML")
    return folder


def _first_patient(folder: Path) -> None:
    shuffled = "1-{:03d}.dcm"
    uids = write_slices(
        (folder / BESIDE).parent, values(TILTED, 1), TILTED, FIRST, "LIDC-IDRI-0001", inverted=True, slope=2, intercept=-1024,
        name=lambda number: shuffled.format(number * 5 % 7),
    )  # fmt: skip
    z = [TILTED.index_to_world([[index, 0, 0]])[0, 2] for index in range(6)]
    readers = [
        [[roi(uids[2], z[2], (3, 7), (4, 8)), roi(uids[3], z[3], (3, 7), (4, 8))]],  # columns 4-6, rows 5-7
        [
            [roi(uids[2], z[2], (4, 8), (4, 8))],
            [roi(uids[5], z[5], (10, 14), (10, 14))],
        ],  # columns 5-7; one nobody else saw
        [[roi(uids[0], z[0], (11, 15), (1, 4))]],  # columns 12-14, rows 2-3
        [[roi(uids[0], z[0], (12, 16), (1, 4))], [roi(uids[1], z[1], (2, 2), (2, 2))]],  # 13-15; no pixel inside
    ]
    (folder / BESIDE).write_text(message(FIRST, readers))


def _patient(folder: Path, number: int, date: str, series: str, outlined: bool = True) -> None:
    """A straight scan whose nodule all readers outline alike; its annotation lies elsewhere."""
    patient = f"LIDC-IDRI-{number:04d}"
    uids = write_slices(folder / patient / date / "a series", values(STRAIGHT, len(date)), STRAIGHT, series, patient)
    rois = [roi(uids[1], -248.75, (2, 6), (9, 13))] if outlined else []
    xml = folder / "LIDC-XML-only" / "tcia-lidc-xml" / "157" / f"{series.rpartition('.')[2]}58.xml"
    xml.parent.mkdir(parents=True, exist_ok=True)
    xml.write_text(message(series, [[rois] if rois else []] * 4))


def roi(uid: str, z: float, x: tuple[int, int], y: tuple[int, int], inclusion: str = "TRUE") -> str:
    """A rectangle whose outline runs through the columns ``x`` and rows ``y`` (first, last)."""
    corners = [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]
    edges = "".join(f"<edgeMap><xCoord>{a}</xCoord><yCoord>{b}</yCoord></edgeMap>" for a, b in corners)
    return (
        f"<roi><imageZposition>{z} </imageZposition><imageSOP_UID>{uid}</imageSOP_UID>"
        f"<inclusion>{inclusion}</inclusion>{edges}</roi>"
    )


def message(series: str, sessions: Sequence[Sequence[Sequence[str]]]) -> str:
    """``sessions``: for each reader the list of his nodules, each a list of rois."""
    body = "".join(
        "<readingSession><annotationVersion>3.12</annotationVersion>"
        "<servicingRadiologistID>anonymous</servicingRadiologistID>"
        + "".join(
            f"<unblindedReadNodule><noduleID>Nodule {number:03d}</noduleID>{''.join(rois)}</unblindedReadNodule>"
            for number, rois in enumerate(nodules, start=1)
        )
        + "<nonNodule><nonNoduleID>x</nonNoduleID><imageZposition>0</imageZposition><imageSOP_UID>1</imageSOP_UID>"
        "<locus><xCoord>3</xCoord><yCoord>3</yCoord></locus></nonNodule></readingSession>"
        for nodules in sessions
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader>'
        f"<Version>1.8.1</Version><SeriesInstanceUid>{series}</SeriesInstanceUid></ResponseHeader>{body}</LidcReadMessage>"
    )


def values(geometry: Geometry, seed: int) -> np.ndarray:
    return 2 * np.random.default_rng(seed).integers(-500, 500, geometry.shape).astype(np.int16)
