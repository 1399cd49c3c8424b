"""What every entry of config/ must do. Entries are read from the files: a new one is tested without a line here.

Size ``full`` is only built, without initial values; all others are trained for a step.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from detpretrain import study
from detpretrain.build import build, locate
from detpretrain.datasets import prepare
from detpretrain.detectors.contract import Targets
from detpretrain.detectors.factory import build_detector
from detpretrain.files import read_yaml
from detpretrain.inference.predict import InferenceSettings
from detpretrain.models.factory import build_backbone
from detpretrain.preprocessing.plan import KEYS
from detpretrain.pretraining.contract import Source
from detpretrain.training import adaptation
from detpretrain.training.pretrain import RESERVED as METHOD_RESERVED
from detpretrain.training.recipe import Recipe

CONFIG = Path(__file__).resolve().parents[2] / "config"
ENTRIES = {kind: read_yaml(CONFIG / f"{kind}.yaml") for kind in study.KINDS}
PLANS = sorted(path.stem for path in (CONFIG / "plans").glob("*.yaml"))
SPECS = {name: read_yaml(CONFIG / "plans" / f"{name}.yaml") for name in PLANS}
STUDIES = sorted(path.name for path in CONFIG.glob("*.yaml") if "study" in read_yaml(path))
FULL = "full"


def resolved(kind, name, size):
    return study.Study({"size": size}, ENTRIES, {}).entry(kind, name)


def sizes_of(kind, name):
    return list((ENTRIES[kind][name] or {}).get("sizes", {}))


SIZED = {
    kind: [(name, size) for name in ENTRIES[kind] for size in sizes_of(kind, name)] for kind in ("detectors", "methods")
}
SMALL = {kind: [pair for pair in pairs if pair[1] != FULL] for kind, pairs in SIZED.items()}
BACKBONES = sorted({(resolved("detectors", name, size)["backbone"], size) for name, size in SIZED["detectors"]})
# every method on every backbone that a detector of its size uses
PRETRAININGS = [(*method, backbone) for method in SIZED["methods"] for backbone, size in BACKBONES if size == method[1]]


def detector_of(name, size, synthetic_plan, seed=0):
    entry = resolved("detectors", name, size)
    torch.manual_seed(seed)
    plan = synthetic_plan(entry["plan"])
    return build_detector(entry, resolved("backbones", entry["backbone"], size), plan), plan


def method_of(name, size, backbone, synthetic_plan, seed=0):
    """Method, backbone, plan."""
    entry = resolved("methods", name, size)
    plan = synthetic_plan(entry["plan"], modalities=("CT",), classes=0)
    torch.manual_seed(seed)
    made = build_backbone(resolved("backbones", backbone, size), plan)
    arguments = {key: value for key, value in entry.items() if key not in METHOD_RESERVED}
    annotated = {"sources": SOURCES} if locate(entry["class"]).supervised else {}
    return build(arguments, backbone=made, **annotated), made, plan


# what a supervised method is told: labels that clash and overlap, channels that differ
SOURCES = [
    Source("chest", ["CT"], ["lungs", "heart"], [[1], [2]], [], 9),
    Source("brain", ["T1", "T2"], ["tumour", "core"], [[1, 2], [2]], [3], 4),
]


def views_of(method, plan, seeds):
    """Views of one sample per seed; each sample's image (and labels) depend on its own seed only."""
    patch = plan["patch"]
    if not method.supervised:
        images = torch.cat([noise(1, 1, *patch, seed=seed) for seed in seeds])
        return method.views(images, seeds)
    sources = [seed % len(SOURCES) for seed in seeds]
    images = [noise(len(SOURCES[s].modalities), *patch, seed=seed) for s, seed in zip(sources, seeds, strict=True)]
    labels = torch.stack([(noise(*patch, seed=seed + 1) * 2).round().clamp(0, 3).long() for seed in seeds])
    return method.views(images, labels, sources)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def targets_of(patch, counts):
    """Per image so many objects: disjoint cuboids of both classes."""
    foreground = torch.zeros(len(counts), *patch, dtype=torch.bool)
    boxes, labels = [], []
    for image, count in enumerate(counts):
        corners = [[3 + 7 * number, 4, 5, 9 + 7 * number, 11, 13] for number in range(count)]
        for z1, y1, x1, z2, y2, x2 in corners:
            foreground[image, z1 + 1 : z2, y1 + 1 : y2, x1 + 1 : x2] = True
        boxes.append(torch.tensor(corners, dtype=torch.float32).view(-1, 6))
        labels.append(torch.arange(count) % 2)
    return Targets(boxes, labels, foreground)


