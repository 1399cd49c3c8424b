import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from detpretrain.datasets.raw_dataset import AverageScan, Published
from detpretrain.doctor import sources, space, weights
from detpretrain.doctor.space import Need
from detpretrain.files import write_json
from detpretrain.preprocessing import store
from detpretrain.training import checkpoints

CASES = {"a": ((10, 20, 30), (2.0, 1.0, 1.0), "cv"), "b": ((4, 4, 4), (1.0, 0.5, 0.5), "cv")}


def by_name(chosen):
    return {need.name: need for need in space.needs(chosen)}


def test_usage_counts_links_as_themselves(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 5000)
    (tmp_path / "task" / "deep").mkdir(parents=True)
    (tmp_path / "task" / "deep" / "small").write_bytes(b"x" * 7)
    (tmp_path / "task" / "link").symlink_to(tmp_path / "big")
    assert space.usage(tmp_path / "task") == (7 + len(os.readlink(tmp_path / "task" / "link")), 2)
    assert space.usage(tmp_path / "nowhere") == (0, 0)


def test_voxels_by_hand():
    columns = [f"{kind}_{axis}" for kind in ("shape", "spacing") for axis in "zyx"]
    table = pd.DataFrame([[*shape, *spacing] for shape, spacing, _ in CASES.values()], columns=columns)
    assert space.voxels(table, None) == 6000 + 64
    assert space.voxels(table, [1.0, 1.0, 1.0]) == 20 * 20 * 30 + 4 * 2 * 2
    assert space.voxels(table, [2.0, 1.0, 2.0]) == 10 * 20 * 15 + 2 * 2 * 1


def test_compression_is_measured_on_what_is_there(assemble):
    chosen = assemble()
    assert space.compression(chosen.data) is None
    folder = chosen.data / "d" / "p" / "preprocessed"
    folder.mkdir(parents=True)
    store.write_case(folder, "a", np.zeros((2, 32, 32, 32), np.float32), np.zeros((32, 32, 32), int), {})
    write_json(folder / "index.json", {"cases": [{"shape": [32, 32, 32]}], "plan": {"channels": 2}})
    stored = sum(path.stat().st_size for path in folder.glob("*.b2nd"))
    assert space.compression(chosen.data) == pytest.approx(stored / (2 * 32**3 * 4))
    assert space.compression(chosen.data) < 0.1  # zeros


def test_preprocessed_size_of_a_prepared_data_set(assemble, write_task, monkeypatch):
    chosen = assemble()
    task = write_task(chosen, "smoke_nodules", CASES, modalities=("T1", "T2"))
    need = by_name(chosen)["smoke_nodules: smoke"]
    assert (need.there, need.needed, need.files) == (0, (6000 + 64) * 2 * 4, 6)
    assert "compression unknown" in need.note
    assert "spacing not planned yet" in need.note
    # planned: coarse axis first, spacing in the plan's order
    write_json(task.parent / "smoke" / "plan.json", {"spacing": [4.0, 1.0, 3.0], "transpose": [1, 0, 2]})
    monkeypatch.setattr(space, "compression", lambda results: 0.5)
    need = by_name(chosen)["smoke_nodules: smoke"]
    assert need.needed == (20 * 5 * 10 + 4 * 1 * 1) * 2 * 4 * 0.5
    assert need.note == "compressed to 50% as what is there"
    tasks = by_name(chosen)["smoke_nodules: task"]
    assert (tasks.needed, tasks.files) == (0, 0)
    assert tasks.there == space.usage(task)[0] > 0
    write_json(task.parent / "smoke" / "preprocessed" / "index.json", {"cases": [], "plan": {"channels": 1}})
    need = by_name(chosen)["smoke_nodules: smoke"]
    assert (need.needed, need.files) == (0, 0)
    assert need.there > 0


def test_spacing_of_a_spec(assemble, tmp_path):
    chosen = assemble()
    assert space._spacing(chosen, "nnssl_onemmiso", tmp_path / "none.json") == [1.0, 1.0, 1.0]
    assert space._spacing(chosen, "smoke", tmp_path / "none.json") is None


def test_what_nobody_knows_is_unknown(assemble, monkeypatch, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "file").write_bytes(b"x" * 200_000_000)
    chosen = assemble(raw={"smoke_nodules": str(tmp_path / "raw")})
    assert by_name(chosen)["smoke_nodules: task"].files is None
    public = Published({"cv": 9, "test": 6}, "", "", "")
    monkeypatch.setattr(sources, "published", lambda study, dataset: public if dataset == "smoke_nodules" else None)
    found = by_name(chosen)
    assert (found["smoke_nodules: task"].needed, found["smoke_nodules: task"].files) == (None, 45)
    assert found["smoke_nodules: task"].note == "15 cases published, download 0.2 GB"
    assert (found["smoke_nodules: smoke"].needed, found["smoke_nodules: smoke"].files) == (None, 45)
    assert found["smoke_corpus: smoke_corpus"].files is None
    # three folds, and the test set by each: of two rows
    assert found["raw boxes"].needed == 2 * 3 * (9 / 3 + 6) * 2 * 1000 * 36


