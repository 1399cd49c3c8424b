"""Colours stay with their initialisation and stay apart."""

import pandas as pd

from detpretrain.report.style import REFERENCE_COLOUR, init_styles, new_figure, save, style


def test_every_init_has_its_own_look_and_the_reference_its_grey():
    inits = [f"init{i}" for i in range(25)] + ["scratch"]
    styles = init_styles(inits)
    assert styles["scratch"][0] == REFERENCE_COLOUR
    assert len(set(styles.values())) == len(inits)


def test_order_of_the_inits_does_not_matter():
    assert init_styles(["b", "scratch", "a"]) == init_styles(["a", "b"])


def test_a_figure_is_written_as_picture_and_as_vectors_and_always_the_same(tmp_path):
    for name in ("a", "b"):
        with style():
            figure = new_figure(2, 1)
            figure.subplots().plot([0, 1], [1, 0], label="line")
            save(figure, tmp_path / f"{name}.png", pd.DataFrame({"x": [0, 1], "y": [1, 0]}))
    forms = ("csv", "pdf", "png", "svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.{form}" for name in "ab" for form in forms]
    for suffix in forms:
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "a.csv").read_text() == "x,y\n0,1\n1,0\n"
    assert "<svg" in (tmp_path / "a.svg").read_text()
