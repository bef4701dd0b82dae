"""How the search of the Chinese pages cuts a text into words, as a Sphinx extension.

Chinese is written without blanks, and a dictionary would be a library of its own: every two neighbouring characters
are a word. It begins with _, since Sphinx's search asks only for words of three letters and more. Of a query, pairs
that no page has are left out, or "时间平移是什么" would not find 时间平移.
"""

import re

from sphinx.application import Sphinx
from sphinx.search import SearchLanguage

SPLIT = r"""
function splitQuery(query) {
  const parts = query.toLowerCase().match(/[\u4e00-\u9fff]+|(?:(?![\u4e00-\u9fff])[\p{L}\p{N}_])+/gu) ?? [];
  const isChinese = (part) => /[\u4e00-\u9fff]/.test(part);
  const pairs = (part) => Array.from({ length: part.length - 1 }, (_, i) => "_" + part.slice(i, i + 2));
  const words = parts.flatMap((part) => (isChinese(part) ? pairs(part) : [part]));
  const { terms, titleterms } = Search._index ?? {};
  return terms ? words.filter((word) => word in terms || word in titleterms) : words;
}
"""
PART = re.compile(r"[\u4e00-\u9fff]+|[^\W\u4e00-\u9fff]+")


class Bigrams(SearchLanguage):
    lang, language_name = "zh", "Chinese"
    js_splitter_code = SPLIT

    def split(self, text: str) -> list[str]:
        words = []
        for part in PART.findall(text.lower()):
            is_chinese = "\u4e00" <= part[0] <= "\u9fff"
            words += [f"_{part[i : i + 2]}" for i in range(len(part) - 1)] if is_chinese else [part]
        return words


def setup(app: Sphinx) -> dict:
    app.add_search_language(Bigrams)
    return {"parallel_read_safe": True}
