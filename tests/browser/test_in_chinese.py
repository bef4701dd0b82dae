"""A Chinese notebook in JupyterLab: prose, sliders, questions and the checks of exercises speak Chinese.

FLUX_EDU_BROWSER=1 python run.py test tests/browser/test_in_chinese.py
"""

import re

import chinese
import pytest
from lab import PANEL, Lab, open_browser

NAME = "02_patchify"
HAN = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    chinese.write_notebooks(folder / "zh")
    with (
        open_browser("open a Chinese notebook in a real browser (half a minute)") as browser,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("FLUX_EDU_LOCALE", str(folder / "zh" / "locale"))  # as `python run.py --language zh` does
        with Lab(folder) as server:
            visit = server.open_page(browser)
            server.open(visit, folder / "zh" / "notebooks" / f"{NAME}.ipynb", run=True)
            yield visit


def test_its_panels_and_questions_speak_chinese(visit):
    panel = visit.page.locator(f"{PANEL} .flux-panel").first
    labels = panel.locator(".widget-label").all_text_contents()
    assert {"宽度", "高度", "行", "列"} <= set(labels), labels
    assert HAN.search(panel.locator(".flux-picture img").get_attribute("alt"))
    button = visit.page.get_by_role("button", name="运行实验").first
    button.scroll_into_view_if_needed()
    button.click()
    visit.page.get_by_text("先选").first.wait_for(timeout=20_000)


def test_the_checks_of_its_exercises_speak_chinese_and_nothing_went_wrong(visit):
    said = [
        output.text
        for cell in visit.notebook().cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.text.startswith("○ ")
    ]
    assert len(said) == 4 and all(HAN.search(text) for text in said), said
    assert not visit.page_errors and not visit.outside
