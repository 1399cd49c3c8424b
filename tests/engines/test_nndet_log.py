import math

import pytest

from detpretrain.engines import nndet_log
from detpretrain.errors import InputError

METRICS = """epoch,step,train_loss/loss,train_loss/loss_cls,val_loss/loss,val/box_AP_IoU_0.10,val/box_mAP_IoU_0.10_0.50_0.05,lr
0,9,,,1.5,0.25,0.125,
0,9,1.25,0.75,,,,
,9,,,,,,0.01
1,19,,,1.0,0.5,0.25,
1,19,0.5,0.375,,,,
"""
LOG = """2024-01-01 INFO     Train epoch 0 took 10.5 s
2024-01-01 INFO     Val epoch 0 took 2.25 s
2024-01-01 INFO     Train epoch 1 took 11 s
2024-01-01 INFO     Test took 99 s
"""


@pytest.fixture
def write(tmp_path):
    """``write(version, text)``: a metrics.csv in nnDetection's folder."""

    def make(version, text):
        path = tmp_path / "logging" / "csv" / f"version_{version}" / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return tmp_path

    return make


def test_an_epoch_is_one_row_from_1_on(write, tmp_path):
    (tmp_path / "train.log").write_text(LOG)
    first, second = nndet_log.rows(write(0, METRICS), seconds=1000)
    assert first == {
        "epoch": 1, "step": 9, "train_loss": 1.25, "val_loss": 1.5, "train_cls": 0.75, "val_ap": 0.25, "val_map": 0.125,
        "seconds": 12.75,
    }  # fmt: skip
    assert list(first)[:4] == ["epoch", "step", "train_loss", "val_loss"]
    assert list(first)[-1] == "seconds"
    assert (second["epoch"], second["train_loss"], second["seconds"]) == (2, 0.5, 11.0)


def test_runs_that_went_on_are_put_together_and_the_later_one_counts(write, tmp_path):
    header = METRICS.splitlines()[0]
    for version in (2, 10):  # by number, not by name
        write(version, f"{header}\n{version - 1},0,{version},,,,,\n")
    folder = write(0, f"{METRICS}2,29,7.0,,,,,\n")
    later = f"{header}\n2,29,4.0,,,,,\n3,39,2.0,,,,,\n"
    (tmp_path / "logging" / "csv" / "version_2" / "metrics.csv").write_text(later)
    (tmp_path / "train.log").write_text("Train epoch 2 took 5 s\nTrain epoch 2 took 6 s\n")
    rows = nndet_log.rows(folder, seconds=25)
    assert [(row["epoch"], row["train_loss"]) for row in rows] == [(1, 1.25), (2, 0.5), (3, 4.0), (4, 2.0), (10, 10.0)]
    assert rows[2]["seconds"] == 11.0
    assert rows[3]["seconds"] == 5.0  # an equal share where the log does not say


def test_an_epoch_without_its_training_loss_is_no_row(write):
    folder = write(0, METRICS + "2,29,,,0.9,0.5,0.25,\n")
    assert len(nndet_log.rows(folder, 10)) == 2
    assert all(math.isfinite(row["seconds"]) for row in nndet_log.rows(folder, 10))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epoch,step\n0,1\n", "no training loss in any metrics.csv: see"),
        ("step,train_loss/loss\n0,1\n", "no column epoch"),
        ("", "cannot be read as csv"),
    ],
)
def test_files_without_losses_are_one_line(write, text, told):
    with pytest.raises(InputError, match=told) as error:
        nndet_log.rows(write(0, text), 1)
    assert "\n" not in str(error.value)


def test_no_file_at_all(tmp_path):
    with pytest.raises(InputError, match="no training loss in any"):
        nndet_log.rows(tmp_path, 1)
