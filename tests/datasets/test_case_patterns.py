import pytest

from detpretrain.datasets.case_patterns import CasePattern, channel_patterns
from detpretrain.errors import InputError


@pytest.fixture
def raw(tmp_path):
    for name in ("images/a.b.nii.gz", "images/c.nii.gz", "images/c.txt", "p1/p1_ct.nii.gz", "p2/p2_ct.nii.gz", "p2/p1_ct.nii.gz",
                 "day1/x/ct.nii", "day2/y/ct.nii"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("images/*.nii.gz", {"a.b": "images/a.b.nii.gz", "c": "images/c.nii.gz"}),
        ("images/{case}.nii.gz", {"a.b": "images/a.b.nii.gz", "c": "images/c.nii.gz"}),
        ("{case}/{case}_ct.nii.gz", {"p1": "p1/p1_ct.nii.gz", "p2": "p2/p2_ct.nii.gz"}),
        ("*/{case}/ct.nii", {"x": "day1/x/ct.nii", "y": "day2/y/ct.nii"}),
    ],
)
def test_files_by_case(raw, text, found):
    paths, problems = CasePattern(text).find(raw)
    assert {case: path.relative_to(raw).as_posix() for case, path in paths.items()} == found
    assert problems == []


def test_two_files_of_one_case(raw):
    paths, (problem,) = CasePattern("*/{case}_ct.nii.gz").find(raw)
    assert paths["p1"] == raw / "p1/p1_ct.nii.gz"
    assert (problem.file, problem.problem) == (str(raw / "p2/p1_ct.nii.gz"), "a second file of case p1")


def test_nothing_matches(raw):
    paths, (problem,) = CasePattern("labels/*.nii.gz").find(raw)
    assert not paths
    assert problem.problem == "no file matches"
    assert problem.file.endswith("labels/{case}.nii.gz")


@pytest.mark.parametrize("text", ["images/a.nii.gz", "*/*.nii.gz"])
def test_a_pattern_must_name_the_case(text):
    with pytest.raises(InputError, match=r"names no case: write \{case\}"):
        CasePattern(text)


@pytest.mark.parametrize(
    ("images", "channels", "texts"),
    [
        ("i/*.nii.gz", 1, ["i/{case}.nii.gz"]),
        ("i/*.nii.gz", 2, ["i/{case}_0000.nii.gz", "i/{case}_0001.nii.gz"]),
        ("{case}/c{channel}.nii.gz", 2, ["{case}/c0000.nii.gz", "{case}/c0001.nii.gz"]),
        (["{case}/t1.nii.gz", "{case}/t2.nii.gz"], 2, ["{case}/t1.nii.gz", "{case}/t2.nii.gz"]),
    ],
)
def test_a_pattern_per_channel(images, channels, texts):
    assert [pattern.text for pattern in channel_patterns(images, channels)] == texts


def test_channels_that_cannot_be_told():
    with pytest.raises(InputError, match=r"which file is which modality\? Write \{channel\}"):
        channel_patterns("{case}/image.nii.gz", 2)
    with pytest.raises(InputError, match="1 patterns for 2 modalities"):
        channel_patterns(["{case}.nii.gz"], 2)
