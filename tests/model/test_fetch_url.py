"""Addresses: resumed, restarted or refused, against a real server on loopback."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgeagent.core.cards import ModelCard, ModelFile, UrlSource
from edgeagent.core.errors import DownloadError, ModelFileError
from edgeagent.model.fetch import Facts, Job, SourceFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore

CONTENT = bytes(range(256)) * 4096


class Server(ThreadingHTTPServer):
    """Serves `content`; cuts the first `num_cuts` answers after `cut_after` bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"one"'
        self.knows_range = True
        self.num_cuts = 0
        self.cut_after = 300_000
        self.ranges: list[str | None] = []
        self.redirect = ""
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/f"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if self.server.redirect or self.server.status != 200:
            self.send_response(302 if self.server.redirect else self.server.status)
            self.send_header("Location", self.server.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(wanted)

    def _send(self, wanted: str | None) -> None:
        content, start = self.server.content, 0
        if wanted and self.server.knows_range and self.headers.get("If-Range") == self.server.etag:
            found = re.fullmatch(r"bytes=(\d+)-", wanted)
            assert found
            start = int(found[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.num_cuts:
            self.server.num_cuts -= 1
            body = body[: self.server.cut_after]
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it)
        del format, args


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def job_for(url: str, folder: Path, size: int | None = None) -> Job:
    file = ModelFile(file="f", source=UrlSource(kind="url", url=url), bytes=size)
    return Job(file, Facts(size, None), folder / "f", folder / "scratch", "copy it")


def fetch(job: Job) -> bytes:
    asyncio.run(UrlFetcher(attempts=3, backoff_s=0.01).fetch(job))
    return job.target.read_bytes()


def test_whole_file_arrives_in_one_go(tmp_path: Path) -> None:
    with serving() as server:
        assert fetch(job_for(server.url, tmp_path)) == CONTENT
    assert {p.name for p in tmp_path.iterdir()} == {"f", "f.etag"}  # the store removes the mark with the rest


def test_broken_transfer_is_resumed_where_it_ended(tmp_path: Path) -> None:
    with serving() as server:
        server.num_cuts = 2
        assert fetch(job_for(server.url, tmp_path, len(CONTENT))) == CONTENT
        first, *later = server.ranges
    assert first is None
    starts = [int(str(wanted).removeprefix("bytes=").removesuffix("-")) for wanted in later]
    # The client library drops what it had buffered when a connection breaks, so a start may lie before the cut.
    assert len(starts) == 2
    assert 0 < starts[0] <= server.cut_after
    assert starts[0] < starts[1] <= starts[0] + server.cut_after


def test_broken_transfer_without_ranges_starts_over(tmp_path: Path) -> None:
    with serving() as server:
        server.num_cuts, server.knows_range = 1, False
        assert fetch(job_for(server.url, tmp_path)) == CONTENT


def test_transfer_is_resumed_by_a_later_process(tmp_path: Path) -> None:
    with serving() as server:
        server.num_cuts = 99
        server.cut_after = 0
        (tmp_path / "f").write_bytes(CONTENT[:1000])
        (tmp_path / "f.etag").write_text(f"\n{server.etag}")
        with pytest.raises(DownloadError, match="connect and try again"):
            fetch(job_for(server.url, tmp_path))
        server.num_cuts = 0
        assert fetch(job_for(server.url, tmp_path)) == CONTENT
        assert set(server.ranges) == {"bytes=1000-"}


def test_file_changed_between_two_tries_is_not_spliced(tmp_path: Path) -> None:
    with serving() as server:
        (tmp_path / "f").write_bytes(b"old" * 100)
        (tmp_path / "f.etag").write_text('\n"zero"')
        assert fetch(job_for(server.url, tmp_path)) == CONTENT


def test_file_of_another_size_than_its_card_is_refused(tmp_path: Path) -> None:
    with serving() as server, pytest.raises(DownloadError, match="100 were expected"):
        fetch(job_for(server.url, tmp_path, 100))


@pytest.mark.parametrize(("status", "reason"), [(404, "answers 404"), (503, "it answers 503")])
def test_refusal_is_reported(tmp_path: Path, status: int, reason: str) -> None:
    with serving() as server:
        server.status = status
        with pytest.raises(DownloadError, match=reason):
            fetch(job_for(server.url, tmp_path))


def test_server_out_of_reach_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="or copy it"):
        fetch(job_for("http://127.0.0.1:9/f", tmp_path))


@pytest.mark.parametrize("url", ["http://models.invalid/f", "ftp://127.0.0.1/f", "file:///etc/passwd"])
def test_insecure_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="not an https address"):
        fetch(job_for(url, tmp_path))


def test_redirect_to_an_insecure_address_is_refused(tmp_path: Path) -> None:
    with serving() as server:
        server.redirect = "http://models.invalid/f"
        with pytest.raises(DownloadError, match="not an https address"):
            fetch(job_for(server.url, tmp_path))


def test_endless_redirect_is_refused(tmp_path: Path) -> None:
    with serving() as server:
        server.redirect = "/f"
        with pytest.raises(DownloadError, match="redirects more than"):
            fetch(job_for(server.url, tmp_path))


def unpinned(card: ModelCard, url: str) -> ModelCard:
    update = {"source": UrlSource(kind="url", url=url), "sha256": None, "bytes": None}
    return card.model_copy(update={"variants": (card.variants[0].model_copy(update=update),)})


def test_file_without_a_pin_is_pinned_at_first_sight(tmp_path: Path, tiny_card: ModelCard, tiny_gguf: bytes) -> None:
    with serving() as server:
        server.content = tiny_gguf
        registry = Registry([unpinned(tiny_card, server.url)])
        store = ModelStore(tmp_path, registry, SourceFetcher(WheelFetcher({}), UrlFetcher()))
        stored = asyncio.run(store.ensure("tiny"))
    assert stored.sha256 == tiny_card.variants[0].sha256
    stored.path.write_bytes(tiny_gguf[:-1] + b"\x01")
    with pytest.raises(ModelFileError, match="has sha256"):
        store.find("tiny")
