"""Serves the page at `/` and its few files: read once, no scripts from elsewhere, none inline."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

UI = Path(__file__).parent.parent / "ui"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    content_type: str
    etag: str


class Page:
    """The files of `folder`, held in memory: a request can name a file, never a path."""

    def __init__(self, folder: Path = UI) -> None:
        self._assets = {file.name: _load(file) for file in sorted(folder.iterdir()) if file.suffix in TYPES}

    async def index(self, request: web.Request) -> web.Response:
        return self._answer(request, "index.html")

    async def asset(self, request: web.Request) -> web.Response:
        return self._answer(request, request.match_info["name"])

    def _answer(self, request: web.Request, name: str) -> web.Response:
        asset = self._assets.get(name)
        if asset is None:
            raise web.HTTPNotFound
        headers = HEADERS | {"ETag": f'"{asset.etag}"'}
        if any(known.value == asset.etag for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=asset.content, content_type=asset.content_type, charset="utf-8", headers=headers)


def _load(file: Path) -> Asset:
    content = file.read_bytes()
    return Asset(content, TYPES[file.suffix], hashlib.sha256(content).hexdigest()[:32])
