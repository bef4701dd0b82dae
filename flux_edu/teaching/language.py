"""The language of what panels, exercises and questions say: English, or that of the catalogue in FLUX_EDU_LOCALE.

`python run.py --language zh` makes the catalogue from docs/locale and sets the variable; errors stay English.
"""

import gettext
import os
import re
from collections.abc import Callable
from functools import cache

NUMBER = re.compile(r"(?<![A-Za-z0-9_.])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![A-Za-z0-9])")


@cache
def catalogue() -> gettext.NullTranslations:
    folder = os.environ.get("FLUX_EDU_LOCALE")
    return gettext.translation("flux_edu", folder, ["zh_CN"], fallback=True) if folder else gettext.NullTranslations()


def translate(text: str) -> str:
    """A text in the reader's language, or as it is where the catalogue does not have it."""
    return catalogue().gettext(text) if text else text


def translate_numbers(text: str, translate: Callable[[str], str] = translate) -> str:
    """The same for a text with numbers, which the catalogue has with {0}, {1} … in their places."""
    count = iter(range(len(text)))
    pattern = NUMBER.sub(lambda _: f"{{{next(count)}}}", text)
    translated = translate(pattern)
    return text if translated == pattern else translated.format(*NUMBER.findall(text))
