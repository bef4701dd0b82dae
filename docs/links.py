"""The book's links, as a Sphinx extension: from a notebook to the package, and between an equation and its functions.

Links from notebook to notebook, which name a heading as JupyterLab does, are MyST's own business once it knows
`jupyter_slug`; Sphinx reports those that lead nowhere.
"""

import re

from docutils import nodes
from docutils.nodes import Element, document
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from tables import equations

TAG = re.compile(r"\\tag\{(\d+\.\d+)\}")


def jupyter_slug(title: str) -> str:
    """What JupyterLab calls a heading in a link."""
    return title.replace(" ", "-")


def label(number: str) -> str:
    """The label of an equation's section: "1.3" → eq-1-3."""
    return "eq-" + number.replace(".", "-")


def package_link(doc: str, kind: str, target: str, content: Element) -> pending_xref:
    """A link to a module (kind "mod") or a name in one ("obj") of the package."""
    return pending_xref(
        "", content, refdoc=doc, refdomain="py", reftype=kind, reftarget=target, refexplicit=True, refwarn=True
    )


def point_into_the_package(doc: str, link: pending_xref) -> None:
    """[`rope.rope`](../flux_edu/rope.py) leads to the function, [the file](../flux_edu/rope.py) to the module."""
    match = re.fullmatch(r"\.\./(flux_edu/.+)\.py", link["reftarget"])
    if match is None:
        return
    module, shown = match[1].replace("/", "."), link.astext()
    if not re.fullmatch(r"[\w.]+", shown) or shown.endswith(".py"):
        kind, target = "mod", module
    else:
        kind, target = "obj", f"flux_edu.{shown}" if "." in shown else f"{module}.{shown}"
    link.replace_self(package_link(doc, kind, target, link[0]))


def name_section(app: Sphinx, formula: nodes.math_block) -> None:
    """Give the section of a numbered formula the number as its label, and below its title links to its functions."""
    doc, section = app.env.docname, formula.parent
    while not isinstance(section, nodes.section):
        section = section.parent
    functions = {}
    for number in TAG.findall(formula.astext()):
        section["ids"].append(label(number))
        entry = doc, label(number), section[0].astext()
        app.env.domains.standard_domain.labels[label(number)] = entry
        app.env.domains.standard_domain.anonlabels[label(number)] = entry[:2]
        functions |= dict(equations()[number][1])
    links = [package_link(doc, "obj", f"flux_edu.{name}", nodes.literal("", name)) for name in functions]
    between = [part for link in links for part in (nodes.Text(", "), link)]
    words = "代码：" if app.config.language == "zh_CN" else "In the code: "
    section.insert(1, nodes.paragraph("", "", nodes.Text(words), *between[1:]))
    # Sphinx puts a formula of several rows into a split environment, where no tag is allowed; with \cr it does not
    formula[0] = nodes.Text(formula.astext().replace(r"\\", r"\cr "))


def keep_together(formula: nodes.math) -> None:
    """A bracket before a formula and a mark behind it stay on its line."""
    parent, whole = formula.parent, nodes.inline("", "", classes=["flux-together"])
    at = parent.index(formula)
    before, after = ("" if not 0 <= i < len(parent) else parent[i] for i in (at - 1, at + 1))
    opened = re.search(r"[(（]?$", before)[0] if isinstance(before, nodes.Text) else ""
    mark = re.match("\u2060?[.,;:!?)，。：；、）]*", after)[0] if isinstance(after, nodes.Text) else ""
    if not opened + mark:
        return
    parent[at] = whole
    whole += [nodes.Text(opened), formula, nodes.Text(mark)]
    if opened:
        parent[at - 1] = nodes.Text(before[: -len(opened)])
    if mark:
        parent[at + 1] = nodes.Text(after[len(mark) :])


def on_read(app: Sphinx, tree: document) -> None:
    for link in list(tree.findall(pending_xref)):
        if link["reftype"] == "myst" and link["refdomain"] is None:
            point_into_the_package(app.env.docname, link)
    for formula in list(tree.findall(nodes.math)):
        keep_together(formula)
    for formula in list(tree.findall(nodes.math_block)):
        if TAG.search(formula.astext()):
            name_section(app, formula)


def setup(app: Sphinx) -> dict:
    app.connect("doctree-read", on_read)
    return {"parallel_read_safe": True}
