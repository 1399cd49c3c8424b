import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from detpretrain.errors import InputError
from detpretrain.evaluation.ensemble import PostProcessing
from detpretrain.geometry import Geometry
from detpretrain.inference.unseen import find_cases, predict_all, predict_unseen, read_images, read_post_processing

CPU = torch.device("cpu")
OBLIQUE = (0.8, -0.6, 0.0, 0.48, 0.64, -0.6, 0.36, 0.48, 0.8)
GEOMETRY = Geometry((30, 27, 37), (1.5, 1.5, 1.5), (-31.0, 12.5, 80.0), OBLIQUE)
CORNERS, BRIGHTNESS = [(3, 5, 20), (14, 11, 2)], [0.9, 0.6]


@pytest.fixture
def volume(cubes):
    """Intensities that the plan maps to the cubes' brightness; 1 outside, so that nothing is cropped."""
    image, boxes = cubes(GEOMETRY.shape, CORNERS, BRIGHTNESS)
    return (image * 1000).round().astype(np.int16) + (image == 0).astype(np.int16), boxes


def predict(model, *arguments, min_score=0.0):
    return list(predict_all(find_cases([str(a) for a in arguments]), model, PostProcessing(), CPU, min_score))


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "scan.mha", "scan.nrrd"])
def test_any_format_gives_the_objects_where_they_are(tmp_path, write_image, cubes_model, volume, name):
    array, boxes = volume
    (found,) = predict(cubes_model, write_image(tmp_path / name, array, GEOMETRY))
    assert found.name == "scan"
    assert found.geometry.matches(GEOMETRY, 1e-4)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-6)
    np.testing.assert_allclose(found.scores, BRIGHTNESS, rtol=1e-5)
    assert found.labels.tolist() == [1, 0]


def test_a_dicom_folder_gives_the_same_as_the_file(tmp_path, write_image, write_series, cubes_model, volume):
    array, _ = volume
    file = write_image(tmp_path / "file.nii.gz", array, GEOMETRY)
    series = write_series(tmp_path / "series", array, GEOMETRY)
    from_file, from_series = predict(cubes_model, file, series)
    assert from_series.name == "series"
    assert len(from_file.scores) == 2
    np.testing.assert_allclose(from_series.boxes, from_file.boxes, atol=1e-6)
    np.testing.assert_array_equal(from_series.scores, from_file.scores)
    corners = from_file.boxes.reshape(-1, 3)
    np.testing.assert_allclose(
        from_series.geometry.index_to_world(corners), from_file.geometry.index_to_world(corners), atol=1e-3
    )


def test_cropped_and_resampled_images_come_back_to_their_own_indices(tmp_path, write_image, cubes_model):
    """A block of 4 x 4 x 4 voxels of the plan's spacing is 3 x 6 x 2 here; empty borders are cropped."""
    array = np.zeros((24, 50, 20), np.int16)
    array[4:22, 5:47, 2:18] = 1
    array[10:13, 17:23, 8:10] = 800
    write_image(tmp_path / "a.nii.gz", array, Geometry(array.shape, (2.0, 1.0, 3.0)))
    (found,) = predict(cubes_model, tmp_path / "a.nii.gz")
    assert len(found.boxes) == 1
    centre = (found.boxes[0, :3] + found.boxes[0, 3:]) / 2
    np.testing.assert_allclose(centre, [11.0, 19.5, 8.5], atol=0.05)
    np.testing.assert_allclose(
        found.boxes[0, 3:] - found.boxes[0, :3], np.array([5, 5, 5]) * 1.5 / [2, 1, 3], rtol=0.02
    )


def test_channels_are_told_apart_by_their_order(tmp_path, write_image, cubes_model, volume):
    array, boxes = volume
    model = two_channels(cubes_model)
    other = write_image(tmp_path / "case_0001.nii.gz", np.ones_like(array), GEOMETRY)
    bright = write_image(tmp_path / "case_0000.nii.gz", array, GEOMETRY)
    (found,) = predict(model, f"{bright},{other}")
    assert (found.name, found.channels) == ("case", (bright, other))
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-6)
    (found,) = predict(model, f"{other},{bright}")
    assert len(found.boxes) == 0


def two_channels(model):
    scheme = model.plan["intensity"]["scheme"] * 2
    plan = model.plan | {
        "channels": 2,
        "modalities": ["T1", "T2"],
        "intensity": {"scheme": scheme, "nonzero_mask": False},
    }
    return type(model)(model.detector, plan, model.settings, None, {})


def test_low_scores_are_left_out(tmp_path, write_image, cubes_model, volume):
    path = write_image(tmp_path / "a.nii.gz", volume[0], GEOMETRY)
    (found,) = predict(cubes_model, path, min_score=0.7)
    assert found.scores.tolist() == pytest.approx([0.9])
    assert len(found.boxes) == len(found.labels) == 1


def test_a_comma_may_be_part_of_a_name(tmp_path, write_image, volume):
    path = write_image(tmp_path / "a,b.nii.gz", volume[0], GEOMETRY)
    (case,) = find_cases([str(path)])
    assert (case.name, case.channels) == ("a,b", (path,))


