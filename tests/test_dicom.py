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


def test_chosen_slices_are_the_same_volume(tmp_path, array, write_series):
    folder = write_series(tmp_path / "series", array, GEOMETRY)
    (folder / "._0_000.dcm").write_text("of an archive from macOS")
    files = dicom.slice_files(folder)
    assert [file.name for file in files] != [Path(name).name for name in dicom.series_files(folder)]
    stack = dicom.stack([dicom.read_header(file) for file in files])
    assert [str(header.file) for header in stack.slices] == list(dicom.series_files(folder))
    assert list(stack.index.values()) == list(range(len(array)))
    read, geometry = dicom.read_stack(stack)
    np.testing.assert_array_equal(read, array)
    assert geometry.matches(GEOMETRY, 1e-5)
    part, geometry = dicom.read_stack(dicom.stack(stack.slices[2:5]))
    np.testing.assert_array_equal(part, array[2:5])
    np.testing.assert_allclose(geometry.origin, GEOMETRY.index_to_world([[2, 0, 0]])[0], atol=1e-5)


def test_a_header_says_what_was_written(tmp_path, array, write_series):
    folder = write_series(tmp_path / "series", array, GEOMETRY, "1.2.826.0.1.3680043.2.1125.7")
    header = dicom.read_header(folder / "7_007.dcm")  # the second slice
    assert (header.modality, header.number, header.shape) == ("CT", 2, (10, 12))
    assert (header.series, header.uid) == ("1.2.826.0.1.3680043.2.1125.7", "1.2.826.0.1.3680043.2.1125.7.2")
    np.testing.assert_allclose(header.spacing, (0.8, 0.7))
    np.testing.assert_allclose(header.position, (-31.0, 12.5 - 0.6 * 2.5, 80.0 + 0.8 * 2.5), atol=1e-6)
    np.testing.assert_allclose(header.orientation, (0.8, 0.48, 0.36, -0.6, 0.64, 0.48), atol=1e-6)


def test_one_slice_is_no_stack(tmp_path, array, write_series):
    folder = write_series(tmp_path / "series", array, GEOMETRY)
    with pytest.raises(InputError, match="1 slices are no volume: complete the series"):
        dicom.stack([dicom.read_header(folder / "7_007.dcm")])


def test_what_is_no_dicom_file_is_one_line(tmp_path):
    (tmp_path / "a.dcm").write_text("something else")
    with pytest.raises(InputError, match=r"a\.dcm: not a readable DICOM slice .*: download the file again") as caught:
        dicom.read_header(tmp_path / "a.dcm")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"b\.dcm: not a readable DICOM slice"):
        dicom.read_header(tmp_path / "b.dcm")
