import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.evaluation import luna16

REFERENCE = Path(__file__).parent / "reference"
FINDINGS = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
MARKS = "seriesuid,coordX,coordY,coordZ,probability\n"


@pytest.fixture
def score(tmp_path):
    """Writes the four files (bodies without header) and scores them."""

    def run(nodules, excluded, series, marks):
        contents = {"a": FINDINGS + nodules, "e": FINDINGS + excluded, "s": series, "m": MARKS + marks}
        for name, text in contents.items():
            (tmp_path / f"{name}.csv").write_text(text)
        return luna16.evaluate(*(tmp_path / f"{name}.csv" for name in "aesm"))

    return run


def test_equals_the_official_script(tmp_path):
    if "DETPRETRAIN_REAL_DATA" not in os.environ:
        pytest.skip("DETPRETRAIN_REAL_DATA is not set: the LUNA16 annotations are not at hand")
    folder = Path(os.environ["DETPRETRAIN_REAL_DATA"]) / "luna16"
    submission = tmp_path / "submission.csv"
    submission.write_bytes(gzip.decompress((REFERENCE / "luna16_submission_b.csv.gz").read_bytes()))
    names = ("annotations.csv", "annotations_excluded.csv", "seriesuids.csv")
    result = luna16.evaluate(*(folder / name for name in names), submission)
    expected = json.loads((REFERENCE / "luna16_submission_b.json").read_text())
    assert list(result["sensitivity"]) == ["0.125", "0.25", "0.5", "1", "2", "4", "8"]
    assert list(result["sensitivity"].values()) == pytest.approx(expected["sensitivity"], abs=1e-9)
    assert result["cpm"] == pytest.approx(expected["cpm"], abs=1e-9)
    assert result["counts"]["marks"] == expected["n"]


def test_worked_by_hand(score):
    result = score(
        nodules="s1,0,0,0,10\ns1,50,0,0,10\ns2,0,0,0,6\nelsewhere,0,0,0,10\n",
        excluded="s1,100,0,0,-1\ns2,100,0,0,4\n",
        series="s1\ns2\n",
        marks=(
            "s1,1,0,0,0.6\ns1,2,0,0,0.9\n"  # both hit the first nodule: found with 0.9
            "s1,55,0,0,0.95\n"  # at the radius exactly: a false positive
            "s1,104,0,0,0.97\n"  # a finding without diameter is 10 mm wide: ignored
            "s2,101,0,0,0.99\ns2,102,0,0,0.5\n"  # inside its 2 mm: ignored; at 2 mm: a false positive
            "s2,0,2,2,0.3\n"  # 2.83 mm < 3 mm: found
            "elsewhere,0,0,0,1.0\n"
        ),
    )
    # 3 nodules, 2 scans; .95 miss (0.5 per scan), .9 hit, .5 miss (1.0 per scan), .3 hit
    assert result["counts"] == {
        "scans": 2, "nodules": 3, "found": 2, "marks": 7, "false_positives": 2, "ignored_marks": 2
    }  # fmt: skip
    expected = {"0.125": 0, "0.25": 0, "0.5": 1 / 3, "1": 2 / 3, "2": 2 / 3, "4": 2 / 3, "8": 2 / 3}
    assert result["sensitivity"] == pytest.approx(expected)
    assert result["cpm"] == pytest.approx(np.mean(list(expected.values())))


def test_a_mark_in_a_nodule_and_an_excluded_finding_is_a_hit(score):
    result = score("s1,0,0,0,10\n", "s1,0,0,0,10\n", "s1\n", "s1,1,0,0,0.5\n")
    assert result["counts"]["found"] == 1
    assert result["counts"]["ignored_marks"] == 0
    assert result["cpm"] == 1.0


def test_one_mark_finds_two_overlapping_nodules(score):
    assert score("s1,0,0,0,10\ns1,3,0,0,10\n", "", "s1\n", "s1,1,0,0,0.5\n")["cpm"] == 1.0


def test_only_a_hundred_marks_of_a_scan_count(score):
    misses = "".join(f"s1,{1000 + i},0,0,0.9{i:03d}\n" for i in range(100))
    late = score("s1,0,0,0,10\n", "", "s1\n", misses + "s1,0,0,0,0.5\n")
    assert late["counts"]["found"] == 0
    assert late["counts"]["false_positives"] == 100
    assert late["cpm"] == 0.0


def test_marks_that_tie_with_the_first_one_too_many_all_go(score):
    better = "".join(f"s1,{1000 + i},0,0,0.9\n" for i in range(98))
    tied = "".join(f"s1,{2000 + i},0,0,0.5\n" for i in range(3))
    assert score("s1,0,0,0,10\n", "", "s1\n", better + tied)["counts"]["false_positives"] == 98
    assert score("s1,0,0,0,10\n", "", "s1\n", better + tied[: tied.rindex("s1")])["counts"]["false_positives"] == 100


def test_a_header_of_the_series_file_is_no_scan(score):
    assert score("s1,0,0,0,10\n", "", "seriesuid\ns1\n", "")["counts"]["scans"] == 1


def test_columns_are_found_by_name(tmp_path, score):
    score("s1,0,0,0,10\n", "", "s1\n", "")
    (tmp_path / "m.csv").write_text("probability,note,coordZ,coordY,coordX,seriesuid\n0.5,x,0,0,4,s1\n")
    assert luna16.evaluate(*(tmp_path / f"{name}.csv" for name in "aesm"))["counts"]["found"] == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m", "seriesuid,coordX,coordY,coordZ\ns1,0,0,0\n", "no column probability"),
        ("m", MARKS + "s1,0,0,0\n", "line 2: 4 values for 5 columns"),
        ("m", MARKS + "s1,0,0,0,high\n", "line 2: probability is 'high': give a number"),
        ("m", MARKS + "\ns1,0,nan,0,0.5\n", "line 3: coordY is 'nan': give a finite number"),
        ("m", MARKS + "other,0,0,0,0.5\n", "no mark in any scan"),
        ("m", "", "no column seriesuid"),
        ("m", "\xff", "not a CSV file"),
        ("a", FINDINGS + "s1,0,0,0,\n", "line 2: diameter_mm is ''"),
        ("a", FINDINGS + "other,0,0,0,5\n", "no nodule in the scans"),
        ("s", "s1\ns1\n", "s1 occurs 2 times"),
        ("s", "\n", "no series uid"),
        ("s", "s1\n,x\n", "no series uid"),
        ("e", None, "file not found"),
    ],
)
def test_malformed_files_are_refused_in_one_line(tmp_path, score, name, text, message):
    score("s1,0,0,0,10\n", "", "s1\n", "s1,0,0,0,0.5\n")
    path = tmp_path / f"{name}.csv"
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError) as refused:
        luna16.evaluate(*(tmp_path / f"{part}.csv" for part in "aesm"))
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