def assert_losses(losses):
    assert losses
    for name, loss in losses.items():
        assert loss.ndim == 0, name
        assert loss.isfinite(), name


def assert_gradients(module, encoder):
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert any(parameter.grad.any() for parameter in encoder.parameters())
    for name, parameter in module.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.fixture
def without_values(monkeypatch):
    """Networks of full size in no time: their weights are left as they come."""
    for name in (
        "kaiming_normal_",
        "kaiming_uniform_",
        "xavier_uniform_",
        "xavier_normal_",
        "normal_",
        "trunc_normal_",
    ):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


# --- detectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), SIZED["detectors"])
def test_detector_entries_build_and_name_what_exists(name, size, synthetic_plan, without_values):
    entry = resolved("detectors", name, size)
    detector, plan = detector_of(name, size, synthetic_plan)
    backbone = build_backbone(resolved("backbones", entry["backbone"], size), plan)
    assert list(detector.encoder.state_dict()) == list(backbone.encoder(2).state_dict())
    assert entry["recipe"] in ENTRIES["recipes"]
    assert InferenceSettings(**entry["inference"]).mirrors[0] == ()


@pytest.mark.parametrize("counts", [(0, 0), (2, 0)], ids=["empty", "some"])
@pytest.mark.parametrize(("name", "size"), SMALL["detectors"])
def test_detectors_train_on_any_targets(name, size, counts, synthetic_plan):
    detector, plan = detector_of(name, size, synthetic_plan)
    recipe = Recipe.from_entry(name, resolved("recipes", resolved("detectors", name, size)["recipe"], size))
    images, targets = noise(2, 2, *plan["patch"]), targets_of(plan["patch"], counts)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
        losses = detector(images, targets)
    assert_losses(losses)
    sum(losses.values()).backward()
    assert_gradients(detector, detector.encoder)


@pytest.mark.parametrize(("name", "size"), SMALL["detectors"])
def test_detections_keep_the_contract(name, size, synthetic_plan):
    detector, plan = detector_of(name, size, synthetic_plan)
    images = noise(2, 2, *plan["patch"])
    found = detector.eval().predict(images)
    assert len(found) == 2
    for image in found:
        count = len(image.scores)
        assert 0 < count <= 1000
        assert image.boxes.shape == (count, 6)
        assert image.labels.shape == (count,)
        assert (image.boxes.dtype, image.scores.dtype, image.labels.dtype) == (
            torch.float32,
            torch.float32,
            torch.int64,
        )
        assert ((image.scores >= 0) & (image.scores <= 1)).all()
        assert (image.scores.diff() <= 0).all()
        assert set(image.labels.tolist()) <= {0, 1}
        assert (image.boxes[:, 3:] > image.boxes[:, :3]).all()
        assert (image.boxes >= -1).all()
        assert (image.boxes[:, 3:] <= torch.tensor(plan["patch"]) + 1).all()
        assert not image.boxes.requires_grad


@pytest.mark.parametrize(("name", "size"), SMALL["detectors"])
def test_seeds_decide_and_the_weights_are_all_there_is(name, size, synthetic_plan):
    losses, states = [], []
    for seed in (0, 0, 1):
        detector, plan = detector_of(name, size, synthetic_plan, seed)
        torch.manual_seed(5)
        batch = noise(1, 2, *plan["patch"]), targets_of(plan["patch"], (1,))
        losses.append({key: value.item() for key, value in detector(*batch).items()})
        states.append(detector)
    assert losses[0] == losses[1] != losses[2]
    states[2].load_state_dict(states[0].state_dict(), strict=True)
    first, copy = (detector.eval().predict(batch[0])[0] for detector in (states[0], states[2]))
    assert torch.equal(first.boxes, copy.boxes)
    assert torch.equal(first.scores, copy.scores)