def test_names(tmp_path, monkeypatch):
    (tmp_path / "series.1").mkdir()
    for name in ("x_0000.nii.gz", "x_0001.nii.gz", "v1.2.nrrd"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    cases = find_cases(["x_0000.nii.gz,x_0001.nii.gz", "x_0000.nii.gz", "v1.2.nrrd", "series.1/"])
    assert [case.name for case in cases] == ["x", "x_0000", "v1.2", "series.1"]
    assert find_cases(["."])[0].name == tmp_path.name


@pytest.mark.parametrize("where", ["a.nii.gz", "b/a.mha"])
def test_two_cases_of_one_name_are_refused(tmp_path, write_image, volume, where):
    first = write_image(tmp_path / "a.nii.gz", volume[0], GEOMETRY)
    second = write_image(tmp_path / where, volume[0], GEOMETRY)
    with pytest.raises(InputError, match="named a like"):
        find_cases([str(first), str(second)])


def refused(model, argument, words):
    with pytest.raises(InputError, match=words) as caught:
        predict(model, argument)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_images_are_one_line(tmp_path, write_image, cubes_model, volume):
    array, _ = volume
    good = write_image(tmp_path / "good.nii.gz", array, GEOMETRY)
    refused(cubes_model, tmp_path / "absent.nii.gz", r"absent\.nii\.gz: file not found")
    refused(cubes_model, f"{good},{tmp_path / 'absent.nii.gz'}", r"absent\.nii\.gz: file not found")
    refused(cubes_model, f"{good},{good}", r"2 channel\(s\), the model takes 1 \(CT\)")
    refused(two_channels(cubes_model), good, r"1 channel\(s\), the model takes 2 \(T1, T2\)")
    (tmp_path / "bad.nii.gz").write_bytes(good.read_bytes()[:-20])
    refused(cubes_model, tmp_path / "bad.nii.gz", r"bad\.nii\.gz: ")
    sitk.WriteImage(
        sitk.GetImageFromArray(np.ones((2, 5, 5, 5), np.int16), isVector=False), str(tmp_path / "4d.nii.gz")
    )
    refused(cubes_model, tmp_path / "4d.nii.gz", "4-D image")
    write_image(tmp_path / "empty.nii.gz", np.zeros_like(array), GEOMETRY)
    assert str(tmp_path / "empty.nii.gz") in refused(cubes_model, tmp_path / "empty.nii.gz", "every voxel")
    (tmp_path / "folder").mkdir()
    refused(cubes_model, tmp_path / "folder", "no DICOM series")


def test_channels_of_another_geometry_are_refused(tmp_path, write_image, cubes_model, volume):
    array, _ = volume
    first = write_image(tmp_path / "a.nii.gz", array, GEOMETRY)
    moved = Geometry(GEOMETRY.shape, GEOMETRY.spacing, (0.0, 12.5, 80.0), OBLIQUE)
    second = write_image(tmp_path / "b.nii.gz", array, moved)
    refused(two_channels(cubes_model), f"{first},{second}", r"b\.nii\.gz: lies otherwise in space .* \(origin")


def test_all_cases_are_checked_before_the_first_is_predicted(tmp_path, write_image, cubes_model, volume):
    good = write_image(tmp_path / "a.nii.gz", volume[0], GEOMETRY)
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    cases = predict_all(find_cases([str(good), str(tmp_path / "b.nii.gz")]), cubes_model, PostProcessing(), CPU, 0.0)
    with pytest.raises(InputError, match=r"b\.nii\.gz"):
        next(cases)


def test_the_post_processing_is_used(tmp_path, write_image, cubes_model, volume):
    (case,) = find_cases([str(write_image(tmp_path / "a.nii.gz", volume[0], GEOMETRY))])
    found = predict_unseen(case, cubes_model, PostProcessing(score_threshold=0.7), CPU)
    assert found.scores.tolist() == pytest.approx([0.9])


def test_post_processing_of_a_row(tmp_path):
    path = tmp_path / "postprocessing.json"
    content = {"folds": {"0": {"model_iou": 0.2}, "2": {"model_iou": 0.3}}, "test_sets": {"min_size": 4.0}}
    path.write_text(json.dumps(content))
    assert read_post_processing(path) == PostProcessing(min_size=4.0)
    assert read_post_processing(path, 2) == PostProcessing(model_iou=0.3)
    with pytest.raises(InputError, match=r"no fold 1: it has 0, 2"):
        read_post_processing(path, 1)
    for wrong in ({"folds": {}}, [1], {"folds": [3], "test_sets": {}}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=r"not a row.s postprocessing\.json"):
            read_post_processing(path, 0)
    path.write_text(json.dumps({"folds": {}, "test_sets": {"size": 1}}))
    with pytest.raises(InputError, match="unknown setting 'size'"):
        read_post_processing(path)


def test_images_are_float32_in_one_array(tmp_path, write_image, volume):
    paths = [write_image(tmp_path / f"a_000{i}.nii.gz", volume[0] + i, GEOMETRY) for i in range(2)]
    images, geometry = read_images(find_cases([",".join(map(str, paths))])[0])
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, [volume[0], volume[0] + 1])
    assert geometry.matches(GEOMETRY, 1e-4)
