import pytest
from study_trees import ROOT, finish_cell, finish_pretraining, hold, leave_work, smoke_study
from typer.testing import CliRunner

from detpretrain import clean, trainings
from detpretrain.cli import app


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    chosen, file = smoke_study(tmp_path)
    monkeypatch.chdir(ROOT)
    return chosen, ("--config", "config/smoke.yaml", "--config", str(file))


@pytest.fixture
def cluttered(smoke):
    """Finished: the cell 0 and the pre-training. Cell 1 trains again, cell 2 lacks its model, cell 3 was interrupted."""
    chosen, arguments = smoke
    done = [finish_cell(chosen, chosen.cells[0]), finish_pretraining(chosen, "mae", "resenc")]
    running, begun = finish_cell(chosen, chosen.cells[1]), finish_cell(chosen, chosen.cells[2])
    stopped = trainings.of_cell(chosen, chosen.cells[3])
    for training in (*done, running, begun, stopped):
        leave_work(training)
    hold(running)
    (begun.folder / "model.pth").unlink()
    (stopped.work / "last.pth").touch()
    return chosen, arguments, done


def files(chosen):
    return {path for path in chosen.results.rglob("*") if path.is_file()}


def test_without_yes_work_of_finished_trainings_is_listed_and_stays(cluttered):
    chosen, arguments, done = cluttered
    before = files(chosen)
    result = CliRunner().invoke(app, ["clean", *arguments])
    assert result.exit_code == 0
    expected = [f"{training.work}: 2 files, 1.0 KB" for training in done]
    assert result.stdout.splitlines() == [*expected, "2.0 KB in 2 folders: --yes removes them"]
    assert files(chosen) == before


def test_with_yes_it_goes_and_nothing_else_does(cluttered):
    chosen, arguments, done = cluttered
    before = files(chosen)
    result = CliRunner().invoke(app, ["clean", "--yes", *arguments])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "freed 2.0 KB in 2 folders"
    gone = before - files(chosen)
    assert {path for path in before if any(path.is_relative_to(training.work) for training in done)} == gone
    assert len(gone) == 4
    assert not any(training.work.exists() for training in done)
    again = CliRunner().invoke(app, ["clean", "--yes", *arguments])
    assert again.stdout == "freed 0 B in 0 folders\n"


def test_training_that_began_after_the_listing_keeps_its_work(cluttered):
    chosen, _, done = cluttered
    found = clean.leftovers(chosen)
    assert [each.training for each in found] == done
    hold(done[0])
    (done[1].folder / "checkpoint.pth").unlink()
    assert list(clean.remove(found)) == []
    assert all((training.work / "progress.json").exists() for training in done)


def test_lock_that_a_dead_process_left_goes_too(cluttered):
    chosen, _, done = cluttered
    hold(done[0], pid=-1)
    assert [each.training for each in clean.remove(clean.leftovers(chosen))] == done


def test_what_a_link_points_to_is_not_removed(cluttered, tmp_path):
    chosen, _, done = cluttered
    done[0].work.rename(tmp_path / "elsewhere")
    done[0].work.symlink_to(tmp_path / "elsewhere")
    assert [each.training for each in clean.leftovers(chosen)] == done[1:]


def test_what_cannot_be_removed_is_one_line(cluttered, monkeypatch):
    _, arguments, done = cluttered

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder / "progress.json"))

    monkeypatch.setattr(clean.shutil, "rmtree", refuse)
    result = CliRunner().invoke(app, ["clean", "--yes", *arguments])
    assert result.exit_code == 1
    told = f"{done[0].work / 'progress.json'}: cannot be removed (Permission denied): correct its permissions"
    assert result.stderr == f"error: {told}\n"


@pytest.mark.parametrize(
    ("size", "expected"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (3_420_000, "3.4 MB"), (5e15, "5000.0 TB")]
)
def test_sizes_are_readable(size, expected):
    assert clean.readable(size) == expected
