import copy
import re
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import update_config

from detpretrain import study, study_file
from detpretrain.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SMOKE = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())


def assembled(**changes):
    return study.assemble(SMOKE | changes, ROOT, "my.yaml")


def refused(config):
    with pytest.raises(InputError) as error:
        study.assemble(config, ROOT, "my.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_rows_and_cells_of_a_study():
    found = assembled(seeds=[0, 1])
    assert [row.path for row in found.rows] == [
        f"smoke_nodules/retina_unet_resenc/{init}/seed{seed}" for init in ("mae", "scratch") for seed in (0, 1)
    ]
    assert len(found.cells) == len(found.rows) * 3
    assert found.cells[0].path == "smoke_nodules/retina_unet_resenc/mae/fold0-seed0"
    assert found.pretrainings == [("mae", "resenc")]
    assert (found.folder, found.results) == (Path("results/smoke"), Path("results"))


def test_row_that_is_named_twice_is_one_row():
    assert assembled(rows=SMOKE["rows"] * 2).rows == assembled().rows


def test_rows_may_name_their_own_data_sets_and_folds_may_be_fewer():
    rows = [{"detector": "retina_unet_resenc", "init": "scratch", "datasets": ["smoke_organs"]}]
    found = assembled(rows=rows, folds=[0])
    assert [(cell.dataset, cell.fold) for cell in found.cells] == [("smoke_organs", 0)]


def test_results_folder_can_be_elsewhere():
    assert assembled(pathvars={"results": "/elsewhere"}).folder == Path("/elsewhere/smoke")


def test_data_and_work_lie_with_the_results_unless_they_have_places_of_their_own():
    found = assembled()
    assert (found.data, found.work) == (Path("results/data"), Path("results/smoke/work"))
    found = assembled(pathvars={"results": "/r"})
    assert (found.data, found.work) == (Path("/r/data"), Path("/r/smoke/work"))
    found = assembled(pathvars={"data": "/fast/data", "scratch": "/scratch"})
    assert (found.folder, found.data, found.work) == (
        Path("results/smoke"),
        Path("/fast/data"),
        Path("/scratch/smoke/work"),
    )


STUDY_FILES = [path for path in sorted((ROOT / "config").glob("*.yaml")) if path.stem not in study.KINDS]


@pytest.mark.parametrize("path", STUDY_FILES, ids=lambda path: path.stem)
def test_every_study_file_assembles(path):
    found = study.load([path], ROOT)
    assert found.name == path.stem  # the file is found by the name of its results
    assert found.cells


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (
            {**{k: v for k, v in SMOKE.items() if k != "datasets"}, "datsets": ["smoke_nodules"]},
            ["'datsets'", "'datasets'"],
        ),
        (SMOKE | {"seedz": [0]}, ["unknown key 'seedz'", "did you mean 'seeds'?"]),
        (SMOKE | {"rows": [{"detektor": "retina_unet_resenc", "init": "mae"}]}, ["'detektor'", "rows.0", "'detector'"]),
        (SMOKE | {"comparison": {"resample": 5}}, ["'resample'", "in comparison", "'resamples'"]),
        (SMOKE | {"pathvars": {"result": "x"}}, ["'result'", "'results'"]),
        (SMOKE | {"pathvars": {"scrach": "x"}}, ["'scrach'", "'scratch'"]),
        (SMOKE | {"pathvars": {"data": ""}}, ["pathvars.data", "'' should be non-empty"]),
        (SMOKE | {"runtime": {"budget": 5}}, ["'budget'", "in runtime", "'budget_minutes'"]),
        (SMOKE | {"runtime": {"stage": True}}, ["runtime.stage", "True is not of type 'string'"]),
        (SMOKE | {"zzz": 1}, ["unknown key 'zzz'", "known are", "datasets"]),
        (SMOKE | {"seeds": "0"}, ["seeds", "is not of type 'array'"]),
        (SMOKE | {"folds": [-1]}, ["folds.0", "less than the minimum"]),
        (SMOKE | {"study": "a/b"}, ["study", "a/b"]),
        (SMOKE | {"comparison": {"confidence": 95}}, ["comparison.confidence", "95"]),
        (SMOKE | {"runtime": {"nodes": 0}}, ["runtime.nodes", "less than the minimum"]),
        ({k: v for k, v in SMOKE.items() if k != "rows"}, ["'rows' is a required property"]),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[0],
)
def test_schema_violation_is_one_line(config, parts):
    message = refused(config)
    assert message.startswith("my.yaml: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"datasets": ["smoke_nodule"]}, ["datasets.yaml", "'smoke_nodule'", "did you mean 'smoke_nodules'?"]),
        ({"corpus": "smoke_corps"}, ["datasets.yaml", "'smoke_corps'", "did you mean 'smoke_corpus'?"]),
        ({"rows": [{"detector": "retina_resenc", "init": "mae"}]}, ["detectors.yaml", "'retina_unet_resenc'?"]),
        ({"rows": [{"detector": "retina_unet_resenc", "init": "mea"}]}, ["inits.yaml", "'mea'", "did you mean 'mae'?"]),
        ({"size": "smok"}, ["no size 'smok'", "did you mean 'smoke'?"]),
        (
            {"size": "demo", "rows": [{"detector": "retina_unet_resenc_v001", "init": "scratch"}]},
            ["detectors.yaml", "retina_unet_resenc_v001", "no size 'demo'"],
        ),
        ({"folds": [0, 3]}, ["fold 3 of smoke_nodules", "it has 3 folds"]),
    ],
    ids=["dataset", "corpus", "detector", "init", "size", "size of an entry", "fold"],
)
def test_name_that_does_not_exist_is_one_line(changes, parts):
    message = refused(SMOKE | changes)
    for part in parts:
        assert part in message


