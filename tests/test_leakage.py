import subprocess
import sys

import pytest

from detpretrain.errors import InputError
from detpretrain.leakage import Identities, check, overlap, patients_named

CASES = """case,source_id,patient,session,test_set
a1,1.2.840.1,LIDC-1,baseline,cv
a2,1.2.840.2,LIDC-1,1.3.6.7,cv
b,1.2.840.3,LIDC-2,baseline,cv
c,007,LIDC-3,,test
"""


@pytest.fixture
def task(tmp_path):
    (tmp_path / "cases.csv").write_text(CASES)
    return tmp_path


def test_a_task_lists_patients_sources_and_sessions_of_one_patient(task):
    found = Identities.of_task(task, "tcia")
    assert found.ids == {"LIDC-1", "LIDC-2", "LIDC-3", "1.2.840.1", "1.2.840.2", "1.2.840.3", "007", "1.3.6.7"}
    assert found.space == "tcia"


def test_some_cases_of_a_task(task):
    assert Identities.of_cases(task, ["b", "c"]).ids == {"LIDC-2", "LIDC-3", "1.2.840.3", "007"}
    assert Identities.of_cases(task, ["a2"]).ids == {"LIDC-1", "1.2.840.2", "1.3.6.7"}
    # shared in the whole data set, though by one patient among these cases
    assert "baseline" not in Identities.of_cases(task, ["a1"]).ids
    assert Identities.of_cases(task, []).ids == frozenset()
    with pytest.raises(InputError, match=r"cases.csv: has no case x"):
        Identities.of_cases(task, ["a1", "x"])


def test_a_task_without_sessions(tmp_path):
    (tmp_path / "cases.csv").write_text("case,source_id,patient\na,b,c\n")
    assert Identities.of_task(tmp_path).ids == {"b", "c"}


def test_a_bad_table_is_one_line(tmp_path):
    with pytest.raises(InputError, match="file not found"):
        Identities.of_task(tmp_path)
    (tmp_path / "cases.csv").write_text("case,source_id\na,b\n")
    with pytest.raises(InputError, match="has no column patient"):
        Identities.of_task(tmp_path)


def test_the_same_scans_meet_by_the_series_when_the_patients_do_not(task, tmp_path):
    luna = tmp_path / "luna"
    luna.mkdir()
    (luna / "cases.csv").write_text("case,source_id,patient\nx,1.2.840.3,1.2.840.3\ny,1.2.840.9,1.2.840.9\n")
    assert overlap([Identities.of_task(luna)], Identities.of_task(task)) == ["1.2.840.3"]


def test_a_file_of_patients(tmp_path):
    path = tmp_path / "patients.txt"
    path.write_text("# CT-RATE\nvalid_1\n\n  valid_2  # twice scanned\n")
    assert Identities.of_file(path, "ct-rate") == Identities(frozenset({"valid_1", "valid_2"}), "ct-rate")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "file not found"), (b"# nobody\n", "lists no identifier"), (b"\xff\xfe\x00", "cannot be read as text")],
)
def test_a_bad_file_of_patients_is_one_line(tmp_path, content, message):
    path = tmp_path / "patients.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        Identities.of_file(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_what_a_checkpoint_lists_comes_back(task, tmp_path):
    written = [Identities.of_task(task, "tcia"), Identities(frozenset({"b", "a"}))]
    listed = [corpus.to_json() for corpus in written]
    assert listed[1] == {"space": None, "ids": ["a", "b"]}
    assert Identities.from_checkpoint(listed, tmp_path) == written
    assert Identities.from_checkpoint(None, tmp_path) == Identities.from_checkpoint([], tmp_path) == []


@pytest.mark.parametrize("listed", [["a"], [{"space": "x"}], {"ids": ["a"]}, [{"ids": "abc"}], [{"ids": None}], 5])
def test_another_form_in_a_checkpoint_is_one_line(listed, tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}: patients: not a list"):
        Identities.from_checkpoint(listed, tmp_path)


A, B, C = (frozenset(text) for text in ("abc", "bcd", "cde"))


@pytest.mark.parametrize(
    ("corpora", "scored", "expected"),
    [
        ([(A, None)], (B, None), ["b", "c"]),
        ([(A, None), (C, None)], (B, None), ["b", "c", "d"]),
        ([(A, "x")], (B, "x"), ["b", "c"]),
        ([(A, "x")], (B, "y"), []),
        ([(A, "x")], (B, None), ["b", "c"]),
        ([(A, None)], (B, "x"), ["b", "c"]),
        ([(A, "y"), (C, "x")], (B, "x"), ["c", "d"]),
        ([], (B, None), []),
        ([(frozenset(), None)], (B, None), []),
    ],
)
def test_only_different_known_spaces_are_not_compared(corpora, scored, expected):
    assert overlap([Identities(*corpus) for corpus in corpora], Identities(*scored)) == expected


def test_an_overlap_stops_with_a_line_that_says_what_to_do():
    many = Identities(frozenset(f"p{number:02d}" for number in range(14)))
    with pytest.raises(InputError) as error:
        check("mae", "lidc", [many], Identities(many.ids | {"q"}), accepted=False)
    message = str(error.value)
    assert "\n" not in message
    assert "init mae was pre-trained on 14 identifiers that lidc scores" in message
    assert "p00, p01, p02, p03, p04, p05, p06, p07, p08, p09, ... (4 more)" in message
    assert "exclude_cases" in message
    assert "accept_overlap: {mae: [lidc]}" in message


def test_an_accepted_overlap_is_recorded():
    found = check("mae", "lidc", [Identities(A), Identities(C)], Identities(frozenset("az")), accepted=True)
    assert found == {"init": "mae", "dataset": "lidc", "compared": 5, "overlap": ["a"], "accepted": True}


def test_no_overlap_and_an_unknown_corpus_are_told_apart():
    assert check("mae", "d", [Identities(A)], Identities(frozenset("z")), False)["compared"] == 3
    assert check("mae", "d", [], Identities(A), False) == {
        "init": "mae", "dataset": "d", "compared": 0, "overlap": [], "accepted": False,
    }  # fmt: skip


def test_it_needs_no_torch():
    code = "import sys, detpretrain.leakage; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_overlapping_identifiers_name_their_patients_once(task):
    assert patients_named(task, ["1.2.840.1", "LIDC-1", "007", "x"]) == ["LIDC-1", "LIDC-3"]
    assert patients_named(task, []) == []
