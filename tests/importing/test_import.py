"""``detpretrain import`` as a command: what comes in, what is refused, and what is never touched."""

import json
import os
import shutil

import pytest
from study_trees import hold
from typer.testing import CliRunner

from detpretrain import status, trainings
from detpretrain.cli import app
from detpretrain.files import read_json, write_json

MAE = "rows=mae,folds=0"  # one cell and its pre-training


@pytest.fixture
def bring(theirs, ours, arguments, monkeypatch):
    """``bring(options)`` -> exit status and the lines that were told."""
    monkeypatch.setattr("detpretrain.study.load", lambda files, root: ours)  # reading all entries takes long

    def run(*options, folder=theirs.folder):
        result = CliRunner().invoke(app, ["import", str(folder), *map(str, options), *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        errors = [line for line in result.stderr.splitlines() if not line.startswith("checking ")]
        return result.exit_code, result.stdout.splitlines() + errors

    return run


def judged(ours):
    return [state.imported is not None for state in status.cell_states(ours)]


def test_all_that_is_missing_comes_in_and_is_marked(everything, ours, bring, files_of, at):
    before = files_of(everything.folder)
    code, lines = bring()
    assert (code, lines[-1]) == (0, "imported: 7, refused: 0")
    assert lines[:-1] == ["pre-training mae/resenc: imported", *(f"{cell.path}: imported" for cell in ours.cells)]
    assert files_of(everything.folder) == before
    for cell in ours.cells:
        mark = read_json(at(cell) / "imported.json")
        assert (mark["origin"], mark["study"], mark["same_bytes"]) == ("theirs", "smoke", True)
        assert mark["stages"]["finetune"]["commit"] == "c" * 40
        assert files_of(at(cell)).keys() == {at(cell) / name for name in [*mark["sha256"], "imported.json"]}
        for name in mark["sha256"]:
            assert (at(cell) / name).read_bytes() == (everything.cell(cell) / name).read_bytes()
    assert judged(ours) == [True] * 6
    assert not any(training.work.exists() for training in trainings.of_study(ours)[0])
    assert bring() == (0, ["imported: 0, refused: 0"])


def test_chain_of_times_reaches_from_the_data_to_the_last_stage(everything, ours, bring, at, data):
    """Even where the pre-training and the data have just been made."""
    index = data / "smoke_nodules" / "smoke" / "preprocessed" / "index.json"
    os.utime(index)
    bring()
    checkpoint = ours.folder / "pretrained" / "mae" / "resenc" / "checkpoint.pth"
    for cell in ours.cells:
        before = [index, checkpoint] if cell.init == "mae" else [index]
        chain = [path.stat().st_mtime_ns for path in before]
        stages = (["model.pth", "log.csv"], ["raw_boxes.parquet"], ["metrics.json", "matches.parquet"])
        newest = max(chain)
        for names in stages:
            times = {(at(cell) / name).stat().st_mtime_ns for name in names}
            assert len(times) == 1
            assert min(times) > newest
            newest = max(times)


def test_one_that_is_refused_holds_up_none_of_the_others(everything, ours, bring, at):
    odd = ours.cells[2]
    everything.write_cell(odd, predict={"recipe": "0" * 12})
    code, lines = bring()
    assert code == 1
    (told,) = [line for line in lines if "refused: /" in line]
    assert told.startswith(
        f"{odd.path}: refused: {everything.cell(odd)}/metrics.json: recipe of predict is 000000000000"
    )
    assert lines[-1] == "imported: 6, refused: 1"
    assert not at(odd).exists()
    assert judged(ours) == [cell != odd for cell in ours.cells]


def test_dry_run_checks_and_writes_nothing(everything, ours, bring, files_of):
    everything.write_cell(ours.cells[0], evaluate={"recipe": "0" * 12})
    before = files_of(ours.results)
    code, lines = bring("--dry-run")
    assert code == 1
    assert f"{ours.cells[1].path}: would be imported" in lines
    assert lines[-1] == "to import: 6, refused: 1"
    assert files_of(ours.results) == before


def test_what_is_here_or_partly_here_is_never_touched(everything, ours, bring, at):
    whole, part, empty = ours.cells[:3]
    shutil.copytree(everything.cell(whole), at(whole))
    (at(whole) / "model.pth").write_text("mine")
    at(part).mkdir(parents=True)
    (at(part) / "model.pth").write_text("mine too")
    at(empty).mkdir(parents=True)
    code, lines = bring()
    assert code == 0
    assert (at(whole) / "model.pth").read_text() == "mine"
    assert [path.name for path in at(part).iterdir()] == ["model.pth"]
    told = f"{part.path}: left alone: a part of it is here (model.pth): remove it, or let Snakemake finish it"
    assert told in lines
    assert judged(ours) == [False, False, True, True, True, True]


def test_cell_that_is_being_trained_is_left_alone(everything, ours, bring, at):
    training = trainings.of_cell(ours, ours.cells[0])
    hold(training)
    code, lines = bring("--only", MAE)
    assert code == 0
    assert f"{ours.cells[0].path}: left alone: it is being trained here" in lines
    assert not at(ours.cells[0]).exists()
    assert read_json(training.work / "lock.json")["pid"] == os.getpid()


def test_training_that_begins_after_the_look_keeps_its_cell(everything, ours, bring, at, monkeypatch):
    monkeypatch.setattr("detpretrain.importing.plan.attempts", lambda some: [status.Attempt() for _ in some])
    hold(trainings.of_cell(ours, ours.cells[0]))
    code, lines = bring("--only", MAE)
    assert code == 1
    assert any(
        line.startswith(f"{ours.cells[0].path}: refused: ") and "is training this cell" in line for line in lines
    )
    assert not at(ours.cells[0]).exists()


def test_cells_that_are_not_or_not_whole_there_are_told(theirs, ours, bring):
    theirs.write_cell(ours.cells[0])
    theirs.write_pretraining()
    cut = theirs.write_cell(ours.cells[1])
    (cut / "metrics.json").unlink()
    code, lines = bring()
    assert code == 0
    assert f"{ours.cells[1].path}: left alone: not whole in {theirs.folder}: lacks metrics.json" in lines
    assert lines[-1] == "imported: 2, refused: 0, 4 cells are not there"


def test_a_part_of_the_study_is_chosen(everything, ours, bring):
    code, lines = bring("--only", "rows=scratch,folds=1")
    assert (code, lines[-1]) == (0, "imported: 1, refused: 0")
    assert judged(ours) == [(cell.init, cell.fold) == ("scratch", 1) for cell in ours.cells]


@pytest.mark.parametrize(
    ("lacking", "target"),
    [
        ("smoke/preprocessed/index.json", "smoke/preprocessed/index.json"),
        ("task/splits.json", "task/cases.csv"),
        ("task/objects.csv", "task/cases.csv"),
    ],
)
def test_data_set_that_is_not_prepared_here_is_one_line_with_what_to_make(
    everything, ours, bring, data, lacking, target
):
    (data / "smoke_nodules" / lacking).unlink()
    code, lines = bring()
    assert code == 1
    path = data / "smoke_nodules" / target
    assert lines[1].startswith(
        f"6 cells: refused: {path} is not there: make it first, snakemake -c2 --configfile config/smoke.yaml"
    )
    assert lines[1].endswith(str(path))
    assert lines[2:] == ["imported: 1, refused: 1"]


def test_absent_pretraining_is_told_with_what_comes_of_it(everything, ours, bring):
    shutil.rmtree(everything.folder / "pretrained")
    code, lines = bring()
    told = f"pre-training mae/resenc is neither here nor to be had from {everything.folder}: "
    assert code == 0
    assert f"{told}Snakemake will train it, and then these 3 cells again" in lines
    assert judged(ours) == [True] * 6


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"provenance": {"recipe": "0" * 12}}, "recipe of pretrain is 000000000000"),
        ({"init": "mg"}, "is of mg and resenc, not of mae and resenc"),
        ({"provenance": None}, "not the assessment of a pre-training"),
    ],
)
def test_pretraining_that_does_not_fit_is_refused(theirs, ours, bring, change, why):
    folder = theirs.write_pretraining(**change)
    code, lines = bring()
    assert code == 1
    assert lines[0].startswith(f"pre-training mae/resenc: refused: {folder}/assessment.json: {why}")
    assert not (ours.folder / "pretrained" / "mae" / "resenc").exists()


