"""What every entry of config/ must do, detectors apart. Entries are read from the files: a new one is tested without a line here.

Detectors and plans of an engine have no class and no numbers of ours: ``test_engines`` has what they must do.

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
from detpretrain.datasets.raw_dataset import RawDataset
from detpretrain.datasets.sources import with_class
from detpretrain.files import read_yaml
from detpretrain.models.factory import build_backbone, pretrained_part
from detpretrain.preprocessing.plan import KEYS
from detpretrain.pretraining.contract import Source, suits
from detpretrain.training import adaptation
from detpretrain.training.pretrain import RESERVED as METHOD_RESERVED
from detpretrain.training.recipe import Recipe

CONFIG = Path(__file__).resolve().parents[2] / "config"
ENTRIES = {kind: read_yaml(CONFIG / f"{kind}.yaml") for kind in study.KINDS}
SPECS = {path.stem: read_yaml(path) for path in sorted((CONFIG / "plans").glob("*.yaml"))}
PLANS = [name for name, spec in SPECS.items() if "engine" not in spec]
STUDIES = sorted(path.name for path in CONFIG.glob("*.yaml") if "study" in read_yaml(path))
FULL = "full"


def resolved(kind, name, size):
    return study.Study({"size": size}, ENTRIES, {}).entry(kind, name)


def sizes_of(kind, name):
    return list((ENTRIES[kind][name] or {}).get("sizes", {}))


SIZED = {
    kind: [
        (name, size) for name, entry in ENTRIES[kind].items() if "engine" not in entry for size in sizes_of(kind, name)
    ]
    for kind in ("detectors", "methods")
}
SMALL = {kind: [pair for pair in pairs if pair[1] != FULL] for kind, pairs in SIZED.items()}
BACKBONES = sorted({(resolved("detectors", name, size)["backbone"], size) for name, size in SIZED["detectors"]})
CLASSES = {
    kind: {name: locate(entry["class"]) for name, entry in ENTRIES[kind].items()} for kind in ("backbones", "methods")
}
# every method on every backbone that suits it and that a detector of its size uses
PRETRAININGS = [
    (name, size, backbone)
    for name, size in SIZED["methods"]
    for backbone, backbone_size in BACKBONES
    if size == backbone_size and suits(CLASSES["methods"][name], CLASSES["backbones"][backbone])
]


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


def assert_losses(losses):
    assert losses
    for name, loss in losses.items():
        assert loss.ndim == 0, name
        assert loss.isfinite(), name


def encoder_of(network, backbone):
    """The parts of a method's network that a checkpoint's plan points at."""
    return nn.ModuleList(network.get_submodule(key) for key in (backbone.key_to_stem, backbone.key_to_encoder))


def assert_gradients(module, encoder):
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert any(parameter.grad.any() for parameter in encoder.parameters())
    for name, parameter in module.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


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
        method, made, plan = method_of(name, size, backbone, synthetic_plan)
        torch.manual_seed(number)  # of no consequence
        views = views_of(method, plan, seeds)
        torch.manual_seed(
            0
        )  # decides what the network draws (a transformer's drop path), as the loop does at every step
        losses = method(*views)
        assert_losses(losses)
        values.append({key: value.item() for key, value in losses.items()})
    assert values[0] == values[1] != values[2]
    sum(losses.values()).backward()
    assert_gradients(method, encoder_of(method.network, made))


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
    method, made, plan = method_of(name, size, backbone, synthetic_plan)
    encoder = encoder_of(method.network, made)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    # its steps do not shrink with the gradient, which is tiny behind a residual branch whose last norm starts at zero
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01, weight_decay=0.0)
    for step in range(2):
        optimizer.zero_grad()
        sum(method(*views_of(method, plan, [2 * step, 2 * step + 1])).values()).backward()
        optimizer.step()
    still = [key for key, value in encoder.state_dict().items() if torch.equal(value, before[key])]
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
def test_what_a_method_writes_loads_into_the_detectors_of_its_backbone(
    name, size, backbone, synthetic_plan, detector_of, tmp_path
):
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
        detector, _ = detector_of(detector_name, size)
        report = adaptation.load_encoder(detector.encoder, path, 2)
        loaded = pretrained_part(detector.encoder).state_dict()
        assert report.entries == len(loaded)
        root = made.key_to_encoder.rpartition(".")[0]
        projections = [f"{key}.weight" for key in made.keys_to_in_proj]
        for key, value in loaded.items():
            name_there = f"{root}.{key}".removeprefix(".")
            source = trained[name_there]
            expected = torch.cat([source, source], dim=1) / 2 if name_there in projections else source
            assert torch.equal(value, expected), key
    assert tried


# --- recipes, plans, data sets, studies -----------------------------------------------------------------------------------


class Stages(nn.Module):
    """An encoder of one stage, with a norm."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(nn.Conv3d(1, 2, 1), nn.InstanceNorm3d(2, affine=True))])


@pytest.mark.parametrize("name", ENTRIES["recipes"])
def test_recipes_parse_and_build(name):
    recipe = Recipe.from_entry(name, ENTRIES["recipes"][name])
    phases = recipe.build_phases()
    for phase in phases:
        warmup = getattr(phase.schedule, "warmup_steps", 0)
        peak = min(phase.first + warmup, phase.end - 1)
        steps = [*range(phase.first, phase.end, recipe.steps_per_epoch), peak, phase.end - 1]
        rates = [phase.rate(step, recipe.steps_per_epoch) for step in steps]
        assert all(0 < rate <= phase.schedule.lr for rate in rates)
        if peak < phase.end - 1:
            assert rates[-1] < max(rates)
    assert (phases[0].first, phases[-1].end) == (0, recipe.total_steps)
    network = nn.ModuleDict({"encoder": Stages(), "head": nn.Conv3d(2, 1, 1)})
    optimizer = recipe.build_optimizer(network)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
    assert optimizer.param_groups[0]["lr"] == phases[0].rate(0, recipe.steps_per_epoch)
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert len(decays) == 1 if recipe.decay_norms else min(decays) == 0.0 < max(decays)
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
    made = build(with_class(name, arguments))
    assert isinstance(made, RawDataset) or callable(made.write)


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
