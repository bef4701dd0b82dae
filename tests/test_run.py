"""run.py makes .venv once, and anew when it is stale or half-made; no test here uses the network."""

import ast
import sys
from pathlib import Path

import pytest

import run

SOURCE = Path(run.__file__).read_text("utf-8")


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """An empty place instead of the repository, and every command that would run, with exit code 0."""
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run, "STAMP", tmp_path / ".venv" / "flux-edu.stamp")
    monkeypatch.setattr(run, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    made = []

    def call(command):
        made.append([str(part) for part in command])
        if "venv" in command:
            run.venv_python().parent.mkdir(parents=True)
            run.venv_python().touch()
        return 0

    monkeypatch.setattr(run, "call", call)
    return made


# ---------------------------------------------------------------- which Python


@pytest.mark.parametrize("version", [(3, 11), (3, 12, 4), (3, 13, 0)])
def test_these_pythons_will_do(version):
    run.check_python(version)


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10), (3, 14, 0)])
def test_any_other_gets_one_line_that_says_so(version, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.check_python(version)
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and told.count("\n") == 1
    assert f"this is {version[0]}.{version[1]}" in told and "3.11, 3.12 or 3.13" in told


def test_an_old_python_can_parse_it_far_enough_to_say_so():
    tree = ast.parse(SOURCE, feature_version=(3, 6))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.NamedExpr | ast.Match | ast.AnnAssign)]


def test_it_needs_nothing_but_the_standard_library():
    imported = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imported}
    assert names <= set(sys.stdlib_module_names)


# ---------------------------------------------------------------- set-up


def test_from_nothing(calls):
    assert run.main(["test", "-q"]) == 0
    commands = [" ".join(command) for command in calls]
    assert "venv --clear" in commands[0] and run.TORCH in commands[1] and ".[dev]" in commands[2]
    assert commands[3].endswith("-m pytest --nbmake -q") and str(run.venv_python()) in commands[3]
    assert run.is_ready()


def test_a_finished_environment_is_used_as_it_is(calls):
    run.set_up()
    before = len(calls)
    run.main(["lint"])
    assert [command[1:] for command in calls[before:]] == [["-m", "ruff", "check"], ["-m", "ruff", "format", "--check"]]
    run.main([])
    assert calls[-1][1:] == ["-m", "jupyterlab", str(Path("notebooks", "00_map.ipynb"))]


@pytest.mark.parametrize("spoil", ["pyproject", "stamp", "python", "moved"])
def test_a_stale_or_half_made_one_is_made_again(calls, spoil, tmp_path, monkeypatch):
    run.set_up()
    if spoil == "pyproject":
        (run.ROOT / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    elif spoil == "stamp":
        run.STAMP.unlink()
    elif spoil == "python":
        run.venv_python().unlink()
    else:
        monkeypatch.setattr(run, "ROOT", tmp_path / "elsewhere")
        run.ROOT.mkdir()
        (run.ROOT / "pyproject.toml").write_text("[project]\n")
    assert not run.is_ready()


def test_a_failed_installation_leaves_no_stamp_and_says_what_to_do(calls, monkeypatch):
    succeed = run.call
    monkeypatch.setattr(run, "call", lambda command: 1 if ".[dev]" in command else succeed(command))
    with pytest.raises(SystemExit, match="HTTPS_PROXY"):
        run.set_up()
    assert not run.is_ready()


# ---------------------------------------------------------------- which PyTorch


def test_without_a_driver_the_small_wheel_from_pytorchs_own_index(calls):
    run.install_torch()
    assert len(calls) == 1 and calls[0][:4] == [str(run.venv_python()), "-m", "pip", "install"]
    assert run.CPU_INDEX in calls[0] and run.TORCH in calls[0] and "--no-deps" in calls[0]


def test_where_that_cannot_be_reached_the_tested_version_from_pips_index(calls, monkeypatch):
    succeed = run.call
    monkeypatch.setattr(run, "call", lambda command: succeed(command) or int(run.CPU_INDEX in command))
    run.install_torch()
    assert len(calls) == 2 and run.CPU_INDEX not in calls[1] and calls[1][-1] == run.TORCH


@pytest.mark.parametrize(("platform", "driver"), [("linux", True), ("win32", False), ("darwin", False)])
def test_elsewhere_the_plain_wheel(calls, monkeypatch, platform, driver):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(run, "has_nvidia_driver", lambda: driver)
    run.install_torch()
    assert len(calls) == 1 and run.CPU_INDEX not in calls[0] and calls[0][-1] == run.TORCH


def test_no_torch_at_all_is_an_error_with_advice(calls, monkeypatch):
    monkeypatch.setattr(run, "call", lambda command: 1)
    with pytest.raises(SystemExit, match="2 GB free for the CPU build"):
        run.install_torch()


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["notebook"], 2), (["lint", "-q"], 2)])
def test_anything_else_prints_the_help_and_makes_nothing(calls, capsys, arguments, code):
    assert run.main(arguments) == code
    assert capsys.readouterr().out.strip() == run.__doc__.strip()
    assert calls == []


def test_the_exit_code_is_that_of_the_command(calls, monkeypatch):
    run.set_up()
    monkeypatch.setattr(run, "call", lambda command: 5)
    assert run.main(["test"]) == 5 and run.main(["lint"]) == 5


def test_call_runs_in_the_repository_and_returns_the_exit_code():
    check = (
        f"import os, sys; sys.exit(7 if os.getcwd() == {str(run.ROOT)!r} and os.environ['PYTHONUTF8'] == '1' else 1)"
    )
    assert run.call([sys.executable, "-c", check]) == 7


@pytest.mark.parametrize(("windows", "where"), [(True, ("Scripts", "python.exe")), (False, ("bin", "python"))])
def test_where_an_environment_keeps_its_python(windows, where):
    assert run.venv_python(windows) == run.VENV.joinpath(*where)
