"""Copies on the node: shared by all who read them, gone with the last one, and no reason for a training to end."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.files import read_json, write_json
from detpretrain.loading import staging
from detpretrain.loading.staging import staged
from detpretrain.preprocessing.store import read_case, write_case

CASES = ("a", "b", "c")
FILES = 9  # two arrays and a json each, one of the cases without labels, and the index


def preprocessed(folder, dataset="toy", seed=0):
    """A data set as preprocessing leaves it, with a file beside it that belongs to no case."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for case in CASES:
        labels = None if case == "c" else np.ones((6, 6, 6), np.int16)
        write_case(folder, case, rng.normal(size=(1, 6, 6, 6)).astype(np.float32), labels, {"case": case})
    write_json(
        folder / "index.json",
        {"cases": [{"case": case, "source": f"{seed}"} for case in CASES], "plan": {"dataset": dataset}},
    )
    (folder / ".tmp-1-a.b2nd").write_bytes(b"half")
    return folder


@pytest.fixture
def source(tmp_path):
    return preprocessed(tmp_path / "shared" / "toy" / "plan" / "preprocessed")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "node").mkdir()
    return tmp_path / "node"


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_without_a_place_nothing_is_copied(source):
    with staged([source], None) as [near]:
        assert near == source


def test_copy_is_the_same_and_goes_when_it_is_done(source, place, capsys):
    with staged([source], str(place)) as [near]:
        assert near.is_relative_to(place)
        assert set(below(near)) == set(below(source)) - {".tmp-1-a.b2nd"}
        assert len(below(near)) == FILES
        for name in below(near):
            assert (near / name).read_bytes() == (source / name).read_bytes()
        np.testing.assert_array_equal(read_case(near, "a").data[...], read_case(source, "a").data[...])
    assert list(place.iterdir()) == []
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("staging: copying ") == 1
    assert "WARNING" not in err


def test_copy_stays_as_long_as_somebody_reads_it(source, place, capsys):
    first, second = staged([source], str(place)), staged([source], str(place))
    [near] = first.__enter__()
    assert second.__enter__() == [near]
    first.__exit__(None, None, None)
    assert read_case(near, "b").data.shape == (1, 6, 6, 6)
    second.__exit__(None, None, None)
    assert list(place.iterdir()) == []
    assert capsys.readouterr().err.count("copying") == 1


def test_of_many_that_begin_at_once_one_copies(source, place, capsys):
    together, seen = threading.Barrier(8, timeout=60), []

    def train():
        with staged([source], str(place)) as [near]:
            together.wait()
            seen.append((near, below(near)))

    threads = [threading.Thread(target=train) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len({near for near, _ in seen}) == 1
    assert all(len(files) == FILES for _, files in seen)
    assert list(place.iterdir()) == []
    assert capsys.readouterr().err.count("copying") == 1


def test_many_that_come_and_go_always_read_a_whole_copy(source, place, capsys):
    wrong = []

    def train():
        for _ in range(20):
            with staged([source], str(place)) as [near]:
                if near == source or len(below(near)) != FILES:
                    wrong.append(near)

    threads = [threading.Thread(target=train) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list(place.iterdir()) == []
    assert "WARNING" not in capsys.readouterr().err


def test_another_version_of_the_data_is_another_copy(source, place, tmp_path):
    other = preprocessed(tmp_path / "again", seed=1)
    with staged([source, other, source], str(place)) as [near, near_other, again]:
        assert near == again != near_other
        assert read_json(near_other / "index.json") == read_json(other / "index.json")
    assert list(place.iterdir()) == []


def test_data_that_are_preprocessed_anew_meanwhile_are_not_mixed(source, place, monkeypatch, capsys):
    copyfile = shutil.copyfile

    def copy(file, target):
        if Path(file).name == "index.json":
            write_json(source / "index.json", {"cases": [], "plan": {"dataset": "toy"}})
        return copyfile(file, target)

    monkeypatch.setattr(staging.shutil, "copyfile", copy)
    with staged([source], str(place)) as [near]:
        assert near == source
    assert "the data set changed meanwhile" in capsys.readouterr().err
    assert list(place.iterdir()) == []


def test_an_error_of_the_training_is_its_own(source, place, capsys):
    with pytest.raises(OSError, match="of the training"), staged([source], str(place)):
        raise OSError("of the training")
    assert list(place.iterdir()) == []
    assert "WARNING" not in capsys.readouterr().err


def fallback(source, place, capsys):
    """What is told where the data are read from the shared folder after all."""
    with staged([source], str(place)) as [near]:
        assert near == source
    [line] = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert line.startswith(f"staging: WARNING: {source} cannot be copied to {place} (")
    assert line.endswith("): it is read where it lies, which may be slow")
    return line


def test_without_room_the_shared_folder_is_read_and_a_line_says_so(source, place, monkeypatch, capsys):
    size = sum((source / name).stat().st_size for name in below(source) if not name.startswith("."))
    free = {"bytes": size + staging.SPARE - 1}
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free["bytes"]))
    assert "(1.0 GB free, 0.0 GB needed and 1 to spare)" in fallback(source, place, capsys)
    assert list(place.iterdir()) == []
    free["bytes"] += 1
    with staged([source], str(place)) as [near]:
        assert near != source


