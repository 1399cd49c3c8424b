"""The whole study on a machine without any of its data: what is planned, and parts of it."""

import re

import pytest

from detpretrain import study

PAPER = ("--configfile", "config/paper.yaml")
SMOKE = ("--configfile", "config/smoke.yaml")
FOLDS = {"msd_pancreas": 5, "ribfrac": 5, "kits21": 5, "lidc": 5, "duke_breast": 5, "luna16": 10, "pn9": 1, "cta_a": 5}
ROWS = {
    "retina_unet_plainconv": {"scratch", "multitalent"},
    "retina_unet_resenc": {"scratch", "mae", "mg", "s3d", "voco", "multitalent"},
    "deformable_detr_resenc": {"scratch", "mae", "mg", "s3d", "voco", "multitalent"},
}


@pytest.fixture(scope="module")
def paper(repository):
    return study.load([repository.root / "config" / "paper.yaml"], repository.root)


@pytest.fixture(scope="module")
def jobs(repository):
    return repository.planned(*PAPER)


def stats(text):
    """Rule -> jobs of the table that Snakemake prints."""
    table = text.partition("Job stats:")[2]
    return {name: int(number) for name, number in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}


def test_the_study_is_the_published_one(paper):
    assert paper.config["size"] == "full"
    assert {dataset: len(paper.folds(dataset)) for dataset in paper.config["datasets"]} == FOLDS
    found = {detector: {row.init for row in paper.rows if row.detector == detector} for detector in ROWS}
    assert found == ROWS
    assert len(paper.rows) == 8 * 14
    assert len(paper.cells) == 14 * sum(FOLDS.values()) == 574
    assert paper.corpora("mae") == paper.corpora("voco") == ["ct_rate", "abcd"]
    assert not set(paper.corpora("multitalent")) & set(FOLDS)


def test_the_grid_has_the_same_rows_in_miniature(repository, paper):
    grid = study.load([repository.root / "config" / "grid.yaml"], repository.root)
    assert {(r.detector, r.init) for r in grid.rows} == {(r.detector, r.init) for r in paper.rows}


@pytest.mark.parametrize(
    ("detector", "recipe"),
    [("retina_unet_resenc", "retina_focal_v002"), ("deformable_detr_resenc", "deformable_detr_v002")],
)
def test_published_recipes(paper, detector, recipe):
    entry = paper.entry("detectors", detector)
    assert (entry["recipe"], entry["plan"]) == (recipe, "resenc_l_128")
    assert paper.plan_spec(entry["plan"])["patch"] == 128


def test_every_job_is_planned_once(jobs, count, paper):
    methods = {"mae": 1, "mg": 1, "s3d": 1, "voco": 1, "multitalent": 2}  # MultiTalent for both backbones
    corpora, labelled = 2, 9
    assert count(jobs) == {
        "prepare": 8 + corpora + labelled,
        "plan": 8 + 2 * corpora + labelled,  # VoCo's patch is another plan
        "preprocess": 8 + 2 * corpora + labelled,
        "pretrain": sum(methods.values()),
        "leakage": 5 * 8,
        "finetune": 574,
        "predict": 574,
        "evaluate": 574,
        "consolidate": 112,
        "compare": 1,
        "report": 1,
    }
    names = ("dataset", "detector", "init", "fold", "seed")
    cells = {tuple(job.wildcards[name] for name in names) for job in jobs if job.rule == "finetune"}
    assert cells == {(c.dataset, c.detector, c.init, str(c.fold), str(c.seed)) for c in paper.cells}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (
            "datasets=luna16,rows=mae",
            {"prepare": 3, "plan": 3, "preprocess": 3, "pretrain": 1, "leakage": 1, "finetune": 20, "predict": 20}
            | {"evaluate": 20, "consolidate": 2, "compare": 1, "report": 1, "all": 1, "total": 76},
        ),
        (
            "datasets=lidc,inits=scratch,folds=0",  # no row is whole, so there is nothing to compare
            {
                "prepare": 1,
                "plan": 1,
                "preprocess": 1,
                "finetune": 3,
                "predict": 3,
                "evaluate": 3,
                "all": 1,
                "total": 13,
            },
        ),
    ],
)
def test_a_part_of_the_study(repository, only, expected):
    assert stats(repository.snakemake("-n", *PAPER, "--config", f"only={only}")) == expected


def test_jobs_of_a_part_are_those_of_the_whole(repository, jobs):
    """Same files and recipes; only what compares rows goes to a folder of its own."""
    whole = {job.files for job in jobs}
    for job in repository.planned(*PAPER, "--config", "only=datasets=ribfrac,rows=mg+scratch"):
        if job.rule in ("compare", "report"):
            assert "results/paper/only/datasets=ribfrac--rows=mg+scratch/" in job.files
        else:
            assert job.files in whole


def test_mistake_in_a_selection_is_one_line(repository):
    text = repository.snakemake("-n", *SMOKE, "--config", "only=rows=mea", check=False)
    told = "only=rows=mea: study smoke has no 'mea' in rows: did you mean 'mae'?"
    assert told in text.splitlines()
    assert "Traceback" not in text


def test_any_other_value_beside_a_selection_is_refused(repository):
    text = repository.snakemake("-n", *SMOKE, "--config", "only=rows=mae", "seeds=1", check=False)
    assert "--config is not used here" in text


def test_selection_is_no_key_of_a_study_file(repository, tmp_path):
    (tmp_path / "mine.yaml").write_text("only: rows=mae\n")
    assert "unknown key 'only'" in repository.snakemake("-n", *SMOKE, tmp_path / "mine.yaml", check=False)
