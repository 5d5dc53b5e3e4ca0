"""A model hub and its delivery network on loopback, as two servers, since that is what the real one is.

What they answer follows huggingface_hub's reading of it (file_download.py `get_hf_file_metadata`).
"""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from edgeagent.core.cards import HubSource, ModelCard
from edgeagent.model.fetch import SourceFetcher
from edgeagent.model.fetch_http import Patience
from edgeagent.model.fetch_hub import HubFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.quota import Quota
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore

PIECE_BYTES = 16 * 1024
REPO = "maker/tiny-GGUF"


@dataclass(frozen=True)
class Request:
    server: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class World:
    """One repository with one commit, and how its servers behave."""

    content: bytes
    path: str = "tiny.gguf"
    commit: str = "a" * 40
    token: str = ""
    """When set, nobody else is let in."""
    is_large: bool = True
    """In large-file storage: then the hub knows its SHA-256."""
    renamed_from: str = ""
    num_failures: int = 0
    head_delay_s: float = 0.0
    bytes_s: float = 0.0
    """0: as fast as it goes."""
    sends_etag: bool = True
    honours_if_range: bool = True
    served: bytes | None = None
    """What the delivery network has, when it is not what the hub says."""
    requests: list[Request] = field(default_factory=list)
    num_sent: int = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def ranges(self) -> list[str]:
        """The ranges that the delivery network was asked for; empty strings for whole files."""
        return [r.headers.get("range", "") for r in self.requests if r.server == "cdn"]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, world: World, handler: type["Handler"]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.world = world
        self.cdn = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        del request, client_address  # a client that was killed is what these tests are about


class Handler(BaseHTTPRequestHandler):
    server: Server
    name = ""

    def note(self) -> World:
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.server.world.requests.append(Request(self.name, self.command, self.path, headers))
        return self.server.world

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it)
        del format, args


class _HubHandler(Handler):
    name = "hub"

    def do_HEAD(self) -> None:
        world = self.note()
        time.sleep(world.head_delay_s)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        assert found
        repo, revision, path = found.groups()
        authorized = self.headers.get("Authorization") == f"Bearer {world.token}"
        if world.num_failures:
            world.num_failures -= 1
            self.answer(503)
        elif repo == world.renamed_from:
            self.answer(307, Location=f"/{REPO}/resolve/{revision}/{path}")
        elif repo != REPO:
            self.answer(401, X_Error_Code="RepoNotFound")
        elif world.token and not authorized:
            self.answer(403 if "Authorization" in self.headers else 401, X_Error_Code="GatedRepo")
        elif revision not in ("main", world.commit):
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif path != world.path:
            self.answer(404, X_Error_Code="EntryNotFound")
        else:
            self._found(world)

    def do_GET(self) -> None:
        self.do_HEAD()

    def _found(self, world: World) -> None:
        there = f"{self.server.cdn}/blob?Signature=secret"
        if world.is_large:
            large = {"X_Linked_Size": str(len(world.content)), "X_Linked_Etag": f'"{world.sha256}"'}
            self.answer(302, Location=there, X_Repo_Commit=world.commit, **large)
        elif self.command == "HEAD":
            size = str(len(world.content))
            self.answer(200, X_Repo_Commit=world.commit, ETag=f'"{"b" * 40}"', Content_Length=size)
        else:
            self.answer(302, Location=there)


class _CdnHandler(Handler):
    name = "cdn"

    def do_GET(self) -> None:
        world = self.note()
        content = world.content if world.served is None else world.served
        etag = '"' + hashlib.md5(content).hexdigest() + '"'  # not the SHA-256: a network has tags of its own
        is_same = self.headers.get("If-Range", etag) == etag or not world.honours_if_range
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and is_same else 0
        if start >= len(content):
            self.answer(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if world.sends_etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self._send(content[start:], world)

    def _send(self, body: bytes, world: World) -> None:
        with suppress(OSError):  # the client has gone
            for start in range(0, len(body), PIECE_BYTES):
                piece = body[start : start + PIECE_BYTES]
                self.wfile.write(piece)
                world.num_sent += len(piece)
                if world.bytes_s:
                    time.sleep(len(piece) / world.bytes_s)


@contextmanager
def serving_hub(world: World) -> Iterator[str]:
    """The hub's address."""
    with Server(world, _CdnHandler) as cdn, Server(world, _HubHandler) as hub:
        hub.cdn = cdn.url
        threads = [threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}) for s in (cdn, hub)]
        for thread in threads:
            thread.start()
        try:
            yield hub.url
        finally:
            for server, thread in zip((cdn, hub), threads, strict=True):
                server.shutdown()
                thread.join()


def on_hub(card: ModelCard, repo: str = REPO, **source: str) -> ModelCard:
    """The card, with its first variant on the hub and nothing known of it but its name."""
    there = HubSource.model_validate({"kind": "hub", "repo": repo, "path": "tiny.gguf"} | source)
    variant = card.variants[0].model_copy(update={"source": there, "bytes": None, "sha256": None})
    return card.model_copy(update={"variants": (variant, *card.variants[1:])})


def hub_store(folder: Path, hub: str, *cards: ModelCard, token: str = "", quota: Quota | None = None) -> ModelStore:
    """A store whose cards' files are on the hub, and that does not wait long for it."""
    urls = UrlFetcher(attempts=3, backoff_s=0.01)
    fetcher = SourceFetcher(WheelFetcher({}), urls, HubFetcher(urls, hub, token, Patience(3, 0.01)))
    return ModelStore(folder, Registry(cards), fetcher, quota or Quota())
