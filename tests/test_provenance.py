import subprocess
import textwrap

import pytest

from detpretrain import provenance

FILES = {
    "__init__.py": "",
    "errors.py": "class InputError(ValueError):\n    pass\n",
    "loss.py": "def loss(x):\n    return x * 2\n",
    "net/__init__.py": "",
    "net/blocks.py": "import os\nfrom detpretrain.errors import InputError\nWIDTH = 3\n",
    "train.py": """
        import json
        import detpretrain.loss
        from detpretrain.net import blocks

        def train():
            from detpretrain import late  # imported when it runs
            return late
        """,
    "late.py": "VALUE = 1\n",
    "report.py": "from detpretrain.train import train\nCOLOUR = 'red'\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the same name, small enough to change."""
    root = tmp_path / "detpretrain"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.setattr(provenance, "PACKAGE", root)
    provenance.source_hash.cache_clear()
    provenance._parsed.cache_clear()  # two states of a file may bear one time of change
    provenance._commit.cache_clear()
    yield root
    provenance.source_hash.cache_clear()
    provenance._parsed.cache_clear()  # two states of a file may bear one time of change
    provenance._commit.cache_clear()


def source(*modules):
    provenance.source_hash.cache_clear()
    provenance._parsed.cache_clear()  # two states of a file may bear one time of change
    return provenance.source_hash(modules)


def test_closure_follows_every_kind_of_import(package):
    found = {path.relative_to(package).as_posix() for path in provenance.closure(["detpretrain.train"])}
    assert found == set(FILES) - {"report.py"}


def test_comment_formatting_and_place_in_the_file_do_not_count(package):
    before = source("detpretrain.train")
    (package / "loss.py").write_text("# doubles\n\n\ndef loss( x ):\n\n    return (x\n            * 2)  # so\n")
    assert source("detpretrain.train") == before


@pytest.mark.parametrize("name", ["train.py", "loss.py", "net/blocks.py", "late.py", "errors.py", "net/__init__.py"])
def test_code_of_every_imported_module_counts(package, name):
    before = source("detpretrain.train")
    with open(package / name, "a") as handle:
        handle.write("\nMORE = 1\n")
    assert source("detpretrain.train") != before


def test_module_that_is_not_imported_does_not_count(package):
    before = source("detpretrain.train")
    (package / "report.py").write_text("COLOUR = 'blue'\n")
    assert source("detpretrain.train") == before
    assert source("detpretrain.train", "detpretrain.report") != before


def test_order_of_the_starting_modules_does_not_count(package):
    assert source("detpretrain.train", "detpretrain.report") == source("detpretrain.report", "detpretrain.train")


def test_classes_that_entries_name_count_at_any_depth():
    detector = {
        "class": "detpretrain.a.Detector",
        "criterion": {"class": "detpretrain.b.Loss", "parts": [{"class": "x.Y"}]},
    }
    recipe = {"optimizer": {"class": "torch.optim.SGD"}, "epochs": 3}
    assert provenance.class_modules(detector, recipe) == ("detpretrain.a", "detpretrain.b", "torch.optim", "x")
    assert provenance.class_modules({"sizes": [1, None]}) == ()


def test_what_a_fine_tuning_runs_counts_as_its_source():
    """The modules that only the configuration names: the closure of the imports alone would miss them."""
    from pathlib import Path

    from detpretrain import leaves, study

    root = Path(__file__).resolve().parents[1]
    chosen = study.load([root / "config" / "smoke.yaml"], root)
    finetune = leaves.finetune(chosen, "retina_unet_resenc", "mae", 0, 0)
    modules = ("detpretrain.training.finetune", *provenance.class_modules(finetune))
    found = {path.relative_to(provenance.PACKAGE).as_posix() for path in provenance.closure(modules)}
    assert {"models/resenc.py", "detectors/retina_unet.py", "detectors/criteria.py", "detectors/losses.py"} <= found
    assert not {"report/report.py", "study.py", "leaves.py", "status.py"} & found


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_commit_and_changes_of_a_checkout_are_recorded(package):
    git(package, "init")
    git(package, "add", ".")
    git(package, "commit", "-m", "x")
    clean = provenance.record("abc", ["detpretrain.train"])
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (package / "loss.py").write_text("def loss(x):\n    return x\n")
    provenance._commit.cache_clear()
    changed = provenance.record("abc", ["detpretrain.train"])
    assert (changed["commit"], changed["dirty"]) == (clean["commit"], True)


def test_record_outside_a_checkout(package, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(package.parent))
    record = provenance.record("abc", ["detpretrain.train"], seed=3, device="cpu")
    assert (record["commit"], record["dirty"]) == (None, None)
    assert (record["recipe"], record["seed"], record["device"]) == ("abc", 3, "cpu")
    assert record["source"] == provenance.source_hash(("detpretrain.train",))
    assert {"torch", "numpy", "python"} <= set(record["versions"])
