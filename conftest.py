"""Three additions to pytest, here at the root so that they hold for tests/ and notebooks/ alike.

Under --nbmake every executed notebook is kept in build/executed with its outputs, its widgets' state, the
seconds it took and the most memory its kernel held: a notebook runs once, and all who want to know about it
read that file. After its last cell every slider is moved, in the same kernel; what came of it is kept in the
file, and the pictures in build/executed/frames, for the book. `--equation 1.3` keeps only the tests marked with
that equation.
What tests have measured stands at the end, also when they ran in several processes.
"""

import ast
import json
import os
import shutil
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal

EXECUTED = Path(__file__).parent / "build" / "executed"
EXECUTED_NOW = pytest.StashKey[list[Path]]()

SWEEP = Path(__file__).parent / "tests" / "sweep.py"  # run in the notebook's kernel after its last cell


def pytest_addoption(parser):
    parser.addoption("--equation", metavar="NUMBER", help="run only the tests of this equation, e.g. 1.3")
    parser.addoption("--nbmake", action="store_true", help="run the notebooks as well")
    parser.addoption("--executed", action="store_true", help="take the notebooks that have been run before")


def pytest_configure(config):
    config.stash[EXECUTED_NOW] = []
    if config.option.executed:
        config.stash[EXECUTED_NOW] = already_executed()


def already_executed():
    """What an earlier run has made of every notebook, none missing and none older than its notebook."""
    pairs = [(path, EXECUTED / path.name) for path in sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))]
    stale = [kept.name for path, kept in pairs if not kept.exists() or kept.stat().st_mtime < path.stat().st_mtime]
    if stale:
        raise pytest.UsageError(
            f"--executed: run `pytest --nbmake notebooks` first, missing or old are {', '.join(stale)}"
        )
    return [kept for _, kept in pairs]


def pytest_collect_file(file_path, parent):
    if parent.config.option.nbmake and file_path.suffix == ".ipynb":
        return NotebookFile.from_parent(parent, path=file_path)


def pytest_collection_modifyitems(config, items):
    if config.option.executed:
        items[:] = [item for item in items if item.path.suffix != ".ipynb"]
    number = config.option.equation
    if number is None:
        return
    marked = [i for i in items if any(number in mark.args for mark in i.iter_markers("equation"))]
    config.hook.pytest_deselected(items=[i for i in items if i not in marked])
    items[:] = marked


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Where a browser is required, a test in it that is skipped has failed."""
    report = yield
    required = os.environ.get("FLUX_EDU_BROWSER") == "required" and "browser" in item.path.parts
    if required and report.skipped:
        report.outcome, report.longrepr = "failed", f"skipped, though FLUX_EDU_BROWSER=required: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter):
    """What tests have measured, by `record_property("measured", …)`, from whichever process they ran in."""
    reports = [report for result in ("passed", "failed") for report in terminalreporter.stats.get(result, [])]
    for name, line in [each for report in reports if report.when == "call" for each in report.user_properties]:
        if name == "measured":
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def executed_notebooks(pytestconfig):
    """The notebooks this run has executed, by file name, as nbformat reads them."""
    if not pytestconfig.option.nbmake:
        pytest.skip("notebooks are executed by `pytest --nbmake` only")
    return {path.name: nbformat.read(path, as_version=4) for path in pytestconfig.stash[EXECUTED_NOW]}


class NotebookFile(pytest.File):
    def collect(self):
        yield NotebookRun.from_parent(self, name="run")


class NotebookRun(pytest.Item):
    """A notebook from top to bottom, in a kernel of its own; what came of it is kept, failures too."""

    def runtest(self):
        notebook, start = nbformat.read(self.path, as_version=4), time.perf_counter()
        client = NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            shutdown_kernel="immediate",  # when asked politely a kernel takes 1.5 s to end
            resources={"metadata": {"path": self.path.parent}},
        )
        try:
            with client.setup_kernel():
                try:
                    for index, cell in enumerate(notebook.cells):
                        client.execute_cell(cell, index)
                finally:
                    notebook.metadata["seconds"] = round(time.perf_counter() - start, 1)
                    notebook.metadata["peak_mb"] = peak_memory(client.km.provisioner.pid)
                client.set_widgets_metadata()
                notebook.metadata["sweep"] = sweep(client, self.path.stem)
        finally:
            EXECUTED.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, EXECUTED / self.path.name)
            self.config.stash[EXECUTED_NOW].append(EXECUTED / self.path.name)

    def reportinfo(self):
        return self.path, 0, self.path.name

    def repr_failure(self, excinfo):
        """The cell and the kernel's traceback, without that of the client."""
        return str(excinfo.value) if excinfo.errisinstance(CellControlSignal) else super().repr_failure(excinfo)


def sweep(client, name):
    """Every panel's sliders moved, behind the notebook's back: cells and outputs stay as they are."""
    frames = EXECUTED / "frames" / name
    shutil.rmtree(frames, ignore_errors=True)
    sweep_panels = f"__import__('runpy').run_path({str(SWEEP)!r})['sweep_panels']"  # no name of the notebook's is taken
    reply = run_sync(client.kc.execute_interactive)(
        "pass",
        store_history=False,
        user_expressions={"sweep": f"{sweep_panels}({str(frames)!r})"},
        allow_stdin=False,
        timeout=3 * client.timeout,
        output_hook=lambda message: None,
    )
    answer = reply["content"].get("user_expressions", {}).get("sweep", reply["content"])
    if answer["status"] != "ok":
        raise RuntimeError("moving the sliders failed:\n" + "\n".join(answer["traceback"]))
    return json.loads(ast.literal_eval(answer["data"]["text/plain"]))


def peak_memory(pid):
    """The most memory a process has held so far, in MB; None where the system does not say (not Linux)."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((round(int(line.split()[1]) / 1024) for line in lines if line.startswith("VmHWM")), None)
