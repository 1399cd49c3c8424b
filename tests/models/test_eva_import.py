import subprocess
import sys

import pytest
import torch

from detpretrain.models import eva_import


def run(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)


def test_blocks_import_without_a_warning_and_only_when_asked_for():
    done = run(
        "import sys\n"
        "from detpretrain.models import primus, eva_import\n"
        "assert 'timm' not in sys.modules and 'torchvision' not in sys.modules\n"
        "print(eva_import.eva_class().__name__, 'torchvision' in sys.modules)\n"
    )
    assert done.stdout.split() == ["Eva", "True"], done.stderr


def test_without_a_gpu_s_torch_the_missing_operators_are_declared_but_cannot_be_called():
    schemas = eva_import.import_torchvision()
    if schemas is None:
        pytest.skip("this torchvision has its operators")
    assert torch.version.cuda is None
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    with pytest.raises(NotImplementedError):
        torch.ops.torchvision.nms(boxes, torch.ones(1), 0.5)


@pytest.mark.parametrize("message", ["operator torchvision::nms does not exist", "something else"])
def test_with_a_gpu_s_torch_or_another_reason_the_import_fails_as_it_would(monkeypatch, message):
    def fail(name, *arguments, **keywords):
        if name == "torchvision":
            raise RuntimeError(message)
        return real(name, *arguments, **keywords)

    real = __builtins__["__import__"]
    monkeypatch.setitem(__builtins__, "__import__", fail)
    monkeypatch.setattr(torch.version, "cuda", "13.0" if "nms" in message else None)
    with pytest.raises(RuntimeError, match=message):
        eva_import.import_torchvision.__wrapped__()


def test_torchvision_with_its_operators_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", sys)  # imports without an error
    assert eva_import.import_torchvision.__wrapped__() is None
