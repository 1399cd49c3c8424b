"""Rows that start from a checkpoint the study did not train: a file, or one from the Hub; and the leakage guard."""

import json

import pandas as pd
import pytest
import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MARK = "†"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(finished, tmp_path_factory, serve_hub):
    """(repository, results, arguments, environment) of a study with the inits ``published`` and ``acquainted``.

    Both are the finished study's MAE; the second says that it has seen one of the scored patients.
    """
    repository, results, arguments = finished
    place = tmp_path_factory.mktemp("given")
    checkpoint = results / "smoke" / "pretrained" / "mae" / "resenc" / "checkpoint.pth"
    server = serve_hub({"org/encoder": {"fold_all/checkpoint_final.pth": checkpoint.read_bytes()}}, COMMIT)
    (place / "seen.txt").write_text("# of our hospital\nnodules_0003\nsomebody else\n")
    inits = repository.root / "config" / "inits.yaml"
    before = inits.read_text()
    entries = {
        "published": {"checkpoint": f"hf://org/encoder@{COMMIT}"},
        "acquainted": {"checkpoint": str(checkpoint), "patients": str(place / "seen.txt")},
    }
    inits.write_text(before + yaml.safe_dump(entries))
    rows = [{"detector": "retina_unet_resenc", "init": init} for init in ("scratch", "published", "acquainted")]
    (place / "study.yaml").write_text(yaml.safe_dump({"study": "given", "rows": rows, "folds": [0, 1]}))
    (place / "accepting.yaml").write_text(yaml.safe_dump({"accept_overlap": {"acquainted": ["smoke_nodules"]}}))
    environment = {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(place / "cache")}
    yield repository, results, (*arguments, str(place / "study.yaml")), place, environment
    inits.write_text(before)


def test_an_overlap_stops_the_study_and_names_the_patient(study):
    repository, results, arguments, _, environment = study
    target = results / "given" / "leakage" / "acquainted" / "smoke_nodules.json"
    repository.snakemake("-c1", target, *arguments, check=False, **environment)
    assert not target.exists()
    (told,) = (results / "given" / "logs" / "leakage" / "acquainted-smoke_nodules.log").read_text().splitlines()
    assert told.startswith(
        "error: init acquainted was pre-trained on 1 identifiers that smoke_nodules scores (nodules_0003)"
    )
    assert "accept_overlap: {acquainted: [smoke_nodules]}" in told


def test_given_checkpoints_are_fetched_cited_and_accepted_overlaps_marked(study, count):
    repository, results, arguments, place, environment = study
    accepting = (*arguments, str(place / "accepting.yaml"))
    jobs = count(repository.planned(*accepting))
    assert jobs["fetch"] == 1
    assert "pretrain" not in jobs
    repository.snakemake("-c2", *accepting, **environment)
    assert (results / "checkpoints" / "published.pth").stat().st_size > 10_000
    scores = pd.read_csv(results / "given" / "comparison" / "scores.csv").set_index("init")
    assert scores["overlap"].to_dict() == {"scratch": 0, "published": 0, "acquainted": 1}
    # the same weights from another place, and nothing else
    assert scores.loc["published", "AP@0.10"] != scores.loc["scratch", "AP@0.10"]
    folder = results / "given" / "report"
    for name in ("main_table.md", "main_table.tex", "report.html"):
        text = (folder / name).read_text()
        assert "published" in text
        assert f"acquainted {MARK}" in text or r"acquainted $\dagger$" in text, name
    assert "Masked autoencoders are scalable vision learners" in (folder / "report.html").read_text()
    cell = results / "given" / "cells" / "smoke_nodules" / "retina_unet_resenc" / "published" / "fold0-seed0"
    pretrained = json.loads((cell / "metrics.json").read_text())["provenance"]["finetune"]["pretrain"]
    assert "Pretraining Method" in [citation["type"] for citation in pretrained["citations"]]
    log = results / "given" / "logs" / "finetune" / "smoke_nodules-retina_unet_resenc-published-fold0-seed0.log"
    assert "please cite: Pretraining Method" in log.read_text()


def test_a_check_made_again_trains_nothing_again(study, count):
    repository, _, arguments, place, _ = study
    accepting = (*arguments, str(place / "accepting.yaml"))
    assert count(repository.planned(*accepting)) == {}
    # without the acceptance the guard looks again, and stops what would follow
    assert count(repository.planned(*arguments)) == {"leakage": 1, "compare": 1, "report": 1}