NNDET = {"detector": "retina_unet_resenc_nndet", "init": "mae"}


def test_rows_of_an_engine_stand_beside_others():
    found = assembled(rows=[*SMOKE["rows"], NNDET], runtime={"engines": {"nndet": "/opt/nndet/bin"}})
    assert found.engine("retina_unet_resenc_nndet") == "nndet"
    assert found.engine("retina_unet_resenc") is None
    assert found.pretrainings == [("mae", "resenc")]  # one for both


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rows": [NNDET | {"detector": "retina_unet_nndet"}]}, "has no transfer .*only starts from scratch"),
        ({"recipes": {"retina_unet_resenc_nndet": "retina_smoke"}}, "is trained by an engine, which has its own"),
        ({"runtime": {"engines": {"nnunet": "/x"}}}, "'nnunet'"),
        ({"runtime": {"engines": {"nndet": ""}}}, "runtime.engines.nndet"),
    ],
)
def test_what_an_engine_cannot_do_is_one_line(changes, told):
    assert re.search(told, refused(SMOKE | {"rows": [NNDET]} | changes))


def test_plans_of_an_engine_are_for_its_detectors_alone():
    found = assembled()
    detectors = found.entries["detectors"]
    ours = detectors["retina_unet_resenc"]["sizes"]["smoke"] | {"plan": "nndet_v002"}
    changed = {**detectors, "retina_unet_resenc": detectors["retina_unet_resenc"] | {"sizes": {"smoke": ours}}}
    with pytest.raises(InputError, match="retina_unet_resenc: plan nndet_v002 is an engine's: name another one"):
        study._check_references(study.Study(found.config, {**found.entries, "detectors": changed}, found.plans))
    theirs = {**detectors, NNDET["detector"]: detectors[NNDET["detector"]] | {"plan": "resenc_l_128"}}
    other = study.Study({**found.config, "rows": [NNDET]}, {**found.entries, "detectors": theirs}, found.plans)
    with pytest.raises(InputError, match="plan resenc_l_128 is not one of engine nndet"):
        study._check_references(other)


