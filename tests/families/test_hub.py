"""Models from the hub, against a small stand-in for it on this machine."""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.families import load_family

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves the folders below `root` as the models owner/FOLDER; `asked` are the files sent."""

    root: Path
    asked: list[str]

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        body, headers = self.find(self.path.partition("?")[0])
        self.send_response(404 if body is None else 200)
        for key, value in {"Content-Length": str(len(body or b"")), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body or b"")

    def find(self, path):
        if path == "/":
            return b"", {}
        if path.startswith("/api/models/owner/"):
            folder = self.root / path.split("/")[4]
            if not folder.is_dir():
                return None, {"X-Error-Code": "RepoNotFound"}
            return self.listing(folder, tree="/tree/" in path), {"Content-Type": "application/json"}
        _, _, repo, _, _, *rest = path.split("/")
        file = self.root.joinpath(repo, *rest)
        if not (self.root / repo).is_dir():
            return None, {"X-Error-Code": "RepoNotFound"}
        if not file.is_file():
            return None, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
        self.asked.append("/".join(rest))
        body = file.read_bytes()
        return body, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}

    def listing(self, folder, tree):
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if tree:
            found = [{"type": "file", "path": name, "oid": COMMIT, "size": 1} for name in files]
            return json.dumps(found).encode()
        found = {
            "id": f"owner/{folder.name}",
            "sha": COMMIT,
            "siblings": [{"rfilename": name} for name in files],
        }
        return json.dumps(found).encode()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in's handler class, its address given to huggingface_hub."""
    handler = type("ThisHub", (Hub,), {"root": tmp_path / "hub", "asked": []})
    handler.root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template[template.index("/{repo_id}") :]
    )
    yield handler
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_fetched_without_what_is_not_needed(hub, tiny_folders, monkeypatch):
    model = shutil.copytree(tiny_folders["sdxl"], hub.root / "model")
    extra = [
        model / "whole.safetensors",
        model / "unet" / "weights.bin",
        model / "unet" / "x.fp16.safetensors",
    ]
    for path in extra:
        path.write_bytes(b"not to be read")
    family = load_family("sdxl", "owner/model")
    want = load_family("sdxl", str(tiny_folders["sdxl"])).net.state_dict()
    assert all(torch.equal(value, want[key]) for key, value in family.net.state_dict().items())
    assert "unet/diffusion_pytorch_model.safetensors" in hub.asked
    assert not {path.relative_to(model).as_posix() for path in extra} & set(hub.asked)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load_family("sdxl", "owner/model").name == "sdxl"


def test_another_family_is_refused_before_its_weights_are_fetched(hub, tiny_folders):
    (hub.root / "model").symlink_to(tiny_folders["sd15"])
    with pytest.raises(UsageError) as caught:
        load_family("sdxl", "owner/model")
    assert "that is the family sd15" in caught.value.hint
    assert set(hub.asked) == {"model_index.json"}


def test_a_hub_model_with_pickles_only_is_refused(hub, tiny_folders):
    model = shutil.copytree(tiny_folders["sdxl"], hub.root / "model")
    (model / "vae" / "diffusion_pytorch_model.safetensors").rename(model / "vae" / "pytorch_model.bin")
    with pytest.raises(UsageError, match="no safetensors for vae"):
        load_family("sdxl", "owner/model")


def test_an_unknown_hub_model_is_missing(hub):
    with pytest.raises(MissingComponent, match="the hub has no model owner/nothing"):
        load_family("sdxl", "owner/nothing")


def test_a_hub_repository_that_is_no_pipeline_is_refused(hub):
    (hub.root / "model").mkdir()
    (hub.root / "model" / "README.md").write_text("hello")
    with pytest.raises(UsageError, match="not a diffusers pipeline"):
        load_family("sdxl", "owner/model")
