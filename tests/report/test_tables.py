"""The main table: every row once, in order, numbers from the csv files, safe in Markdown and LaTeX."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.errors import InputError
from detpretrain.report import tables


def score_line(dataset="d_1", test_set="cv", detector="net", init="scratch", seed=0, ap=0.5, **other):
    line = {"study": "s", "dataset": dataset, "test_set": test_set, "detector": detector, "init": init, "seed": seed}
    line |= {
        "patients": 20,
        "objects": 31,
        "AP@0.10": ap,
        "AP@0.10_low": ap - 0.1,
        "AP@0.10_high": ap + 0.1,
        "folds": 3,
    }
    line |= {"AP@0.10_fold_mean": ap, "AP@0.10_fold_sd": 0.04, "mAP@0.10:0.50": ap / 2, "FROC@0.10": ap / 3}
    return {**line, "confidence": 0.95, "resamples": 100, "overlap": 0, **other}


def difference_line(dataset="d_1", test_set="cv", detector="net", init="mae", seed=0, value=-0.0312, **other):
    line = {"study": "s", "dataset": dataset, "test_set": test_set, "detector": detector, "init": init, "seed": seed}
    line |= {"metric": "AP@0.10", "reference": "scratch", "difference": value, "low": value - 0.1, "high": value + 0.1}
    return {**line, "p": 0.0004, "p_holm": 0.012, **other}


@pytest.fixture
def make(tmp_path):
    def write_and_read(scores, differences):
        pd.DataFrame(scores).to_csv(tmp_path / "scores.csv", index=False)
        columns = list(difference_line())
        pd.DataFrame(differences, columns=columns).to_csv(tmp_path / "differences.csv", index=False)
        return tables.main_table(*tables.read_comparison(tmp_path))

    return write_and_read


def test_order_is_cv_first_and_reference_first(make):
    scores = [score_line(init="aaa"), score_line(test_set="apart"), score_line(), score_line(dataset="b")]
    found = make(scores, [difference_line(init="aaa")])
    assert found[["dataset", "test_set", "init"]].to_numpy().tolist() == [
        ["b", "cv", "scratch"],
        ["d_1", "cv", "scratch"],
        ["d_1", "cv", "aaa"],
        ["d_1", "apart", "scratch"],
    ]


def test_only_the_headline_difference_and_none_is_dropped(make):
    missing = difference_line(init="s3d", reference=None, value=np.nan, p=np.nan)
    scores = [score_line(), score_line(init="mae"), score_line(init="s3d")]
    found = make(scores, [difference_line(), difference_line(metric="AP@0.50", value=9.0), missing]).set_index("init")
    assert found.loc["mae", "difference"] == pytest.approx(-0.0312)
    assert found.loc[["scratch", "s3d"], ["reference", "difference", "p"]].isna().all(axis=None)


def test_readable_numbers(make):
    undefined = dict.fromkeys(
        ("AP@0.10", "AP@0.10_low", "AP@0.10_high", "AP@0.10_fold_mean", "AP@0.10_fold_sd"), np.nan
    )
    scores = [score_line(), score_line(init="mae", **{"AP@0.10_fold_sd": np.nan}), score_line(dataset="e", **undefined)]
    found = tables.readable(make(scores, [difference_line()]), 0.9)
    assert "seed" not in found
    assert found["AP@0.10 [90 % CI]"].tolist() == ["0.500 [0.400, 0.600]", "0.500 [0.400, 0.600]", "–"]
    assert found["difference [90 % CI]"].tolist() == ["–", "−0.031 [−0.131, +0.069]", "–"]
    assert found["folds: mean ± sd"].tolist() == ["0.500 ± 0.040", "0.500", "–"]
    assert found["p"].tolist() == ["–", "< 0.001", "–"]
    assert found["p (Holm)"].tolist() == ["–", "0.012", "–"]


def test_several_seeds_are_told_apart(make):
    found = tables.readable(make([score_line(), score_line(seed=1)], []), 0.95)
    assert found["seed"].tolist() == ["0", "1"]


def test_names_that_look_like_missing_values_or_numbers_stay(make):
    found = make([score_line(dataset="7", detector="null"), score_line(dataset="7", detector="null", init="NA")], [])
    assert found[["dataset", "detector", "init"]].to_numpy().tolist() == [["7", "null", "NA"], ["7", "null", "scratch"]]


def test_markdown_is_a_table_whatever_the_names():
    lines = tables.to_markdown(pd.DataFrame({"a": ["x|y", "z"], "b": ["1", "2"]})).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", "| x\\|y | 1 |", "| z | 2 |"]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 95 %", r"a\_b \& 95 \%"),
        ("{$#}", r"\{\$\#\}"),
        ("a\\b~^", r"a\textbackslash{}b\textasciitilde{}\textasciicircum{}"),
        ("−0.1 ± 0.2 –", r"$-$0.1 $\pm$ 0.2 --"),
        ("< 0.001 >", "$<$ 0.001 $>$"),
    ],
)
def test_latex_escape(text, escaped):
    assert tables.latex_escape(text) == escaped


def test_latex_is_a_booktabs_tabular(make):
    table = make([score_line(), score_line(init="mae"), score_line(dataset="e_2")], [difference_line()])
    lines = tables.to_latex(tables.readable(table, 0.95)).splitlines()
    columns = lines[0].split("{")[-1].count("l")
    assert lines[1] == r"\toprule"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert [i for i, line in enumerate(lines) if line == r"\midrule"] == [3, 6]  # below the head, between the data sets
    body = [line for line in lines if line.endswith(r"\\")]
    assert len(body) == 4
    assert all(line.replace(r"\&", "").count("&") == columns - 1 for line in body)
    assert r"d\_1 & cv & net & mae" in body[2]


def test_rows_whose_pretraining_saw_scored_patients_are_marked_and_explained(make):
    scores = [
        score_line(),
        score_line(init="mae", overlap=3),
        score_line(init="mae", detector="other", overlap=3),
        score_line(init="mae", dataset="e_2"),
        score_line(init="s3d", dataset="e_2", overlap=1),
    ]
    table = make(scores, [difference_line()])
    assert table["overlap"].tolist() == [0, 3, 3, 0, 1]
    text = tables.readable(table, 0.95)
    assert text["init"].tolist() == ["scratch", "mae †", "mae †", "mae", "s3d †"]
    note = tables.overlap_note(table)
    assert note == (
        "† pre-trained on patients that are scored (mae: 3 of the scored patients of d_1; s3d: 1 of the scored patients of e_2), "
        "accepted by accept_overlap: no evidence about pre-training."
    )
    assert tables.to_markdown(text, note).endswith(f" |\n\n{note}\n")
    latex = tables.to_latex(text, note)
    assert r"mae $\dagger$ &" in latex
    assert r"$\dagger$ pre-trained on patients that are scored (mae: 3 of the scored patients of d\_1;" in latex
    assert latex.index(r"\end{tabular}") < latex.index("no evidence")


@pytest.fixture
def make_imported(tmp_path):
    def write_and_read(scores, imported):
        pd.DataFrame(scores).to_csv(tmp_path / "scores.csv", index=False)
        pd.DataFrame([], columns=list(difference_line())).to_csv(tmp_path / "differences.csv", index=False)
        return tables.main_table(*tables.read_comparison(tmp_path), imported=imported)

    return write_and_read


def test_imported_cells_are_a_column_of_their_rows_and_a_note(make_imported):
    scores = [
        score_line(),
        score_line(init="mae"),
        score_line(init="mae", test_set="test"),
        score_line(init="mae", seed=1),
    ]
    table = make_imported(scores, {("d_1", "net", "mae", 0): 2, ("elsewhere", "net", "mae", 0): 1})
    assert table[["init", "seed", "test_set", "imported_cells"]].to_numpy().tolist() == [
        ["mae", 0, "cv", 2],
        ["scratch", 0, "cv", 0],
        ["mae", 1, "cv", 0],
        ["mae", 0, "test", 2],
    ]
    assert tables.readable(table, 0.95)["imported cells"].tolist() == ["2", "0", "0", "2"]
    note = tables.imported_note(table)
    assert note == "Cells that were computed elsewhere and imported (data set, detector, init, seed): d_1 net mae 0: 2."


def test_without_imported_cells_there_is_no_column_and_no_note(make_imported):
    table = make_imported([score_line()], {})
    assert "imported_cells" not in table
    assert "imported cells" not in tables.readable(table, 0.95)
    assert tables.imported_note(table) == ""


def test_without_overlap_there_is_no_mark_and_no_note(make):
    table = make([score_line()], [])
    assert tables.overlap_note(table) == ""
    text = tables.readable(table, 0.95)
    assert "†" not in tables.to_markdown(text, "")
    assert tables.to_latex(text, "").endswith("\\end{tabular}\n")


def test_a_comparison_without_overlaps_is_refused(make, tmp_path):
    without = {name: value for name, value in score_line().items() if name != "overlap"}
    with pytest.raises(InputError, match=r"scores\.csv: no column overlap: run compare again"):
        make([without], [])


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"scores\.csv: cannot be read"):
        tables.read_comparison(tmp_path)
    (tmp_path / "scores.csv").write_text("seed,b\n1,2\n")
    with pytest.raises(InputError, match=r"scores\.csv: no column study"):
        tables.read_comparison(tmp_path)
