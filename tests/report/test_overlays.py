"""Overlays: the right slice, boxes where they are in mm, labels apart."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from detpretrain import volumes
from detpretrain.errors import InputError
from detpretrain.evaluation.matches import SIDES
from detpretrain.report.case_selection import choose_cases, display_threshold
from detpretrain.report.overlays import place_labels, plot_overlays
from detpretrain.tasks import Task

MODULE = "detpretrain.report.overlays"


def panels(figure):
    return [axes for axes in figure.findobj(lambda artist: hasattr(artist, "get_images")) if axes.get_images()]


def index_of(axes) -> int:
    return int(axes.get_title().split("slice ")[1].rstrip(")"))


def rectangles(axes, dashes):
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_linestyle() == dashes]
    return sorted((p.get_y(), p.get_x(), p.get_y() + p.get_height(), p.get_x() + p.get_width()) for p in found)


def test_slices_and_boxes_are_where_they_belong(study, drawn, assert_readable):
    figures = drawn(MODULE)
    row, task = study.rows[0], Task.read(study.tasks["nodules"])
    plot_overlays(row, task, study.root / "x.png")
    shown = panels(figures[0])
    images = {e.case: volumes.read(task.image_paths(e.case)[0])[0] for e in choose_cases(row)}
    threshold, objects, detections = display_threshold(row.table), 0, 0
    for axes in shown:
        index = index_of(axes)
        slice_array = np.asarray(axes.get_images()[0].get_array())
        (case,) = [name for name, image in images.items() if np.array_equal(image[index], slice_array)]
        assert axes.get_images()[0].get_clim() == (-1000, 400)
        # Voxel i is centred at i times the spacing: x 1.0 mm, y 1.5 mm.
        assert axes.get_images()[0].get_extent() == pytest.approx([-0.5, 39.5, 44.25, -0.75])
        lines = row.table[row.table["case"] == case]
        lines = lines[(lines["z1"] <= index * 3.0) & (lines["z2"] >= index * 3.0)]
        for kind, dashes in (("truth", "-"), ("detection", "--")):
            wanted = lines[(lines["kind"] == kind) & ((kind == "truth") | (lines["score"] >= threshold))][
                SIDES
            ].to_numpy()
            expected = sorted(map(tuple, wanted[:, [1, 2, 4, 5]]))
            assert np.array(rectangles(axes, dashes)).ravel() == pytest.approx(np.array(expected).ravel())
            objects += len(expected) * (kind == "truth")
            detections += len(expected) * (kind == "detection")
    assert objects > 3
    assert detections > 3
    assert_readable(figures[0])


def test_row_whose_pretraining_saw_scored_patients_is_marked(study, drawn):
    figures = drawn(MODULE)
    task = Task.read(study.tasks["nodules"])
    for overlap in (0, 2):
        plot_overlays(study.rows[0], task, study.root / "x.png", overlap=overlap)
    unmarked, marked = (figure.subfigs[0].get_suptitle() for figure in figures)
    assert marked == unmarked.replace(study.rows[0].key.init, f"{study.rows[0].key.init} †")


def test_other_modalities_are_shown_by_percentiles_or_as_told(study, drawn):
    figures = drawn(MODULE)
    root = study.tasks["nodules"]
    (root / "dataset.json").write_text((root / "dataset.json").read_text().replace('"CT"', '"FLAIR"'))
    plot_overlays(study.rows[0], Task.read(root), study.root / "x.png")
    plot_overlays(study.rows[0], Task.read(root), study.root / "x.png", window=(-1.0, 2.0))
    low, high = panels(figures[0])[0].get_images()[0].get_clim()
    case = choose_cases(study.rows[0])[0].case
    image = volumes.read(Task.read(root).image_paths(case)[0])[0]
    assert (image < low).mean() == pytest.approx(0.005, abs=0.001)
    assert (image > high).mean() == pytest.approx(0.005, abs=0.001)
    assert panels(figures[1])[0].get_images()[0].get_clim() == (-1, 2)


def test_rows_without_objects_have_nothing_to_show(study):
    row = study.rows[0]
    table = row.table[row.table["kind"] != "truth"].reset_index(drop=True)
    with pytest.raises(InputError, match="no case of"):
        plot_overlays(
            type(row)(row.key, table.assign(**{"truth@0.10": None}), row.source),
            Task.read(study.tasks["nodules"]),
            study.root / "x.png",
        )


@pytest.mark.parametrize("seed", range(5))
def test_labels_lie_in_the_view_and_apart(seed):
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 90, (30, 3))
    boxes = np.concatenate([low, low + generator.uniform(2, 30, (30, 3))], axis=1)
    view = (0.0, 100.0, 100.0, 0.0)
    placed = [corner for corner in place_labels(boxes, view, 12.0, 6.0) if corner is not None]
    assert len(placed) > 10
    corners = np.array(placed)
    assert corners.min() >= 0
    assert corners[:, 0].max() <= 88
    assert corners[:, 1].max() <= 94
    apart = (np.abs(corners[:, None] - corners[None]) >= (12.0, 6.0)).any(axis=-1)
    assert apart[~np.eye(len(corners), dtype=bool)].all()


def test_label_stands_above_its_box_and_gives_way():
    box, view = np.array([[0.0, 50, 50, 9, 70, 70]]), (0.0, 100.0, 100.0, 0.0)
    assert place_labels(box, view, 10, 5) == [(50.0, 45.0)]
    assert place_labels(np.repeat(box, 2, axis=0), view, 10, 5)[1] == (50.0, 70.0)
    outside = np.array([[0.0, 50, 95, 9, 70, 150]])
    assert place_labels(outside, view, 10, 5) == [None]


def test_large_slices_are_shown_around_the_boxes(study, drawn):
    figures = drawn(MODULE)
    task = Task.read(study.tasks["nodules"])
    row = study.rows[0]
    case = choose_cases(row)[0].case
    path = task.image_paths(case)[0]
    _, geometry = volumes.read(path)
    large = type(geometry)((12, 300, 400), (3.0, 1.5, 1.0))
    volumes.write(path, np.zeros(large.shape, np.float32), large)
    table = row.table[row.table["case"] == case].reset_index(drop=True)
    plot_overlays(type(row)(row.key, table, row.source), task, study.root / "x.png")
    axes = panels(figures[0])[0]
    left, right, bottom, top = *axes.get_xlim(), *axes.get_ylim()
    assert (right - left, bottom - top) == pytest.approx((160.0, 160.0))
    first = rectangles(axes, "-")[0]
    assert left <= first[1] < first[3] <= right
    assert top <= first[0] < first[2] <= bottom
