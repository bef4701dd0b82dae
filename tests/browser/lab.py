"""JupyterLab on this machine, opened by a real browser; the test file beside this one says what must be seen there."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pytest
from nbformat.sign import NotebookNotary
from playwright.sync_api import Browser, sync_playwright

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},  # all cells on the page
}
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
# A notebook, and all its cells if they are to run: then `fluxReady` is true. The page does it by itself.
OPEN = """([path, run]) => {
  const until = async (there) => {
    while (!there()) await new Promise((again) => setTimeout(again, 100));
  };
  window.fluxReady = false;
  void (async () => {
    await until(() => window.jupyterapp);
    const app = window.jupyterapp;
    await app.restored;
    if (app.name === "JupyterLab") await app.commands.execute("docmanager:open", { path }); // Notebook has it open
    await until(() => app.shell.currentWidget?.sessionContext);
    const panel = app.shell.currentWidget;
    const context = panel.sessionContext, connected = () => context.session?.kernel?.connectionStatus === "connected";
    await until(() => context.isReady && connected() && context.session.kernel.status === "idle");
    app.shell.collapseLeft();
    if (run) await app.commands.execute("notebook:run-all-cells");
    window.fluxReady = true;
  })();
}"""
# Its kernel ends, and it is closed without being saved.
CLOSE = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  if (!panel?.sessionContext) return; // a later test has used the page and closed its notebook
  await panel.sessionContext.shutdown();
  panel.context.model.dirty = false;
  panel.close();
}"""
READY = "() => window.fluxReady"
# From a key to the picture that it brings, by the page's own clock: another picture, decoded and ready to be painted.
WATCH = """(panel) => {
  const box = panel.querySelector(".flux-picture");
  window.fluxKey ??= (document.addEventListener("keydown", () => (window.fluxKey = performance.now()), true), 0);
  window.fluxWatcher?.disconnect();
  window.fluxShown = 0;
  window.fluxWatcher = new MutationObserver(async () => {
    await box.querySelector("img")?.decode().catch(() => {});
    window.fluxShown = performance.now();
  });
  window.fluxWatcher.observe(box, { childList: true, subtree: true, characterData: true });
}"""
IDLE = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
FOLLOWED = "() => window.fluxShown > window.fluxKey"


def find_browser() -> str | None:
    """Debian's Chromium or a Chrome, whichever is on the path."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser(reason: str) -> Iterator[Browser]:
    """A Chromium while the `with` lasts; without FLUX_EDU_BROWSER or a browser the tests are skipped."""
    if not os.environ.get("FLUX_EDU_BROWSER"):
        pytest.skip(f"set FLUX_EDU_BROWSER=1 to {reason}")
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium or Chrome was found on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, headless=True, args=QUIET)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A notebook on the page, and what went wrong meanwhile."""

    name: str
    page: object
    page_errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def panels(self):
        return self.page.locator(f"{PANEL} .flux-panel").all()

    def notebook(self) -> nbformat.NotebookNode:
        """As the browser holds it: sources, outputs."""
        text = self.page.evaluate("() => JSON.stringify(window.jupyterapp.shell.currentWidget.context.model.toJSON())")
        return nbformat.from_dict(json.loads(text))


class Lab:
    """A JupyterLab of its own folders, which sees copies of the notebooks; `with` ends it and its kernels."""

    module, app, first_page = "jupyterlab", "LabApp", "lab"

    def __init__(self, folder: Path):
        self.folder, self.token = folder, secrets.token_hex(16)
        self.root = folder / "notebooks"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self):
        for name, values in SETTINGS.items():
            path = self.folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        own = {f"JUPYTER_{name}_DIR": str(self.folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
        own |= {f"JUPYTERLAB_{name}_DIR": str(self.folder / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
        own |= {"JUPYTER_PLATFORM_DIRS": "1", "IPYTHONDIR": str(self.folder / "ipython")}
        own["OMP_WAIT_POLICY"] = "passive"  # two threads that wait in a loop would keep the browser from its core
        command = [sys.executable, "-m", self.module, "--no-browser", "--ip=127.0.0.1", "--allow-root"]
        command += [f"--port={self.address.rpartition(':')[2]}", "--ServerApp.port_retries=0"]
        command += [f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.root}"]
        command += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
        command += [f"--{self.app}.expose_app_in_browser=True"]
        with (self.folder / "lab.log").open("w") as log:
            self.server = subprocess.Popen(
                command,
                env=os.environ | own,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + 120
        while not self._answers():
            if self.server.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise RuntimeError(f"{self.module} did not start:\n" + (self.folder / "lab.log").read_text())
            time.sleep(0.2)
        return self

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.address}/api?token={self.token}", timeout=1).status == 200
        except OSError:
            return False

    def __exit__(self, *_):
        if self.server.poll() is None:
            os.killpg(self.server.pid, signal.SIGTERM)
            try:
                self.server.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.server.pid, signal.SIGKILL)

    def open_page(self, browser) -> Visit:
        """A page of JupyterLab, to be used for one notebook after the other."""
        visit = Visit("", browser.new_page(viewport={"width": 1300, "height": 1400}))
        page, local = visit.page, (self.address, "data:", "blob:", self.address.replace("http", "ws"))
        page.on("pageerror", lambda error: visit.page_errors.append(str(error)))
        page.on("request", lambda each: each.url.startswith(local) or visit.outside.append(each.url))
        self.go(visit, self.first_page)
        return visit

    def go(self, visit: Visit, place: str) -> None:
        address = f"{self.address}/{place}?token={self.token}&reset"
        visit.page.goto(address, wait_until="domcontentloaded", timeout=60_000)

    def turn_to(self, visit: Visit, name: str) -> None:
        """Leave the page for a notebook's own; JupyterLab has one page for all."""

    def open(self, visit: Visit, notebook: Path, run: bool) -> None:
        """A notebook on the page: all its cells run, or with the outputs that the file holds."""
        copy = nbformat.read(notebook, as_version=4)
        NotebookNotary(data_dir=str(self.folder / "data")).sign(copy)  # else the page would not show its widgets
        nbformat.write(copy, self.root / notebook.name)
        visit.name = notebook.name
        self.turn_to(visit, notebook.name)
        visit.page.evaluate(OPEN, [notebook.name, run])
        visit.page.wait_for_function(READY, timeout=400_000, polling=500)  # else it is asked every frame

    def close(self, visit: Visit) -> None:
        """End the kernel and close the notebook; the page is free for the next one."""
        visit.page.evaluate(CLOSE)
        visit.page_errors.clear()
        visit.outside.clear()


class Notebook7(Lab):
    """Jupyter Notebook 7: the same parts, a page for each notebook."""

    module, app, first_page = "notebook", "JupyterNotebookApp", "tree"

    def turn_to(self, visit: Visit, name: str) -> None:
        self.go(visit, f"notebooks/{name}")