def test_pretraining_that_is_here_stays_and_another_one_behind_the_cells_is_told(everything, ours, bring):
    folder = ours.folder / "pretrained" / "mae" / "resenc"
    shutil.copytree(everything.folder / "pretrained" / "mae" / "resenc", folder)
    assessment = read_json(folder / "assessment.json")
    assessment["provenance"]["seconds"] = 77.0
    write_json(folder / "assessment.json", assessment)
    code, lines = bring("--only", MAE)
    assert code == 0
    assert "1 cells started from another training of mae/resenc than the one here, by the same recipe" in lines
    assert not (folder / "imported.json").exists()


@pytest.mark.parametrize(("recipe", "comes"), [(True, True), (False, False)])
def test_probe_comes_with_the_checkpoint_that_it_probed(everything, ours, bring, recipe, comes):
    from detpretrain import leaves

    pretrained = read_json(everything.folder / "pretrained" / "mae" / "resenc" / "assessment.json")["provenance"]
    expected = leaves.recipe("probe", leaves.probe(ours, "resenc"))
    probe = {"provenance": {"recipe": expected if recipe else "0" * 12, "pretrain": pretrained}}
    write_json(everything.folder / "pretrained" / "mae" / "resenc" / "probe.json", probe)
    bring("--only", MAE)
    folder = ours.folder / "pretrained" / "mae" / "resenc"
    assert (folder / "probe.json").exists() == comes
    assert not comes or (folder / "probe.json").stat().st_mtime_ns > (folder / "checkpoint.pth").stat().st_mtime_ns


