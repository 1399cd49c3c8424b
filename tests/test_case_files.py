import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.case_files import CaseRecord, table_rows, write_case
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task

GEOMETRY = Geometry((10, 10, 10), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(("objects", "kind"), [(255, "uint8"), (300, "uint16")])
def test_a_label_map_keeps_every_id_in_the_smallest_type_that_holds_them(tmp_path, objects, kind):
    instances = np.zeros(1000, np.int32)
    instances[:objects] = np.arange(1, objects + 1)
    instances = instances.reshape(10, 10, 10)
    task = Task(tmp_path, "many", {0: "a"}, {0: "CT"})
    record = CaseRecord("case", "case", "case", "", "cv")
    classes = dict.fromkeys(range(1, objects + 1), 0)
    write_case(task, record, [np.zeros((10, 10, 10), np.int16)], GEOMETRY, instances=instances, classes=classes)
    stored, _ = volumes.read(task.label_path("case"))
    assert stored.dtype == kind
    np.testing.assert_array_equal(stored, instances)
    assert table_rows(task, record) == table_rows(task, record, instances)
    assert len(table_rows(task, record)[1]) == objects
