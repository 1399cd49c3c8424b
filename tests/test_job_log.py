from pathlib import Path

import pytest

from detpretrain.job_log import last_error

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    fail()\n'
EPOCH = "epoch 1/5  step 75  lr 0.003  train_loss 2.3  val_ap 0.2  seconds 16.3\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (EPOCH, None),
        (EPOCH + "error: loss is not finite\n", "error: loss is not finite"),
        ("error: no such file\nresource_tracker: 1 leaked semaphore\n", "error: no such file"),
        (TRACEBACK + "ValueError: bad\n", "ValueError: bad"),
        (EPOCH + TRACEBACK + "a.b.Error: two\nlines\n", "a.b.Error: two"),
        (TRACEBACK + "ValueError: one\n\nDuring handling ...:\n\n" + TRACEBACK + "OSError: two\n", "OSError: two"),
        (TRACEBACK, "Traceback (most recent call last):"),  # cut off
        ("Exception in thread x:\n" + TRACEBACK + "OSError: no more\n" + EPOCH, None),
        (EPOCH + "Exception ignored in: <function f>\n" + TRACEBACK + "OSError: at the end\n", None),
        (EPOCH + TRACEBACK + "KeyboardInterrupt\n", None),
        ("step 1\rstep 2\rerror: after a bar\n", "error: after a bar"),
        ("the error: is 3\n", None),
    ],
)
def test_how_a_log_ends(tmp_path, text, expected):
    (tmp_path / "job.log").write_text(text, newline="")
    assert last_error(tmp_path / "job.log") == expected


def test_log_is_read_from_its_end(tmp_path):
    log = tmp_path / "job.log"
    log.write_bytes(b"error: old\n" + b"\xff one of many lines\n" * 10000 + b"error: new\n")
    assert last_error(log) == "error: new"
    log.write_bytes(b"error: old\n" + b"\xff one of many lines\n" * 10000)
    assert last_error(log) is None
    assert last_error(Path(tmp_path / "absent.log")) is None