FOUND = {"init": "mae", "dataset": "smoke_nodules", "compared": 12, "overlap": [], "accepted": False, "patients": []}


@pytest.mark.parametrize("prepared", [True, False])
def test_finding_about_leaks_comes_where_the_corpus_is_not_here(everything, ours, bring, data, prepared):
    write_json(everything.folder / "leakage" / "mae" / "smoke_nodules.json", FOUND)
    if not prepared:
        (data / "smoke_corpus" / "task" / "cases.csv").unlink()
    target = ours.folder / "leakage" / "mae" / "smoke_nodules.json"
    _, lines = bring("--only", MAE)
    assert target.exists() is not prepared
    assert any(line.startswith(f"{target}: taken from there, as smoke_corpus is not") for line in lines) is not prepared


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, "it is not there"),
        ({"accepted": True}, "accept_overlap of mae and smoke_nodules differs"),
        ({"patients": ["nobody"]}, "names patient nobody"),
        ({"init": "mg"}, "is of mg and smoke_nodules"),
    ],
)
def test_finding_that_does_not_fit_stays_away(everything, ours, bring, data, change, why):
    (data / "smoke_corpus" / "task" / "cases.csv").unlink()
    if change is not None:
        write_json(everything.folder / "leakage" / "mae" / "smoke_nodules.json", FOUND | change)
    _, lines = bring("--only", MAE)
    target = ours.folder / "leakage" / "mae" / "smoke_nodules.json"
    (told,) = [line for line in lines if line.startswith(f"{target} is missing (")]
    assert why in told
    assert told.endswith("Snakemake will prepare smoke_corpus, and then train mae and its cells again")
    assert not target.exists()