def test_what_is_not_prepared_is_estimated_from_an_average_scan(assemble, monkeypatch):
    public = Published({"cv": 9, "test": 6}, "", "", "", AverageScan((10, 20, 30), (2.0, 1.0, 1.0), channels=2))
    monkeypatch.setattr(sources, "published", lambda study, dataset: public)
    monkeypatch.setattr(space, "compression", lambda results: 0.25)
    chosen = assemble()
    task = by_name(chosen)["smoke_nodules: task"]
    assert (task.needed, task.files) == (15 * 6000 * 2 * 2, 45)  # int16
    assert "about 10 x 20 x 30 voxels each" in task.note
    preprocessed = by_name(chosen)["smoke_nodules: smoke"]
    assert (preprocessed.needed, preprocessed.files) == (15 * 6000 * 2 * 4 * 0.25, 45)  # float32
    monkeypatch.setattr(space, "_spacing", lambda *_: [1.0, 1.0, 2.0])
    assert by_name(chosen)["smoke_nodules: smoke"].needed == 15 * 20 * 20 * 15 * 2 * 4 * 0.25


def test_images_of_a_corpus_are_linked(assemble, monkeypatch):
    public = Published({"cv": 9}, "", "", "", AverageScan((10, 20, 30), (2.0, 1.0, 1.0)))
    monkeypatch.setattr(sources, "published", lambda study, dataset: public)
    monkeypatch.setattr(sources, "is_corpus", lambda study, dataset: dataset == "smoke_corpus")
    found = by_name(assemble())
    assert found["smoke_corpus: task"].needed == 0
    assert found["smoke_nodules: task"].needed > 0


def test_corpora_have_no_labels(assemble):
    raw = {"smoke_nodules": "x", "smoke_corpus": "y"}
    chosen = assemble(raw=raw)
    assert not sources.is_corpus(chosen, "smoke_nodules")
    chosen.entries["datasets"]["smoke_corpus"] = {"class": "detpretrain.datasets.openmind.OpenMind", "raw": "y"}
    assert sources.is_corpus(chosen, "smoke_corpus")


@pytest.mark.parametrize(
    ("needs", "status"),
    [
        ([Need("a", 0, 1e30, 1)], "blocks"),
        ([Need("a", 0, 1e30, 1, rough=True)], "warning"),
        ([Need("a", 0, 1e30, 1, rough=True), Need("b", 0, 1e30, 1)], "blocks"),
        ([Need("a", 0, 1.0, 1, rough=True)], "ok"),
    ],
)
def test_rough_figures_warn_and_do_not_block(assemble, needs, status):
    first = space.findings(assemble(), needs)[0]
    assert first.state == status
    assert ("about" in first.found) == needs[0].rough


def test_models_are_counted_as_they_are_built(assemble, tmp_path):
    from detpretrain.detectors.factory import build_detector

    chosen = assemble()
    entry = chosen.entry("detectors", "retina_unet_resenc")
    plan = {
        "patch": [24] * 3, "strides": [[1] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 3, "detection_levels": [1, 2],
        "anchors": {axis: [4, 6, 9] for axis in "zyx"}, "channels": 1, "classes": 1,
    }  # fmt: skip
    made = build_detector(entry, chosen.entry("backbones", "resenc"), plan)
    count = sum(parameter.numel() for parameter in made.parameters())
    assert weights.detector(chosen, "retina_unet_resenc", 1, 1) == count
    need = by_name(chosen)["6 models of retina_unet_resenc"]
    assert (need.there, need.needed, need.files) == (0, 6 * count * 4, 6 * 11)
    checkpoints.save(chosen.folder / "cells" / chosen.cells[0].path / "model.pth", {"weights": made.state_dict()})
    need = by_name(chosen)["5 models of retina_unet_resenc"]
    assert need.needed == 5 * count * 4
    assert need.there == pytest.approx(count * 4, rel=0.3)  # and names


def test_networks_that_depend_on_the_data_are_unknown(assemble):
    rows = [{"detector": "retina_unet_plainconv_v001_planned", "init": "scratch"}]
    chosen = assemble(size="full", rows=rows)
    assert weights.detector(chosen, "retina_unet_plainconv_v001_planned", 1, 1) is None
    assert by_name(chosen)["3 models of retina_unet_plainconv_v001_planned"].needed is None


def test_an_engine_s_needs_are_unknown_until_they_are_there(assemble, write_task):
    chosen = assemble(rows=[{"detector": "retina_unet_resenc_nndet", "init": "scratch"}])
    write_task(chosen, "smoke_nodules", CASES)
    plan, models, boxes = "smoke_nodules: nndet_v002", "3 models of retina_unet_resenc_nndet", "raw boxes"
    found = by_name(chosen)
    assert found[plan].needed is found[models].needed is None
    assert found[boxes].needed == pytest.approx(
        3 * (2 / 3) * 1000 * space.BOX_BYTES
    )  # nothing left to merge of mirrors
    folder = chosen.results / "data" / "smoke_nodules" / "nndet_v002" / "preprocessed"
    write_json(folder / "index.json", {"cases": [{"case": "a"}], "plan": {"engine": "nndet", "channels": 1}})
    (chosen.folder / "cells" / chosen.cells[0].path).mkdir(parents=True)
    (chosen.folder / "cells" / chosen.cells[0].path / "model.pth").write_bytes(b"x" * 1000)
    found = by_name(chosen)
    assert (found[plan].there, found[plan].needed) == (space.usage(folder.parent)[0], 0)
    assert found["2 models of retina_unet_resenc_nndet"].needed == 2 * 1000
    assert space.compression(chosen.results) is None


def test_copies_of_the_optimisers(assemble):
    chosen = assemble(size="full", rows=[])
    assert weights.copies(chosen, "retina_unet_resenc") == 2  # SGD with momentum
    assert weights.copies(chosen, "deformable_detr_resenc") == 4  # AdamW with amsgrad
    assert weights.copies(assemble(), "retina_unet_resenc") == 3  # AdamW


def findings(monkeypatch, chosen, needs, free=100, inodes=50, limit=1000):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda place: SimpleNamespace(free=free * 1e9))
    monkeypatch.setattr(space.os, "statvfs", lambda place: SimpleNamespace(f_favail=inodes, f_files=limit))
    return {finding.name: finding for finding in space.findings(chosen, needs)}