@pytest.mark.parametrize(("gpus", "nodes"), [(3, 2), (1, 1), (0, 2), (2, 4)])
def test_gpus_that_nodes_cannot_share_are_one_line(gpus, nodes):
    assert f"gpus {gpus} over nodes {nodes}: " in refused(SMOKE | {"runtime": {"gpus": gpus, "nodes": nodes}})
    assert assembled(runtime={"gpus": 8, "nodes": 2}).config["runtime"] == {"gpus": 8, "nodes": 2}


def test_pretraining_without_a_corpus_is_one_line():
    assert "no data set is named: add corpus: DATASET" in refused({k: v for k, v in SMOKE.items() if k != "corpus"})


def test_a_method_asks_for_its_kind_of_corpus_and_an_init_may_name_its_own():
    found = assembled(corpus=["smoke_corpus", "smoke_organs"])
    assert found.corpora("mae") == ["smoke_corpus", "smoke_organs"]
    assert found.corpora("multitalent") == ["smoke_organs", "smoke_thorax"]
    own = study.Study(found.config, {**found.entries, "inits": {"mae": {"method": "mae", "corpus": "brats"}}}, {})
    assert own.corpora("mae") == ["brats"]
    rows = [{"detector": "retina_unet_resenc", "init": "multitalent"}]
    without = {key: value for key, value in SMOKE.items() if key != "labelled_corpus"} | {"rows": rows}
    assert "add labelled_corpus: DATASET" in refused(without)


def test_an_init_names_a_kind_that_the_claims_know():
    found = assembled()
    entries = {**found.entries, "inits": {"scratch": {}, "mae": {"method": "mae", "kind": "reconstructive"}}}
    with pytest.raises(
        InputError, match="mae: kind 'reconstructive': use one of reconstruction, contrastive, supervised"
    ):
        study._check_init(found, "mae", entries["inits"]["mae"])


def test_accepted_overlaps_name_what_exists():
    found = assembled(accept_overlap={"mae": ["smoke_nodules"]})
    assert found.accepts_overlap("mae", "smoke_nodules")
    assert not found.accepts_overlap("voco", "smoke_nodules")
    assert "did you mean 'mae'" in refused(SMOKE | {"accept_overlap": {"mea": ["smoke_nodules"]}})
    assert "did you mean 'smoke_nodules'" in refused(SMOKE | {"accept_overlap": {"mae": ["smoke_nodule"]}})


def test_a_study_may_say_where_a_download_lies_and_that_it_is_partial():
    found = assembled(raw={"smoke_organs": "/elsewhere"}, allow_partial=["smoke_nodules"])
    assert found.entry("datasets", "smoke_organs")["raw"] == "/elsewhere"
    assert "allow_partial" not in found.entry("datasets", "smoke_organs")
    assert found.entry("datasets", "smoke_nodules")["allow_partial"] is True
    assert "raw" not in found.entry("datasets", "smoke_nodules")
    assert "raw: no data set 'smoke_organ': did you mean 'smoke_organs'?" in refused(
        SMOKE | {"raw": {"smoke_organ": "/"}}
    )
    assert "allow_partial: no data set 'x': known are" in refused(SMOKE | {"allow_partial": ["x"]})
    assert "raw.smoke_organs: '' should be non-empty" in refused(SMOKE | {"raw": {"smoke_organs": ""}})
    assert "allow_partial: 'smoke_organs' is not of type 'array'" in refused(SMOKE | {"allow_partial": "smoke_organs"})


