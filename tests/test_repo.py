"""The repository is what README says, holds nothing that does not belong in it, and its code stays readable."""

import ast
import re
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import sheet
import tables
from PIL import Image
from tables import equations

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CHAPTERS = (
    "schedule patchify rope embeddings modulation attention double_stream single_stream sampling autoencoder text tools"
).split()
CORE = "schedule patchify rope embeddings modulation attention double_stream single_stream model sampling".split()
MB = 1_000_000


def git(*command):
    """The names that a git command lists, each ended by a zero byte."""
    try:
        run = subprocess.run(["git", *command], cwd=ROOT, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a clone: git does not know the files")
    return [name for name in run.stdout.decode("utf-8").split("\0") if name]


def tracked():
    """The files of the repository, where git knows them."""
    git("status", "--short")
    return [ROOT / name for name in tables.tracked()]


def texts():
    for path in tracked():
        if (
            path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", ".cff", ".svg", ""}
            and path.name != "LICENSE"
        ):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


# ---------------------------------------------------------------- README


def test_links_of_the_pages_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs" / f"{name}.md" for name in ("EQUATIONS", "SETUP", "SOURCES"))):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
            if not re.match(r"https?:", target):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links {target}"


def test_the_first_screen_says_what_it_is_shows_it_and_starts_it():
    screen = "\n".join(README.splitlines()[:18])
    assert re.search(r"!\[[^\]]{30,}\]\(notebooks/img/", screen)
    assert "git clone" in screen and "python run.py " in screen and "python run.py test" in screen


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_front_page_is_short(name):
    """At most 1,500 words as `wc -w` counts them."""
    assert len((ROOT / name).read_text("utf-8").split()) <= 1500


def test_the_first_picture_was_painted_by_the_shipped_weights():
    with Image.open(ROOT / "notebooks" / "img" / "tiny_sheet.png") as picture:
        assert picture.text["weights"] == sheet.weights_hash(), "run `python docs/make/sheet.py`"


def test_contributing_is_short_and_names_every_file():
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rules, files = page.split("## The files")
    assert len(rules.splitlines()) <= 60
    git("status", "--short")
    assert page == tables.listed(page), "run `python docs/make/tables.py`"
    unsaid = [line for line in files.split("```")[1].splitlines() if line and len(line.split()) < 2]
    assert not unsaid, f"say in CONTRIBUTING what these are: {unsaid}"
    bare = [path for path in tracked() if path.suffix == ".py" and not tables.first_line(path)]
    assert not bare, f"a file says in its docstring what it is about: {bare}"


def test_the_changelog_says_where_each_module_has_gone():
    page = (ROOT / "CHANGELOG.md").read_text("utf-8")
    moves = re.findall(r"^\| `([^`]+)`.* \| (.+) \|$", page, re.MULTILINE)
    assert len(moves) > 30
    for old, new in moves:
        assert "flux_edu.flux2" in old or "." in old.removeprefix("flux_edu.") or find_spec(old) is None, (
            f"{old} is here"
        )
        for name in re.findall(r"`(flux_edu(?:\.[a-z_0-9]+)+)", new):
            assert find_spec(name), f"CHANGELOG.md sends readers of {old} to {name}, which does not exist"
        for path in re.findall(r"`(docs/[\w/.]+)`", new):
            assert (ROOT / path).exists(), path


def test_readme_lists_every_notebook():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"| [{path.stem}](notebooks/{path.name}) |" in README


# ---------------------------------------------------------------- what does not belong here


def test_nothing_of_a_machine_or_a_registry():
    import run

    for name, text in texts():
        assert not re.search(r"(^|[^\w.])/(work|farm|home|root|Users)/", text), f"{name} names a path of some machine"
        hosts = re.findall(r"https?://[^\s)\"'`>]*(?:registry\.|/simple\b|/whl\b)[^\s)\"'`>]*", text)
        assert set(hosts) <= {run.CPU_INDEX}, f"{name} names a package registry: {hosts}"


def test_a_clone_on_windows_has_the_same_bytes(tmp_path):
    """Git for Windows ends lines with CRLF unless .gitattributes says otherwise; a tokenizer is another one then."""
    changed = git("diff", "--name-only", "-z", "HEAD")
    subprocess.run(["git", "clone", "-q", "-c", "core.autocrlf=true", ROOT, tmp_path], check=True)
    for name in set(git("ls-tree", "-r", "--name-only", "-z", "HEAD")) - set(changed):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_no_lock_file_no_pickle_nothing_huge():
    for path in tracked():
        assert path.name not in {"uv.lock", "poetry.lock", "package-lock.json", "pixi.lock", "conda-lock.yml"}
        assert path.suffix not in {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".npy", ".joblib"}, path
        assert path.stat().st_size <= 48 * MB, f"{path} is larger than 48 MB"


def test_weights_and_data_stay_small():
    heavy = [path for path in tracked() if path.suffix in {".safetensors", ".webp"} or path.name == "names.json"]
    assert 20 * MB < sum(path.stat().st_size for path in heavy) <= 44 * MB
    pictures = [path for path in tracked() if path.suffix in {".png", ".jpg", ".svg"}]
    assert sum(path.stat().st_size for path in pictures) <= 2 * MB


def test_tools_and_licences_are_named():
    assert PYPROJECT["project"]["license"] == "Apache-2.0" and (ROOT / "LICENSE").exists()
    assert any(each.startswith("ruff==") for each in PYPROJECT["project"]["optional-dependencies"]["dev"])
    pages = README + (ROOT / "docs" / "SOURCES.md").read_text("utf-8")
    for name in ("Black Forest Labs", "not affiliated", "Apache-2.0", "Non-Commercial", "Twemoji", "CC BY 4.0", "MIT"):
        assert re.sub(r"\s+", " ", pages).count(name), f"README and docs/SOURCES.md do not say {name}"


# ---------------------------------------------------------------- code that can be read


def package_files():
    return sorted((ROOT / "flux_edu").rglob("*.py"))


@pytest.mark.parametrize("path", package_files(), ids=lambda path: path.relative_to(ROOT / "flux_edu").as_posix())
def test_a_file_is_one_chapter(path):
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    if path.parent.name == "flux_edu" and path.stem != "__main__":
        assert len(text.splitlines()) <= 260
        bare = [node.name for node in public if not ast.get_docstring(node) and len(ast.unparse(node).splitlines()) > 4]
        assert not bare, f"public and without a docstring: {bare}"


def test_no_file_of_package_and_tests_is_long():
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in tracked() if path.suffix == ".py"}
    long = {name: count for name, count in lines.items() if count > 400}
    assert not long, f"cut in two, or delete: {long}"


