"""Sphinx's settings for the book; docs/book.py puts together what it reads."""

import re
from pathlib import Path

import chinese
from links import label
from tables import addresses

# imported here, before Sphinx forks the processes that read the pages: else each of them loads PyTorch again
from flux_edu.teaching import panel  # noqa: F401

ADDRESSES = addresses()  # empty until pyproject.toml has them
root_doc = "start"  # index.html is the map
project = "flux_edu"
author = "the authors of flux_edu"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode", "links"]
html_theme = "sphinx_book_theme"
html_title = "FLUX.1, equation by equation"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["book.js", "language.js", ("paint.js", {"type": "module"})]
html_search_scorer = str(Path(__file__).parent / "scorer.js")  # else looked for where one stands
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}
html_theme_options |= {"navbar_persistent": [], "show_navbar_depth": 1}
html_theme_options |= {"article_header_end": ["language", "article-header-buttons"]}
toc_object_entries_show_parents = "hide"
smartquotes_action = "qe"  # no dashes: of --out they would make –out
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_context["translated"] = [path.rsplit(".", 1)[0] for path in chinese.TRANSLATED] + ["start", "search"]
html_baseurl = ADDRESSES.get("Documentation", "")
templates_path = ["templates"]
if "Issues" in ADDRESSES:
    html_theme_options["article_footer_items"] = ["report"]
    html_context["issues"] = ADDRESSES["Issues"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
suppress_warnings = ["config.cache", "myst.header"]  # the second: a notebook may go from # to ###
if tags.has("part"):  # noqa: F821  Sphinx puts `tags` here
    suppress_warnings += ["myst.xref_missing", "ref.ref"]

nb_execution_mode = "off"  # what is shown was executed by the tests
nb_render_markdown_format = "myst"  # the glossary's formulas
myst_enable_extensions = ["dollarmath", "amsmath", "html_image"]
myst_heading_anchors = 4
myst_heading_slug_func = "links.jupyter_slug"
if tags.has("chinese"):  # noqa: F821  built after the English pages, into their folder zh
    language = "zh_CN"
    html_title = "逐个公式读懂 FLUX.1"
    author = "flux_edu 的作者"
    html_theme_options |= {"search_bar_text": "搜索…"}
    extensions += ["sphinx.ext.intersphinx", "bigrams"]
    intersphinx_mapping = {"english": ("..", str(Path(__file__).resolve().parents[1] / "html" / "objects.inv"))}
    web = dict.fromkeys(("http", "https", "mailto"))
    myst_url_schemes = web | {"en": "{{path}}", "en-part": "{{path}}#{{fragment}}"}

mathjax_path = "mathjax/startup.js"  # from _static, not from the web, and the parts that are used alone
MATHJAX_PARTS = ["core", "input/tex", "output/chtml", "a11y/assistive-mml"]
mathjax3_config = {"loader": {"load": MATHJAX_PARTS}, "options": {"enableMenu": False}}

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # else every forward() would carry torch's
python_use_unqualified_type_names = True
nitpick_ignore_regex = [("py:class", ".*"), ("py:.*", r"(?!flux_edu\.).*")]  # types in signatures, other libraries


def to_rst(lines: list[str]) -> list[str]:
    """A docstring of the package, which is plain text, as reStructuredText: code, formulas and equations' numbers."""
    if not any(lines):
        return []
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    out: list[str] = []
    for paragraph in paragraphs:
        rows = paragraph.splitlines()
        head = [row for row in rows if not row.startswith("    ")]
        if not head or (len(rows) > 1 and any(row.startswith("    ") for row in rows)):
            out += ["::", "", *(f"    {row}" for row in rows), ""]  # set in columns, as it stands
        else:
            out += [marked(row) for row in rows] + [""]
    return out


def marked(row: str) -> str:
    """One line: `name` becomes code, Eq. (1.3) a link to its section, all else stays what it is."""
    row = re.sub(r"^(\s*)\* ", r"\1- ", row)
    pieces = re.split(r"(`[^`]+`|Eq\. \(\d+\.\d+\)|Eq\. \d+\.\d+)", row)
    done = ""
    for piece in pieces:
        if piece.startswith("`"):
            new = f"``{piece[1:-1]}``"
        elif match := re.fullmatch(r"Eq\. \(?(\d+\.\d+)\)?", piece):
            new = f":ref:`{piece} <{label(match[1])}>`"
        else:
            done += re.sub(r"([\\*_|`])", r"\\\1", piece)
            continue
        # an inline mark needs something that is no letter on both sides
        done += ("\\ " if done and not done[-1].isspace() and done[-1] not in "([{-/" else "") + new + "\\ "
    return done


def setup(app):
    if language == "zh_CN":
        app.add_message_catalog("sphinx", str(Path(__file__).parent / "locale"))  # chinese.py writes it
    app.connect("autodoc-process-docstring", lambda *event: event[-1].__setitem__(slice(None), to_rst(event[-1])))
