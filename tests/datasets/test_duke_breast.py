"""A mini download of Duke-Breast-Cancer-MRI: three patients whose series are stored in three ways, and both sheets."""

import json
import pickle
import shutil
import zipfile

import numpy as np
import openpyxl
import pydicom
import pytest
from downloads.duke_breast import (
    BOXES,
    LINES,
    MAPPING,
    PHASES,
    SHIFTED,
    STRAIGHT,
    TILTED,
    UID,
    download,
    series,
    values,
    write_sheet,
)

from detpretrain import volumes
from detpretrain.datasets.duke_breast import DukeBreast
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.tasks import Task

ENTRY = {
    "class": "detpretrain.datasets.duke_breast.DukeBreast",
    "splits": {"folds": 3, "seed": 0},
    "allow_partial": True,
}
BOX_COLUMNS = ["z1", "y1", "x1", "z2", "y2", "x2"]


def change_sheet(path, change):
    """Saves a sheet again with ``change`` made to its lines (lists; the first are the columns)."""
    lines = [list(row) for row in openpyxl.load_workbook(path).active.iter_rows(values_only=True)]
    lines = change(lines) or lines
    write_sheet(path, lines[0], lines[1:])


@pytest.fixture
def raw(tmp_path):
    return download(tmp_path / "raw")


@pytest.fixture
def run(raw, tmp_path):
    def prepared(**entry):
        prepare("duke_breast", {**ENTRY, "raw": str(raw), **entry}, tmp_path / "task")
        return Task.read(tmp_path / "task")

    return prepared


def folder_of(raw, patient, phase):
    found = [path for path in raw.rglob("*.dcm") if pydicom.dcmread(path).SeriesInstanceUID == series(patient, phase)]
    return found[0].parent


def log(task):
    lines = (task.root / "conversion.csv").read_text().splitlines()
    return {line.split(",")[0]: line for line in lines[1:]}


def test_the_whole_task(run):
    task = run()
    assert task.labels == {0: "tumour"}
    assert list(task.modalities.values()) == list(PHASES)
    assert task.cases() == list(LINES)
    assert task.case_table()["objects_0"].tolist() == [1, 1, 1]
    assert sorted(fold["val"] for fold in task.folds()) == [[patient] for patient in LINES]
    content = json.loads((task.root / "dataset.json").read_text())
    assert content["licence"] == "CC BY-NC 4.0"
    assert "Saha" in content["citation"]
    assert "cancerimagingarchive" in content["download"]


def test_boxes(run):
    task = run()
    objects = task.objects().set_index("case")
    # slices 2-3, rows 10-12, columns 4-9 of five slices in the order of the stack: voxels 1-2, 9-11, 3-8
    assert objects.loc["Breast_MRI_001", BOX_COLUMNS].tolist() == [0, 8, 2, 3, 12, 9]
    # slices 1-2 of five that are counted from above: voxels 3-4
    assert objects.loc["Breast_MRI_002", BOX_COLUMNS].tolist() == [2, 3, 0, 5, 5, 16]
    assert objects.loc["Breast_MRI_003", BOX_COLUMNS].tolist() == [3, 1, 4, 5, 8, 7]
    expected = np.zeros(TILTED.shape)
    expected[1:3, 9:12, 3:9] = 1
    instances, geometry = volumes.read(task.label_path("Breast_MRI_001"))
    np.testing.assert_array_equal(instances, expected)
    # (z, y, x) = (0, 8, 2): origin + 4 (-.6, .64, .48) + 1 (.8, .48, .36); (3, 12, 9): + 6 (0, -.6, .8) + 6 y + 4.5 x
    world = geometry.index_to_world([[0, 8, 2], [3, 12, 9]])
    np.testing.assert_allclose(world, [[8.4, -16.96, 7.28], [10.0, -17.6, 14.3]], atol=1e-4)
    notes = log(task)
    assert "slice numbers run against the stack: the box is mirrored in z" in notes["Breast_MRI_002"]
    assert notes["Breast_MRI_001"].endswith(",")


