"""The page: self-contained, escaped, and its sentences say what the intervals say."""

import pytest

from detpretrain.errors import InputError
from detpretrain.report.page import TEMPLATE, DatasetSection, PageFigure, finding, write_page


def values(**other):
    standard = {"title": "T", "reference": "scratch", "resamples": 9, "n_rows": 1, "n_cells": 2, "findings": []}
    empty = {"columns": [], "lines": []}
    return {**standard, "table": empty, "sections": [], "provenance": empty, **other}


def line(low, high, value=-0.05):
    key = {"dataset": "d", "test_set": "cv", "detector": "net", "init": "mae", "seed": 0, "reference": "scratch"}
    return {**key, "difference": value, "difference_low": low, "difference_high": high}


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.2, "better than scratch"),
        (-0.2, -0.01, "worse than scratch"),
        (-0.1, 0.1, "not shown to differ from scratch"),
        (0.0, 0.1, "not shown to differ from scratch"),
        (float("nan"), float("nan"), "cannot be judged"),
    ],
)
def test_finding_follows_the_interval(low, high, words):
    assert words in finding(line(low, high), 0.95)


def test_finding_gives_the_numbers_or_nothing():
    assert "(−0.050 AP@0.10, 90 % CI −0.100 to +0.100)" in finding(line(-0.1, 0.1), 0.9)
    assert finding(line(0, 0, value=float("nan")), 0.95) is None


def test_names_are_escaped():
    nasty = '<script>alert("x")</script>'
    page = write_page(TEMPLATE, values(title=nasty, findings=[nasty], table={"columns": [nasty], "lines": [[nasty]]}))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 5


def test_images_are_inside(tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(b"\x89PNG1234")
    figure = PageFigure(image, "what it shows", "how to read it")
    page = write_page(TEMPLATE, values(sections=[DatasetSection("d", "3 patients", [figure])]))
    assert 'src="data:image/png;base64,iVBORzEyMzQ="' in page
    assert 'alt="what it shows"' in page


def test_missing_value_or_template_is_an_error(tmp_path):
    with pytest.raises(InputError, match="'title' is undefined"):
        write_page(TEMPLATE, {})
    with pytest.raises(InputError, match=r"none\.j2: cannot be read"):
        write_page(tmp_path / "none.j2", values())
