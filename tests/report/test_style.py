"""Colours stay with their initialisation and stay apart."""

from detpretrain.report.style import REFERENCE_COLOUR, init_styles


def test_every_init_has_its_own_look_and_the_reference_its_grey():
    inits = [f"init{i}" for i in range(25)] + ["scratch"]
    styles = init_styles(inits)
    assert styles["scratch"][0] == REFERENCE_COLOUR
    assert len(set(styles.values())) == len(inits)


def test_order_of_the_inits_does_not_matter():
    assert init_styles(["b", "scratch", "a"]) == init_styles(["a", "b"])
