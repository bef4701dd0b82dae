"""The Chinese pages: everything is translated, nothing but the words differs, and the notebooks are the same code."""

import json
import re
from pathlib import Path

import chinese
import nbformat
import pytest
import translation

import run
from flux_edu.teaching import check, explore, language

ROOT = Path(__file__).parents[1]
EXECUTED = ROOT / "build" / "executed"
WHOLE = all((EXECUTED / f"{name}.ipynb").exists() for name in translation.CHAPTERS)
needs_pictures = pytest.param("pictures", marks=pytest.mark.skipif(not WHOLE, reason="the chapters have not run"))
CATALOGUES = [name for name in translation.SOURCES if name != "pictures"]


@pytest.mark.parametrize("name", [*CATALOGUES, needs_pictures])
def test_every_paragraph_has_a_current_translation(name):
    """`python docs/translation.py` brings the catalogues up to date and lists what is to be done."""
    texts, done = translation.messages(name), translation.translations(name)
    assert [text for text in texts if text not in done] == []


def test_the_share_of_the_texts_that_is_current(record_property):
    current = [text in translation.translations(name) for name in CATALOGUES for text in translation.messages(name)]
    share = sum(current) / len(current)
    record_property("measured", f"in Chinese {share:.0%} of {len(current):,} texts are current")
    assert share > 0.9


@pytest.mark.parametrize("name", translation.SOURCES)
def test_formulas_links_code_and_numbers_are_the_english_ones(name):
    differences = {text: translation.differences(text, new) for text, new in translation.translations(name).items()}
    assert {text: found for text, found in differences.items() if found} == {}


@pytest.mark.parametrize(
    ("wrong", "difference"),
    [
        ("从 $x_1$ 到 `y`，2 步，[这里](a.md#b)，1200 万，{n}", "$x_0$"),
        ("从 $x_0$ 到 `z`，2 步，[这里](a.md#b)，1200 万，{n}", "`z`"),
        ("从 $x_0$ 到 `y`，3 步，[这里](a.md#b)，1200 万，{n}", "3"),
        ("从 $x_0$ 到 `y`，2 步，[这里](a.md#c)，1200 万，{n}", "('a.md#c', '')"),
        ("从 $x_0$ 到 `y`，2 步，[这里](a.md#b)，120 万，{n}", "12000000"),
        ("从 $x_0$ 到 `y`，2 步，[这里](a.md#b)，1200 万", "{n}"),
    ],
)
def test_a_difference_is_named(wrong, difference):
    english = "From $x_0$ to `y` in 2 steps, [here](a.md#b), 12 million, {n}"
    assert translation.differences(english, "从 $x_0$ 到 `y`，2 步，[这里](a.md#b)，1200 万，{n}") == []
    assert difference in translation.differences(english, wrong)


def test_a_paragraph_that_changes_is_to_be_translated_again(tmp_path, monkeypatch):
    monkeypatch.setattr(translation, "LOCALE", tmp_path)
    old, new = "The sampler takes 28 steps from noise.", "The sampler takes 30 steps from noise."
    translation.update("page", [old, "Another."])
    path = tmp_path / "page.po"
    path.write_text(path.read_text("utf-8").replace(f'msgid "{old}"\nmsgstr ""', f'msgid "{old}"\nmsgstr "二十八步。"'))
    translation.update("page", [new, "Another."])
    message = translation.read("page")[new]
    assert message.fuzzy and message.string == "二十八步。" and translation.read("page")[old] is None
    translation.translations.cache_clear()
    assert new not in translation.translations("page"), "the page shows the English one"


# ---------------------------------------------------------------- notebooks


def test_what_a_cell_shows_keeps_its_code():
    """A panel's word may be a name in the source that `show` prints: width is not 宽度 there."""
    code = '<div class="highlight"><pre><span></span><span class="n">width</span>: <span>int</span></pre></div>'
    label = "<label><span>width</span></label>"
    assert chinese.shown(code + label) == code + label.replace("width", "宽度")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zh")
    chinese.write_notebooks(folder)
    return folder


@pytest.mark.parametrize("name", translation.CHAPTERS)
def test_a_chinese_notebook_has_the_same_code_and_chinese_prose(lab, name):
    english = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    translated = nbformat.read(lab / "notebooks" / f"{name}.ipynb", as_version=4)
    assert [(cell.id, cell.cell_type) for cell in english.cells] == [(c.id, c.cell_type) for c in translated.cells]
    for before, after in zip(english.cells, translated.cells, strict=True):
        if before.cell_type == "code":
            assert before.source.encode() == after.source.encode()
        elif re.search(r"[a-z]{3} [a-z]{3}", re.sub(r"```.*?```|\$.*?\$|`.*?`", "", before.source, flags=re.DOTALL)):
            assert re.search(r"[\u4e00-\u9fff]", after.source), before.source


def slugs(path: Path) -> set[str]:
    cells = json.loads(path.read_text("utf-8"))["cells"] if path.suffix == ".ipynb" else []
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return {chinese.slug(line) for line in text.splitlines() if line.startswith("#")}


