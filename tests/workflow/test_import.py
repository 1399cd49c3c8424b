"""Cells of the finished smoke study, taken away and imported again: what Snakemake makes of it, and what the report says."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from slurm_stand_in import stand_in

pytestmark = pytest.mark.slow

ROW, OTHER_ROW = "smoke_nodules/retina_unet_resenc/mae", "smoke_nodules/retina_unet_resenc/scratch"


@dataclass(frozen=True)
class Outcome:
    """``here``: the study's folder; ``files``, ``arguments``: name the study for Snakemake and for a command; ``before``,
    ``after``: jobs by rule that were planned before and after the import, which told ``lines``.
    """

    here: Path
    theirs: Path
    files: tuple
    arguments: list
    before: Counter
    lines: list[str]
    after: Counter


@pytest.fixture(scope="module")
def imported(finished, tmp_path_factory, count):
    """Results of the finished study in another place, of which Snakemake has recorded nothing, without rows and without the
    cells and the pre-training of MAE; then these imported from a copy, and Snakemake run.
    """
    repository, results, files = finished
    place = tmp_path_factory.mktemp("imported")
    here, theirs = place / "results", place / "theirs"
    shutil.copytree(results, here)
    shutil.copytree(results / "smoke", theirs)
    (place / "place.yaml").write_text(f"pathvars: {{results: {here}}}\n")
    for name in (f"cells/{ROW}", "rows", "pretrained", "comparison", "report", "only", "work"):
        shutil.rmtree(here / "smoke" / name, ignore_errors=True)
    given = [*files[1:], place / "place.yaml"]
    arguments = [word for file in given for word in ("--config", file)]
    before = count(repository.planned(files[0], *given))
    told = repository.detpretrain("import", theirs, *arguments).splitlines()
    after = count(repository.planned(files[0], *given))
    repository.snakemake("-c2", files[0], *given)
    lines = [line for line in told if not line.startswith("checking ")]
    return Outcome(here / "smoke", theirs, (files[0], *given), arguments, before, lines, after)


def test_without_the_import_everything_would_be_trained_again(imported):
    expected = {"pretrain": 1, "probe": 1, "finetune": 3, "predict": 3, "evaluate": 3}
    assert {rule: imported.before[rule] for rule in expected} == expected


def test_cells_come_with_their_pretraining_and_its_probe(imported):
    assert imported.lines == [
        "pre-training mae/resenc: imported",
        *(f"{ROW}/fold{fold}-seed0: imported" for fold in range(3)),
        "imported: 4, refused: 0",
    ]
    assert (imported.here / "pretrained" / "mae" / "resenc" / "probe.json").exists()


def test_after_it_only_cheap_stages_are_planned(imported, finished):
    assert imported.after == {"consolidate": 2, "compare": 1, "report": 1}
    assert finished[0].planned(*imported.files) == []


def test_scores_are_the_same_bit_for_bit(imported, finished):
    before = finished[1] / "smoke"
    for name in (f"rows/{ROW}/seed0/matches.parquet", "comparison/scores.csv", "comparison/differences.csv"):
        assert (imported.here / name).read_bytes() == (before / name).read_bytes()
    found = [json.loads((place / f"rows/{ROW}/seed0/metrics.json").read_text()) for place in (imported.here, before)]
    assert found[0]["test_sets"] == found[1]["test_sets"]


def test_report_and_status_say_what_was_imported(imported, finished):
    table = pd.read_csv(imported.here / "report" / "main_table.csv").set_index("init")
    assert table["imported_cells"].to_dict() == {"mae": 3, "scratch": 0}
    page = (imported.here / "report" / "report.html").read_text()
    assert "3 of 6 cells were not computed here but imported from theirs (study smoke)" in page
    told = json.loads(finished[0].detpretrain("status", "--json", *imported.arguments))
    assert [(cell["state"], cell["imported"] is not None) for cell in told["cells"]] == [
        *[("fresh", True)] * 3,
        *[("fresh", False)] * 3,
    ]


def test_what_snakemake_recorded_of_a_cell_that_is_gone_is_forgotten(imported, finished, count):
    """As far as Snakemake knows, the model was made here by another configuration before.

    The imported cell is the same bit for bit, so that nothing but its mark asks for another report.
    """
    repository, cell = finished[0], imported.here / "cells" / OTHER_ROW / "fold0-seed0"
    recipes = repository.root / "config" / "recipes.yaml"
    text = recipes.read_text()
    try:
        recipes.write_text(text.replace("epochs: 2\n", "epochs: 3\n"))
        repository.snakemake("--touch", "--force", "-c1", cell / "model.pth", *imported.files)
    finally:
        recipes.write_text(text)
    assert count(repository.planned(*imported.files))["finetune"] == 1
    shutil.rmtree(cell)
    repository.detpretrain("import", imported.theirs, *imported.arguments)
    assert count(repository.planned(*imported.files)) == {"report": 1}


def test_unlock_removes_the_lock_that_a_killed_snakemake_left(imported, finished, tmp_path, monkeypatch):
    stand_in(tmp_path / "slurm", monkeypatch)  # with an empty queue: this machine may have a Slurm that is down
    repository = finished[0]
    folder = repository.root / ".snakemake" / "locks"
    (folder / "0.output.lock").write_text("results\n")
    assert "--yes ends what is in the table" in repository.detpretrain("unlock", *imported.arguments)
    assert list(folder.iterdir())
    assert "unlocked the directory" in repository.detpretrain("unlock", "--yes", *imported.arguments)
    assert not folder.exists() or not list(folder.iterdir())
