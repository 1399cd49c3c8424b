"""A mini download of LIDC-IDRI: two patients, three CT scans, a radiograph, XML beside the slices and in a folder of its own."""

import json
import pickle
import re
import shutil

import numpy as np
import pydicom
import pytest
from downloads.lidc import BESIDE, EARLY, FIRST, LATE, TILTED, download, message, roi, values

from detpretrain import volumes
from detpretrain.datasets.lidc import Lidc
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.lidc.Lidc", "splits": {"folds": 2, "seed": 0}, "allow_partial": True}


@pytest.fixture
def raw(tmp_path):
    return download(tmp_path / "raw")


@pytest.fixture
def run(raw, tmp_path):
    def prepared(**entry):
        prepare("lidc", {**ENTRY, "raw": str(raw), **entry}, tmp_path / "task")
        return Task.read(tmp_path / "task")

    return prepared


def log(task):
    lines = (task.root / "conversion.csv").read_text().splitlines()
    return {line.split(",")[0]: line for line in lines[1:]}


def boxes(task, case):
    return task.objects().query("case == @case")[["z1", "y1", "x1", "z2", "y2", "x2"]].to_numpy().tolist()


def test_the_whole_task(run):
    task = run()
    assert task.labels == {0: "nodule"}
    assert task.modalities == {0: "CT"}
    assert task.cases() == ["LIDC-IDRI-0001", "LIDC-IDRI-0002_1", "LIDC-IDRI-0002_2"]
    table = task.case_table().set_index("case")
    assert table["patient"].tolist() == ["LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0002"]
    assert table["source_id"].tolist() == [FIRST, EARLY, LATE]
    assert table["objects_0"].tolist() == [2, 0, 1]
    folds = [set(fold["val"]) for fold in task.folds()]
    assert sorted(map(sorted, folds)) == [["LIDC-IDRI-0001"], ["LIDC-IDRI-0002_1", "LIDC-IDRI-0002_2"]]
    content = json.loads((task.root / "dataset.json").read_text())
    assert content["licence"] == "CC BY 3.0"
    assert "Armato" in content["citation"]
    assert "cancerimagingarchive" in content["download"]


def test_images_are_in_hounsfield_units_along_the_stack(run):
    task = run()
    (path,) = task.image_paths("LIDC-IDRI-0001")
    array, geometry = volumes.read(path)
    np.testing.assert_array_equal(array, values(TILTED, 1))
    assert geometry.matches(TILTED, 1e-4)


def test_boxes_of_what_two_readers_agree_on(run):
    task = run()
    first = boxes(task, "LIDC-IDRI-0001")
    # slice 2, rows 5-7, columns 5-6; slice 0, rows 2-3, columns 13-14
    assert first == [[1, 4, 4, 3, 8, 7], [-1, 1, 12, 1, 4, 15]]
    instances, geometry = volumes.read(task.label_path("LIDC-IDRI-0001"))
    expected = np.zeros(TILTED.shape)
    expected[2, 5:8, 5:7] = 1
    expected[0, 2:4, 13:15] = 2
    np.testing.assert_array_equal(instances, expected)
    # corner (z, y, x) = (1, 4, 4): origin + 2.5 (0, -.6, .8) + 3.2 (-.6, .64, .48) + 3.2 (.8, .48, .36)
    np.testing.assert_allclose(geometry.index_to_world(first[0][:3]), [[10.64, -17.916, 9.688]], atol=1e-4)
    # corner (3, 8, 7): origin + 7.5 (0, -.6, .8) + 6.4 (-.6, .64, .48) + 5.6 (.8, .48, .36)
    np.testing.assert_allclose(geometry.index_to_world(first[0][3:]), [[10.64, -17.716, 16.088]], atol=1e-4)
    assert boxes(task, "LIDC-IDRI-0002_2") == [[0, 9, 2, 2, 13, 6]]
    notes = log(task)
    assert "1 nodules of fewer than 2 readers left out" in notes["LIDC-IDRI-0001"]
    assert "1 outlines without a pixel inside left out" in notes["LIDC-IDRI-0001"]
    assert notes["LIDC-IDRI-0002_2"].endswith(",")


