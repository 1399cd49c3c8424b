"""What tests of several packages share."""

import http.server
import json
import locale
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, settings

# seeded, and no opinion on how fast a shared machine is (the first draw alone can take seconds there)
settings.register_profile("project", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


# Files that take a minute or more: with these started last, one of several workers is left alone with the last of them.
SLOW_FIRST = ("workflow", "contracts", "training", "models", "detectors", "pretraining")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow folders first; everything else stays in its order."""
    folders = [Path(str(item.fspath)).parent.name for item in items]
    places = [SLOW_FIRST.index(folder) if folder in SLOW_FIRST else len(SLOW_FIRST) for folder in folders]
    order = sorted(range(len(items)), key=places.__getitem__)
    items[:] = [items[place] for place in order]


@pytest.fixture
def write_series() -> Iterator[Callable[..., Path]]:
    """Writes an array [D, H, W] as a DICOM series, slices under names that are not in the order of the stack.

    ``shear`` moves each slice by so many mm along its columns against the one before (a tilted gantry).
    """

    def write(
        folder: Path, array: np.ndarray, geometry, uid: str = "1.2.826.0.1.3680043.2.1125.7", shear: float = 0.0
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array)
        geometry.apply_to(image)
        rows = [geometry.direction[index] for index in (0, 3, 6, 1, 4, 7)]
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for index in range(len(array)):
            shift = np.array([rows[3], rows[4], rows[5]]) * shear * index
            position = image.TransformIndexToPhysicalPoint((0, 0, index)) + shift
            slice_ = image[:, :, index]
            tags = {
                "0008|0018": f"{uid}.{index + 1}",
                "0008|0060": "CT",
                "0020|000d": f"{uid}.900",
                "0020|000e": uid,
                "0020|0013": str(index + 1),
                "0020|0032": "\\".join(f"{v:.12g}" for v in position),
                "0020|0037": "\\".join(f"{v:.12g}" for v in rows),
                "0028|1052": "0",
                "0028|1053": "1",
            }
            for tag, value in tags.items():
                slice_.SetMetaData(tag, value)
            writer.SetFileName(str(folder / f"{uid[-1]}_{(index * 7) % len(array):03d}.dcm"))
            writer.Execute(slice_)
        return folder

    before = locale.setlocale(locale.LC_ALL)
    yield write
    locale.setlocale(locale.LC_ALL, before)  # writing DICOM leaves the whole process in the C locale


class HubHandler(http.server.BaseHTTPRequestHandler):
    """The few addresses of the Hub that a download needs; ``server.status`` answers everything with that status."""

    def do_GET(self):
        self.server.requests.append((self.command, self.path))
        path = unquote(urlsplit(self.path).path)
        if self.server.status:
            return self.answer(self.server.status, b"{}", **self.server.headers)
        repo = "/".join((path.removeprefix("/api/models") if path.startswith("/api/") else path).split("/")[1:3])
        if repo not in self.server.files:
            return self.answer(401 if self.command == "GET" else 404, b"{}", X_Error_Code="RepoNotFound")
        rest = path.partition(f"{repo}/")[2].split("/", 2)
        revision, name = rest[1], "/".join(rest[2:])
        if revision not in (self.server.commit, "main"):
            return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
        if rest[0] == "revision":
            return self.answer(200, json.dumps({"id": repo, "sha": self.server.commit, "siblings": []}).encode())
        if rest[0] == "tree":
            listed = [
                {"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in self.server.files[repo].items()
            ]
            return self.answer(200, json.dumps(listed).encode())
        if name not in self.server.files[repo]:
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=self.server.commit)
        return self.answer(
            200, self.server.files[repo][name], X_Repo_Commit=self.server.commit, ETag=f'"{abs(hash(name)):x}"'
        )

    do_HEAD = do_GET

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def serve_hub() -> Iterator[Callable[..., http.server.ThreadingHTTPServer]]:
    """``serve_hub(files, commit)``: a Hub on the loopback, ``files``: repository -> path -> bytes; ``.url`` is its address."""
    servers = []

    def serve(files: dict[str, dict[str, bytes]], commit: str) -> http.server.ThreadingHTTPServer:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
        server.files, server.commit = files, commit
        server.requests, server.status, server.headers = [], None, {}
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return server

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()