def test_a_study_may_give_a_detector_or_a_method_another_recipe():
    found = assembled(recipes={"retina_unet_resenc": "retina_smoke_two_phase", "mae": "voco_smoke"})
    assert found.entry("detectors", "retina_unet_resenc")["recipe"] == "retina_smoke_two_phase"
    assert found.entry("methods", "mae")["recipe"] == "voco_smoke"
    assert found.entry("detectors", "retina_unet_plainconv")["recipe"] == "retina_smoke"
    assert assembled().entry("detectors", "retina_unet_resenc")["recipe"] == "retina_smoke"
    assert "no detector or method 'retina_resenc': did you mean 'retina_unet_resenc'?" in refused(
        SMOKE | {"recipes": {"retina_resenc": "retina_smoke"}}
    )
    assert "recipes.yaml: no entry 'retina_smok': did you mean 'retina_smoke'?" in refused(
        SMOKE | {"recipes": {"retina_unet_plainconv": "retina_smok"}}
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"methd": "mae"}, "unknown key 'methd': did you mean 'method'?"),
        ({"method": "mae", "checkpoint": "x.pth"}, "both method and checkpoint"),
        ({"stem": "CT"}, "stem without a checkpoint"),
        ({"method": "mae", "neck": True}, "neck without a checkpoint"),
        ({"checkpoint": "x.pth", "neck": "false"}, "neck 'false': write true or false"),
        ({"checkpoint": "nowhere/x.pth"}, "checkpoint nowhere/x.pth: file not found"),
        ({"checkpoint": "hf://org/repo"}, "pin the commit"),
        ({"method": "mae", "patients": "nowhere.txt"}, "patients nowhere.txt: file not found"),
    ],
)
def test_bad_inits_are_one_line(entry, message, tmp_path):
    copied = tmp_path / "root"
    shutil.copytree(ROOT / "config", copied / "config")
    shutil.copytree(ROOT / "workflow" / "schemas", copied / "workflow" / "schemas")
    (copied / "config" / "inits.yaml").write_text(yaml.safe_dump({"mine": entry}))
    rows = [{"detector": "retina_unet_resenc", "init": "mine"}]
    with pytest.raises(InputError, match=re.escape(message)) as error:
        study.assemble(SMOKE | {"rows": rows}, copied, "my.yaml")
    assert "\n" not in str(error.value)


def test_entry_at_another_size_and_unknown_plan():
    found = assembled()
    assert found.entry("methods", "mae") | {"ratio": 0} == {
        "class": "detpretrain.pretraining.mae.MAE",
        "ratio": 0,
        "plan": "smoke_corpus",
        "recipe": "mae_smoke",
        "block": 8,
    }
    with pytest.raises(InputError, match="no plan 'smok': did you mean 'smoke'"):
        found.plan_spec("smok")


def test_entry_is_a_copy():
    found = assembled()
    found.entry("recipes", "mae_smoke")["epochs"] = -1
    assert found.entry("recipes", "mae_smoke")["epochs"] > 0


values = st.recursive(
    st.integers() | st.text(max_size=3) | st.none() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@given(mappings, mappings)
def test_files_merge_as_snakemake_merges_them(base, other):
    expected = copy.deepcopy(base)
    update_config(expected, copy.deepcopy(other))
    before = copy.deepcopy(base)
    assert study_file.merge(base, other) == expected
    assert base == before


def test_later_files_override_earlier_ones(tmp_path):
    (tmp_path / "more.yaml").write_text("seeds: [4]\ncomparison: {seed: 3}\n")
    found = study.load([ROOT / "config" / "smoke.yaml", tmp_path / "more.yaml"], ROOT)
    assert found.config["seeds"] == [4]
    assert found.config["comparison"] == {"resamples": 200, "seed": 3}


@pytest.mark.parametrize("content", ["- a\n", "", "study: [\n", "just text"])
def test_file_that_is_no_mapping_is_one_line(tmp_path, content):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(InputError, match=r"bad\.yaml: ") as error:
        study.load([tmp_path / "bad.yaml"], ROOT)
    assert "\n" not in str(error.value)


def test_no_file_and_missing_file():
    with pytest.raises(InputError, match="no study file given"):
        study.load([], ROOT)
    with pytest.raises(InputError, match=r"nowhere\.yaml: file not found"):
        study.load([ROOT / "nowhere.yaml"], ROOT)
