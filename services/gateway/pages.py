"""The static pages: files of :mod:`services.web`, named beforehand, under a strict policy."""

from pathlib import Path

from aiohttp import web

import services.web
from services.problems import Problem

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webm": "video/webm",
    ".json": "application/json",
}
INDEX = "index.html"


def files(root: Path | None = None) -> dict[str, Path]:
    """Return every file that is served by its path; nothing else can be reached."""
    base = root or Path(services.web.__file__).parent
    return {
        path.relative_to(base).as_posix(): path
        for path in sorted(base.rglob("*"))
        if path.suffix in TYPES and path.is_file() and not path.is_symlink()
    }


def policy(events_origin: str) -> str:
    """Return the Content-Security-Policy; the event socket is the only foreign origin."""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data: blob:",
            "media-src 'self' blob: mediastream:",
            f"connect-src 'self' {events_origin}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def answer(known: dict[str, Path], name: str, events_origin: str) -> web.FileResponse:
    """Return the file called ``name``. Raises :class:`~services.problems.Problem` (404)."""
    path = known.get(name or INDEX)
    if path is None:
        raise Problem(404, "not_found", "there is no such page; the first one is at /")
    return web.FileResponse(
        path,
        headers={
            "Content-Type": TYPES[path.suffix],
            # Names carry no version, so a browser must ask; the ETag makes that cheap.
            "Cache-Control": "no-cache",
            "Content-Security-Policy": policy(events_origin),
            "Permissions-Policy": "camera=(self), microphone=(self)",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Opener-Policy": "same-origin",
        },
    )
