import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from detpretrain.errors import InputError
from detpretrain.evaluation import raw_boxes
from detpretrain.evaluation.ensemble import Candidates
from detpretrain.evaluation.raw_boxes import RawBoxes


def candidates(count: int, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 30, (count, 3))
    return Candidates(
        np.hstack([corners, corners + 4]).astype(np.float32),
        rng.uniform(0, 1, count).astype(np.float32),
        rng.integers(0, 3, count),
        rng.uniform(0.5, 1, count).astype(np.float32),
        rng.integers(0, 8, count),
    )


def make(counts: dict[str, int]) -> RawBoxes:
    found = {case: candidates(count, seed) for seed, (case, count) in enumerate(counts.items())}
    properties = {case: {"case": case, "shape": [32, 32, 32], "boxes": [[1.5] * 6]} for case in counts}
    return RawBoxes(found, properties, 8, 3, {"predict": {"recipe": "abc"}})


@pytest.mark.parametrize("counts", [{"b": 7, "a": 0, "007": 5}, {"a": 0}, {"a": 3, "b": 4}])
def test_what_was_written_is_read(tmp_path, counts):
    raw = make(counts)
    raw_boxes.write(tmp_path / "raw_boxes.parquet", raw)
    read = raw_boxes.read(tmp_path / "raw_boxes.parquet")
    assert list(read.candidates) == list(counts)  # in their order, those without boxes too
    for case in counts:
        for name in ("boxes", "scores", "labels", "weights", "model"):
            written, found = getattr(raw.candidates[case], name), getattr(read.candidates[case], name)
            np.testing.assert_array_equal(found, written)
            assert found.dtype == written.dtype
            assert found.shape == written.shape
    assert (read.properties, read.models, read.classes) == (raw.properties, 8, 3)
    assert read.provenance == raw.provenance
    assert [path.name for path in tmp_path.iterdir()] == ["raw_boxes.parquet"]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="file not found"):
        raw_boxes.read(tmp_path / "none.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(InputError, match="not readable") as caught:
        raw_boxes.read(tmp_path / "damaged.parquet")
    assert "\n" not in str(caught.value)
    parquet.write_table(pa.table({"case": ["a"]}), tmp_path / "table.parquet")
    with pytest.raises(InputError, match="not a file of raw boxes"):
        raw_boxes.read(tmp_path / "table.parquet")
