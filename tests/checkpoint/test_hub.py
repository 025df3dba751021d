"""Hub repositories: from a cache with no network, and from a server that answers as the Hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers import encode, metadata_of, read_raw, run, tiny
from vlmerge_cli.checkpoint import hub

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {"model.safetensors": encode(tiny()), "config.json": b'{"architecture": "specific"}'}


@pytest.mark.parametrize("name", ["org/name", "org/name@main", "a/b.c-d_e@refs/pr/1", "o1/n@v1.0"])
def test_names_of_repositories(name: str) -> None:
    assert hub.is_repository(name)


@pytest.mark.parametrize(
    "name",
    [
        "name",
        "/org/name",
        "./name",
        "../name",
        "a/b/c",
        "org/name.safetensors",
        "org/x.json",
        "org/",
        "org/name@",
        "",
    ],
)
def test_names_of_nothing_there(name: str) -> None:
    assert not hub.is_repository(name)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The Hub's cache with one repository: snapshots of links into blobs."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / REVISION
    for folder in (repository / "refs", repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    for name, content in FILES.items():
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{blob.name}")
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["org/name", f"org/name@{REVISION}"])
def test_from_the_cache_with_no_network(name: str, cache: Path, tmp_path: Path) -> None:
    env = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = run("merge", name, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "name.merged"
    assert set(read_raw(out / "model.safetensors")) == set(tiny("agnostic"))
    assert json.loads((out / "config.json").read_text()) == {"architecture": "specific"}  # another tool's, as it came
    recipe = json.loads(metadata_of(out / "model.safetensors")["vlmerge"])["recipe"]
    assert recipe["inputs"]["checkpoint"]["name"] == name.rpartition("/")[2]
    assert not (out / "config.json").is_symlink()


@pytest.mark.parametrize("name", ["org/other", "org/name@other"])
def test_what_is_not_in_the_cache_is_one_line(name: str, cache: Path, tmp_path: Path) -> None:
    env = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = run("inspect", name, cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no such file or folder, and not in the Hub's cache: {name}")
    assert len(done.stderr.splitlines()) == 2


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a download needs: one repository, whose token is ``secret`` when it is private."""

    seen: list[str | None]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        type(self).seen.append(self.headers.get("Authorization"))
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[2:4] == ["org", "name"]:
            if len(parts) > 5 and parts[5] not in ("main", REVISION):
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name} for name in FILES]
            tree = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": etag(name)} for name in FILES]
            about = {"id": "org/name", "modelId": "org/name", "sha": REVISION, "siblings": siblings, "tags": []}
            return self.answer(200, json.dumps(tree if parts[4:5] == ["tree"] else about).encode(), {})
        if parts[:3] == ["org", "name", "resolve"] and parts[-1] in FILES:
            extra = {"X-Repo-Commit": REVISION, "ETag": f'"{etag(parts[-1])}"'}
            return self.answer(200, FILES[parts[-1]], extra)
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer(self, code: int, content: bytes, extra: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {
            "Content-Length": str(len(content)),
            "Content-Type": "application/json",
            **extra,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def etag(name: str) -> str:
    return hashlib.sha1(FILES[name]).hexdigest()


@pytest.fixture
def endpoint() -> Iterator[str]:
    Hub.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def online(endpoint: str, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def test_from_an_endpoint_with_a_token_then_from_its_cache(endpoint: str, tmp_path: Path) -> None:
    env = online(endpoint, tmp_path)
    done = run("inspect", "org/name@main", "--json", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["architecture"] == "specific"
    assert "Bearer hf_secret" in Hub.seen
    asked = len(Hub.seen)
    done = run("inspect", "org/name@main", cwd=tmp_path, env=env | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    assert len(Hub.seen) == asked, "nothing was asked"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/other", "no such file, folder or Hub repository: org/other"),
        ("org/name@v9", "org/name has no revision 'v9'"),
    ],
)
def test_what_an_endpoint_does_not_have_is_one_line(name: str, words: str, endpoint: str, tmp_path: Path) -> None:
    done = run("inspect", name, cwd=tmp_path, env=online(endpoint, tmp_path))
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert "Traceback" not in done.stderr


def test_no_network_is_one_line(tmp_path: Path) -> None:
    env = online("http://127.0.0.1:9", tmp_path)  # nobody listens
    done = run("inspect", "org/name", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "org/name" in done.stderr
    assert len(done.stderr.splitlines()) <= 2
