import hashlib
import os
import time

import pytest

from detpretrain import imported
from detpretrain.errors import InputError
from detpretrain.files import read_json, write_json
from detpretrain.importing import place as placing
from detpretrain.importing.place import forget, newest, place

STAGES = [["model.pth", "log.csv"], ["boxes"], ["metrics.json"]]
MARK = imported.content("theirs", "smoke", "2026-11-28", {}, True)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("model.pth", "log.csv", "boxes", "metrics.json", "more"):
        (folder / name).write_bytes(name.encode() * 1000)
        os.utime(folder / name, (1e9, 1e9))
    return folder


@pytest.fixture
def given(tmp_path):
    path = tmp_path / "index.json"
    path.touch()
    return path


def test_files_come_with_a_mark_that_holds_their_digests(source, given, tmp_path):
    target = tmp_path / "cells" / "fold0-seed0"
    place(source, target, STAGES, MARK, [given], [])
    names = {"model.pth", "log.csv", "boxes", "metrics.json"}
    assert {path.name for path in target.iterdir()} == {*names, "imported.json"}
    assert all((target / name).read_bytes() == (source / name).read_bytes() for name in names)
    mark = read_json(target / "imported.json")
    assert mark["sha256"] == {name: hashlib.sha256((source / name).read_bytes()).hexdigest() for name in names}
    assert imported.of_cell(target).origin == "theirs"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("ahead", [-1000, 0, 1000])
def test_times_are_in_order_and_behind_every_input(source, given, tmp_path, ahead):
    """Also behind one whose clock is ahead."""
    now = time.time() + ahead
    os.utime(given, (now, now))
    target = tmp_path / "cell"
    place(source, target, STAGES, MARK, [given, tmp_path / "absent"], [])
    model, log, boxes, metrics = (target / name for name in ("model.pth", "log.csv", "boxes", "metrics.json"))
    assert newest([given]) < newest([model]) == newest([log]) < newest([boxes]) < newest([metrics])
    assert newest([metrics]) - max(newest([given]), time.time_ns() - 10**9) < 2 * 10**9


def test_what_is_there_stays(source, given, tmp_path):
    target = tmp_path / "cell"
    target.mkdir()
    (target / "model.pth").write_text("trained here")
    with pytest.raises(InputError, match=r"cell: holds model\.pth: move it away"):
        place(source, target, STAGES, MARK, [given], [])
    assert [path.name for path in target.iterdir()] == ["model.pth"]
    assert (target / "model.pth").read_text() == "trained here"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cell", "index.json", "theirs"]


def test_empty_folder_and_the_mark_of_results_that_are_gone_are_no_hindrance(source, given, tmp_path):
    target = tmp_path / "cell"
    target.mkdir()
    write_json(target / "imported.json", {"old": True})
    place(source, target, STAGES, MARK, [given], [])
    assert imported.of_cell(target).date == "2026-11-28"


def test_benchmark_of_a_run_before_goes(source, given, tmp_path):
    old = tmp_path / "finetune.tsv"
    old.touch()
    place(source, tmp_path / "cell", STAGES, MARK, [given], [old, tmp_path / "never.tsv"])
    assert not old.exists()


def test_copy_that_fails_leaves_nothing(source, given, tmp_path):
    (source / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError):
        place(source, tmp_path / "cell", STAGES, MARK, [given], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "theirs"]


def test_snakemake_is_not_started_where_it_has_recorded_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(placing.subprocess, "run", None)
    forget([tmp_path / "x"], [], tmp_path)
    (tmp_path / ".snakemake" / "metadata").mkdir(parents=True)
    forget([], [], tmp_path)


@pytest.mark.parametrize(
    ("status", "said", "fails"),
    [
        (0, "", False),
        (1, "Failed to clean up: the metadata was not present.\nFiles:\na\n", False),
        (1, "Error\nlast\n", True),
    ],
)
def test_only_a_failure_of_snakemake_itself_stops_the_import(tmp_path, monkeypatch, status, said, fails):
    asked = []

    def answer(command, **_):
        asked.append(command)
        return placing.subprocess.CompletedProcess(command, status, said)

    monkeypatch.setattr(placing.subprocess, "run", answer)
    (tmp_path / ".snakemake" / "incomplete").mkdir(parents=True)
    if fails:
        with pytest.raises(InputError, match=r"cleanup-metadata failed \(last\): nothing was imported"):
            forget([tmp_path / "x"], [tmp_path / "a.yaml"], tmp_path)
    else:
        forget([tmp_path / "x"], [tmp_path / "a.yaml"], tmp_path)
    assert asked[0][1:] == [
        "-m",
        "snakemake",
        "--cleanup-metadata",
        str(tmp_path / "x"),
        "--configfile",
        str(tmp_path / "a.yaml"),
    ]