def test_every_reader_alone_or_three_of_them(run):
    assert len(boxes(run(min_readers=1), "LIDC-IDRI-0001")) == 3
    task = run(min_readers=3)
    assert boxes(task, "LIDC-IDRI-0001") == []
    assert boxes(task, "LIDC-IDRI-0002_2") == [[0, 9, 2, 2, 13, 6]]
    with pytest.raises(InputError, match="min_readers: 5: give a number from 1 to 4"):
        run(min_readers=5)


def test_readers_who_only_touch_leave_no_nodule(raw, run):
    uid = f"{LATE}.2"
    sides = [[[roi(uid, -248.75, (2, 5), (9, 13))]], [[roi(uid, -248.75, (4, 8), (9, 13))]]]  # columns 3-4 and 5-7
    (raw / "LIDC-XML-only/tcia-lidc-xml/157/358.xml").write_text(message(LATE, sides))
    task = run()
    assert boxes(task, "LIDC-IDRI-0002_2") == []
    assert "1 nodules without a voxel that most of their readers agree on left out" in log(task)["LIDC-IDRI-0002_2"]


def test_two_marks_of_a_reader_within_another_ones_are_one_nodule(raw, run):
    uid = f"{LATE}.2"
    parts = [[roi(uid, -248.75, (1, 4), (4, 8))], [roi(uid, -248.75, (6, 9), (4, 8))]]  # columns 2-3 and 7-8
    whole = [[roi(uid, -248.75, (1, 9), (4, 8))]]
    (raw / "LIDC-XML-only/tcia-lidc-xml/157/358.xml").write_text(message(LATE, [parts, whole]))
    task = run()
    assert boxes(task, "LIDC-IDRI-0002_2") == [[0, 4, 1, 2, 8, 9]]
    assert (volumes.read(task.label_path("LIDC-IDRI-0002_2"))[0] > 0).sum() == 3 * (2 + 2)
    assert "3 marks of 2 readers joined to one nodule" in log(task)["LIDC-IDRI-0002_2"]
    assert boxes(run(min_readers=3), "LIDC-IDRI-0002_2") == []  # marks are not readers


def test_a_small_nodule_inside_a_large_one_of_the_same_reader_stays_visible(raw, run):
    uid = f"{LATE}.2"
    large, small = roi(uid, -248.75, (1, 14), (1, 14)), roi(uid, -248.75, (5, 9), (5, 9))
    for nodules in ([[small], [large]], [[large], [small]]):
        (raw / "LIDC-XML-only/tcia-lidc-xml/157/358.xml").write_text(message(LATE, [nodules]))
        task = run(min_readers=1)
        assert sorted(boxes(task, "LIDC-IDRI-0002_2")) == [[0, 1, 1, 2, 14, 14], [0, 5, 5, 2, 9, 9]]
        counts = np.unique(volumes.read(task.label_path("LIDC-IDRI-0002_2"))[0], return_counts=True)[1]
        assert sorted(counts[1:]) == [3 * 3, 12 * 12 - 3 * 3]


def test_slices_are_found_by_position_where_the_uid_is_unknown(raw, run):
    xml = raw / "LIDC-XML-only/tcia-lidc-xml/157/358.xml"
    text = xml.read_text()
    xml.write_text(text.replace(f"{LATE}.2", "1.2.3"))
    task = run()
    assert boxes(task, "LIDC-IDRI-0002_2") == [[0, 9, 2, 2, 13, 6]]
    assert "1 annotated slices with unknown SOP instance uid found by z position" in log(task)["LIDC-IDRI-0002_2"]
    xml.write_text(text.replace("-248.75", "-246.0"))  # two slices up, but the uid is known
    task = run()
    assert boxes(task, "LIDC-IDRI-0002_2") == [[0, 9, 2, 2, 13, 6]]
    assert "1 annotated slices have another z position in the XML" in log(task)["LIDC-IDRI-0002_2"]
    xml.write_text(text.replace(f"{LATE}.2", "1.2.3").replace("-248.75", "-251.0"))  # 1 mm below the lowest
    message = r"358\.xml: slice 1\.2\.3 \(z = -251\.0 mm\) is not in the series: .*exclude_cases"
    with pytest.raises(InputError, match=message):
        run()


