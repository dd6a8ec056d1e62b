"""The page in a real browser: Chromium, where there is one."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwright.evaluate.report.html import render
from tests.evaluate.report.material import make_evidence

_CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium on the PATH")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000"),
)


class _Recorder(http.server.BaseHTTPRequestHandler):
    """Serves one page and remembers what was asked for."""

    page = b""
    asked: list[str] = []  # noqa: RUF012 - made anew for each server

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        if self.path == "/":
            self.wfile.write(self.page)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@contextlib.contextmanager
def served(page: str) -> Iterator[tuple[str, list[str]]]:
    """A page's address, and the paths asked of the server."""
    asked: list[str] = []
    handler = type("Handler", (_Recorder,), {"page": page.encode(), "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()
            thread.join()


def browse(address: str, *options: str) -> subprocess.CompletedProcess[str]:
    assert _CHROMIUM is not None
    with tempfile.TemporaryDirectory(
        prefix="boxwright-chromium-", ignore_cleanup_errors=True
    ) as own:
        # Every other name is answered as if it did not exist: nothing may leave this machine.
        rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        return subprocess.run(
            [_CHROMIUM, *_FLAGS, rules, f"--user-data-dir={own}", *options, address],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env={**os.environ, "HOME": own},
        )


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the page said on the browser's console."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


# A probe instead of the page's own policy: the page itself runs nothing.
_PROBE = """<script>addEventListener('load', () => {
  const root = document.documentElement;
  const wide = [...document.querySelectorAll('body *')].filter(
    (e) => !e.closest('.scroll, .chart, pre') && e.getBoundingClientRect().right > innerWidth + 1);
  document.title = [innerWidth, root.scrollWidth, wide.length,
    [...document.images].every((i) => i.complete && i.naturalWidth > 0)].join(' ');
});</script>"""


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_is_as_wide_as_the_screen(width: int) -> None:
    page = render(make_evidence())
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    page = page.replace("</head>", f"{_PROBE}</head>").replace('loading="lazy"', "")
    # The narrowest window of a headless Chromium is 500 pixels; a frame may be narrower.
    frame = f'<!doctype html><title>x</title><body style="margin:0"><iframe id="f" src="/" \
width="{width}" height="900" style="border:0"></iframe><script>onload = () => setTimeout(() => \
{{ document.title = document.getElementById("f").contentDocument.title }}, 500)</script>'
    asked: list[str] = []

    class Frames(_Recorder):
        def do_GET(self) -> None:
            content = frame if self.path == "/frame" else page
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(content.encode())

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Frames) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            done = browse(f"http://127.0.0.1:{server.server_port}/frame", "--dump-dom")
        finally:
            server.shutdown()
            thread.join()
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found is not None
    assert found[1] == f"{width} {width} 0 true"
    assert console(done) == []


def test_the_page_asks_for_nothing_and_says_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    with served(render(make_evidence())) as (address, asked):
        done = browse(address, f"--screenshot={picture}", "--window-size=1280,1800")
    assert asked == ["/"]
    assert console(done) == []
    with Image.open(picture) as image:
        assert image.size == (1280, 1800)
        pixels = np.asarray(image.convert("RGB"))
    # Neither blank nor unstyled: text, cards on a ground, and the green of the verdict.
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert (pixels[5, 5] == (246, 247, 249)).all()
    assert ((pixels == (10, 122, 75)).all(axis=2)).sum() > 500


def test_the_test_would_see_a_request_and_a_message() -> None:
    page = "<!doctype html><img src='/picture.png'><script>console.error('seen')</script>"
    with served(page) as (address, asked):
        done = browse(address, "--dump-dom")
    assert "/picture.png" in asked
    assert any("seen" in line for line in console(done))


def test_the_pages_policy_stops_a_script_and_a_request() -> None:
    page = render(make_evidence()).replace(
        "</main>", "<img src='/leak.png'><script>document.title = 'ran'</script></main>"
    )
    with served(page) as (address, asked):
        done = browse(address, "--dump-dom")
    assert asked == ["/"]
    assert "<title>ran</title>" not in done.stdout
    assert len(console(done)) >= 2
