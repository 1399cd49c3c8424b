import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from detpretrain import volumes
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry

GEOMETRY = Geometry((12, 20, 24), (2.0, 1.4, 0.7), (-5.0, 6.0, 7.5), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))


def _noise(dtype=np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, GEOMETRY.shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32, np.float32])
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "a.nii.gz"
    volumes.write(path, _noise(dtype), GEOMETRY)
    array, geometry = volumes.read(path)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, _noise(dtype))
    assert geometry.matches(GEOMETRY, 1e-5)
    assert geometry.spacing == (2.0, 1.4, 0.7)
    assert volumes.read_geometry(path) == geometry
    assert volumes.is_integer(path) == (dtype != np.float32)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


def test_booleans_become_integers(tmp_path):
    volumes.write(tmp_path / "m.nii.gz", _noise() > 0, GEOMETRY)
    array, _ = volumes.read(tmp_path / "m.nii.gz")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, _noise() > 0)


def test_other_formats_are_read(tmp_path):
    image = sitk.GetImageFromArray(_noise())
    GEOMETRY.apply_to(image)
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    array, geometry = volumes.read(tmp_path / "a.mha")
    np.testing.assert_array_equal(array, _noise())
    assert geometry.matches(GEOMETRY)


def test_array_and_geometry_must_agree(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        volumes.write(tmp_path / "a.nii.gz", _noise()[:-1], GEOMETRY)
    assert not list(tmp_path.iterdir())


def _damaged(tmp_path, how: str):
    path = tmp_path / "bad.nii.gz"
    volumes.write(path, _noise(), GEOMETRY)
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "flipped checksum":
        content[-6] ^= 0x55
    elif how == "header only":
        content = bytearray(gzip.compress(gzip.decompress(bytes(content))[:352]))
    elif how == "not an image":
        content = bytearray(b"<html>404</html>" * 50)
    elif how == "empty":
        content = bytearray()
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("how", ["truncated", "flipped checksum", "not an image", "empty", "header only"])
def test_damaged_files_give_one_line(tmp_path, how):
    path = _damaged(tmp_path, how)
    with pytest.raises(InputError) as caught:
        volumes.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert message.endswith("again")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mha"])
def test_values_that_are_not_finite(tmp_path, name):
    array = _noise(np.float32)
    array[-1, -1, -3:] = np.nan, np.inf, -np.inf
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
    with pytest.raises(InputError, match="3 voxels are NaN or infinite"):
        volumes.read(tmp_path / name)


def test_truncated_without_compression(tmp_path):
    path = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(_noise()), str(path))
    np.testing.assert_array_equal(volumes.read(path)[0], _noise())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="100 bytes are missing"):
        volumes.read(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="file not found"):
        volumes.read(tmp_path / "none.nii.gz")


def test_four_dimensions_and_vectors_are_refused(tmp_path):
    series = np.zeros((2, 4, 5, 6), np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(series, isVector=False), str(tmp_path / "series.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(series, isVector=True), str(tmp_path / "vector.nii.gz"))
    with pytest.raises(InputError, match="4-D image"):
        volumes.read_geometry(tmp_path / "series.nii.gz")
    with pytest.raises(InputError, match="values per voxel"):
        volumes.read_geometry(tmp_path / "vector.nii.gz")
