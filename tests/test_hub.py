import os
import subprocess
import sys

import pytest

from detpretrain import hub
from detpretrain.errors import InputError
from detpretrain.hub import HubFile, fetch, parse

COMMIT, OLDER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
FILES = {
    "org/one": {"README.md": b"# one", "fold_all/checkpoint_final.pth": b"weights" * 1000},
    "org/two": {"a.pth": b"a", "b.pt": b"b"},
    "org/none": {"README.md": b"# none"},
}


@pytest.fixture(scope="module")
def running(serve_hub):
    return serve_hub(FILES, COMMIT)


@pytest.fixture
def server(running, tmp_path, monkeypatch):
    """A Hub of its own with an empty cache; its address is ``server.url``."""
    import huggingface_hub.constants
    import huggingface_hub.utils._http

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)  # between its retries
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    running.requests, running.status, running.headers = [], None, {}
    return running


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (f"hf://org/one@{COMMIT}", HubFile("org/one", COMMIT, None)),
        (f"hf://org/one@{COMMIT}/", HubFile("org/one", COMMIT, None)),
        (f"hf://org/one@{COMMIT}/fold_all/c final.pth", HubFile("org/one", COMMIT, "fold_all/c final.pth")),
        (
            "hf://MIC-DKFZ/ResEncL-MissingPiece_1.0@v1.2/c.pth",
            HubFile("MIC-DKFZ/ResEncL-MissingPiece_1.0", "v1.2", "c.pth"),
        ),
    ],
)
def test_a_reference_names_repository_revision_and_file(reference, expected):
    assert hub.is_reference(reference)
    assert parse(reference) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize("reference", ["hf://org/one", "hf://org/one/fold_all/checkpoint_final.pth"])
def test_a_reference_without_a_revision_is_told_to_pin(reference):
    with pytest.raises(InputError, match=f"^{reference}: names no revision.*pin the commit, hf://ORG/REPO@COMMIT"):
        parse(reference)


@pytest.mark.parametrize(
    "reference", ["hf://one@main", "hf://org/@main", "org/one@main", "hf://org/one@", "hf://a b/c@d"]
)
def test_another_form_is_refused(reference):
    with pytest.raises(InputError, match="not a file on the Hub"):
        parse(reference)


def test_a_file_is_fetched_whole_and_once(server, tmp_path):
    target = tmp_path / "new" / "mae.pth"
    reference = f"hf://org/one@{COMMIT}/fold_all/checkpoint_final.pth"
    fetch(reference, target, server.url)
    assert target.read_bytes() == FILES["org/one"]["fold_all/checkpoint_final.pth"]
    assert not target.is_symlink()
    assert os.listdir(target.parent) == ["mae.pth"]
    asked = len(server.requests)
    target.unlink()
    server.status = 503  # from now on nothing but the cache
    fetch(reference, target, server.url)
    assert target.read_bytes() == FILES["org/one"]["fold_all/checkpoint_final.pth"]
    assert len(server.requests) == asked


def test_an_older_target_is_replaced_and_the_cache_survives(server, tmp_path):
    target = tmp_path / "a.pth"
    target.write_bytes(b"old")
    for _ in range(2):  # the second time the target is the cached file already
        fetch(f"hf://org/two@{COMMIT}/a.pth", target, server.url)
        assert target.read_bytes() == b"a"
    target.unlink()
    fetch(f"hf://org/two@{COMMIT}/a.pth", target, server.url)
    assert target.read_bytes() == b"a"


def test_without_hard_links_the_file_is_copied(server, tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(hub.os, "link", no_links)
    fetch(f"hf://org/two@{COMMIT}/a.pth", tmp_path / "a.pth", server.url)
    assert (tmp_path / "a.pth").read_bytes() == b"a"
    assert (tmp_path / "a.pth").stat().st_nlink == 1


def test_the_only_checkpoint_needs_no_path(server, tmp_path):
    fetch(f"hf://org/one@{COMMIT}", tmp_path / "a.pth", server.url)
    assert (tmp_path / "a.pth").read_bytes() == FILES["org/one"]["fold_all/checkpoint_final.pth"]


def refusal(reference, target, url):
    with pytest.raises(InputError) as error:
        fetch(reference, target, url)
    message = str(error.value)
    assert "\n" not in message
    assert not target.exists()
    return message


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (f"hf://org/two@{COMMIT}", f"hf://org/two@{COMMIT}: several checkpoints (a.pth, b.pt): add /NAME"),
        (f"hf://org/none@{COMMIT}", "has no .pth, .pt, .safetensors file"),
        (f"hf://org/two@{COMMIT}/c.pth", f"hf://org/two@{COMMIT}/c.pth: no such file in org/two at this commit"),
        (f"hf://org/two@{OLDER}/a.pth", f"no revision {OLDER} in org/two"),
        (f"hf://org/two@{OLDER}", f"no revision {OLDER} in org/two"),
        (f"hf://org/three@{COMMIT}/a.pth", "no repository org/three that you may read: check the name, or log in"),
        (f"hf://org/three@{COMMIT}", "no repository org/three that you may read"),
        ("hf://org/two@v9", "no revision v9 in org/two"),
        (f"hf://org/tw--o@{COMMIT}/a.pth", "write hf://ORG/REPO@COMMIT"),
    ],
)
def test_what_is_not_there_is_one_line(server, tmp_path, reference, message):
    assert message in refusal(reference, tmp_path / "a.pth", server.url)