def copied(raw, change):
    """A second file of slice 2 of patient 1, with ``change`` made to it."""
    folder = (raw / BESIDE).parent
    source = next(path for path in folder.glob("*.dcm") if pydicom.dcmread(path).SOPInstanceUID == f"{FIRST}.3")
    dataset = pydicom.dcmread(source)
    change(dataset)
    dataset.save_as(folder / "9-999.dcm")
    return folder


def test_an_exact_copy_of_a_slice_is_left_out(raw, run):
    copied(raw, lambda dataset: setattr(dataset, "SOPInstanceUID", f"{FIRST}.77"))
    (raw / BESIDE).write_text(
        (raw / BESIDE).read_text().replace(f"{FIRST}.3<", f"{FIRST}.77<")
    )  # the XML names the copy
    task = run()
    assert boxes(task, "LIDC-IDRI-0001")[0] == [1, 4, 4, 3, 8, 7]
    assert volumes.read_geometry(task.image_paths("LIDC-IDRI-0001")[0]).shape == TILTED.shape
    assert re.search(r"left out: a copy of \S+\.dcm", log(task)["LIDC-IDRI-0001"])


def test_another_slice_at_the_same_position_is_refused_unless_allowed(raw, run):
    def change(dataset):
        dataset.SOPInstanceUID, dataset.InstanceNumber = f"{FIRST}.77", 1
        dataset.PixelData = bytes(len(dataset.PixelData))

    copied(raw, change)
    with pytest.raises(InputError, match=r"other pixels \(doubled slice\): remove the wrong one, .*exclude_cases"):
        run()
    task = run(allow=["doubled_slices"])  # number 1 is lower than that of the right one
    image = volumes.read(task.image_paths("LIDC-IDRI-0001")[0])[0]
    assert (image[2] == -1024).all()
    np.testing.assert_array_equal(image[3], values(TILTED, 1)[3])
    assert "same position as 9-999.dcm, other pixels" in log(task)["LIDC-IDRI-0001"]
    with pytest.raises(InputError, match="allow: tilt: the only thing that can be allowed is doubled_slices"):
        Lidc(allow=["tilt"])


def test_a_scan_with_a_gap_is_named_and_can_be_excluded(raw, run):
    (raw / "LIDC-IDRI-0002" / "01-01-2000-1" / "a series" / "1-002.dcm").unlink()
    with pytest.raises(InputError, match=r"LIDC-IDRI-0002_1: .*off an even stack .*exclude_cases"):
        run()
    task = run(exclude_cases={"LIDC-IDRI-0002_1": "a slice is missing"})
    assert task.cases() == ["LIDC-IDRI-0001", "LIDC-IDRI-0002_2"]


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        ("SeriesInstanceUID", "1.2.3", "2 series .*: put each into a folder of its own"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0, -1], "9-999.dcm: other orientation than .*scout"),
        ("PixelSpacing", [0.8, 0.9], "9-999.dcm: other size or pixel spacing than"),
        (
            "ImagePositionPatient",
            None,
            "9-999.dcm: no image, position, orientation or spacing: download the file again",
        ),
        ("ImagePositionPatient", [0, 0, 99], "9-999.dcm: another slice has its SOP instance uid: download"),
    ],
)
def test_a_strange_slice_is_named(raw, tag, value, message):
    def change(dataset):
        if value is None:
            delattr(dataset, tag)
        else:
            setattr(dataset, tag, value)

    copied(raw, change)
    source = Lidc()
    case = source.layout(raw).cases[0]
    with pytest.raises(InputError, match=message):
        source.convert(case)