# --- methods ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size", "backbone"), PRETRAININGS)
def test_method_entries_build_and_name_what_exists(name, size, backbone, synthetic_plan, without_values):
    method, made, _ = method_of(name, size, backbone, synthetic_plan)
    keys = list(method.network.state_dict())
    for part in (made.key_to_encoder, made.key_to_stem):
        assert any(key.startswith(f"{part}.") for key in keys)
    assert resolved("methods", name, size)["recipe"] in ENTRIES["recipes"]
    assert method.citations
    assert all(citation.as_data()["apa_citations"] for citation in method.citations)


@pytest.mark.parametrize(("name", "size", "backbone"), [entry for entry in PRETRAININGS if entry[1] != FULL])
def test_methods_train_and_views_follow_the_seeds(name, size, backbone, synthetic_plan):
    values = []
    for number, seeds in enumerate(([1, 2], [1, 2], [3, 4])):
        method, _, plan = method_of(name, size, backbone, synthetic_plan)
        torch.manual_seed(number)  # of no consequence
        losses = method(*views_of(method, plan, seeds))
        assert_losses(losses)
        values.append({key: value.item() for key, value in losses.items()})
    assert values[0] == values[1] != values[2]
    sum(losses.values()).backward()
    assert_gradients(method, method.network.encoder)


@pytest.mark.parametrize(("name", "size", "backbone"), [entry for entry in PRETRAININGS if entry[1] != FULL])
@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
def test_a_sample_s_views_do_not_depend_on_its_batch(name, size, backbone, training, synthetic_plan):
    method, _, plan = method_of(name, size, backbone, synthetic_plan)
    method.train(training)
    together = views_of(method, plan, [4, 7, 9])
    for place, seed in enumerate([4, 7, 9]):
        for whole, part in zip(together, views_of(method, plan, [seed]), strict=True):
            assert len(whole) == 3
            torch.testing.assert_close(whole[place], part[0])


@pytest.mark.parametrize(("name", "size", "backbone"), [entry for entry in PRETRAININGS if entry[1] != FULL])
def test_two_steps_change_every_encoder_tensor_but_biases_before_a_norm(name, size, backbone, synthetic_plan):
    method, _, plan = method_of(name, size, backbone, synthetic_plan)
    before = {key: value.clone() for key, value in method.network.encoder.state_dict().items()}
    # its steps do not shrink with the gradient, which is tiny behind a residual branch whose last norm starts at zero
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01, weight_decay=0.0)
    for step in range(2):
        optimizer.zero_grad()
        sum(method(*views_of(method, plan, [2 * step, 2 * step + 1])).values()).backward()
        optimizer.step()
    still = [key for key, value in method.network.encoder.state_dict().items() if torch.equal(value, before[key])]
    # what a norm follows may shift as it likes: its gradient is rounding, or nothing
    assert all(key.endswith((".conv.bias", ".all_modules.0.bias")) for key in still), still


@pytest.mark.parametrize(("name", "size", "backbone"), [entry for entry in PRETRAININGS if entry[1] != FULL])
def test_methods_are_assessed_beside_a_baseline_and_show_themselves(name, size, backbone, synthetic_plan):
    method, _, plan = method_of(name, size, backbone, synthetic_plan)
    method.eval()
    with torch.no_grad():
        views = views_of(method, plan, [1, 2])
        scores, rows = method.assess(*views), method.preview(*views)
    assert scores
    for score in scores.values():
        for numerator, denominator in (score.method, score.baseline):
            assert float(denominator) > 0
            assert float(numerator) >= 0
    assert len(rows) == 2
    for row in rows:
        for panel in row:
            assert panel.kind in ("grey", "labels", "matrix")
            assert panel.values.ndim == 2
            assert panel.values.isfinite().all()


