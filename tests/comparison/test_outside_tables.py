"""Tables from outside the study: matched here as the study matches its own."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from detpretrain.cli import app
from detpretrain.comparison import outside_tables
from detpretrain.errors import InputError
from detpretrain.evaluation import matches

KEPT = ["case", "kind", "class", "score", *matches.SIDES]


def outside(table):
    """A study's table as somebody else would write it: no matching, no sizes."""
    return table[[*KEPT, "patient", "fold", "ignored"]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_study_s_table_survives_the_way_through_an_outside_one(make_table, tmp_path, suffix):
    table = make_table(patients=8)
    table[matches.SIDES] = table[matches.SIDES].round(6)
    path = tmp_path / f"mine.{suffix}"
    written = outside(table)
    written.to_csv(path, index=False) if suffix == "csv" else written.to_parquet(path)
    found = outside_tables.read(path)
    assert (found["init"] == "mine").all()
    assert matches.metrics(found, 2) == matches.metrics(table, 2)
    assert found["patient"].tolist() == table["patient"].tolist()
    assert found["fold"].tolist() == table["fold"].tolist()


def test_a_matches_table_is_read_as_it_is(make_table, write_rows):
    table = make_table()
    (path,) = write_rows(table)
    pd.testing.assert_frame_equal(outside_tables.read(path), table)


def test_the_least_that_is_needed(tmp_path):
    """No classes, patients or folds: every case is a patient; an empty image counts as an image."""
    lines = [
        ("a", "truth", "", 0, 0, 0, 4, 4, 4),
        ("a", "detection", 0.9, 0, 0, 0, 4, 4, 4),
        ("b", "case", "", "", "", "", "", "", ""),
        ("c", "detection", 0.8, 0, 0, 0, 4, 4, 4),
    ]
    path = tmp_path / "least.csv"
    pd.DataFrame(lines, columns=["case", "kind", "score", *matches.SIDES]).to_csv(path, index=False)
    found = outside_tables.read(path)
    assert found.loc[found["kind"] == "case", "patient"].tolist() == ["a", "b", "c"]
    assert matches.metrics(found, 1)["AP@0.10"] == 1.0
    assert matches.metrics(found, 1)["counts"]["images"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z2": -1.0}, "line 3, case a: the box ends before it starts"),
        ({"x1": "wide"}, "line 3, case a: the box has an edge that is no number"),
        ({"score": np.nan}, "line 3, case a: the score is no number"),
        ({"kind": "found"}, "line 3, case a: the kind is none of case, truth, detection"),
        ({"class": -1}, "line 3, case a: the class is no whole number from 0"),
        ({"class": 0.5}, "line 3, case a: the class is no whole number from 0"),
        ({"patient": "q"}, "case a has two patients or folds"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, change, message):
    table = pd.DataFrame({"case": ["a", "a"], "kind": ["truth", "detection"], "score": [np.nan, 0.9], "class": [0, 0],
                          "patient": ["p", "p"]})  # fmt: skip
    table = table.assign(**dict.fromkeys(matches.SIDES[:3], 0.0), **dict.fromkeys(matches.SIDES[3:], 4.0)).astype(
        "object"
    )
    for column, value in change.items():
        table.loc[1, column] = value
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=message):
        outside_tables.read(tmp_path / "t.csv")


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(InputError, match="file not found"):
        outside_tables.read(tmp_path / "none.csv")
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(InputError, match="unknown kind of file"):
        outside_tables.read(tmp_path / "t.json")
    (tmp_path / "t.parquet").write_text("{}")
    with pytest.raises(InputError, match="not a readable table"):
        outside_tables.read(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("case,kind\na,case\n")
    with pytest.raises(InputError, match="no column score, z1"):
        outside_tables.read(tmp_path / "t.csv")


def test_the_command_compares_files_of_two_methods(make_table, tmp_path):
    for name, found, seed in (("ours", 0.9, 1), ("theirs", 0.3, 2)):
        outside(make_table(patients=25, found=found, seed_finds=seed)).to_csv(tmp_path / f"{name}.csv", index=False)
    arguments = ["compare", str(tmp_path / "theirs.csv"), str(tmp_path / "ours.csv"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--resamples", "100"])
    assert result.exit_code == 0, result.output
    assert "| theirs |" in result.output
    line = pd.read_csv(tmp_path / "out" / "differences.csv").set_index(["init", "metric"]).loc[("ours", "AP@0.10")]
    assert line["reference"] == "theirs"
    assert line["low"] > 0
    again = CliRunner().invoke(app, [*arguments, "--resamples", "100", "--reference", "ours"])
    assert again.exit_code == 0
    mirrored = (
        pd.read_csv(tmp_path / "out" / "differences.csv").set_index(["init", "metric"]).loc[("theirs", "AP@0.10")]
    )
    assert mirrored["difference"] == pytest.approx(-line["difference"])


def test_the_command_refuses_files_of_other_cases(make_table, tmp_path):
    outside(make_table(patients=5)).to_csv(tmp_path / "a.csv", index=False)
    outside(make_table(patients=6)).to_csv(tmp_path / "b.csv", index=False)
    result = CliRunner().invoke(
        app, ["compare", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert "differ from" in result.output