def test_other_name_of_the_study_and_other_bytes_are_told(theirs, ours, bring, edit_json, data, at):
    def change(content):
        for case in content["cases"]:
            case["source"] = "other"

    for cell in ours.cells[:2]:
        theirs.write_cell(cell, study="part_b")
    edit_json(data / "smoke_nodules" / "smoke" / "preprocessed" / "index.json", change)
    _, lines = bring()
    assert "the study is called part_b there" in lines
    assert any(
        line.startswith("2 of the cells: cases and objects are those here, but not every image") for line in lines
    )
    mark = read_json(at(ours.cells[0]) / "imported.json")
    assert (mark["study"], mark["same_bytes"]) == ("part_b", False)


def test_copy_that_fails_is_a_refusal_and_leaves_nothing(everything, ours, bring, at, monkeypatch):
    from detpretrain.importing import place

    copy = place.copy

    def full(source, target, when):
        if source == everything.cell(ours.cells[0]) / "raw_boxes.parquet":
            raise OSError(28, "No space left on device", str(target))
        return copy(source, target, when)

    monkeypatch.setattr(place, "copy", full)
    code, lines = bring("--only", "folds=0")
    assert code == 1
    assert any(
        line.startswith(f"{ours.cells[0].path}: refused: ") and "No space left on device" in line for line in lines
    )
    assert not at(ours.cells[0]).exists()
    assert not list(at(ours.cells[0]).parent.glob(".tmp*"))
    assert judged(ours) == [False, False, False, True, False, False]


def test_folder_that_is_no_study_or_this_one_is_refused(theirs, ours, bring, tmp_path):
    assert bring(folder=tmp_path) == (
        1,
        [f"error: {tmp_path}: holds no cells/: give the folder of a study, results/STUDY or a copy of it"],
    )
    (ours.folder / "cells").mkdir(parents=True)
    code, (told,) = bring(folder=ours.folder)
    assert code == 1
    assert told == f"error: {ours.folder}: is the folder of this study itself: give the other group's"


def test_status_tells_which_cells_are_imported_until_they_are_made_here(everything, ours, bring, arguments, at):
    bring()
    environment = {"COLUMNS": "200"}
    shown = CliRunner().invoke(app, ["status", *arguments], env=environment).stdout
    date = status.cell_states(ours)[0].imported.date
    assert f"imported from theirs (study smoke), {date}: 6 cells" in shown
    (row,) = [line.split() for line in shown.splitlines() if "smoke_nodules retina_unet_resenc mae seed0" in line]
    assert row[-2:] == ["3", "no"]
    assert "pre-training mae of resenc: pretrain: source changed, imported from theirs" in shown
    told = json.loads(CliRunner().invoke(app, ["status", "--json", *arguments]).stdout)
    assert {cell["imported"]["origin"] for cell in told["cells"]} == {"theirs"}
    assert told["pretrainings"][0]["imported"]["stages"]["pretrain"]["source"] == "abc123"
    write_json(at(ours.cells[0]) / "metrics.json", read_json(at(ours.cells[0]) / "metrics.json") | {"more": 1})
    told = json.loads(CliRunner().invoke(app, ["status", "--json", *arguments]).stdout)
    assert [cell["imported"] is None for cell in told["cells"]] == [True] + [False] * 5


def test_summary_of_the_report_counts_imported_cells_apart(everything, ours, bring):
    bring("--only", "rows=scratch,folds=0+1")
    lines = status.summary(status.cell_states(ours))
    found = {(line["initialisation"], line["imported from"]): line["cells"] for line in lines}
    assert found == {("mae", "-"): 3, ("scratch", "theirs (study smoke)"): 2, ("scratch", "-"): 1}


def test_snakemake_that_works_here_is_told(everything, bring, monkeypatch):
    monkeypatch.setattr("detpretrain.importing.run.snakemake_runs.processes", lambda root: [77])
    _, lines = bring("--only", MAE)
    assert any(
        line.startswith("a Snakemake works here (process 77): what it has planned it still makes") for line in lines
    )
