from pathlib import Path

import pytest

from detpretrain import containers, study, study_file

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "config" / "smoke.yaml"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The folder that Snakemake runs in, alone in the world."""
    for name in (*containers.VARIABLES, "APPTAINER_BIND", "SINGULARITY_BIND"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "checkout" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkout")
    return tmp_path / "checkout"


def chosen(**changes):
    return study.assemble(study_file.merge(study.read_yaml(SMOKE), changes), ROOT, "x")


def shown(checkout, files=(), **changes):
    return containers.folders(chosen(**changes), [Path(file) for file in files], checkout)


def test_a_study_within_the_checkout_needs_nothing_else(checkout):
    assert shown(checkout, ["config/smoke.yaml"]) == []


def test_folders_elsewhere_are_shown_once(checkout, tmp_path, monkeypatch):
    for name in ("studies", "fast", "raw/nodules", "node", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("RAW", str(tmp_path / "raw"))
    found = shown(
        checkout,
        ["config/smoke.yaml", tmp_path / "studies" / "mine.yaml"],
        # made by the first job: what is above them is there
        pathvars={"data": str(tmp_path / "fast" / "data"), "scratch": str(tmp_path / "fast" / "work" / "deep")},
        raw={"smoke_nodules": "${RAW}/nodules", "smoke_corpus": "${RAW}/missing", "brats": str(tmp_path)},
        runtime={"stage": str(tmp_path / "node")},
    )
    assert found == sorted(tmp_path / name for name in ("fast", "node", "raw/nodules", "studies", "tmp"))


def test_checkout_elsewhere_is_shown(checkout, tmp_path):
    assert shown(ROOT) == [ROOT]


def test_links_are_followed(checkout, tmp_path):
    (tmp_path / "big" / "results").mkdir(parents=True)
    (checkout / "results").rmdir()
    (checkout / "results").symlink_to(tmp_path / "big" / "results")
    assert shown(checkout) == [tmp_path / "big" / "results"]


def test_the_root_of_the_file_system_is_never_shown(checkout):
    assert shown(checkout, pathvars={"data": "/no/such/folder/anywhere"}) == []


def test_what_the_user_shows_stays(checkout, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(containers.shutil, "which", lambda name: name)
    places = {"data": str(tmp_path / "data")}
    found = containers.environment(chosen(pathvars=places), [], checkout)
    assert found == {"APPTAINER_BIND": str(tmp_path / "data")}
    monkeypatch.setenv("APPTAINER_BIND", "/mine:/there")
    found = containers.environment(chosen(pathvars=places, runtime={"gpus": 1}), [], checkout)
    assert found == {"APPTAINER_BIND": f"/mine:/there,{tmp_path / 'data'}", "APPTAINER_NV": "1"}
    monkeypatch.setenv("APPTAINER_BIND", found["APPTAINER_BIND"])  # a job that reads the workflow again
    assert containers.environment(chosen(pathvars=places), [], checkout)["APPTAINER_BIND"] == found["APPTAINER_BIND"]


def test_singularity_has_names_of_its_own(checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(containers.shutil, "which", lambda name: None)
    found = containers.environment(chosen(runtime={"gpus": 1}), [], checkout)
    assert found == {"SINGULARITY_BIND": "", "SINGULARITY_NV": "1"}
