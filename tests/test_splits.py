import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detpretrain import splits
from detpretrain.errors import InputError


def _patients(count: int, sessions: int = 1) -> dict[str, str]:
    return {f"p{p:03d}_s{s}": f"p{p:03d}" for p in range(count) for s in range(sessions)}


@given(st.integers(2, 5), st.integers(5, 23), st.integers(1, 3), st.integers(0, 2**31))
def test_every_patient_validates_once_and_never_leaks(folds, count, sessions, seed):
    patients = _patients(count, sessions)
    made = splits.k_fold(patients, folds, seed)
    assert len(made) == folds
    assert sorted(case for fold in made for case in fold["val"]) == sorted(patients)
    for fold in made:
        assert sorted(fold["train"] + fold["val"]) == sorted(patients)
        assert not {patients[c] for c in fold["train"]} & {patients[c] for c in fold["val"]}
    assert splits.problems(made, patients) == []
    sizes = [len(fold["val"]) for fold in made]
    assert max(sizes) - min(sizes) <= sessions


def test_seed_12345_gives_the_folds_of_nndetection():
    # scikit-learn's KFold(5, shuffle=True, random_state=12345) over the sorted cases, redone with numpy's twister alone
    order = np.arange(10)
    np.random.RandomState(12345).shuffle(order)
    expected = [sorted(order[start : start + 2].tolist()) for start in range(0, 10, 2)]
    made = splits.k_fold(_patients(10), 5, 12345)
    assert (
        [[int(case[1:4]) for case in fold["val"]] for fold in made]
        == expected
        == [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]
    )


def test_independent_of_the_order_of_cases():
    patients = _patients(9, 2)
    backwards = dict(reversed(patients.items()))
    assert splits.k_fold(patients, 3, 1) == splits.k_fold(backwards, 3, 1)
    assert splits.held_out(patients, 1) == splits.held_out(backwards, 1)


def test_seed_matters():
    assert splits.k_fold(_patients(12), 3, 1) != splits.k_fold(_patients(12), 3, 2)


@pytest.mark.parametrize(("count", "held"), [(2, 1), (9, 1), (40, 2), (144, 7)])
def test_held_out_is_about_five_percent_of_the_patients(count, held):
    (fold,) = splits.held_out(_patients(count, 2), 12345)
    assert len(fold["val"]) == 2 * held
    assert splits.problems([fold], _patients(count, 2)) == []


def test_too_few_patients():
    with pytest.raises(InputError, match="5 folds for 4 patients"):
        splits.k_fold(_patients(4, 3), 5, 1)
    with pytest.raises(InputError, match="1 patient"):
        splits.held_out(_patients(1, 5), 1)


def test_problems_are_all_named():
    patients = {"a1": "a", "a2": "a", "b": "b", "c": "c"}
    folds = [
        {"train": ["a1", "b"], "val": ["a2", "c"]},
        {"train": ["b", "b"], "val": []},
        {"train": ["x"], "val": ["b"]},
    ]
    assert splits.problems(folds, patients) == [
        "fold 0: patient a in both train and val",
        "fold 1: a case is named twice in train",
        "fold 1: no case in val",
        "fold 2: unknown cases x",
    ]
    assert splits.problems([], patients) == ["no folds"]


def test_three_parts_are_checked_against_each_other():
    patients = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c": "c", "d": "d"}
    folds = [
        {"train": ["a1"], "val": ["b1"], "test": ["c"]},
        {"train": ["a1"], "val": ["b1"], "test": ["a2"]},
        {"train": ["a1"], "val": ["b1"], "test": ["b2"]},
        {"train": ["a1"], "val": ["a2"], "test": ["c"]},
        {"train": ["a1"], "val": ["b1"], "test": []},
        {"train": ["a1"], "val": ["b1"], "test": ["c", "c", "x"]},
    ]
    assert splits.problems(folds[:1], patients) == []
    assert splits.problems(folds, patients) == [
        "fold 1: patient a in both train and test",
        "fold 2: patient b in both val and test",
        "fold 3: patient a in both train and val",
        "fold 4: no case in test",
        "fold 5: a case is named twice in test",
        "fold 5: unknown cases x",
    ]
    assert splits.problems([folds[0], {"train": ["a1"], "val": ["b1"]}], patients) == [
        "some folds have a test part and some have none"
    ]
