"""Two additions to pytest, here at the root so that they hold for tests/ and notebooks/ alike.

Under --nbmake every executed notebook is kept in build/executed with its outputs, its widgets' state, the
seconds it took and the most memory its kernel held: a notebook runs once, and all who want to know about it
read that file. `--equation 1.3` keeps only the tests marked with that equation.
"""

import time
from pathlib import Path

import nbformat
import pytest

EXECUTED = Path(__file__).parent / "build" / "executed"
EXECUTED_NOW = pytest.StashKey[list[Path]]()


def pytest_addoption(parser):
    parser.addoption("--equation", metavar="NUMBER", help="run only the tests of this equation, e.g. 1.3")


def pytest_configure(config):
    config.stash[EXECUTED_NOW] = []
    if config.option.nbmake:
        keep_executed_notebooks(config.stash[EXECUTED_NOW])


def pytest_collection_modifyitems(config, items):
    number = config.option.equation
    if number is None:
        return
    marked = [i for i in items if any(number in mark.args for mark in i.iter_markers("equation"))]
    config.hook.pytest_deselected(items=[i for i in items if i not in marked])
    items[:] = marked


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
        async def async_execute_cell(self, cell, cell_index, **options):
            try:
                return await super().async_execute_cell(cell, cell_index, **options)
            finally:
                self.nb.metadata["peak_mb"] = peak_memory(self.km.provisioner.pid)

    class KeptRun(nb_run.NotebookRun):
        def execute(self):
            start = time.perf_counter()
            result = super().execute()
            result.nb.metadata["seconds"] = round(time.perf_counter() - start, 1)
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
