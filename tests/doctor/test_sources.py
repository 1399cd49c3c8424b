import pytest

from detpretrain.datasets.raw_dataset import Published
from detpretrain.doctor import sources

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Public:
    """A data set with an address."""

    labels, modalities = ("lesion",), ("CT",)
    published = Published({"cv": 10, "test": 4}, "CC0", "Somebody", "https://example.org/data")

    def layout(self, raw):
        raise AssertionError("nothing is read")

    convert = layout


@pytest.fixture
def entry(monkeypatch):
    """An entry of datasets.yaml whose class is ``Public``."""
    monkeypatch.setattr("detpretrain.build.locate", lambda path: Public)
    return {"class": "here.Public", "raw": "${DOCTOR_RAW}/public"}


def finding(assemble, entry, **changes):
    chosen = assemble(entries={"public": entry}, datasets=["public"], **changes)
    return next(found for found in sources.datasets(chosen) if found.name == "public (scored)")


def test_what_the_study_uses_and_for_what(assemble):
    used = {"smoke_nodules": "scored", "smoke_corpus": "pre-training", "smoke_organs": "probe"}
    assert sources.datasets_of(assemble()) == used
    rows = [{"detector": "retina_unet_resenc", "init": "scratch"}]
    assert sources.datasets_of(assemble(rows=rows)) == {"smoke_nodules": "scored"}
    assert {found.found for found in sources.datasets(assemble())} == {"generated"}


def test_variable_that_is_not_set(assemble, entry, monkeypatch):
    monkeypatch.delenv("DOCTOR_RAW", raising=False)
    found = finding(assemble, entry)
    assert found.state == "blocks"
    assert found.found == "${DOCTOR_RAW}/public: DOCTOR_RAW is not set"
    assert found.remedy == "download it from https://example.org/data, and set DOCTOR_RAW to its folder"


def test_folder_that_is_not_there_and_one_that_is(assemble, entry, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCTOR_RAW", str(tmp_path))
    found = finding(assemble, entry)
    assert (found.state, found.found) == ("blocks", f"{tmp_path}/public: not there")
    assert found.remedy.startswith("download it from https://example.org/data, or say under raw:")
    (tmp_path / "public").mkdir()
    found = finding(assemble, entry)
    assert (found.state, found.found) == ("ok", f"download in {tmp_path}/public")
    (tmp_path / "own").mkdir()
    assert finding(assemble, entry, raw={"public": str(tmp_path / "own")}).found == f"download in {tmp_path}/own"


def test_prepared_data_need_no_download(assemble, entry, monkeypatch, write_task):
    monkeypatch.delenv("DOCTOR_RAW", raising=False)
    write_task(assemble(), "public", {"a": ((2, 2, 2), (1, 1, 1), "cv")})
    found = finding(assemble, entry)
    assert (found.state, found.found) == ("ok", "prepared")


def test_entry_that_builds_nothing(assemble):
    found = finding(assemble, {"class": "detpretrain.datasets.brats.Brats", "chanels": ["T1"]})
    assert found.state == "blocks"
    assert "chanels" in found.found
    assert finding(assemble, {"class": "nowhere.Thing"}).state == "blocks"


def checkpoints(assemble, entry, online=False):
    chosen = assemble(rows=[{"detector": "retina_unet_resenc", "init": "mine"}])
    chosen.entries["inits"]["mine"] = entry
    (chosen.results / "checkpoints").mkdir(parents=True, exist_ok=True)
    return chosen, sources.checkpoints(chosen, online)


def test_own_checkpoint_needs_no_hub(assemble):
    _, (own, hub) = checkpoints(assemble, {"checkpoint": "/models/x.pth"})
    assert (own.state, own.found, hub.found) == ("ok", "/models/x.pth", "not needed")
    assert [found.found for found in sources.checkpoints(assemble(), False)] == ["not needed"]


def test_checkpoint_of_the_hub(assemble, serve_hub, monkeypatch, tmp_path):
    server = serve_hub({"org/encoder": {"c.pth": b"x"}}, COMMIT)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    reference = f"hf://org/encoder@{COMMIT}"
    chosen, (found,) = checkpoints(assemble, {"checkpoint": reference})
    assert (found.state, found.found) == ("ok", f"{reference}: to be fetched (--online asks the Hub for it)")
    assert server.requests == []  # nobody asked
    (found,) = sources.checkpoints(chosen, True)
    assert (found.state, found.found) == ("ok", f"{reference}: the Hub has it")
    other = f"hf://org/nothing@{COMMIT}"
    _, (found,) = checkpoints(assemble, {"checkpoint": other}, online=True)
    assert found.state == "blocks"
    assert found.found.startswith(f"{other}: no repository org/nothing")
    assert "hf auth login" in found.remedy
    (chosen.results / "checkpoints" / "mine.pth").write_bytes(b"x")
    asked = len(server.requests)
    (found,) = sources.checkpoints(chosen, True)
    assert found.found == f"{reference}: fetched"
    assert len(server.requests) == asked
