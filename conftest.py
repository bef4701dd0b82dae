"""Three additions to pytest, here at the root so that they hold for tests/ and notebooks/ alike.

Under --nbmake every executed notebook is kept in build/executed with its outputs, its widgets' state, the
seconds it took and the most memory its kernel held: a notebook runs once, and all who want to know about it
read that file. After its last cell every slider is moved to both ends, in the same kernel; what came of it is kept
in the file as well. `--equation 1.3` keeps only the tests marked with that equation.
What tests have measured stands at the end, also when they ran in several processes.
"""

import ast
import json
import os
import time
from pathlib import Path

import nbformat
import pytest

EXECUTED = Path(__file__).parent / "build" / "executed"
EXECUTED_NOW = pytest.StashKey[list[Path]]()

# Run in the notebook's kernel after its last cell; the result is JSON, an entry a panel, `error` None or a traceback.
SWEEP = """
def _sweep_panels():
    import dataclasses, json, sys
    panels = sys.modules["flux_edu.teaching.panel"].PANELS if "flux_edu.teaching.panel" in sys.modules else []
    return json.dumps(
        [
            {
                "draw": getattr(panel.draw, "__name__", repr(panel.draw)),
                "controls": list(panel.controls),
                "moves": [dataclasses.asdict(move) for move in panel.sweep()],
            }
            for panel in panels
        ],
        default=str,
    )
"""
SWEEP_RESULT = "_sweep_panels()"


def pytest_addoption(parser):
    parser.addoption("--equation", metavar="NUMBER", help="run only the tests of this equation, e.g. 1.3")
    parser.addoption("--executed", action="store_true", help="take the notebooks that have been run before")


def pytest_configure(config):
    config.stash[EXECUTED_NOW] = []
    if config.option.executed:
        config.stash[EXECUTED_NOW] = already_executed()
    elif config.option.nbmake:
        keep_executed_notebooks(config.stash[EXECUTED_NOW])


def already_executed():
    """What an earlier run has made of every notebook, none missing and none older than its notebook."""
    pairs = [(path, EXECUTED / path.name) for path in sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))]
    stale = [kept.name for path, kept in pairs if not kept.exists() or kept.stat().st_mtime < path.stat().st_mtime]
    if stale:
        raise pytest.UsageError(
            f"--executed: run `pytest --nbmake notebooks` first, missing or old are {', '.join(stale)}"
        )
    return [kept for _, kept in pairs]


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
    """What tests have measured and told by `record_property("told", …)`, from whichever process they ran in."""
    reports = [report for result in ("passed", "failed") for report in terminalreporter.stats.get(result, [])]
    for name, told in [each for report in reports if report.when == "call" for each in report.user_properties]:
        if name == "told":
            terminalreporter.write_line(told)


@pytest.fixture(scope="session")
def executed_notebooks(pytestconfig):
    """The notebooks this run has executed, by file name, as nbformat reads them."""
    if not pytestconfig.option.nbmake:
        pytest.skip("notebooks are executed by `pytest --nbmake` only")
    return {path.name: nbformat.read(path, as_version=4) for path in pytestconfig.stash[EXECUTED_NOW]}


def keep_executed_notebooks(written):
    """Make nbmake leave what it executed, failures too, in build/executed; `written` gets the paths."""
    from nbmake import nb_run, pytest_items

    class MeasuredClient(nb_run.NotebookClient):
        shutdown_kernel = "immediate"  # when asked politely a kernel takes 1.5 s to end

        async def async_execute_cell(self, cell, cell_index, **options):
            try:
                done = await super().async_execute_cell(cell, cell_index, **options)
            finally:
                self.nb.metadata["peak_mb"] = peak_memory(self.km.provisioner.pid)
            if cell_index == len(self.nb.cells) - 1:
                start = time.perf_counter()
                self.nb.metadata["sweep"] = await self.sweep()
                self.nb.metadata["sweep_seconds"] = time.perf_counter() - start
            return done

        async def sweep(self):
            """Every panel's sliders at both ends, behind the notebook's back: cells and outputs stay as they are."""
            reply = await self.kc.execute_interactive(
                SWEEP,
                store_history=False,
                user_expressions={"sweep": SWEEP_RESULT},
                allow_stdin=False,
                timeout=3 * self.timeout,
                output_hook=lambda message: None,
            )
            answer = reply["content"].get("user_expressions", {}).get("sweep", reply["content"])
            if answer["status"] != "ok":
                raise RuntimeError("moving the sliders failed:\n" + "\n".join(answer["traceback"]))
            return json.loads(ast.literal_eval(answer["data"]["text/plain"]))

    class KeptRun(nb_run.NotebookRun):
        def execute(self):
            start = time.perf_counter()
            result = super().execute()
            seconds = time.perf_counter() - start - result.nb.metadata.pop("sweep_seconds", 0)
            result.nb.metadata["seconds"] = round(seconds, 1)
            result.nb.metadata["alone"] = "PYTEST_XDIST_WORKER" not in os.environ  # else it had a part of the machine
            EXECUTED.mkdir(parents=True, exist_ok=True)
            written.append(EXECUTED / self.filename.name)
            nbformat.write(result.nb, written[-1])
            return result

    nb_run.NotebookClient = MeasuredClient
    pytest_items.NotebookRun = KeptRun


def peak_memory(pid):
    """The most memory a process has held so far, in MB; None where the system does not say (not Linux)."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((round(int(line.split()[1]) / 1024) for line in lines if line.startswith("VmHWM")), None)
