"""run.py makes .venv once, and anew when it is stale or half-made; no test here uses the network."""

import ast
import os
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

import run

SOURCE = Path(run.__file__).read_text("utf-8")


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """An empty place instead of the repository, and every command that would run, with exit code 0."""
    (tmp_path / "pyproject.toml").write_text('[project.optional-dependencies]\nbook = ["sphinx>=9,<10", "myst-nb"]\n')
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run, "STAMP", tmp_path / ".venv" / "flux-edu.stamp")
    monkeypatch.setattr(run, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # run.main would set it, for every test from here on
    made = []

    def call(command, folder=None, **variables):
        made.append([str(part) for part in command])
        if "venv" in command:
            run.venv_python().parent.mkdir(parents=True)
            run.venv_python().touch()
        return 0

    monkeypatch.setattr(run, "call", call)
    monkeypatch.setattr(run, "is_whole", lambda: run.STAMP.is_file() and run.venv_python().is_file())
    return made


# ---------------------------------------------------------------- which Python


@pytest.mark.parametrize("version", [(3, 11), (3, 12, 4), (3, 13, 0)])
def test_these_pythons_will_do(version):
    run.check_python(version)


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10), (3, 14, 0)])
def test_any_other_gets_one_line_that_says_so(version, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.check_python(version)
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and message.count("\n") == 1
    assert f"this is {version[0]}.{version[1]}" in message and "3.11, 3.12 or 3.13" in message


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
    assert run.is_whole() and run.is_current()


def test_a_finished_environment_is_used_as_it_is(calls):
    run.set_up()
    before = len(calls)
    run.main(["lint"])
    names = [run.venv_python().name] * 2 + ["lint-imports", "oxlint", "oxfmt", "clang-format"]
    assert [Path(command[0]).name for command in calls[before:]] == names
    assert [command[1] for command in calls[before:]][:3] == ["-m", "-m", "--no-cache"]
    run.main([])
    assert calls[-1][1:3] == ["-m", "jupyterlab"] and calls[-1][-1] == str(Path("notebooks", "00_map.ipynb"))


def test_one_that_is_not_whole_is_made_again_from_nothing(calls, monkeypatch):
    run.set_up()
    before = len(calls)
    whole = iter([False, True])
    monkeypatch.setattr(run, "is_whole", lambda: next(whole))
    run.venv_python().unlink()
    run.venv_python().parent.rmdir()
    run.set_up()
    assert "venv --clear" in " ".join(calls[before]) and len(calls) == before + 3


def test_after_a_change_of_pyproject_it_is_brought_up_to_date_not_made_again(calls, capsys):
    run.set_up()
    before = len(calls)
    (run.ROOT / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    assert run.is_whole() and not run.is_current()
    run.set_up()
    assert run.is_current() and not [command for command in calls[before:] if "venv" in command]
    assert [command[-1] for command in calls[before:]] == [run.TORCH, ".[dev]"]


def test_a_change_without_a_network_leaves_what_was_there(calls, monkeypatch, capsys):
    run.set_up()
    (run.ROOT / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    monkeypatch.setattr(run, "call", lambda command, folder=None, **variables: int("pip" in command))
    assert run.main(["lint"]) == 0
    printed = capsys.readouterr()
    assert "HTTPS_PROXY" in printed.err and "going on with .venv as it is" in printed.out
    assert run.is_whole() and not run.is_current(), "the next run tries again"


def test_packages_that_pip_has_put_elsewhere_are_told(calls, monkeypatch):
    monkeypatch.setattr(run, "is_whole", lambda: False)
    with pytest.raises(SystemExit, match="not in .venv: `pip config list` shows the setting"):
        run.set_up()
    assert not run.STAMP.exists()


def test_a_failed_installation_leaves_no_stamp_and_says_what_to_do(calls, monkeypatch):
    succeed = run.call
    monkeypatch.setattr(run, "call", lambda command: 1 if ".[dev]" in command else succeed(command))
    with pytest.raises(SystemExit, match="HTTPS_PROXY"):
        run.set_up()
    assert not run.is_whole()


def test_no_package_is_compiled(calls):
    run.set_up()
    assert "--only-binary=:all:" in calls[-1], "without a compiler pip must say which package has no wheel"


@pytest.fixture
def real(monkeypatch, tmp_path):
    """A finished .venv that is this very Python, asked in earnest, in a folder that calls itself the package's."""
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run, "STAMP", tmp_path / ".venv" / "flux-edu.stamp")
    monkeypatch.setattr(run, "venv_python", lambda: Path(sys.executable))
    run.VENV.mkdir()
    run.STAMP.write_text(run.fingerprint())


def test_a_whole_one_is_recognised(real):
    assert run.is_whole() and run.is_current()


def test_one_whose_making_was_broken_off_is_not_whole(real):
    run.STAMP.unlink()
    assert not run.is_whole()


def test_one_whose_python_is_gone_is_not_whole(real, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "venv_python", lambda: tmp_path / "gone" / "python")
    assert not run.is_whole()


def test_one_that_belongs_to_another_folder_is_not_whole(real, monkeypatch, tmp_path):
    """The folder was moved or copied: its package would still be the one at the old place."""
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert not run.is_whole()


def test_one_that_has_lost_its_package_is_not_whole(real, monkeypatch, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(run, "venv_python", lambda: broken)  # on Windows it does not start at all
    assert not run.is_whole()


def test_a_file_in_its_place_is_no_environment(monkeypatch, tmp_path):
    (tmp_path / ".venv").write_text("")
    monkeypatch.setattr(run, "STAMP", tmp_path / ".venv" / "flux-edu.stamp")
    assert not run.is_whole()


def test_venv_that_cannot_be_made_says_what_to_do(calls, monkeypatch):
    monkeypatch.setattr(run, "call", lambda command: 1)
    with pytest.raises(SystemExit, match="install python3-venv first; on Windows close every program"):
        run.set_up()


def test_a_second_run_touches_no_network(calls):
    run.set_up()
    before = len(calls)
    for command in run.COMMANDS:
        run.main([command])
    assert not [command for command in calls[before:] if "install" in command or "venv" in command[1:]]


def test_a_folder_with_spaces_and_accents(calls, monkeypatch, tmp_path):
    """Every path is one argument, never a part of a line that a shell would split."""
    place = tmp_path / "mes étés" / "flux walk"
    place.mkdir(parents=True)
    (place / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(run, "ROOT", place)
    monkeypatch.setattr(run, "VENV", place / ".venv")
    monkeypatch.setattr(run, "STAMP", place / ".venv" / "flux-edu.stamp")
    assert run.main(["test"]) == 0 and run.is_whole()
    assert calls[0][-1] == str(place / ".venv") and calls[-1][0] == str(run.venv_python())


# ---------------------------------------------------------------- where it cannot work


def test_a_32_bit_python_is_told_before_anything_is_fetched(capsys):
    with pytest.raises(SystemExit, match="needs a 64-bit one: install that from python.org"):
        run.check_machine(bits=32)


def test_a_python_for_intel_macs_is_told(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(run.platform, "machine", lambda: "arm64")
    run.check_machine()
    monkeypatch.setattr(run.platform, "machine", lambda: "x86_64")
    with pytest.raises(SystemExit, match="no longer built for Intel Macs.*Rosetta: install"):
        run.check_machine()


def test_a_full_disk_is_told_before_anything_is_fetched(calls, monkeypatch):
    monkeypatch.setattr(run.shutil, "disk_usage", lambda place: SimpleNamespace(free=0.7e9))
    with pytest.raises(SystemExit, match="0.7 GB of disk are free here and .venv needs 2: make room"):
        run.set_up()
    assert calls == []


@pytest.mark.parametrize("allowed", [True, False])
def test_a_folder_too_deep_for_windows_is_told(calls, monkeypatch, allowed):
    run.check_place(windows=False)
    monkeypatch.setattr(run, "windows_allows_long_paths", lambda: allowed)
    monkeypatch.setattr(run, "WINDOWS_PATH", len(str(run.ROOT)) - 1)
    if allowed:
        run.check_place(windows=True)
    else:
        with pytest.raises(SystemExit, match="move the folder to a path of at most"):
            run.check_place(windows=True)
    monkeypatch.setattr(run, "WINDOWS_PATH", len(str(run.ROOT)))
    run.check_place(windows=True)


def test_the_longest_file_name_of_an_environment_is_as_long_as_said():
    """What check_place counts with: on Windows the packages lie in .venv\\Lib\\site-packages."""
    packages = Path(sysconfig.get_path("purelib"))
    longest = max(len(str(path.relative_to(packages))) for path in packages.rglob("*") if path.is_file())
    assert len(".venv/Lib/site-packages/") + longest + 1 + run.WINDOWS_PATH < 260


@pytest.mark.skipif(os.name == "nt", reason="there the registry answers")
def test_elsewhere_windows_has_no_say():
    assert run.windows_allows_long_paths() is False


def test_what_is_printed_fits_every_console():
    assert SOURCE.isascii()


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


def test_the_books_tools_are_fetched_once(calls, monkeypatch):
    run.set_up()
    before, succeed = len(calls), run.call
    run.main(["book", "--no-open", "01_schedule"])
    assert calls[-1][1:] == [str(Path("docs", "book.py")), "--no-open", "01_schedule"] and len(calls) == before + 2
    monkeypatch.setattr(run, "call", lambda command, folder=None: succeed(command) or int("-c" in command))
    run.main(["book"])
    assert calls[-2][-2:] == ["sphinx>=9,<10", "myst-nb"] and calls[-1][1:] == [str(Path("docs", "book.py"))]
    monkeypatch.setattr(run, "call", lambda command, folder=None: 1)
    with pytest.raises(SystemExit, match="Check the network"):
        run.main(["book"])


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["notebook"], 2), (["lint", "-q"], 2)])
def test_anything_else_prints_the_help_and_makes_nothing(calls, capsys, arguments, code):
    assert run.main(arguments) == code
    assert capsys.readouterr().out.strip() == run.__doc__.strip()
    assert calls == []


def test_the_exit_code_is_that_of_the_command(calls, monkeypatch):
    run.set_up()
    monkeypatch.setattr(run, "call", lambda command, **options: 5)
    assert {run.main([command]) for command in ("test", "lint", "doctor", "sample")} == {5}


def test_everything_is_the_notebooks_and_then_the_tests_that_read_them(calls, monkeypatch):
    run.set_up()
    codes = iter([1, 0])
    monkeypatch.setattr(run, "call", lambda command, folder=None: calls.append(command) or next(codes))
    assert run.main(["test"]) == 1, "a notebook that fails is not forgotten"
    (*both, notebooks), (*same, executed) = calls[-2:]
    assert both == same and "--nbmake" in both and (notebooks, executed) == ("notebooks", "--executed")


def test_the_packages_commands_run_in_the_readers_own_folder(calls, monkeypatch, tmp_path):
    run.set_up()
    started = []
    monkeypatch.setattr(run, "call", lambda command, **options: started.append(options) or calls.append(command))
    monkeypatch.chdir(tmp_path)
    run.main(["sample", "a fox", "--seed", "3"])
    assert calls[-1][1:] == ["-P", "-m", "flux_edu", "sample", "a fox", "--seed", "3"]
    for command in ("doctor", "real", "bench", "batch"):
        run.main([command])
        assert calls[-1][1:] == ["-P", "-m", "flux_edu", command]
        assert started.pop() == {"folder": os.getcwd(), "FLUX_EDU_COMMAND": "python run.py"}


@pytest.mark.parametrize("root", [True, False])
def test_options_after_lab_are_jupyterlabs_and_root_may_start_it(calls, monkeypatch, capsys, root):
    run.set_up()
    monkeypatch.setattr(run, "is_root", lambda: root)
    run.main(["lab", "--no-browser", "--ip=0.0.0.0"])
    *options, notebook = calls[-1][3:]
    assert options[-2:] == ["--no-browser", "--ip=0.0.0.0"] and notebook.endswith("00_map.ipynb")
    assert ("--allow-root" in options) is root
    assert ("you are root" in capsys.readouterr().out) is root
    run.main(["lab", "--allow-root"])
    assert calls[-1].count("--allow-root") == 1


def test_jupyterlab_does_not_open_with_a_question_about_news(calls):
    """Defaults that JupyterLab reads for every setting that its user has not changed."""
    from jupyterlab_server.settings_utils import _get_overrides

    run.set_up()
    run.main(["lab"])
    overrides, error = _get_overrides(str(run.VENV / "share" / "jupyter" / "lab" / "settings"))
    assert not error and overrides["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_call_runs_in_the_repository_and_returns_the_exit_code():
    check = (
        f"import os, sys; sys.exit(7 if os.getcwd() == {str(run.ROOT)!r} and os.environ['PYTHONUTF8'] == '1' else 1)"
    )
    assert run.call([sys.executable, "-c", check]) == 7


@pytest.mark.parametrize("name", run.MISLEADING[:6] + ("MPLBACKEND", "IPYTHONDIR"))
def test_what_a_shell_carries_for_another_python_is_left_behind(monkeypatch, name):
    monkeypatch.setenv(name, "/of/another/python")
    assert run.call([sys.executable, "-c", f"import os, sys; sys.exit({name!r} in os.environ)"]) == 0


def test_scripts_of_the_environment_are_found_first():
    scripts = str(run.venv_python().parent) + os.pathsep
    check = f"import os, sys; sys.exit(not os.environ['PATH'].startswith({scripts!r}))"
    assert run.call([sys.executable, "-c", check]) == 0


def test_what_pip_has_not_compiled_is_compiled_once(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    check = "import os, sys; sys.exit(sys.dont_write_bytecode or os.environ['PIP_COMPILE'] != '0')"
    assert run.call([sys.executable, "-c", check]) == 0


@pytest.mark.parametrize(("windows", "where"), [(True, ("Scripts", "python.exe")), (False, ("bin", "python"))])
def test_where_an_environment_keeps_its_python(windows, where):
    assert run.venv_python(windows) == run.VENV.joinpath(*where)
