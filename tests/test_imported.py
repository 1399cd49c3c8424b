import pytest
from study_trees import finish_cell, smoke_study

from detpretrain import imported
from detpretrain.errors import InputError
from detpretrain.files import write_json


@pytest.fixture
def marked(tmp_path):
    """``marked(judged)``: a folder of imported results."""

    def make(judged):
        folder = tmp_path / "folder"
        write_json(folder / judged, {"a": 1})
        mark = imported.content("theirs", "smoke", "2026-11-28", {}, True)
        write_json(folder / "imported.json", {**mark, "sha256": {judged: imported.digest(folder / judged)}})
        return folder

    return make


@pytest.mark.parametrize(
    ("judged", "read"), [("metrics.json", imported.of_cell), ("assessment.json", imported.of_pretraining)]
)
def test_mark_counts_while_the_results_are_the_imported_ones(marked, judged, read):
    folder = marked(judged)
    found = read(folder)
    assert (found.origin, found.study, found.date, str(found)) == (
        "theirs",
        "smoke",
        "2026-11-28",
        "theirs (study smoke)",
    )
    write_json(folder / judged, {"a": 2})  # made again here
    assert read(folder) is None
    (folder / judged).unlink()
    assert read(folder) is None


def test_results_without_a_mark_were_computed_here(tmp_path):
    assert imported.of_cell(tmp_path) is None
    assert imported.of_cell(tmp_path / "absent") is None


@pytest.mark.parametrize("content", [[], {"origin": "a"}, {"origin": "a", "study": "b", "date": "c", "sha256": {}}])
def test_something_else_is_no_mark(tmp_path, content):
    write_json(tmp_path / "imported.json", content)
    with pytest.raises(InputError, match=r"imported\.json: not a mark of detpretrain import"):
        imported.of_cell(tmp_path)


def test_marks_of_a_study_tell_which_cells_are_imported(tmp_path):
    chosen, _ = smoke_study(tmp_path)
    folders = [finish_cell(chosen, cell).folder for cell in chosen.cells[:2]]
    assert imported.marks(chosen) == ""
    found = set()
    for folder in folders:
        mark = imported.content("theirs", "smoke", "2026-11-28", {}, True)
        write_json(
            folder / "imported.json", {**mark, "sha256": {"metrics.json": imported.digest(folder / "metrics.json")}}
        )
        found.add(imported.marks(chosen))
    assert len(found - {""}) == 2
