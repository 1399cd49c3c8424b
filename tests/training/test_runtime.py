import time

import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.training.runtime import Runtime, peak_memory_mib


@pytest.fixture(autouse=True)
def _restored():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_absent_settings_keep_their_default():
    assert Runtime.of({"device": None, "workers": 2, "budget_minutes": None}) == Runtime("auto", 2, None)


def test_what_comes_before_the_training_counts_towards_the_budget():
    assert Runtime("cpu").minutes_left(time.monotonic() - 600) is None
    left = Runtime("cpu", budget_minutes=60).minutes_left(time.monotonic() - 600)
    assert 49.9 < left <= 50


def test_cpu_is_deterministic_with_the_recipe_s_threads():
    assert Runtime("cpu").prepare(2) == torch.device("cpu")
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()


def test_missing_gpu_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"device cuda:1: .* sees no GPU") as error:
        Runtime("cuda:1").prepare(1)
    assert "\n" not in str(error.value)
    assert Runtime("auto").prepare(1) == torch.device("cpu")


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_mib(torch.device("cpu"))
    held = bytearray(300 * 2**20)  # written, so that it is resident
    after = peak_memory_mib(torch.device("cpu"))
    assert len(held) == 300 * 2**20
    assert 100 < before <= after < before + 1000
    assert after >= 300
