from pathlib import Path

import numpy as np
import pytest

from detpretrain import dicom
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry

OBLIQUE = (0.8, -0.6, 0.0, 0.48, 0.64, -0.6, 0.36, 0.48, 0.8)
GEOMETRY = Geometry((9, 10, 12), (2.5, 0.8, 0.7), (-31.0, 12.5, 80.0), OBLIQUE)


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(-1000, 1000, GEOMETRY.shape).astype(np.int16)


def test_a_series_is_the_volume_it_was_written_from(tmp_path, array, write_series, capfd):
    folder = write_series(tmp_path / "series", array, GEOMETRY)
    (folder / "notes.txt").write_text("not an image")
    read, geometry = dicom.read_series(folder)
    np.testing.assert_array_equal(read, array)
    assert geometry.matches(GEOMETRY, 1e-5)
    assert capfd.readouterr().err == ""


def test_several_series_are_listed(tmp_path, array, write_series):
    for uid in ("1.2.3.4", "1.2.3.5"):
        write_series(tmp_path, array, GEOMETRY, uid)
    with pytest.raises(InputError, match=r"2 series \(1\.2\.3\.4, 1\.2\.3\.5\): give a folder with one"):
        dicom.read_series(tmp_path)


def test_no_series_is_one_line(tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(InputError, match="no DICOM series"):
        dicom.read_series(tmp_path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("index", [1, 4, 7])
def test_a_missing_slice_is_refused(tmp_path, array, write_series, index, capfd):
    folder = write_series(tmp_path / "series", array, GEOMETRY)
    Path(dicom.series_files(folder)[index]).unlink()
    with pytest.raises(InputError, match="off an even stack"):
        dicom.read_series(folder)
    assert capfd.readouterr().err == ""


def test_a_tilted_gantry_is_refused(tmp_path, array, write_series):
    folder = write_series(tmp_path / "series", array, GEOMETRY, shear=0.4)
    with pytest.raises(InputError, match=r"up to 3\.2. mm off an even stack"):
        dicom.read_series(folder)


def test_a_damaged_slice_is_one_line(tmp_path, array, write_series):
    folder = write_series(tmp_path / "series", array, GEOMETRY)
    file = Path(dicom.series_files(folder)[3])
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(InputError, match="series") as caught:
        dicom.read_series(folder)
    assert "\n" not in str(caught.value)
