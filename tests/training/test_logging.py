import math
import time

from detpretrain.attempts import read_progress
from detpretrain.training.logging import Log


def test_who_watches_reads_what_a_training_tells(tmp_path):
    began = time.time()
    log = Log(tmp_path)
    log.resume([{"epoch": 1, "step": 60, "val_ap": 0.25, "val_loss": math.nan, "seconds": 9.0}], 60)
    time.sleep(0.1)
    log.progress(80, 375, {"box": 1.0, "loss": 1.5})
    told = read_progress(tmp_path, began)
    assert (told.step, told.total, told.loss, told.ap) == (80, 375, 1.5, 0.25)
    assert 20 / 10 < told.speed <= 20 / 0.1  # of this run's steps only
    assert began <= told.time <= time.time()


def test_before_the_first_epoch_there_is_no_score_and_words_are_few(tmp_path):
    log = Log(tmp_path)
    log.progress(20, 375, {"loss": 1.5})
    told = read_progress(tmp_path, 0.0)
    assert told.ap is None
    assert told.speed > 0
    log.progress(40, 375, {"loss": 1.0})  # within seconds of the last word
    assert read_progress(tmp_path, 0.0) == told
