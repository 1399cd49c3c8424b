"""Numbers of others: their files are read or refused in one line, and stand beside ours only where the study has the data."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.comparison.compare import METRICS
from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.files import read_yaml
from detpretrain.report.page import TEMPLATE
from detpretrain.report.published import CHALLENGE_CPM, PublishedNumber, published_table, read_published
from detpretrain.report.tables import read_comparison

CONFIG = TEMPLATE.parents[2] / "config"
HEADER = "dataset,test_set,detector,init,metric,value,source,note"
LINE = "lidc,cv,net,scratch,AP@0.10,0.605,a paper,other splits"
PAPER = PublishedNumber("lidc", "cv", "net", "scratch", "AP@0.10", 0.605, "a paper", "other splits")


def write(folder, *lines, name="a.csv", encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return folder


def scored(*rows, overlap=0):
    """Rows: dataset, test set, init, seed, AP@0.10; of the detector "net"."""
    table = pd.DataFrame(rows, columns=["dataset", "test_set", "init", "seed", "AP@0.10"])
    return table.assign(study="s", detector="net", overlap=overlap, **dict.fromkeys(METRICS[1:], 0.5))


def test_lines_of_all_files_are_read_in_order(tmp_path):
    write(tmp_path, HEADER, "kits21,cv,net,mae,CPM,1,b,", name="b.csv")
    write(tmp_path, HEADER + ",more", LINE.replace("a paper", "'A' & B") + ",x", "", encoding="utf-8-sig")
    (tmp_path / "README.md").write_text("no csv")
    first, second = read_published(tmp_path)
    assert first == PublishedNumber("lidc", "cv", "net", "scratch", "AP@0.10", 0.605, "'A' & B", "other splits")
    assert second == PublishedNumber("kits21", "cv", "net", "mae", "CPM", 1.0, "b")


def test_a_missing_folder_holds_no_numbers(tmp_path):
    assert read_published(tmp_path / "reference") == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER.replace("init,", ""), LINE], "line 1: no column init: name the columns"),
        ([HEADER.replace(",", ";"), LINE], "line 1: no column dataset, test_set"),
        ([], "line 1: no column dataset"),
        ([HEADER, LINE, LINE.replace("0.605", "high")], "line 3: value 'high' is no number: write it as 0.605"),
        ([HEADER, LINE.replace("0.605", "60.5")], "line 2: value '60.5' is not between 0 and 1: write 60.5 % as 0.605"),
        ([HEADER, LINE.replace("0.605", "-0.1")], "line 2: value '-0.1' is not between"),
        ([HEADER, LINE.replace("0.605", "nan")], "line 2: value 'nan' is not between"),
        ([HEADER, LINE.replace("AP@0.10", "AP10")], "line 2: metric 'AP10' is not known: use one of AP@0.10, mAP"),
        ([HEADER, LINE.replace("a paper", " ")], "line 2: no source: fill it in"),
        ([HEADER, "lidc,cv"], "line 2: no detector: fill it in"),
        (
            [HEADER, LINE + ", and more"],
            "line 2: more fields than columns: put texts that hold a comma in double quotes",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, lines, message):
    write(tmp_path, *lines)
    with pytest.raises(InputError) as raised:
        read_published(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'a.csv'}: {message}")
    assert "\n" not in str(raised.value)


def test_another_encoding_is_refused(tmp_path):
    write(tmp_path, HEADER, LINE.replace("a paper", "Jäger"), encoding="latin-1")
    with pytest.raises(InputError, match=r"a\.csv: cannot be read as csv .*: save it as csv in UTF-8"):
        read_published(tmp_path)


def test_our_row_stands_beside_it_as_mean_over_seeds():
    ours = [("lidc", "cv", "scratch", 0, 0.5), ("lidc", "cv", "scratch", 1, 0.7)]
    scores = scored(*ours, ("lidc", "cv", "mae", 0, 0.9), ("lidc", "test", "scratch", 0, 0.9))
    table = published_table([PAPER], scores)
    assert table.to_dict("records") == [
        {
            "data set": "lidc", "test set": "cv", "detector": "net", "init": "scratch", "metric": "AP@0.10",
            "published by others": "0.605", "this study": "0.600", "this study − published": "−0.005",
            "source of the published number": "a paper", "note on the published number": "other splits",
        },
    ]  # fmt: skip


@pytest.mark.parametrize("change", [{"init": "mae"}, {"detector": "other"}])
def test_without_such_a_row_ours_is_not_defined(change):
    table = published_table([PublishedNumber(**{**vars(PAPER), **change})], scored(("lidc", "cv", "scratch", 0, 0.5)))
    assert table.iloc[0, 5:8].tolist() == ["0.605", "–", "–"]


def test_an_undefined_score_of_ours_is_not_defined():
    table = published_table([PAPER], scored(("lidc", "cv", "scratch", 0, np.nan)))
    assert table.iloc[0, 5:8].tolist() == ["0.605", "–", "–"]


@pytest.mark.parametrize("change", [{"dataset": "ribfrac"}, {"test_set": "test"}])
def test_other_data_or_test_sets_have_no_line(change):
    table = published_table([PublishedNumber(**{**vars(PAPER), **change})], scored(("lidc", "cv", "scratch", 0, 0.5)))
    assert table.empty
    assert "published by others" in table


def test_the_challenges_score_is_not_the_studys_cpm():
    scores = scored(("luna16", "cv", "scratch", 0, 0.5), ("luna16", "cv", "scratch", 1, 0.5))
    published = [
        PublishedNumber("luna16", "cv", "net", "scratch", metric, 0.93, "p") for metric in ("CPM", CHALLENGE_CPM)
    ]
    cpm = {matches.Run("s", "luna16", "cv", "net", "scratch", 1): 0.95}
    assert published_table(published, scores, cpm)["this study"].tolist() == ["0.500", "0.950"]
    assert published_table(published, scores)["this study"].tolist() == ["0.500", "–"]


def test_lines_are_ordered_and_overlap_keeps_its_dagger():
    scores = scored(
        ("a", "cv", "scratch", 0, 0.5), ("a", "b", "scratch", 0, 0.5), ("a", "cv", "mae", 0, 0.5), overlap=2
    )
    places = [("b", "scratch"), ("cv", "scratch"), ("cv", "mae"), ("cv", "other")]
    published = [PublishedNumber("a", test_set, "net", init, "AP@0.50", 0.4, "p") for test_set, init in places]
    found = published_table(published, scores)[["test set", "init", "this study − published"]].to_numpy().tolist()
    assert found == [
        ["cv", "mae †", "+0.100"], ["cv", "other", "–"], ["cv", "scratch †", "+0.100"], ["b", "scratch †", "+0.100"],
    ]  # fmt: skip


def test_beside_the_tables_of_a_comparison(study):
    scores, _ = read_comparison(study.root / "comparison")
    one = PublishedNumber("nodules", "cv", "retina_unet_resenc", "mae", "FROC@0.10", 0.0, "p")
    ours = scores.loc[scores["init"] == "mae", "FROC@0.10"].item()
    assert published_table([one], scores)["this study"].tolist() == [f"{ours:.3f}"]


def test_numbers_of_nndetection():
    found = read_published(CONFIG / "reference")
    numbers = {
        (one.dataset, one.test_set, one.metric): one.value for one in found if one.source.startswith("nnDetection v0.1")
    }
    assert numbers == {
        ("lidc", "cv", "AP@0.10"): 0.605, ("ribfrac", "cv", "AP@0.10"): 0.765, ("msd_pancreas", "cv", "AP@0.10"): 0.766,
        ("msd_pancreas", "test", "AP@0.10"): 0.791, ("luna16", "cv", CHALLENGE_CPM): 0.93,
    }  # fmt: skip


def test_names_are_those_of_the_configuration():
    known = {kind: read_yaml(CONFIG / f"{kind}.yaml") for kind in ("datasets", "detectors", "inits")}
    for one in read_published(CONFIG / "reference"):
        assert one.dataset in known["datasets"]
        assert one.detector in known["detectors"]
        assert one.init in known["inits"]