def test_disk_that_fills_up_leaves_no_half_copy(source, place, monkeypatch, capsys):
    copyfile = shutil.copyfile

    def copy(file, target):
        if Path(file).name == "b.b2nd":
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return copyfile(file, target)

    monkeypatch.setattr(staging.shutil, "copyfile", copy)
    assert "(No space left on device)" in fallback(source, place, capsys)
    assert list(place.iterdir()) == []


def test_place_that_is_not_there_is_not_made(source, place, capsys):
    assert "(No such file or directory)" in fallback(source, place / "local", capsys)
    assert list(place.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="gives a folder to another user")
def test_folder_of_somebody_else_is_not_trusted(source, place, capsys):
    home = staging._own_folder(place)
    os.chown(home, 12345, 12345)
    assert "belongs to somebody else" in fallback(source, place, capsys)


def test_variables_of_the_place_are_filled_in(source, place, monkeypatch):
    monkeypatch.setenv("NODE_DISK", str(place))
    monkeypatch.delenv("NO_DISK", raising=False)
    for written in ("$NODE_DISK", "${NODE_DISK}"):
        with staged([source], written) as [near]:
            assert near.is_relative_to(place)
    with pytest.raises(InputError, match="variable NO_DISK is not set") as error, staged([source], "/x/$NO_DISK"):
        pass
    assert "\n" not in str(error.value)


def test_missing_file_of_the_data_set_is_one_line(source, place):
    (source / "b.b2nd").unlink()
    with (
        pytest.raises(InputError, match=r"b\.b2nd: file not found: run the preprocessing again") as error,
        staged([source], str(place)),
    ):
        pass
    assert "\n" not in str(error.value)
    assert list(place.iterdir()) == []


def test_copy_with_a_short_file_is_made_again(source, place, capsys):
    """What a machine may leave that lost its power after a copy had got its name."""
    with staged([source], str(place)) as [near]:
        whole = {name: (near / name).read_bytes() for name in below(near)}
    near.mkdir(parents=True)
    for name, content in whole.items():
        (near / name).write_bytes(content)
    (near / "a.b2nd").write_bytes(b"")
    with staged([source], str(place)) as [again]:
        assert again == near
        assert (again / "a.b2nd").read_bytes() == whole["a.b2nd"]
    assert capsys.readouterr().err.count("copying") == 2


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from detpretrain.loading import staging
when, source, place = sys.argv[1:]
copyfile = shutil.copyfile
def copy(file, target):
    if when == "copying" and Path(file).name == "index.json":
        os.kill(os.getpid(), signal.SIGKILL)
    return copyfile(file, target)
staging.shutil.copyfile = copy
with staging.staged([source], place):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(when, source, place):
    """What a job leaves that is killed while it copies, or while it reads."""
    done = subprocess.run([sys.executable, "-c", KILLED, when, str(source), str(place)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    [home] = place.iterdir()
    return {path.suffix for path in home.iterdir()}


def test_job_that_is_killed_while_it_copies_is_in_nobody_s_way(source, place, capsys):
    assert killed("copying", source, place) == {".part", ".lock"}
    with staged([source], str(place)) as [near]:
        assert len(below(near)) == FILES
    assert list(place.iterdir()) == []
    assert capsys.readouterr().err.count("copying") == 1


def test_copy_of_a_killed_job_is_read_by_the_next_one(source, place, capsys):
    assert killed("reading", source, place) == {"", ".lock"}
    with staged([source], str(place)) as [near]:
        assert len(below(near)) == FILES
    assert list(place.iterdir()) == []
    assert "copying" not in capsys.readouterr().err


def test_copy_of_a_killed_job_goes_when_another_data_set_needs_the_room(source, place, tmp_path):
    killed("reading", source, place)
    other = preprocessed(tmp_path / "other", dataset="other")
    with staged([other], str(place)) as [near]:
        assert {path.name for path in near.parent.iterdir()} == {near.name, f"{near.name}.lock"}
    assert list(place.iterdir()) == []