def test_the_core_can_be_read_in_one_go():
    lines = {name: len((ROOT / "flux_edu" / f"{name}.py").read_text("utf-8").splitlines()) for name in CORE}
    assert sum(lines.values()) <= 1050, lines


def chapter(name):
    return (ROOT / "flux_edu" / f"{name}.py").read_text("utf-8")


def lines_of(*nodes):
    return {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}


def refusals(source):
    """The lines of code of a file without its docstrings, and those of them that assert or raise, with their ifs."""
    nodes = list(ast.walk(ast.parse(source)))
    documented = (
        n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(n)
    )
    written = {i for i, line in enumerate(source.splitlines(), 1) if line.strip() and not line.strip().startswith("#")}
    code = written - lines_of(*(n.body[0] for n in documented))
    raising = [n for n in nodes if isinstance(n, ast.If) and any(isinstance(inner, ast.Raise) for inner in n.body)]
    return code, code & lines_of(*raising, *(n for n in nodes if isinstance(n, ast.Raise | ast.Assert)))


@pytest.mark.parametrize("name", [*CHAPTERS, "model"])
def test_a_chapter_fits_the_page_on_which_notebooks_and_book_print_it(name):
    assert not [line for line in chapter(name).splitlines() if len(line) > 88]


def test_chapters_are_equations_and_not_refusals():
    counted = {name: refusals(chapter(name)) for name in CHAPTERS}
    shares = {name: len(refused) / len(code) for name, (code, refused) in counted.items()}
    whole = sum(len(refused) for _, refused in counted.values()) / sum(len(code) for code, _ in counted.values())
    print({name: f"{share:.1%}" for name, share in shares.items()}, f"together {whole:.1%}")
    assert whole <= 0.06 and max(shares.values()) <= 0.20, shares


def test_refusals_are_counted_with_their_ifs():
    source = '''def f(x):
    """Not counted."""
    if x < 0:
        raise ValueError(x)
    assert x, "0"
    return x
'''
    assert refusals(source) == ({1, 3, 4, 5, 6}, {3, 4, 5})


def test_no_equation_is_named_that_does_not_exist():
    for path in package_files():
        named = set(re.findall(r"Eq\. \((\d+\.\d+)\)", path.read_text("utf-8")))
        assert named <= set(equations()), f"{path.name} names equations that docs/EQUATIONS.md does not"
