"""Figures become the same files every time, whoever renders them."""

from pathlib import Path

import pandas as pd
import pytest

from detpretrain.report.figure_files import rendered_by, save
from detpretrain.report.style import new_figure, style

FORMS = ("csv", "pdf", "png", "svg")


def draw(path: Path) -> None:
    with style():
        figure = new_figure(2, 1)
        figure.subplots().plot([0, 1], [1, 0], label="line")
        figure.legend(loc="outside lower center")
        save(figure, path, pd.DataFrame({"x": [0, 1], "y": [1, 0]}))


def test_a_figure_is_written_as_picture_and_as_vectors_and_always_the_same(tmp_path):
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.{form}" for name in "ab" for form in FORMS]
    for suffix in FORMS:
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "a.csv").read_text() == "x,y\n0,1\n1,0\n"
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_another_process_renders_the_same_bytes(tmp_path):
    with rendered_by(2):
        draw(tmp_path / "there.png")
    draw(tmp_path / "here.png")
    for suffix in FORMS:
        assert (tmp_path / f"there.{suffix}").read_bytes() == (tmp_path / f"here.{suffix}").read_bytes()


def test_what_a_renderer_cannot_do_is_not_lost(tmp_path):
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OSError, match=r"taken\.png"), rendered_by(2):
        draw(tmp_path / "taken.png")
