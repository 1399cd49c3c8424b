import copy
from pathlib import Path

import pytest
import yaml

from detpretrain import leaves, study

ROOT = Path(__file__).resolve().parents[1]
CONFIG = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
KINDS = {kind: yaml.safe_load((ROOT / "config" / f"{kind}.yaml").read_text()) for kind in study.KINDS}
PLANS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "config" / "plans").glob("*.yaml")}


def recipes(config=CONFIG, entries=KINDS, plans=PLANS):
    """The recipe of every job of a study."""
    chosen = study.Study({**study.DEFAULTS, **config}, entries, plans)
    found = {}
    for init, backbone in chosen.pretrainings:
        found[f"pretrain {init}"] = leaves.recipe("pretrain", leaves.pretrain(chosen, init, backbone))
    for cell in chosen.cells:
        name = f"{cell.detector} {cell.init} {cell.fold}"
        finetune = leaves.finetune(chosen, cell.detector, cell.init, cell.fold, cell.seed)
        found[f"finetune {name}"] = leaves.recipe("finetune", finetune)
        found[f"predict {name}"] = leaves.recipe("predict", leaves.predict(chosen, cell.detector))
    for dataset in {*chosen.config["datasets"], chosen.config["corpus"]}:
        found[f"prepare {dataset}"] = leaves.recipe("prepare", leaves.prepare(chosen, dataset))
    for plan in ("smoke", "smoke_corpus"):
        found[f"plan {plan}"] = leaves.recipe("plan", leaves.plan(chosen, plan))
    found["compare"] = leaves.recipe("compare", leaves.compare(chosen))
    return found


BEFORE = recipes()


def changed(**changes):
    """Names of the jobs whose recipe another configuration changes; a change is (path of keys, value)."""
    after = recipes(**changes)
    return {name for name in BEFORE if after[name] != BEFORE[name]}


def edited(content, path, value):
    copied = copy.deepcopy(content)
    place = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copied


CELLS = [f"retina_unet_resenc {init} {fold}" for init in ("scratch", "mae") for fold in range(3)]