def test_a_name_that_moves_is_refused_with_the_commit_to_write_instead(server, tmp_path):
    message = refusal("hf://org/two@main/a.pth", tmp_path / "a.pth", server.url)
    assert f"main is a name that can move: write the commit that it means now, hf://org/two@{COMMIT}/a.pth" in message


@pytest.mark.parametrize("path", ["", "/a.pth"])
@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (403, {"X_Error_Code": "GatedRepo"}, "access to org/two is restricted: ask for it on its page, then log in"),
        (401, {"X_Error_Code": "GatedRepo"}, "access to org/two is restricted"),
        (403, {"X_Error_Message": "no"}, "the Hub refuses access to org/two (403): log in"),
        (
            401,
            {"X_Error_Message": "Invalid credentials in Authorization header"},
            "the Hub refuses access to org/two (401)",
        ),
        (503, {}, "the Hub answers with status 503: try again later"),
        (418, {}, "the Hub answers with status 418"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(server, tmp_path, status, headers, message, path):
    server.status, server.headers = status, headers
    assert message in refusal(f"hf://org/two@{COMMIT}{path}", tmp_path / "a.pth", server.url)


@pytest.mark.parametrize("reference", [f"hf://org/two@{COMMIT}", f"hf://org/two@{COMMIT}/a.pth", "hf://org/two@main"])
def test_no_connection_is_one_line(server, tmp_path, reference):
    message = refusal(reference, tmp_path / "a.pth", "http://127.0.0.1:9")  # nothing listens on the discard port
    assert "not in the local cache, and the Hub cannot be reached" in message


def test_offline_mode_is_one_line_and_uses_the_cache(server, tmp_path, monkeypatch):
    import huggingface_hub.constants

    fetch(f"hf://org/two@{COMMIT}/a.pth", tmp_path / "a.pth", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    fetch(f"hf://org/two@{COMMIT}/a.pth", tmp_path / "again.pth", server.url)
    for path in ("/b.pt", ""):
        message = refusal(f"hf://org/two@{COMMIT}{path}", tmp_path / "b.pth", server.url)
        assert "HF_HUB_OFFLINE is not set" in message


def test_a_target_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written.*choose another folder"):
        fetch(f"hf://org/two@{COMMIT}/a.pth", tmp_path / "file" / "a.pth", server.url)


def test_a_released_checkpoint_reaches_a_detector_whole(server, tmp_path, monkeypatch):
    """Written as nnssl does, served as the Hub does, loaded into the encoder of a detector."""
    import torch
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    from torch import nn

    from detpretrain.models.resenc import ResEnc
    from detpretrain.training.adaptation import load_encoder

    features, blocks, strides = [4, 6, 8, 9, 10, 10], [1, 3, 4, 6, 6, 6], [[1] * 3] + [[2] * 3] * 5
    norm = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
    network = ResidualEncoderUNet(
        1, 6, features, nn.Conv3d, 3, strides, blocks, 1, 1, True, **norm, nonlin=nn.LeakyReLU, nonlin_kwargs={}
    )
    in_proj = ("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0")
    plan = {
        "architecture_plans": {"arch_class_name": "ResidualEncoderUNet", "arch_kwargs": {"features_per_stage": features}},
        "key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem", "keys_to_in_proj": in_proj,
        "pretrain_num_input_channels": 1,
    }  # fmt: skip
    made = tmp_path / "made.pth"
    torch.save({"network_weights": network.state_dict(), "nnssl_adaptation_plan": plan, "citations": []}, made)
    monkeypatch.setitem(FILES, "org/released", {"README.md": b"", "checkpoint_final.pth": made.read_bytes()})
    fetch(f"hf://org/released@{COMMIT}", tmp_path / "fetched.pth", server.url)
    backbone = ResEnc(features, blocks, strides, [[3] * 3] * 6)
    encoder = backbone.encoder(1)
    assert load_encoder(encoder, tmp_path / "fetched.pth", 1, backbone=backbone).entries == 448
    theirs = network.encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in encoder.state_dict().items())


def test_importing_it_imports_neither_torch_nor_huggingface_hub():
    code = "import sys, detpretrain.hub; print(sorted({'torch', 'huggingface_hub'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
