"""What the book's search finds, in Python: `_performSearch` of Sphinx's searchtools.js and docs/scorer.js; no objects.

`unfound` is asked when the whole book is built: every question, in every wording that docs/QUESTIONS.md gives it, must
find its own page among the first three.
"""

import json
import re
from pathlib import Path

ALSO = re.compile(r"^\*(?:Also asked: |还有人问：)(.+)[.。]\*$", re.MULTILINE)
TERM, TITLE, PARTIAL_TERM, PARTIAL_TITLE, QUESTION_PAGE = 5, 15, 2, 7, 20


class Search:
    """A built book's index; `find` gives the names of pages, best first."""

    def __init__(self, site: Path):
        from bigrams import Bigrams  # Sphinx is an extra
        from sphinx.search.en import SearchEnglish

        text = (site / "searchindex.js").read_text("utf-8")
        self.index = json.loads(text.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
        self.language = (Bigrams if site.name == "zh" else SearchEnglish)({})

    def words(self, query: str) -> set[str]:
        if self.language.lang == "zh":
            return {word for word in self.language.split(query) if not word.isdigit() and self.pages_with(word)}
        words = [word for word in re.findall(r"\w+", query) if not word.isdigit()]
        return {self.language.stem(word) for word in words if word.lower() not in self.language.stopwords}

    def find(self, query: str) -> list[str]:
        pages, scores = self.index["docnames"], {}
        whole = query.lower().strip()
        for title, places in self.index["alltitles"].items():
            if whole in title.lower() and len(whole) >= len(title) / 2:
                for page, _ in places:
                    is_page = self.index["titles"][page] == title
                    scores[page] = max(scores.get(page, 0), round(TITLE * len(whole) / len(title)) + is_page)
        query_words = self.words(query)
        hits: dict[int, dict[str, int]] = {}
        for word in query_words:
            for page, score in self.pages_with(word):
                hits.setdefault(page, {})[word] = score
        for page, matches in hits.items():
            if len(matches) in (len(query_words), sum(len(word) > 2 for word in query_words)):
                scores[page] = max(scores.get(page, 0), *matches.values())
        ranked = {
            page: score + QUESTION_PAGE * pages[page].startswith("docs/questions/") for page, score in scores.items()
        }
        order = sorted(ranked, key=lambda page: (-ranked[page], self.index["titles"][page].lower()))
        return [pages[page] for page in order]

    def pages_with(self, word: str) -> list[tuple[int, int]]:
        """Pages that hold a word in their text or a title, with the score of the place; parts of words count less."""
        places = []
        for table, exact, partial in (("terms", TERM, PARTIAL_TERM), ("titleterms", TITLE, PARTIAL_TITLE)):
            entries = self.index[table]
            if word in entries:
                places.append((entries[word], exact))
            elif len(word) > 2:
                places += [(pages, partial) for entry, pages in entries.items() if word in entry]
        return [(page, score) for pages, score in places for page in (pages if isinstance(pages, list) else [pages])]


def wordings(question: str, answer: str) -> list[str]:
    """The question itself, and what else it says that people type."""
    return [question, *re.split(r", |、", ALSO.search(answer)[1])]


def unfound(site: Path, questions: list[tuple[str, str]]) -> list[str]:
    """The wordings that do not find their page among the first three."""
    search, lines = Search(site), []
    for number, (question, answer) in enumerate(questions, 1):
        for wording in wordings(question, answer):
            first = search.find(wording)[:3]
            if f"docs/questions/{number:02}" not in first:
                lines.append(f"the search for {wording!r} finds {first}, not question {number}: {question}")
    return lines