@pytest.mark.parametrize(
    ("path", "value", "stages"),
    [
        (("methods", "mae", "ratio"), 0.6, {"pretrain mae"}),
        (("methods", "mae", "sizes", "smoke", "block"), 4, {"pretrain mae"}),
        (("recipes", "mae_smoke", "epochs"), 3, {"pretrain mae"}),
        (("inits", "mae", "seed"), 1, {"pretrain mae"}),
        (("recipes", "retina_smoke", "clip_norm"), 4.0, {f"finetune {cell}" for cell in CELLS}),
        (
            ("detectors", "retina_unet_resenc", "sizes", "smoke", "candidates"),
            9,
            {f"finetune {cell}" for cell in CELLS},
        ),
        (
            ("detectors", "retina_unet_resenc", "sizes", "smoke", "inference", "overlap"),
            0.5,
            {f"predict {cell}" for cell in CELLS},
        ),
        (
            ("backbones", "resenc", "sizes", "smoke", "features"),
            [4, 8, 17],
            {"pretrain mae", *(f"finetune {cell}" for cell in CELLS)},
        ),
        (("datasets", "smoke_nodules", "seed"), 0, {"prepare smoke_nodules"}),
        (("methods", "mae", "sizes", "full", "block"), 32, set()),  # another size
        (("recipes", "mae_demo", "epochs"), 99, set()),  # another study's
        (("detectors", "retina_unet_resenc_v001", "head_convs"), 3, set()),  # a row that is not there
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_a_leaf_changes_exactly_the_jobs_that_it_defines(path, value, stages):
    assert changed(entries=edited(KINDS, path, value)) == stages


def test_another_recipe_for_a_detector_or_a_method_changes_its_trainings():
    detector = {"recipes": {"retina_unet_resenc": "retina_smoke_two_phase"}}
    assert changed(config=CONFIG | detector) == {f"finetune {cell}" for cell in CELLS}
    assert changed(config=CONFIG | {"recipes": {"mae": "voco_smoke"}}) == {"pretrain mae"}
    assert changed(config=CONFIG | {"recipes": {"retina_unet_plainconv": "retina_smoke_two_phase"}}) == set()


ENGINE = CONFIG | {"rows": [{"detector": "retina_unet_resenc_nndet", "init": init} for init in ("scratch", "mae")]}
ENGINE_CELLS = {f"finetune retina_unet_resenc_nndet {init} {fold}" for init in ("scratch", "mae") for fold in range(3)}


@pytest.mark.parametrize(
    ("path", "value", "stages"),
    [
        (("detectors", "retina_unet_resenc_nndet", "transfer"), "Other", ENGINE_CELLS),
        (("detectors", "retina_unet_resenc_nndet", "sizes", "smoke", "overrides"), [], ENGINE_CELLS),
        (("detectors", "retina_unet_resenc_nndet", "sizes", "full", "overrides"), ["a=1"], set()),
        # the network is the engine's: only what the pre-training makes of it counts
        (("backbones", "resenc", "sizes", "smoke", "features"), [4, 8, 17], {"pretrain mae"}),
        (("recipes", "retina_smoke", "clip_norm"), 4.0, set()),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_leaves_of_an_engine_s_entry(path, value, stages):
    before, after = recipes(config=ENGINE), recipes(config=ENGINE, entries=edited(KINDS, path, value))
    assert {name for name in before if after[name] != before[name]} == stages


def test_plan_spec_changes_plan_only():
    assert changed(plans=edited(PLANS, ("smoke", "patch"), 32)) == {"plan smoke"}


def test_runtime_and_folders_change_nothing():
    runtime = {"device": "cpu", "workers": 2, "budget_minutes": 5, "stage": "/local"}
    elsewhere = {"runtime": runtime, "pathvars": {"results": "/x", "data": "/y", "scratch": "/z"}}
    assert changed(config=CONFIG | elsewhere) == set()


def test_where_a_download_lies_changes_nothing_but_a_partial_one_is_another_task():
    assert changed(config=CONFIG | {"raw": {"smoke_nodules": "/moved"}}) == set()
    moved = edited(KINDS, ("datasets", "smoke_nodules", "raw"), "/moved")
    assert changed(entries=moved) == set()
    assert changed(config=CONFIG | {"allow_partial": ["smoke_nodules"]}) == {"prepare smoke_nodules"}


def test_comparison_and_study_s_rows_change_compare_only():
    assert changed(config=CONFIG | {"comparison": {"resamples": 7}}) == {"compare"}
    rows = [*CONFIG["rows"], {"detector": "retina_unet_resenc_v001", "init": "mae"}]
    assert changed(config=CONFIG | {"rows": rows}) == {"compare"}


def test_a_stem_an_acceptance_and_an_id_space_count_where_they_matter():
    inits = {**KINDS["inits"], "brain": {"method": "mae", "stem": "T1"}}
    plain = study.Study({**study.DEFAULTS, **CONFIG}, {**KINDS, "inits": inits}, PLANS)
    accepting = study.Study({**plain.config, "accept_overlap": {"mae": ["smoke_nodules"]}}, plain.entries, PLANS)
    named = {**KINDS["datasets"], "smoke_corpus": {**KINDS["datasets"]["smoke_corpus"], "identities": "phantoms"}}
    spaced = study.Study(plain.config, {**plain.entries, "datasets": named}, PLANS)
    cells = [leaves.finetune(plain, "retina_unet_resenc", init, 0, 0) for init in ("mae", "brain")]
    assert leaves.recipe("finetune", cells[0]) != leaves.recipe("finetune", cells[1])
    with_neck, without = (
        leaves.finetune(
            study.Study(plain.config, {**KINDS, "inits": {"x": {"checkpoint": "x.pth", "neck": neck}}}, PLANS),
            "retina_unet_resenc", "x", 0, 0,
        )
        for neck in (True, False)
    )  # fmt: skip
    assert with_neck["neck"] is True
    assert leaves.recipe("finetune", with_neck) != leaves.recipe("finetune", without)
    assert leaves.recipe("finetune", without) == leaves.recipe("finetune", cells[0])
    guards = [leaves.recipe("leakage", leaves.leakage(s, "mae", "smoke_nodules")) for s in (plain, accepting, spaced)]
    assert len(set(guards)) == 3
    # the name of an id space does not change a volume, nor what was learned from it
    for stage, leaf in (
        ("prepare", lambda s: leaves.prepare(s, "smoke_corpus")),
        ("pretrain", lambda s: leaves.pretrain(s, "mae", "resenc")),
    ):
        assert leaves.recipe(stage, leaf(plain)) == leaves.recipe(stage, leaf(spaced))


def test_folds_and_seeds_differ_from_each_other():
    names = [f"finetune retina_unet_resenc scratch {fold}" for fold in range(3)]
    assert len({BEFORE[name] for name in names}) == 3
    chosen = study.Study({**study.DEFAULTS, **CONFIG}, KINDS, PLANS)
    seeds = {
        leaves.recipe("finetune", leaves.finetune(chosen, "retina_unet_resenc", "scratch", 0, seed))
        for seed in range(3)
    }
    assert len(seeds) == 3


def test_initialisations_share_the_recipe_of_a_fine_tuning():
    """The same budget for every row: what differs is the checkpoint, an input."""
    assert BEFORE["finetune retina_unet_resenc scratch 0"] == BEFORE["finetune retina_unet_resenc mae 0"]


def test_raised_version_changes_its_stage(monkeypatch):
    monkeypatch.setattr(leaves, "VERSIONS", {**leaves.VERSIONS, "predict": leaves.VERSIONS["predict"] + 1})
    assert changed() == {f"predict {cell}" for cell in CELLS}


def test_stages_with_the_same_leaves_differ():
    assert len({leaves.recipe(stage, {}) for stage in leaves.VERSIONS}) == len(leaves.VERSIONS)


def test_hash_ignores_the_order_of_keys_and_sees_every_value():
    assert leaves.short_hash({"a": 1, "b": {"c": 2, "d": 3}}) == leaves.short_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert (
        len({leaves.short_hash(value) for value in ({"a": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, {"a": 1.5}, {})})
        == 6
    )
    assert len(leaves.short_hash({})) == 12


def test_consolidation_depends_on_the_sweep_and_the_folds():
    hashes = {
        leaves.recipe("consolidate", leaves.consolidate(*arguments))
        for arguments in [(False, [0, 1]), (True, [0, 1]), (False, [0, 1, 2]), (False, [1, 0])]
    }
    assert len(hashes) == 4
