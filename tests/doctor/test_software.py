import platform
from importlib import metadata

import pytest

from detpretrain import engine_entries
from detpretrain.doctor import software
from detpretrain.errors import InputError

PROJECT = """
[project]
requires-python = ">=3.11,<3.12"
dependencies = ["numpy==9.9.9", "surely-not-there==1.0", "PyYAML=={yaml}", "torch=={torch}"]
"""


@pytest.fixture
def root(tmp_path):
    torch = metadata.version("torch").partition("+")[0]
    (tmp_path / "pyproject.toml").write_text(PROJECT.format(yaml=metadata.version("PyYAML"), torch=torch))
    return tmp_path


@pytest.mark.parametrize(
    ("version", "state"),
    [("3.11.0", "ok"), ("3.11.9", "ok"), ("3.10.14", "blocks"), ("3.12.0", "blocks"), ("3.9.1", "blocks")],
)
def test_python_is_compared_by_numbers(root, monkeypatch, version, state):
    monkeypatch.setattr(platform, "python_version", lambda: version)
    monkeypatch.setattr(platform, "python_version_tuple", lambda: tuple(version.split(".")))
    assert software.python(root).state == state


def test_packages_that_differ_or_lack_have_a_line_each(root):
    summary, *wrong = software.packages(root)
    assert (summary.found, summary.state) == ("2 of 4", "warning")
    assert {finding.name: finding.state for finding in wrong} == {"numpy": "warning", "surely-not-there": "blocks"}
    assert f"{metadata.version('numpy')} installed, 9.9.9 pinned" == wrong[0].found
    assert "not installed (pinned 1.0)" in wrong[1].found


def test_all_as_pinned_is_one_line(root):
    (root / "pyproject.toml").write_text(
        f'[project]\nrequires-python = ">=3.11"\ndependencies = ["numpy=={metadata.version("numpy")}"]\n'
    )
    (only,) = software.packages(root)
    assert (only.found, only.state) == ("1 of 1", "ok")


def test_elsewhere_it_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"pyproject\.toml: file not found: run this in the repository"):
        software.packages(tmp_path)


@pytest.mark.parametrize("name", ["profile.yaml", "config.yaml", "profile.v8+.yaml"])
def test_executor_of_a_profile_and_its_plugin(tmp_path, monkeypatch, name):
    asked = []
    monkeypatch.setattr(software.importlib.util, "find_spec", lambda module: asked.append(module))
    (tmp_path / name).write_text("executor: cluster-generic\njobs: 5\n")
    assert software.executor(tmp_path) == "cluster-generic"
    _, finding = software.snakemake(tmp_path)
    assert asked == ["snakemake_executor_plugin_cluster_generic"]
    assert finding.state == "blocks"
    assert finding.remedy == "pip install snakemake-executor-plugin-cluster-generic"


def test_installed_plugin_and_no_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(software.importlib.util, "find_spec", lambda module: object())
    (tmp_path / "profile.yaml").write_text("executor: slurm\n")
    assert [finding.state for finding in software.snakemake(tmp_path)] == ["ok", "ok"]
    monkeypatch.setattr(software.importlib.util, "find_spec", lambda module: None)
    assert [finding.state for finding in software.snakemake(None)] == ["ok", "ok"]
    (tmp_path / "profile.yaml").write_text("show-failed-logs: true\n")
    assert software.executor(tmp_path) == "local"


def test_snakemake_itself_may_lack(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(software.metadata, "version", version)
    assert software.snakemake(None)[0].state == "blocks"


ENGINE_ROW = {"detector": "retina_unet_resenc_nndet", "init": "scratch"}


def executables(folder, names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_studies_without_an_engine_need_none(assemble):
    assert software.engines(assemble(), "local") == []


def test_missing_executables_of_an_engine_are_one_line(assemble, tmp_path, monkeypatch):
    names = engine_entries.EXECUTABLES["nndet"]
    monkeypatch.setenv("PATH", executables(tmp_path / "some", [name for name in names if name != "nndet_train"]))
    chosen = assemble(rows=[ENGINE_ROW])
    (found,) = software.engines(chosen, "local")
    assert (found.name, found.state, found.found) == ("engine nndet", "blocks", "not found in PATH: nndet_train")
    assert "envs/nndet.yaml" in found.remedy
    assert software.engines(chosen, "slurm")[0].state == "warning"  # it may be there on the nodes


def test_executables_of_an_engine_in_the_study_s_folder(assemble, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    folder = executables(tmp_path / "bin", engine_entries.EXECUTABLES["nndet"])
    (found,) = software.engines(assemble(rows=[ENGINE_ROW], runtime={"engines": {"nndet": folder}}), "local")
    assert (found.state, found.found) == ("ok", f"nndet_prep and 4 more in {folder}")


def test_results_where_an_engine_cannot_work_block(assemble, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", executables(tmp_path / "bin", engine_entries.EXECUTABLES["nndet"]))
    chosen = assemble(rows=[ENGINE_ROW], pathvars={"results": str(tmp_path / "my.results")})
    _, found = software.engines(chosen, "local")
    assert (found.name, found.state) == ("folder for nndet", "blocks")
    assert "set pathvars: {results: FOLDER}" in found.found


def test_folder_without_a_profile(tmp_path):
    with pytest.raises(InputError, match=r"no profile\.yaml in it"):
        software.executor(tmp_path)