def test_other_numbers_than_published(run):
    with pytest.raises(
        InputError, match=r"lidc: cases: 3 found, 1018 published: complete the download .*allow-partial"
    ):
        run(allow_partial=False)
    assert len(run(allow_partial=True).cases()) == 3


def test_an_annotation_whose_scan_is_missing(raw, run):
    shutil.rmtree(raw / "LIDC-IDRI-0002" / "01-01-2001-2")
    with pytest.raises(InputError, match=rf"2 found, 1018 published; 1 listed, not found: 358\.xml \(series {LATE}\)"):
        run(allow_partial=False)
    assert run().cases() == ["LIDC-IDRI-0001", "LIDC-IDRI-0002"]  # his only scan now


def no_xml(raw):
    (raw / BESIDE).unlink()


def damaged_xml(raw):
    (raw / BESIDE).write_text((raw / BESIDE).read_text()[:-20])


def two_readings(raw):
    (raw / "LIDC-XML-only" / "069.xml").write_text((raw / BESIDE).read_text().replace("Nodule 001", "Nodule 7"))


def damaged_header(raw):
    path = sorted((raw / BESIDE).parent.glob("*.dcm"))[0]
    path.write_bytes(path.read_bytes()[:100])


def other_collection(raw):
    path = sorted((raw / BESIDE).parent.glob("*.dcm"))[0]
    dataset = pydicom.dcmread(path)
    dataset.PatientID = "NSCLC-001"
    dataset.save_as(path)


def scan_twice(raw):
    shutil.copytree((raw / BESIDE).parent, raw / "LIDC-IDRI-0001" / "again")


def one_slice(raw):
    for path in sorted((raw / BESIDE).parent.glob("*.dcm"))[1:]:
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_xml, rf"3000566\.000000-03192: CT series {FIRST} without annotation XML: .*exclude_cases"),
        (damaged_xml, r"069\.xml: not a readable XML file .*: download the annotation again"),
        (two_readings, r"069\.xml: annotates series .* with other marks: keep the one that belongs"),
        (damaged_header, r"1-00\d\.dcm: not a readable DICOM slice .*: download the file again"),
        (other_collection, r"1-00\d\.dcm: patient id 'NSCLC-001', not LIDC-IDRI- and four digits: remove"),
        (scan_twice, r"series .* is also in .*: keep one of the two folders"),
        (one_slice, r"03192: 1 slice is no volume: complete the download"),
    ],
)
def test_every_defect_of_the_download_is_named(raw, run, damage, message):
    damage(raw)
    with pytest.raises(InputError, match=message):
        run()


def test_a_folder_without_scans(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match="raw: no CT series in it: point raw: at the folder with the LIDC-IDRI"):
        prepare("lidc", {**ENTRY, "raw": str(tmp_path / "raw")}, tmp_path / "task")


def test_a_defective_scan_can_be_excluded(raw, run):
    (raw / "LIDC-XML-only/tcia-lidc-xml/157/258.xml").unlink()
    with pytest.raises(InputError, match="without annotation XML"):
        run()
    task = run(exclude_cases={"LIDC-IDRI-0002_1": "no annotation"})
    assert task.cases() == ["LIDC-IDRI-0001", "LIDC-IDRI-0002_2"]


def test_the_same_reading_in_two_places_is_no_problem(raw, run):
    (raw / "LIDC-XML-only" / "069.xml").write_text((raw / BESIDE).read_text().replace("<Version>1.8.1</Version>", "\n"))
    assert len(boxes(run(), "LIDC-IDRI-0001")) == 2


def test_cases_travel_to_worker_processes(raw):
    source = Lidc()
    cases = source.layout(raw).cases
    again, case = pickle.loads(pickle.dumps((source, cases[1])))
    np.testing.assert_array_equal(again.convert(case).images[0], source.convert(cases[1]).images[0])