@pytest.mark.parametrize(("name", "size", "backbone"), [entry for entry in PRETRAININGS if entry[1] != FULL])
def test_what_a_method_writes_loads_into_the_detectors_of_its_backbone(name, size, backbone, synthetic_plan, tmp_path):
    method, made, plan = method_of(name, size, backbone, synthetic_plan, seed=3)
    with torch.no_grad():  # as after a training: no value is an initial one
        for number, parameter in enumerate(method.network.parameters()):
            parameter.add_(noise(*parameter.shape, seed=number))
    path = tmp_path / "checkpoint.pth"
    citations = [citation.as_data() for citation in method.citations]
    adaptation.write_pretrained(path, method.network, made, plan, citations, {})
    trained = method.network.state_dict()
    tried = 0
    for detector_name, detector_size in SMALL["detectors"]:
        if detector_size != size or resolved("detectors", detector_name, size)["backbone"] != backbone:
            continue
        tried += 1
        detector, _ = detector_of(detector_name, size, synthetic_plan)
        report = adaptation.load_encoder(detector.encoder, path, 2)
        loaded = detector.encoder.state_dict()
        assert report.entries == len(loaded)
        root = made.key_to_encoder.rpartition(".")[0]
        projections = [f"{key}.weight" for key in made.keys_to_in_proj]
        for key, value in loaded.items():
            source = trained[f"{root}.{key}"]
            expected = torch.cat([source, source], dim=1) / 2 if f"{root}.{key}" in projections else source
            assert torch.equal(value, expected), key
    assert tried


# --- recipes, plans, data sets, studies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENTRIES["recipes"])
def test_recipes_parse_and_build(name):
    recipe = Recipe.from_entry(name, ENTRIES["recipes"][name])
    schedule = recipe.build_schedule()
    rates = [schedule(step, recipe.steps_per_epoch) for step in range(0, recipe.total_steps, recipe.steps_per_epoch)]
    rates.append(schedule(recipe.total_steps - 1, recipe.steps_per_epoch))
    assert all(0 < rate <= recipe.schedule["lr"] for rate in rates)
    if recipe.schedule.get("warmup_steps", 0) < recipe.total_steps:
        assert rates[-1] < max(rates)
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.InstanceNorm3d(2, affine=True))
    optimizer = recipe.build_optimizer(network)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    assert optimizer.param_groups[0]["lr"] == rates[0]
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == [decays[0]] if recipe.decay_norms else decays[1:] == [0.0]
    recipe.build_augmentation()
    averaging = recipe.build_averaging()
    assert averaging is None or averaging.start_epoch < recipe.epochs


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("classes", [0, 2], ids=["corpus", "task"])
def test_plans_plan(name, classes, synthetic_plan):
    plan = synthetic_plan(name, classes=classes)
    assert tuple(plan) == KEYS
    assert len(plan["strides"]) == len(plan["kernels"]) > max(plan["detection_levels"])
    for_detection = SPECS[name].get("anchors") != "none"
    assert (plan["anchors"] is not None) == (classes > 0 and for_detection)


@pytest.mark.parametrize("name", ENTRIES["datasets"])
def test_data_set_entries_build(name):
    arguments = {key: value for key, value in ENTRIES["datasets"][name].items() if key not in prepare.RESERVED}
    assert callable(build(arguments).write)


@pytest.mark.parametrize("name", STUDIES)
def test_studies_name_what_exists(name):
    chosen = study.load([CONFIG / name], CONFIG.parent)
    assert chosen.cells


@pytest.mark.parametrize("name", ENTRIES["inits"])
def test_inits_name_what_exists(name):
    entry = ENTRIES["inits"][name]
    assert set(entry) <= set(study.INIT_KEYS)
    assert entry.get("method") in {None, *ENTRIES["methods"]}
    assert entry.get("corpus") in {None, *ENTRIES["datasets"]}


def class_paths(value, where) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if "class" in value:
            yield where, value["class"]
        for key, inner in value.items():
            yield from class_paths(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from class_paths(inner, f"{where}.{number}")


@pytest.mark.parametrize(("where", "path"), list(class_paths(ENTRIES, "config")))
def test_class_paths_resolve(where, path):
    assert callable(locate(path))
