"""The linear probe: the right features at the right voxels, a fair classifier, scores that can be worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import nn
from torch.nn import functional

from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.files import read_json, write_json
from detpretrain.models.factory import build_backbone
from detpretrain.preprocessing.plan import plan_task
from detpretrain.preprocessing.run import preprocess_task
from detpretrain.preprocessing.store import read_case, write_case
from detpretrain.training import adaptation, probe
from detpretrain.training.readout import Readout, scores_of
from detpretrain.training.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]
PATCH = np.array([8, 6, 4])
PLAN = {"dataset": "cubes", "class_names": ["left", "right"], "patch": PATCH.tolist()}
CPU = torch.device("cpu")
BACKBONE = {"class": "detpretrain.models.resenc.ResEnc", "features": [4, 8, 16], "blocks": [1, 1, 1]}


class Identity(nn.Module):
    def forward(self, images):
        return [images]


class Useless(nn.Module):
    """Features that say nothing: a constant."""

    def forward(self, images):
        return [torch.ones_like(images)]


def write_cubes(folder, names=("a", "b", "c"), shape=(16, 12, 8)):
    """Grey values are 0 in the background, 1 in the left half of a block (id 7) and 2 in the right one (id 3)."""
    for number, name in enumerate(names):
        instances = np.zeros(shape, np.int16)
        instances[4:12, 3:9, number : number + 2], instances[4:12, 3:9, number + 2 : number + 4] = 7, 3
        grey = np.choose(np.searchsorted([0, 3, 7], instances), [0.0, 2.0, 1.0])
        write_case(folder, name, grey[None], instances, {"ids": [7, 3], "classes": [0, 1], "ignored": [False, False]})
    return folder


@pytest.fixture
def cubes(tmp_path):
    return write_cubes(tmp_path)


def probed(folder, encoders, split=None, **settings):
    split = split or {"train": ["a", "b"], "val": ["c"]}
    return probe.probe(encoders, folder, PLAN, split, probe.ProbeSettings(**settings), 0, CPU)


@pytest.mark.parametrize("shape", [(4, 3, 2), (8, 6, 4), (2, 6, 1)])
def test_features_at_positions_are_those_of_the_upsampled_stage(shape):
    stages = [torch.randn(1, 3, *shape), torch.randn(1, 2, *PATCH.tolist())]
    positions = torch.tensor(list(np.ndindex(*PATCH.tolist())))
    found = probe.at_positions(stages, positions, PATCH.tolist())
    upsampled = functional.interpolate(stages[0], size=PATCH.tolist(), mode="trilinear", align_corners=False)
    expected = torch.cat([upsampled, stages[1]], dim=1)[0].flatten(1).T
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(16, 12, 8), (17, 13, 5), (5, 12, 3)])
def test_every_voxel_gets_its_own_features_whatever_the_tiles(shape):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(1, *shape)).astype(np.float32)
    positions = rng.permutation(np.array(list(np.ndindex(*shape))))
    found = probe.features(Identity().eval(), data, positions, PATCH, CPU)
    assert found[:, 0] == pytest.approx(data[0][tuple(positions.T)], abs=1e-5)


def test_case_smaller_than_the_patch_is_centred_in_zeros():
    seen = []

    class Watched(Identity):
        def forward(self, images):
            seen.append(images.clone())
            return [images]

    data = np.ones((1, 4, 12, 2), np.float32)
    probe.features(Watched().eval(), data, np.array([[0, 0, 0], [3, 11, 1]]), PATCH, CPU)
    expected = torch.zeros(2, 1, *PATCH.tolist())
    expected[:, :, 2:6, :, 1:3] = 1
    assert torch.equal(seen[0], expected)


def test_tile_of_a_voxel_holds_it_and_has_it_nearest_to_its_centre():
    starts = np.array([[0, 0, 0], [6, 0, 0], [9, 0, 0]])
    patch = np.array([8, 4, 4])
    positions = np.array([[z, 1, 2] for z in range(17)])
    found = probe.nearest_tile(positions, starts, patch)
    distance = np.abs(positions[:, :1] - (starts[:, 0] + 3.5))
    assert found.tolist() == distance.argmin(axis=1).tolist()
    inside = positions - starts[found]
    assert ((inside >= 0) & (inside < patch)).all()


def test_label_map_follows_classes_and_leaves_ignored_objects_out(tmp_path):
    instances = np.arange(5, dtype=np.int16).reshape(1, 1, 5)
    properties = {"ids": [1, 2, 4], "classes": [5, 0, 2], "ignored": [False, True, False]}
    write_case(tmp_path, "a", np.zeros((1, 1, 1, 5)), instances, properties)
    assert probe.label_map(read_case(tmp_path, "a")).ravel().tolist() == [0, 6, -1, 0, 3]


def test_training_voxels_are_balanced_and_drawn_once(cubes):
    found = probe.balanced_voxels(cubes, "a", 90, 3, (0, "x"))
    assert np.bincount(found.labels).tolist() == [30, 30, 30]
    assert len({tuple(place) for place in found.positions}) == 90
    assert (probe.label_map(found.case)[tuple(found.positions.T)] == found.labels).all()
    again, other = (probe.balanced_voxels(cubes, "a", 90, 3, (0, name)) for name in ("x", "y"))
    assert (again.positions == found.positions).all()
    assert (other.positions != found.positions).any()
    assert np.bincount(probe.balanced_voxels(cubes, "a", 900, 3, (0, "x")).labels).tolist() == [300, 96, 96]


def test_validation_voxels_follow_the_classes_frequencies_without_ignored_ones(tmp_path):
    instances = np.zeros((10, 10, 10), np.int16)
    instances[:5], instances[5] = 1, 2
    properties = {"ids": [1, 2], "classes": [0, 0], "ignored": [False, True]}
    write_case(tmp_path, "a", np.zeros((1, 10, 10, 10)), instances, properties)
    found = probe.uniform_voxels(tmp_path, "a", 500, (0,))
    assert set(found.labels) == {0, 1}
    assert np.mean(found.labels == 1) == pytest.approx(500 / 900, abs=0.05)
    assert len(probe.uniform_voxels(tmp_path, "a", 5000, (0,)).labels) == 900


def test_scores_of_a_hand_worked_table_and_of_scikit_learn():
    labels, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 2])
    found = scores_of(predicted, labels, 3)
    assert found["recall"] == [0.75, 0.5, None]  # class 2 has no voxel
    assert found["dice"] == [pytest.approx(6 / 7), 0.5, None]
    assert found["balanced_accuracy"] == 0.625
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    found = scores_of(predicted, labels, 4)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["mean_dice"] == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_classifier_is_at_the_minimum_of_the_stated_objective():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    inputs = (rng.normal(size=(200, 4)) * [1, 50, 1, 0] + labels[:, None] * [1, 5, 0, 0]).astype(np.float32)
    readout = Readout.fit(inputs, labels, l2=0.05, iterations=500)
    assert readout.converged
    values = torch.from_numpy((inputs - inputs.mean(0)) / np.where(inputs.std(0) > 0, inputs.std(0), 1)).double()
    weights = torch.tensor(readout.model.coef_, requires_grad=True)
    offset = torch.tensor(readout.model.intercept_, requires_grad=True)
    loss = functional.cross_entropy(values @ weights.T + offset, torch.from_numpy(labels)) + 0.025 * (weights**2).sum()
    loss.backward()
    assert weights.grad.abs().max() < 1e-3
    assert offset.grad.abs().max() < 1e-3


def test_budget_too_small_is_told_and_no_error():
    rng = np.random.default_rng(1)
    inputs, labels = rng.normal(size=(50, 3)).astype(np.float32), rng.integers(0, 3, 50)
    assert not Readout.fit(inputs, labels, l2=1e-3, iterations=1).converged


def test_informative_features_beat_useless_ones(cubes):
    encoders = {"pretrained": lambda repeat: Identity(), "random": lambda repeat: Useless()}
    found = probed(cubes, encoders, train_voxels=90, val_voxels=300, repeats=2)
    assert found["classes"] == ["background", "left", "right"]
    assert found["pretrained"]["balanced_accuracy"] == [1.0, 1.0]
    assert found["random"]["balanced_accuracy"] == pytest.approx([1 / 3, 1 / 3])
    judged = probe.judged(found["pretrained"], found["random"])
    assert judged == {"difference": pytest.approx(2 / 3), "beats_random": True}
    assert found["voxels"] == {"train": 180, "val": 300}
    assert found["pretrained"]["per_class"]["left"] == {"recall": [1.0, 1.0], "dice": [1.0, 1.0]}


def test_a_win_must_hold_in_every_repeat(cubes):
    encoders = {"pretrained": lambda repeat: Identity() if repeat else Useless(), "random": lambda repeat: Useless()}
    found = probed(cubes, encoders, train_voxels=90, val_voxels=300, repeats=2)
    judged = probe.judged(found["pretrained"], found["random"])
    assert judged["difference"] > 0
    assert judged["beats_random"] is False


def test_encoders_are_frozen_while_they_are_probed(cubes):
    seen = []

    class Watched(Identity):
        def forward(self, images):
            seen.append((self.training, torch.is_grad_enabled(), images.dtype))
            return [images]

    probed(cubes, dict.fromkeys(("pretrained", "random"), lambda repeat: Watched()), train_voxels=90, repeats=1)
    assert set(seen) == {(False, False, torch.float32)}


def test_intensity_floor_sees_the_voxel_and_the_patch_mean_only():
    images = torch.randn(2, 1, 4, 4, 4)
    raw, mean = probe.Intensity()(images)
    assert torch.equal(raw, images)
    assert mean.flatten().tolist() == pytest.approx(images.mean(dim=(1, 2, 3, 4)).tolist())


def test_bad_input_is_refused(cubes):
    with pytest.raises(InputError, match="unknown setting 'voxels'"):
        probe.ProbeSettings.of({"voxels": 1})
    with pytest.raises(InputError, match="l2 is 0"):
        probe.ProbeSettings.of({"l2": 0})
    write_case(cubes, "bare", np.zeros((1, 8, 8, 8)), None, {"ids": [], "classes": [], "ignored": []})
    with pytest.raises(InputError, match="bare: has no labels"):
        probe.uniform_voxels(cubes, "bare", 5, (0,))
    empty = {"ids": [], "classes": [], "ignored": []}
    write_case(cubes, "empty", np.zeros((1, 8, 8, 8)), np.zeros((8, 8, 8), np.int16), empty)
    with pytest.raises(InputError, match="no training voxel of left"):
        probed(cubes, {}, split={"train": ["empty"], "val": ["a"]})


@pytest.fixture(scope="module")
def organs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("organs")
    entry = yaml.safe_load((ROOT / "config" / "datasets.yaml").read_text())["smoke_organs"] | {"cases": 4}
    prepare("smoke_organs", entry, folder / "task")
    spec = yaml.safe_load((ROOT / "config" / "plans" / "smoke_corpus.yaml").read_text())
    plan_task(folder / "task", "smoke_organs", "smoke_corpus", spec, folder / "plan.json")
    preprocess_task(folder / "task", read_json(folder / "plan.json"), folder / "preprocessed")
    return folder


@pytest.fixture
def restore_torch():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def job_on(organs, settings, signature="abc"):
    return probe.Job(
        backbone=BACKBONE,
        preprocessed=organs / "preprocessed",
        splits=organs / "task" / "splits.json",
        settings=settings,
        seed=0,
        signature=signature,
        runtime=Runtime("cpu"),
    )


def run_both(job, checkpoint, folder):
    probe.probe_baseline(job, folder / "baseline.json")
    probe.probe_checkpoint(job, checkpoint, folder / "baseline.json", folder / "probe.json")
    return read_json(folder / "probe.json")


def test_a_baseline_of_another_recipe_is_not_compared_with(organs, tmp_path):
    write_json(tmp_path / "baseline.json", {"provenance": {"recipe": "other"}})
    with pytest.raises(InputError, match=r"baseline\.json: was probed by another recipe: run probe_baseline again"):
        probe.probe_checkpoint(job_on(organs, {}), tmp_path / "c.pth", tmp_path / "baseline.json", tmp_path / "p.json")


def test_the_checkpoint_is_compared_with_other_random_weights_in_every_repeat(
    organs, tmp_path, restore_torch, monkeypatch
):
    given = {}

    def keep(encoders, *rest):
        given.update(encoders)
        return {name: {"balanced_accuracy": [0.5]} for name in encoders}

    monkeypatch.setattr(probe, "probe", keep)
    plan = read_json(organs / "plan.json")
    backbone = build_backbone(BACKBONE, plan)
    network = backbone.unet(1, 1)
    adaptation.write_pretrained(tmp_path / "c.pth", network, backbone, plan, [], {})
    run_both(job_on(organs, {}), tmp_path / "c.pth", tmp_path)

    def weights(encoder):
        return encoder.stages[1].state_dict()["blocks.0.conv1.conv.weight"]

    trained = weights(network.encoder)
    assert all(torch.equal(weights(given["pretrained"](repeat)), trained) for repeat in range(2))
    first, second = (weights(given["random"](repeat)) for repeat in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, trained)
    assert first.std().item() == pytest.approx(trained.std().item(), rel=0.2)  # the same initialisation scheme


def test_probe_of_a_checkpoint_from_file_to_file(organs, tmp_path, restore_torch):
    plan = read_json(organs / "plan.json")
    backbone = build_backbone(BACKBONE, plan)
    torch.manual_seed(5)
    adaptation.write_pretrained(tmp_path / "c.pth", backbone.unet(1, 1), backbone, plan, [], {"recipe": "of pretrain"})
    settings = {"train_voxels": 70, "val_voxels": 400, "repeats": 2}
    results = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        results.append(run_both(job_on(organs, settings), tmp_path / "c.pth", tmp_path / name))
    record = results[0].pop("provenance")
    assert (record["recipe"], record["seed"], record["pretrain"]) == ("abc", 0, {"recipe": "of pretrain"})
    results[1].pop("provenance")
    assert results[0] == results[1]
    assert results[0]["classes"][:2] == ["background", "body"]
    assert results[0]["pretrained"]["features"] == [28, 28]
    assert results[0]["intensity"]["features"] == [2, 2]