@pytest.mark.parametrize("name", translation.CHAPTERS)
def test_links_of_a_chinese_notebook_lead_somewhere(name):
    """As seen from build/zh/notebooks, in which the notebooks stand for JupyterLab."""
    there = {other: chinese.lab_notebook(other) for other in translation.CHAPTERS}
    home = ROOT / "build" / "zh" / "notebooks"
    for cell in there[name].cells:
        if cell.cell_type != "markdown":
            continue
        for target in ("".join(pair) for pair in translation.LINK.findall(cell.source)):
            path, _, anchor = target.partition("#")
            if "://" in path:
                continue
            other = Path(path).stem if path else name
            if "/" not in path:  # another Chinese notebook, or this one
                headings = {
                    chinese.slug(line)
                    for each in there[other].cells
                    if each.cell_type == "markdown"
                    for line in each.source.splitlines()
                    if line.startswith("#")
                }
            else:
                file = (home / path).resolve()
                assert file.exists(), target
                headings = slugs(file)
            assert not anchor or anchor in headings, target


def test_what_a_reader_has_written_stays(tmp_path, monkeypatch, capsys):
    chinese.write_notebooks(tmp_path)
    path = tmp_path / "notebooks" / "00_map.ipynb"
    path.write_text(path.read_text("utf-8") + "\n", encoding="utf-8")
    mine = path.read_text("utf-8")
    chinese.write_notebooks(tmp_path)
    assert path.read_text("utf-8") == mine, "its English source is as it was"
    notebook = chinese.lab_notebook("00_map")
    notebook.cells[0].source += "!"
    monkeypatch.setattr(chinese, "lab_notebook", lambda name: notebook)
    chinese.write_notebooks(tmp_path)
    assert path.with_stem("00_map-yours").read_text("utf-8") == mine and path.read_text("utf-8") != mine
    assert "yours is now" in capsys.readouterr().out
    path.write_text(mine + "\n", encoding="utf-8")
    notebook.cells[0].source += "!"
    chinese.write_notebooks(tmp_path)
    assert path.with_stem("00_map-yours").read_text("utf-8") == mine
    assert path.with_stem("00_map-yours2").read_text("utf-8") == mine + "\n"


def test_panels_and_exercises_speak_chinese(lab, monkeypatch, capsys):
    monkeypatch.setenv("FLUX_EDU_LOCALE", str(lab / "locale"))
    language.catalogue.cache_clear()
    try:
        check("1.1", lambda mu, sigma, t: t)
        check("1.1", lambda mu, sigma, t: None)
        answers = capsys.readouterr().out.splitlines()
        assert all(re.search(r"[\u4e00-\u9fff]", answer) and "✗ 1.1" in answer for answer in answers)
        panel = explore(lambda width=16: drawing(), width=(16, 64, 16))
        assert panel.controls["width"].description == "宽度"
        assert language.translate("no such text") == "no such text"
    finally:
        language.catalogue.cache_clear()
        monkeypatch.delenv("FLUX_EDU_LOCALE")
    assert language.translate("width") == "width"


def drawing():
    from PIL import Image

    picture = Image.new("RGB", (4, 4))
    picture.info["alt"] = "nothing"
    return picture


def test_numbers_in_an_alternative_text_are_put_where_they_belong():
    known = {"A head {0} of {1}": "{1} 个头中的第 {0} 个"}
    assert (
        language.translate_numbers("A head 2 of 1,024", lambda text: known.get(text, text)) == "1,024 个头中的第 2 个"
    )
    assert language.translate_numbers("A 3d fox at t = −0.5", lambda text: text) == "A 3d fox at t = −0.5"


def test_run_opens_jupyterlab_on_the_chinese_map(monkeypatch, capsys):
    started = []
    monkeypatch.setattr(run, "set_up", lambda: None)
    monkeypatch.setattr(run, "is_root", lambda: False)
    monkeypatch.setattr(run, "call", lambda command, **variables: started.append((command, variables)) or 0)
    run.main(["--language", "zh", "--no-browser"])
    (made, _), (opened, variables) = started
    assert made[1:] == [Path("docs", "chinese.py")]
    assert opened[4:] == ["--no-browser", Path("build", "zh", "notebooks", "00_map.ipynb")]
    assert variables == {"FLUX_EDU_LOCALE": str(ROOT / "build" / "zh" / "locale")}
    with pytest.raises(SystemExit, match="--language takes en or zh, not fr"):
        run.main(["lab", "--language=fr"])


# ---------------------------------------------------------------- pages


def test_the_page_that_github_shows_is_made_of_the_catalogue():
    """`python docs/chinese.py` writes it."""
    assert (ROOT / "docs" / "WHAT_FLUX_IS_NOT.zh.md").read_text("utf-8") == chinese.github_page()


def test_a_link_to_an_english_page_says_so_and_one_to_a_chinese_page_names_its_heading():
    text = "[a](07_text_encoders.ipynb#77-and-512) [b](02_patchify.ipynb#Eq.-2.2-·-Patchify) [c](img/flux.svg)"
    english, translated = next(
        pair for pair in chinese.headings("02_patchify").items() if pair[0].startswith("Eq. 2.2")
    )
    text = text.replace("Eq.-2.2-·-Patchify", chinese.slug(english))
    in_book = chinese.relink(text, "notebooks/01_schedule.ipynb", chinese.in_book("notebooks/01_schedule.ipynb"))
    assert "(en-part:../../notebooks/07_text_encoders.html#77-and-512)" in in_book
    assert f"(02_patchify.ipynb#{chinese.slug(translated)})" in in_book and chinese.slug(translated) != chinese.slug(
        english
    )
    assert "(../notebooks/img/flux.svg)" in in_book
    in_lab = chinese.relink(text, "notebooks/01_schedule.ipynb", chinese.in_lab)
    assert "(../../../notebooks/07_text_encoders.ipynb#77-and-512)" in in_lab
