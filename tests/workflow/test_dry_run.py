import pytest

from detpretrain import study

SMOKE = ("--configfile", "config/smoke.yaml")
CELL = "results/smoke/cells/smoke_nodules/retina_unet_resenc/{init}/fold0-seed0/metrics.json"
ONE_OF_EACH = dict.fromkeys(("prepare", "plan", "preprocess", "finetune", "predict", "evaluate"), 1)
PRETRAINED = ONE_OF_EACH | {"prepare": 2, "plan": 2, "preprocess": 2, "pretrain": 1, "leakage": 1}


def test_bare_call_plans_the_demo_and_nothing_else(repository):
    jobs = repository.planned()
    assert {job.rule for job in jobs} >= {"prepare", "pretrain", "finetune", "consolidate", "compare", "report"}
    for job in jobs:
        for file in job.files.replace(",", " ").split():
            assert file.startswith(("results/demo/", "results/data/phantom_", "results/logs/", "results/benchmarks/"))
        assert job.wildcards.get("dataset", "phantom_").startswith("phantom_")


@pytest.mark.parametrize("name", ["smoke", "real_mr"])
def test_study_plans_its_own_cells(repository, count, name):
    file = f"config/{name}.yaml"
    chosen = study.load([repository.root / file], repository.root)
    jobs = repository.planned("--configfile", file)
    counts = count(jobs)
    assert counts["finetune"] == counts["predict"] == counts["evaluate"] == len(chosen.cells)
    assert counts["consolidate"] == len(chosen.rows)
    assert counts["pretrain"] == len(chosen.pretrainings)
    assert counts["compare"] == counts["report"] == 1
    assert not [job for job in jobs if "phantom_" in job.files or "demo" in job.files]


def test_no_key_of_the_demo_reaches_another_study(repository):
    demo = repository.root / "config" / "demo.yaml"
    before = demo.read_text()
    demo.write_text(before + "seeds: [7]\nfolds: [1]\nruntime: {workers: 3}\n")
    try:
        assert {job.wildcards["seed"] for job in repository.planned() if job.rule == "finetune"} == {"7"}
        cells = {
            (job.wildcards["fold"], job.wildcards["seed"])
            for job in repository.planned(*SMOKE)
            if job.rule == "finetune"
        }
    finally:
        demo.write_text(before)
    assert cells == {("0", "0"), ("1", "0"), ("2", "0")}


@pytest.mark.parametrize(("init", "expected"), [("scratch", ONE_OF_EACH), ("mae", PRETRAINED)])
def test_one_cell_plans_itself_and_its_inputs(repository, count, init, expected):
    jobs = repository.planned(CELL.format(init=init), *SMOKE)
    assert count(jobs) == expected
    assert {job.wildcards["init"] for job in jobs if "init" in job.wildcards} == {init}
    assert {job.wildcards["fold"] for job in jobs if "fold" in job.wildcards} == {"0"}


def test_a_data_set_is_preprocessed_by_as_many_jobs_as_the_study_says(repository, count, tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text("runtime: {shards: {smoke_corpus: 3}}\n")
    jobs = repository.planned(CELL.format(init="mae"), "--configfile", "config/smoke.yaml", str(more))
    assert count(jobs) == PRETRAINED | {"preprocess_shard": 3}
    shards = [job.wildcards for job in jobs if job.rule == "preprocess_shard"]
    assert {one["dataset"] for one in shards} == {"smoke_corpus"}
    assert sorted((one["shard"], one["shards"]) for one in shards) == [("0", "3"), ("1", "3"), ("2", "3")]


def test_file_of_no_cell_is_refused(repository):
    text = repository.snakemake("-n", CELL.format(init="mea"), *SMOKE, check=False)
    assert "MissingRuleException" in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seedz: [0]", "unknown key 'seedz': did you mean 'seeds'?"),
        ("seeds: 0", "seeds: 0 is not of type 'array'"),
        ("corpus: smoke_corps", "no entry 'smoke_corps': did you mean 'smoke_corpus'?"),
    ],
)
def test_mistake_in_a_study_file_is_one_line(repository, tmp_path, line, message):
    (tmp_path / "mine.yaml").write_text(line + "\n")
    text = repository.snakemake("-n", *SMOKE, tmp_path / "mine.yaml", check=False)
    (told,) = [line for line in text.splitlines() if message in line]
    assert "Traceback" not in text
    assert text.splitlines().index(told) >= len(text.splitlines()) - 2  # at the end, where one looks


def test_values_on_the_command_line_are_refused(repository):
    text = repository.snakemake("-n", *SMOKE, "--config", "size=demo", check=False)
    assert "--config is not used here" in text


def test_all_results_go_to_the_folder_that_a_study_names(repository, tmp_path):
    (tmp_path / "place.yaml").write_text(f"pathvars: {{results: {tmp_path / 'there'}}}\n")
    for job in repository.planned(*SMOKE, tmp_path / "place.yaml"):
        for file in job.files.replace(",", " ").split():
            assert file.startswith(f"{tmp_path}/there/"), job