def test_need_against_what_is_free(assemble, monkeypatch):
    needs = [Need("a", 0, 60e9, 30), Need("b", 10**12, 39e9, 20)]
    found = findings(monkeypatch, assemble(), needs)
    assert [finding.state for finding in found.values()] == ["ok", "ok", "ok"]
    assert found["results"].found.endswith("100 GB free, 99.0 GB needed")
    found = findings(monkeypatch, assemble(), [*needs, Need("c", 0, 2e9, 1)])
    assert found["results"].state == found["files (inodes)"].state == "blocks"
    found = findings(monkeypatch, assemble(), [*needs, Need("c", 0, None, None)])
    assert found["results"].state == "ok"
    assert "at least 99.0 GB needed" in found["results"].found
    assert found["not known yet"].state == "warning"
    assert "files (inodes)" not in findings(monkeypatch, assemble(), needs, inodes=0, limit=0)


def elsewhere(chosen, **places):
    return replace(chosen, config={**chosen.config, "pathvars": {**chosen.config["pathvars"], **places}})


def test_data_on_a_disk_of_their_own_have_their_own_room(assemble, monkeypatch):
    memory = Path("/dev/shm/detpretrain-nowhere")
    chosen = elsewhere(assemble(), data=str(memory))
    if not memory.parent.is_dir() or os.stat(memory.parent).st_dev == os.stat(chosen.results.parent).st_dev:
        pytest.skip("no second file system here")
    needs = [Need("a", 0, 60e9, 30, place="data"), Need("b", 0, 99e9, 20)]
    found = findings(monkeypatch, chosen, needs)
    assert found["results"].found == f"{chosen.results}: 100 GB free, 99.0 GB needed"
    assert found["data"].found == f"{memory}: 100 GB free, 60.0 GB needed"
    assert found["files of data (inodes)"].found == "50 free, 30 needed"
    assert {finding.state for finding in found.values()} == {"ok"}
    found = findings(monkeypatch, chosen, [*needs, Need("c", 0, 50e9, 1, place="data")])
    assert (found["results"].state, found["data"].state) == ("ok", "blocks")
    assert found["data"].remedy == "make room, or set pathvars: {data: FOLDER}"
    together = findings(monkeypatch, elsewhere(chosen, data=str(chosen.results.parent / "data")), needs)
    assert "159.0 GB needed" in together["results"].found
    assert "data" not in together


def test_needs_of_tasks_and_arrays_fill_the_data_folder(assemble):
    places = {need.name: need.place for need in space.needs(assemble())}
    assert {name for name, place in places.items() if place == "data"} == {name for name in places if ":" in name}
    assert places["raw boxes"] == "results"


def test_room_for_states_and_for_copies(assemble, monkeypatch, tmp_path):
    chosen = elsewhere(assemble(runtime={"stage": "$NODE_DISK"}), scratch=str(tmp_path / "scratch"))
    monkeypatch.delenv("NODE_DISK", raising=False)
    found = findings(monkeypatch, chosen, [])
    assert found["scratch"].found == f"{tmp_path}: 100 GB free"
    assert (found["staging"].state, found["staging"].found.split(":")[0]) == ("ok", "$NODE_DISK")
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "none"))
    assert findings(monkeypatch, chosen, [])["staging"].state == "warning"
    (tmp_path / "none").mkdir()
    assert findings(monkeypatch, chosen, [])["staging"].found == f"{tmp_path / 'none'}: 100 GB free"


def test_table(assemble):
    lines = space.table([Need("a", 5 * 10**7, 1.5e9, 1200, "n"), Need("b", 0, None, None)])
    assert lines == [("a", "0.05", "1.50", "1,200", "n"), ("b", "0.00", "unknown", "unknown", "")]
