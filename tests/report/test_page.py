"""The page: self-contained, escaped, and its sentences say what the intervals say."""

import pandas as pd
import pytest

from detpretrain.errors import InputError
from detpretrain.report.page import (
    TEMPLATE,
    DatasetSection,
    Download,
    PageFigure,
    PageTable,
    PretrainingSection,
    finding,
    write_page,
)
from detpretrain.report.pretraining_section import Reference


def values(**other):
    standard = {"title": "T", "reference": "scratch", "resamples": 9, "n_rows": 1, "n_cells": 2, "findings": []}
    empty = {"columns": [], "lines": []}
    standard |= {
        "overlap_note": "",
        "pretraining": None,
        "references": [],
        "margin": 0.02,
        "claims": [],
        "overview": [],
    }
    standard |= {"warnings": [], "films": {}, "downloads": [], "bibliography": None}
    standard |= {"published": PageTable("Published by others", "note", pd.DataFrame())}
    standard |= {"paper_table": PageTable("Table as printed", "note", pd.DataFrame()), "appendix": []}
    standard |= {"cost": PageTable("Cost", "note", pd.DataFrame())}
    return {**standard, "table": empty, "sections": [], "provenance": empty, **other}


def line(low, high, value=-0.05):
    key = {"dataset": "d", "test_set": "cv", "detector": "net", "init": "mae", "seed": 0, "reference": "scratch"}
    key |= {"overlap": 0}
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


def test_finding_of_a_pretraining_that_saw_scored_patients_is_no_evidence():
    sentence = finding({**line(0.1, 0.2), "overlap": 4}, 0.95)
    assert "mae † is better than scratch" in sentence
    assert sentence.endswith("; pre-trained on 4 of the scored patients: no evidence about pre-training.")
    assert "no evidence" not in finding(line(0.1, 0.2), 0.95)


def test_pretraining_has_its_section_with_tables_and_figures(tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(b"\x89PNG")
    table = PageTable("Linear <probe>", "how to read it", pd.DataFrame({"init": ["mae", "s3d"], "value": ["1", "2"]}))
    section = PretrainingSection([table], [PageFigure(image, "curves", "caption")])
    page = write_page(TEMPLATE, values(pretraining=section))
    assert page.index('id="pretraining"') < page.index('id="provenance"')
    assert 'href="#pretraining"' in page
    assert "<h3>Linear &lt;probe&gt;</h3>" in page
    assert 'aria-describedby="pretraining-note-1"' in page
    assert "<td>s3d</td><td>2</td>" in page
    assert 'alt="curves"' in page
    assert "#pretraining" not in write_page(TEMPLATE, values())


def test_references_name_who_uses_them(tmp_path):
    bib = tmp_path / "citations.bib"
    bib.write_text("@misc{a}")
    entry = Reference("Architecture", "ResEnc", ("Isensee, F. (2024). A & B.",), ("mae", "s3d"))
    page = write_page(TEMPLATE, values(references=[entry], bibliography=Download(bib)))
    assert "Architecture: <strong>ResEnc</strong> [mae, s3d]" in page
    assert "Isensee, F. (2024). A &amp; B." in page
    assert '<a download="citations.bib" href="data:text/plain;charset=utf-8;base64,QG1pc2N7YX0=">' in page
    assert "Nothing in this study asks to be cited." in write_page(TEMPLATE, values())


def test_note_on_overlaps_stands_below_the_table():
    page = write_page(TEMPLATE, values(overlap_note="† seen"))
    assert page.index("</table>") < page.index("† seen") < page.index('id="provenance"')


def test_names_are_escaped():
    nasty = '<script>alert("x")</script>'
    page = write_page(TEMPLATE, values(title=nasty, findings=[nasty], table={"columns": [nasty], "lines": [[nasty]]}))
    assert page.count("<script") == 2  # the page's own and its films, at its end
    assert nasty not in page
    assert page.count("&lt;script&gt;") == 5


def test_only_tables_of_rows_sort_and_filter():
    page = write_page(TEMPLATE, values(table={"columns": ["init"], "lines": [["mae"]]}))
    table = page[page.index('id="table"') :]
    assert '<th scope="col"><button type="button">init</button></th>' in table
    assert '<input type="search">' in table
    assert page.count('class="sortable"') == 2  # the table as printed too
    provenance = {"columns": ["recipe"], "lines": [["a1"]]}
    assert '<th scope="col">recipe</th>' in write_page(TEMPLATE, values(provenance=provenance))


def test_images_are_inside(tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(b"\x89PNG1234")
    figure = PageFigure(image, "what it shows", "how to read it")
    page = write_page(TEMPLATE, values(sections=[DatasetSection("d", "3 patients", [figure], [], pd.DataFrame())]))
    assert 'src="data:image/png;base64,iVBORzEyMzQ="' in page
    assert 'alt="what it shows"' in page


def test_missing_value_or_template_is_an_error(tmp_path):
    with pytest.raises(InputError, match="'title' is undefined"):
        write_page(TEMPLATE, {})
    with pytest.raises(InputError, match=r"none\.j2: file not found"):
        write_page(tmp_path / "none.j2", values())