def test_four_channels_on_one_grid(run):
    task = run()
    for seed, path in enumerate(task.image_paths("Breast_MRI_001")):
        array, geometry = volumes.read(path)
        np.testing.assert_array_equal(array, 3 * values(TILTED, seed) - 7)
        assert geometry.matches(TILTED, 1e-4)
    for seed, path in enumerate(task.image_paths("Breast_MRI_003")):
        np.testing.assert_array_equal(volumes.read(path)[0], values(STRAIGHT, seed))
    images = [volumes.read(path) for path in task.image_paths("Breast_MRI_002")]
    assert all(geometry.matches(STRAIGHT, 1e-4) for _, geometry in images)
    np.testing.assert_array_equal(images[3][0], values(STRAIGHT, 3))
    source = values(SHIFTED, 2)
    expected = np.full(STRAIGHT.shape, source.min(), np.float32)
    expected[2:] = source[:-2]
    expected[2:, :, 1:] = 0.75 * source[:-2, :, 1:] + 0.25 * source[:-2, :, :-1]
    np.testing.assert_allclose(images[2][0], expected, atol=0.5)  # the positions are written with 16 characters
    assert "post_2 resampled onto the grid of pre (origin (-99.825" in log(task)["Breast_MRI_002"]


def test_fewer_channels_in_their_own_order(run):
    task = run(channels=["post_2", "pre"])
    assert list(task.modalities.values()) == ["post_2", "pre"]
    array, geometry = volumes.read(task.image_paths("Breast_MRI_002")[0])
    np.testing.assert_array_equal(array, values(SHIFTED, 2))
    assert geometry.matches(SHIFTED, 1e-4)
    assert "pre resampled onto the grid of post_2" in log(task)["Breast_MRI_002"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": []}, r"channels: \[\]: name each phase once"),
        ({"channels": ["pre", "pre"]}, "name each phase once, such as pre, post_1"),
        ({"slice_numbers": "random"}, "slice_numbers: random: give agree, mapping or instance"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        DukeBreast(**arguments)


def test_a_phase_that_does_not_overlap_is_refused(raw, run):
    for path in folder_of(raw, "Breast_MRI_002", "post_2").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient = [900, *dataset.ImagePositionPatient[1:]]
        dataset.save_as(path)
    with pytest.raises(InputError, match=r"post_2-12345: does not overlap with the first phase: .*exclude_cases"):
        run()


def turn_instance_numbers(raw, patient="Breast_MRI_001"):
    for path in folder_of(raw, patient, "pre").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = 6 - dataset.InstanceNumber
        dataset.save_as(path)


def test_mapping_and_instance_numbers_must_agree(raw, run):
    turn_instance_numbers(raw)
    with pytest.raises(
        InputError, match="another order than their instance numbers: choose with slice_numbers: mapping"
    ):
        run()
    objects = run(slice_numbers="mapping").objects().set_index("case")
    assert objects.loc["Breast_MRI_001", BOX_COLUMNS].tolist() == [0, 8, 2, 3, 12, 9]
    objects = run(slice_numbers="instance").objects().set_index("case")
    assert objects.loc["Breast_MRI_001", BOX_COLUMNS].tolist() == [1, 8, 2, 4, 12, 9]  # slices 2-3 from above


def test_names_of_another_download_tool(raw, run):
    for number, path in enumerate(sorted(folder_of(raw, "Breast_MRI_002", "pre").glob("*.dcm"))):
        path.rename(path.with_name(f"{number * 3 % 5}f3ab.dcm"))
    task = run()
    assert task.objects().set_index("case").loc["Breast_MRI_002", BOX_COLUMNS].tolist() == [2, 3, 0, 5, 5, 16]
    assert "slices counted by instance number" in log(task)["Breast_MRI_002"]
    with pytest.raises(InputError, match="slices without numbers: choose another slice_numbers"):
        run(slice_numbers="mapping")


def test_slice_numbers_that_jump_are_refused(raw, run):
    folder = folder_of(raw, "Breast_MRI_001", "pre")
    for path, number in zip(sorted(folder.glob("*.dcm")), (1, 3, 2, 4, 5), strict=True):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = number
        dataset.save_as(path)
    with pytest.raises(InputError, match="slice numbers run neither up nor down the stack: exclude the case"):
        run(slice_numbers="instance")


def test_missing_instance_numbers_leave_the_mapping(raw, run):
    for path in folder_of(raw, "Breast_MRI_002", "pre").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        del dataset.InstanceNumber
        dataset.save_as(path)
    objects = run().objects().set_index("case")
    assert objects.loc["Breast_MRI_002", BOX_COLUMNS].tolist() == [2, 3, 0, 5, 5, 16]


def test_other_numbers_than_published(raw, run):
    with pytest.raises(InputError, match=r"duke_breast: cases: 3 found, 922 published: .*allow-partial"):
        run(allow_partial=False)
    shutil.rmtree(next(raw.rglob("Breast_MRI_003")))
    with pytest.raises(InputError, match=r"2 found, 922 published; 1 listed, not found: Breast_MRI_003: complete"):
        run(allow_partial=False)
    assert run(splits={"folds": 2}).cases() == ["Breast_MRI_001", "Breast_MRI_002"]


def cell(name, line, column, value):
    def damage(raw):
        def change(lines):
            lines[line][column] = value

        change_sheet(raw / name, change)

    return damage


def no_sheet(name):
    return lambda raw: (raw / name).unlink()


def no_workbook(name):
    return lambda raw: (raw / name).write_text("Patient ID,Start Row")


def damaged_workbook(raw):
    """One byte in the middle of the compressed sheet."""
    path = raw / MAPPING
    content = bytearray(path.read_bytes())
    place = content.find(b"xl/worksheets/sheet1.xml") + 200
    content[place : place + 50] = bytes(50)
    path.write_bytes(content)


def damaged_end(raw):
    """The same near its end, which is reached after many good lines."""
    path = raw / MAPPING
    with zipfile.ZipFile(path) as archive:
        sheet = archive.getinfo("xl/worksheets/sheet1.xml")
    content = bytearray(path.read_bytes())
    place = sheet.header_offset + sheet.compress_size - 60
    content[place : place + 50] = bytes(50)
    path.write_bytes(content)


def empty(name):
    return lambda raw: change_sheet(raw / name, lambda lines: lines[:1])


def no_line(raw):
    change_sheet(raw / BOXES, lambda lines: lines[:2] + lines[3:])


def line_twice(raw):
    change_sheet(raw / BOXES, lambda lines: [*lines, lines[1]])


def without_phase(raw):
    change_sheet(raw / MAPPING, lambda lines: [line for line in lines if "002/post_3" not in line[0]])


def no_series(raw):
    shutil.rmtree(folder_of(raw, "Breast_MRI_002", "post_1"))


def slice_missing(raw):
    next(folder_of(raw, "Breast_MRI_001", "post_1").glob("1-04.dcm")).unlink()


def other_names(patient, phase, last):
    """Names of another download tool, and ``last`` files of the series."""

    def damage(raw):
        for number, path in enumerate(sorted(folder_of(raw, patient, phase).glob("*.dcm")), start=1):
            path.rename(path.with_name(f"{number}f.dcm")) if number <= last else path.unlink()

    return damage


def slice_too_much(raw):
    folder = folder_of(raw, "Breast_MRI_003", "post_2")
    shutil.copy(folder / "1-001.dcm", folder / "1-099.dcm")


def series_twice(raw):
    folder = folder_of(raw, "Breast_MRI_001", "pre")
    shutil.copytree(folder, folder.with_name("again"))


def damaged_header(raw):
    path = folder_of(raw, "Breast_MRI_001", "pre") / "1-01.dcm"
    path.write_bytes(path.read_bytes()[:90])


def two_series_of_a_phase(raw):
    def change(lines):
        lines[1][1] = lines[1][1].replace(f"{UID}.1.0", f"{UID}.1.44")

    change_sheet(raw / MAPPING, change)


def two_numbers_of_a_file(raw):
    def change(lines):
        lines[1][1] = lines[2][1]

    change_sheet(raw / MAPPING, change)


def numbers_from_zero(raw):
    def change(lines):
        for line in lines[1:6]:
            line[0] = f"{line[0][:-7]}{int(line[0][-7:-4]) - 1:03d}.dcm"

    change_sheet(raw / MAPPING, change)


def no_patients(raw):
    shutil.rmtree(raw / "manifest-1")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_sheet(BOXES), r"Annotation_Boxes\.xlsx: sheet not found: download it"),
        (no_sheet(MAPPING), r"mapping\.xlsx: sheet not found: download it"),
        (no_workbook(BOXES), r"Annotation_Boxes\.xlsx: not an Excel workbook .*: download the sheet again"),
        (damaged_workbook, r"mapping\.xlsx: not an Excel workbook .*: download the sheet again"),
        (damaged_end, r"mapping\.xlsx: damaged .*: download the sheet again"),
        (empty(BOXES), r"Annotation_Boxes\.xlsx: no lines below the header: download"),
        (empty(MAPPING), r"mapping\.xlsx: no lines below the header: download"),
        (cell(BOXES, 0, 3, "First Column"), r"Annotation_Boxes\.xlsx: no column Start Column: download"),
        (cell(MAPPING, 0, 1, "path"), r"mapping\.xlsx: no column classic_path: download"),
        (cell(BOXES, 1, 0, "MRI 1"), r"Annotation_Boxes\.xlsx: line 2: patient id 'MRI 1': download"),
        (cell(BOXES, 1, 2, 9), r"line 2: Breast_MRI_001: .* are no first and last slice, row and column from 1: download"),
        (cell(BOXES, 1, 1, 0), r"line 2: Breast_MRI_001: .* are no first and last slice"),
        (cell(BOXES, 1, 1, 9.5), r"line 2: Breast_MRI_001: .* are no first and last slice"),
        (cell(BOXES, 1, 1, None), r"line 2: Breast_MRI_001: .* are no first and last slice"),
        (cell(BOXES, 1, 2, 17), r"Annotation_Boxes\.xlsx: Breast_MRI_001: End Row 17, but there are 16: .*exclude_cases"),
        (cell(BOXES, 1, 4, 19), r"Breast_MRI_001: End Column 19, but there are 18: .*exclude_cases"),
        (cell(BOXES, 1, 6, 6), r"Breast_MRI_001: End Slice 6, but there are 5: .*exclude_cases"),
        (cell(MAPPING, 3, 0, "pre/3.dcm"), r"mapping\.xlsx: line 4: not a patient's file: 'pre/3.dcm', .*: download"),
        (no_line, r"Breast_MRI_002: Breast_MRI_002 has no line in Annotation_Boxes\.xlsx: .*exclude_cases"),
        (line_twice, r"Annotation_Boxes\.xlsx: line 5: Breast_MRI_001 comes twice: keep one line"),
        (without_phase, r"mapping\.xlsx: Breast_MRI_002 has no phase post_3: choose fewer channels, .*exclude_cases"),
        (no_series, r"Breast_MRI_002: no series \S+ \(phase post_1\) in it: complete the download"),
        (slice_missing, r"phase post_1: 1 of the 5 files that .* lists are missing: complete the download"),
        (other_names("Breast_MRI_001", "post_1", 4), r"phase post_1: 5 of the 5 files that .* lists are missing: complete"),
        (other_names("Breast_MRI_003", "post_2", 5), r"phase post_1: 5 of the 5 files that .* lists are missing: complete"),
        (slice_too_much, r"phase post_1: 1 files that .* does not list, such as 1-099\.dcm: complete the download"),
        (series_twice, r"series \S+ is also in .*: keep one of the two folders"),
        (damaged_header, r"1-01\.dcm: not a readable DICOM slice .*: download the file again"),
        (two_series_of_a_phase, r"phase pre of Breast_MRI_001 lies in 2 series: download the sheet again, .*exclude_cases"),
        (two_numbers_of_a_file, r"mapping\.xlsx: line 3: Breast_MRI_001: a file of pre has two slice numbers: download"),
        (numbers_from_zero, r"phase pre of Breast_MRI_001 has slice numbers that are not 1, 2, 3, .*exclude_cases"),
        (no_patients, r"raw: no folder Breast_MRI_XXX in it: point raw: at"),
    ],
)  # fmt: skip
def test_every_defect_of_the_download_is_named(raw, run, damage, message):
    damage(raw)
    with pytest.raises(InputError, match=message):
        run()


@pytest.mark.parametrize("damage", [no_line, without_phase, no_series, cell(BOXES, 2, 2, 17)])
def test_a_defective_case_can_be_excluded(raw, run, damage):
    damage(raw)
    task = run(exclude_cases={"Breast_MRI_002": "defective"}, splits={"folds": 2})
    assert task.cases() == ["Breast_MRI_001", "Breast_MRI_003"]


def test_cases_travel_to_worker_processes(raw):
    source = DukeBreast()
    cases = source.layout(raw).cases
    again, case = pickle.loads(pickle.dumps((source, cases[1])))
    np.testing.assert_array_equal(again.convert(case).images[0], source.convert(cases[1]).images[0])
