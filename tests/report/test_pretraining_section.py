"""Pre-trainings as files: read whole or refused, their tables say what the files say, works are cited once."""

import dataclasses
import json

import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.report import pretraining_section as section


def change(folder, **changes):
    path = folder / "assessment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_files_are_read_and_ordered_by_init_and_backbone(pretraining):
    folders = [pretraining("mae", backbone="vit"), pretraining("s3d", probed=False), pretraining("mae")]
    found = section.read_pretrainings(folders)
    assert [one.name for one in found] == ["mae (resenc)", "mae (vit)", "s3d (resenc)"]
    one = found[0]
    assert (one.corpora, one.views_seconds, one.pass_seconds) == (["corpus_a", "corpus_b"], 0.05, 0.15)
    assert one.log["train_loss"].tolist() == pytest.approx((2 / np.arange(1, 6)).tolist())
    assert [panel.kind for panel in one.preview[1]] == ["grey", "grey", "labels", "matrix"]
    assert one.preview[0][2].values[15, 0] == 3
    assert (one.probe.dataset, one.probe.classes, one.probe.accuracies["random"]) == ("organs", 3, [0.7, 0.72, 0.71])
    assert found[2].probe is None


def test_tables_hold_the_files_numbers(pretraining):
    found = section.read_pretrainings([pretraining("mae"), pretraining("s3d", probed=False)])
    scores = section.assessment_table(found)
    assert scores["init"].tolist() == ["mae", "mae", "s3d", "s3d"]
    assert scores.iloc[0, 3:].tolist() == [
        "MSE of masked voxels (lower is better)", "0.25", "neighbour-mean in-fill", "0.5", "0.5", "yes",
    ]  # fmt: skip
    assert scores.iloc[1, 3:].tolist() == ["Dice (higher is better)", "–", "background", "–", "–", "–"]
    probes = section.probe_table(found)
    assert probes.to_numpy().tolist() == [
        ["mae", "resenc", "organs", "3", "0.820 (0.800 to 0.840)", "0.710 (0.700 to 0.720)", "0.507 (0.500 to 0.520)",
         "+0.110", "yes", "no"],
    ]  # fmt: skip
    times = section.time_table(found)
    assert times.iloc[1].tolist() == ["s3d", "resenc", "MAE", "50.0", "150.0", "25 %"]


def test_a_probe_on_the_labels_of_the_pre_training_is_told(pretraining):
    (one,) = section.read_pretrainings([pretraining("mae")])
    supervised = dataclasses.replace(one, corpora=["thorax", "organs"])
    assert section.probe_table([one, supervised])["learned from these labels"].tolist() == ["no", "yes"]


def test_no_probe_gives_an_empty_table(pretraining):
    assert section.probe_table(section.read_pretrainings([pretraining("mae", probed=False)])).empty


def test_same_pretraining_twice_is_refused(pretraining):
    folder = pretraining("mae")
    with pytest.raises(InputError, match=r"mae \(resenc\) was given before"):
        section.read_pretrainings([folder, folder])


def test_missing_files_are_named(pretraining):
    folder = pretraining("mae")
    for name in ("preview.npz", "log.csv", "assessment.json"):
        (folder / name).unlink()
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            section.read_pretrainings([folder])


def test_files_that_lack_something_are_refused(pretraining):
    with pytest.raises(InputError, match=r"assessment\.json: not a pre-training's assessment \('views'\)"):
        section.read_pretrainings([change(pretraining("a"), seconds_per_step={"step": 1})])
    with pytest.raises(InputError, match=r"assessment\.json: .*value"):
        section.read_pretrainings([change(pretraining("b"), scores=[{"name": "MSE"}])])
    folder = pretraining("c")
    (folder / "log.csv").write_text("epoch,train_loss\n1,2\n")
    with pytest.raises(InputError, match=r"log\.csv: no column val_loss"):
        section.read_pretrainings([folder])
    folder = pretraining("d")
    (folder / "probe.json").write_text("{}")
    with pytest.raises(InputError, match=r"probe\.json: not a probe's result"):
        section.read_pretrainings([folder])


def test_broken_previews_are_refused(pretraining):
    folder = pretraining("mae")
    (folder / "preview.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match=r"preview\.npz: not a pre-training's preview"):
        section.read_pretrainings([folder])
    panels = json.dumps([[{"title": "t", "kind": "colour", "axes": ["a", "b"]}]])
    np.savez(folder / "preview.npz", panels=np.array(panels), r0c0=np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"preview\.npz: panel 't' is colour \(2, 2\)"):
        section.read_pretrainings([folder])
    deep = json.dumps([[{"title": "t", "kind": "grey", "axes": ["a", "b"]}]])
    np.savez(folder / "preview.npz", panels=np.array(deep), r0c0=np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match=r"panel 't' is grey \(2, 2, 2\)"):
        section.read_pretrainings([folder])
    np.savez(folder / "preview.npz", panels=np.array(panels))
    with pytest.raises(InputError, match="r0c0"):
        section.read_pretrainings([folder])


def test_works_are_cited_once_sorted_by_type_with_their_users():
    mae = {"type": "Pretraining Method", "name": "MAE", "apa_citations": ["He (2022)."]}
    network = {"type": "Architecture", "name": "ResEnc", "apa_citations": ["Isensee (2024).", "Isensee (2021)."]}
    found = section.references({"s3d": [], "mae": [mae, network], "a": [network]})
    assert [(one.type, one.name, one.inits) for one in found] == [
        ("Architecture", "ResEnc", ("a", "mae")),
        ("Pretraining Method", "MAE", ("mae",)),
    ]
    assert found[0].texts == ("Isensee (2024).", "Isensee (2021).")


@pytest.mark.parametrize("entry", [{"type": "a", "name": "b"}, {"type": "a", "apa_citations": []}, "He (2022).",
                                   {"type": "a", "name": "b", "apa_citations": "He (2022)."}])  # fmt: skip
def test_misshapen_citations_are_refused(entry):
    with pytest.raises(InputError, match="published: its checkpoint has a citation without"):
        section.references({"published": [entry]})
