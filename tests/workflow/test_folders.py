"""Results, data and work in folders of their own: the same jobs, and nothing where it does not belong."""

import pytest

SMOKE = ("--configfile", "config/smoke.yaml")


@pytest.fixture
def apart(tmp_path):
    """Three folders and the study file that names them."""
    places = {name: tmp_path / name for name in ("results", "data", "scratch")}
    lines = "".join(f"  {name}: {folder}\n" for name, folder in places.items())
    (tmp_path / "place.yaml").write_text(f"pathvars:\n{lines}")
    return places, (*SMOKE, tmp_path / "place.yaml")


def described(jobs):
    return sorted((job.rule, sorted(job.wildcards.items()), job.files) for job in jobs)


def test_other_folders_plan_the_same_jobs_on_the_same_files(repository, apart):
    places, study = apart
    expected = [
        (rule, wildcards, files.replace("results/data/", "DATA/").replace("results/", "RESULTS/"))
        for rule, wildcards, files in described(repository.planned(*SMOKE))
    ]
    found = [
        (rule, wildcards, files.replace(f"{places['data']}/", "DATA/").replace(f"{places['results']}/", "RESULTS/"))
        for rule, wildcards, files in described(repository.planned(*study))
    ]
    assert found == expected


@pytest.mark.slow
def test_preparation_writes_data_to_their_folder_and_logs_to_the_results(repository, apart, tmp_path):
    places, study = apart
    (tmp_path / "shards.yaml").write_text("runtime: {shards: {smoke_nodules: 2}}\n")
    target = places["data"] / "smoke_nodules" / "smoke" / "preprocessed" / "index.json"
    text = repository.snakemake("-c2", target, *study, tmp_path / "shards.yaml")
    assert "5 of 5 steps" in text  # prepare, plan, two shards, preprocess
    assert {path.name for path in (places["data"] / "smoke_nodules").iterdir()} == {"task", "smoke"}
    assert len(list(target.parent.glob("*.b2nd"))) == 2 * 9
    assert {path.name for path in places["results"].iterdir()} == {"logs", "benchmarks"}
    assert not places["scratch"].exists()
    assert not (repository.root / "results").exists()
