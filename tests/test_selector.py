import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detpretrain import leaves, selector, study
from detpretrain.errors import InputError
from detpretrain.selector import Selection

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "study": "two",
    "size": "smoke",
    "datasets": ["smoke_nodules", "smoke_organs"],
    "corpus": "smoke_corpus",
    "seeds": [0, 11],
    "rows": [
        {"detector": detector, "init": init}
        for detector in ("retina_unet_resenc", "deformable_detr_resenc")
        for init in ("scratch", "mae", "voco")
    ],
}


@pytest.fixture
def whole():
    """Nodules in 3 folds, organs in 1: 2 detectors x 3 inits x 2 seeds x 4 folds."""
    return study.assemble(CONFIG, ROOT, "two.yaml")


def cells(chosen):
    return {(c.dataset, c.detector, c.init, c.fold, c.seed) for c in chosen.cells}


def narrowed(whole, text):
    return Selection.parse(text).narrow(whole)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("datasets=smoke_nodules", lambda d, t, i, f, s: d == "smoke_nodules"),
        ("rows=mae", lambda d, t, i, f, s: i == "mae"),
        ("rows=retina_unet_resenc/mae", lambda d, t, i, f, s: (t, i) == ("retina_unet_resenc", "mae")),
        (
            "rows=retina_unet_resenc/mae+voco",
            lambda d, t, i, f, s: i == "voco" or (t, i) == ("retina_unet_resenc", "mae"),
        ),
        ("inits=scratch+mae,seeds=11", lambda d, t, i, f, s: i in ("scratch", "mae") and s == 11),
        (
            "detectors=deformable_detr_resenc, folds=0+2 ,inits=voco",
            lambda d, t, i, f, s: t == "deformable_detr_resenc" and f in (0, 2) and i == "voco",
        ),
        ("folds=1", lambda d, t, i, f, s: f == 1),
    ],
)
def test_cells_of_a_selection(whole, text, kept):
    found = narrowed(whole, text)
    assert cells(found) == {cell for cell in cells(whole) if kept(*cell)}
    assert {(r.dataset, r.detector, r.init, r.seed) for r in found.rows} == {(*c[:3], c[4]) for c in cells(found)}
    assert 0 < len(found.cells) < len(whole.cells) == 48


def test_what_is_trained_before_is_narrowed_too(whole):
    assert whole.pretrainings == [("mae", "resenc"), ("voco", "resenc")]
    assert narrowed(whole, "rows=mae+scratch").pretrainings == [("mae", "resenc")]
    assert narrowed(whole, "rows=scratch").pretrainings == []


def test_only_comparisons_change_their_recipe(whole):
    found = narrowed(whole, "rows=mae,folds=1")
    assert (
        found.folds("smoke_nodules") == whole.folds("smoke_nodules") == [0, 1, 2]
    )  # of a row, when it is consolidated
    assert found.config == whole.config
    for made in (leaves.prepare, leaves.identities):
        assert made(found, "smoke_nodules") == made(whole, "smoke_nodules")
    assert leaves.finetune(found, "retina_unet_resenc", "mae", 1, 0) == leaves.finetune(
        whole, "retina_unet_resenc", "mae", 1, 0
    )
    assert leaves.pretrain(found, "mae", "resenc") == leaves.pretrain(whole, "mae", "resenc")
    assert leaves.compare(found) != leaves.compare(whole)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("datsets=smoke_nodules", ["unknown key 'datsets'", "did you mean 'datasets'?"]),
        ("datasets=smoke_nodule", ["no 'smoke_nodule' in datasets", "did you mean 'smoke_nodules'?"]),
        ("datasets=smoke_thorax", ["study two has no 'smoke_thorax' in datasets"]),  # an entry, not of this study
        ("rows=mea", ["no 'mea' in rows", "did you mean 'mae'?"]),
        ("rows=retina_unet_resenc/mg", ["no 'retina_unet_resenc/mg' in rows", "'retina_unet_resenc/mae'?"]),
        ("folds=3", ["no '3' in folds", "known are 0, 1, 2"]),
        ("seeds=1", ["no '1' in seeds", "did you mean '11'?"]),
        ("datasets=smoke_organs,folds=2", ["no cell of study two is all of that"]),
        ("rows=mae,rows=voco", ["rows comes twice: join its values with +"]),
        ("rows", ["'rows' is no condition: write only="]),
        ("rows=mae,", ["'nothing' is no condition"]),
        ("rows=mae+", ["'rows=mae+' is no condition"]),
        ("", ["'nothing' is no condition"]),
        (None, ["'nothing' is no condition"]),
        (5, ["only=5: '5' is no condition"]),
    ],
)
def test_mistake_is_one_line(whole, text, parts):
    with pytest.raises(InputError) as error:
        narrowed(whole, text)
    assert str(error.value).startswith("only=")
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_the_same_selection_has_the_same_name_however_it_is_written():
    one, other = Selection.parse("rows=mae+voco,datasets=a"), Selection.parse("datasets=a, rows=voco+mae+mae")
    assert one == other == Selection.parse(str(one))
    assert one.name == "datasets=a--rows=mae+voco"
    assert one.name != Selection.parse("rows=mae,datasets=a").name


def test_names_are_one_path_component_however_long():
    assert Selection.parse("rows=retina/mae").name == "rows=retina.mae"
    long = [Selection.parse(f"rows={'+'.join(f'init{n}' for n in range(last))}") for last in (40, 41)]
    assert all(len(one.name) < 120 and "/" not in one.name for one in long)
    assert long[0].name != long[1].name


def test_rows_are_whole_unless_folds_are_chosen():
    assert Selection.parse("rows=mae,seeds=0").whole_rows
    assert not Selection.parse("rows=mae,folds=0+1+2").whole_rows


def test_load_with_and_without(tmp_path):
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(CONFIG))
    assert len(selector.load([tmp_path / "two.yaml"], ROOT, None).cells) == 48
    assert len(selector.load([tmp_path / "two.yaml"], ROOT, "rows=mae").cells) == 16


def test_importing_it_is_light():
    code = "import sys, detpretrain.selector; print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
