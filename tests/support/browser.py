"""A folder for the web in headless Chromium: served on the loopback interface, run on examples, photographed."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
_CHECK = """<!doctype html><meta charset="utf-8"><script type="importmap">{"imports": {
  "@litertjs/core": "./node_modules/@litertjs/core/dist/index.js",
  "@litertjs/wasm-utils": "./node_modules/@litertjs/wasm-utils/dist/index.js"}}</script>
<script type="module">
  import { openModel } from "./model.js";
  const found = [];
  try {
    const model = await openModel();
    for (const values of await (await fetch("check.json")).json()) {
      const { outputs, milliseconds } = await model.run(values);
      found.push([Array.from(outputs), milliseconds]);
    }
  } catch (error) {
    found.push(String(error.stack || error));
  }
  await fetch("found", { method: "POST", body: JSON.stringify(found) });
</script>"""


class _Handler(SimpleHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.found = json.loads(body)
        self.server.done.set()

    def log_message(self, *arguments):
        pass


class Served:
    """A folder that is served while the block runs."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        handler = partial(_Handler, directory=str(self.folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.done = threading.Event()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *details):
        self.server.shutdown()
        self.server.server_close()


def run_in_browser(folder, examples, profile, *, seconds=120):
    """The outputs of the folder's model for examples, and the milliseconds of each run in Chromium."""
    (folder / "check.html").write_text(_CHECK)
    (folder / "check.json").write_text(json.dumps([one.ravel().tolist() for one in examples]))
    with Served(folder) as served:
        command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", f"{served.url}/check.html"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert served.server.done.wait(seconds), "the page did not answer"
        finally:
            process.terminate()
            process.wait()
    for name in ("check.html", "check.json"):
        (folder / name).unlink()
    found = served.server.found
    problems = [one for one in found if isinstance(one, str)]
    assert not problems, problems[0]
    return np.array([outputs for outputs, _ in found]), np.array([one for _, one in found])


def take_screenshot(url, path, profile, *, width, height):
    """Photograph a page once its scripts have run."""
    command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
    command += ["--virtual-time-budget=8000", f"--screenshot={path}", url]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
