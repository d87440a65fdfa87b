"""The final answer that a text marks as such."""

from __future__ import annotations

import re
from collections import deque

from saferlrm.maths.values import DECIMAL

LIMIT_TAIL = 10_000  # characters at the end of a text in which "the answer is" is looked for
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_ANSWER = re.compile(
    r"\b(?:answer|correct (?:option|choice))\b(?:\s+(?:to|for)\s[^.:\n]{0,80}?)?"
    r"(?:\s*\*\*)?\s*(?::|=|\bis\b|\bwas\b|\b(?:must|should|would) be\b)(?=(?P<rest>[\s:*]*\S[^\n]*))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?:\.|;)(?=\s|$)|,?\s+(?:because|since|which)\b")
_LAST_LINE = re.compile(r"(?:^|\n|[^#])####[ \t]*([^\n#]*\d[^\n]*)$")
_INNER = re.compile(r"\$+([^$]+)\$+|\\\((.+?)\\\)|\*\*([^*]+)\*\*")
_LAST_NUMBER = re.compile(rf"(?:(?<!\w)[-−]\s?)?[$€£¥₹]?(?<![\w.]){DECIMAL}(?:\s?/\s?\d+)?(?:\s?\\?%)?")


def final_answer(text: str, last_number: bool = False) -> str | None:
    """The answer that a text marks as its last, as written, or None.

    In this order: the last ``\\boxed{...}`` (None if it never closes: the text was cut), what follows the last
    ``####``, and what follows the last "the answer is" up to the end of the sentence. Only with ``last_number`` the
    last number of the text, which may be any number.
    """
    found = marked(text)
    if found is not None:
        return found.strip() or None
    if _BOX.search(text):
        return None
    said = deque(_ANSWER.finditer(text[-LIMIT_TAIL:]), maxlen=1)
    if said:
        rest = said[0]["rest"].strip().lstrip(":* \n")
        found = _SENTENCE_END.split(rest, maxsplit=1)[0].strip(" *`")
        if found:
            return found
    if last_number:
        numbers = _LAST_NUMBER.findall(text[-LIMIT_TAIL:])
        return numbers[-1].strip() if numbers else None
    return None


def marked(text: str) -> str | None:
    """What stands in the last box, or behind #### in the last line (elsewhere #### opens a heading)."""
    last = deque(_BOX.finditer(text), maxlen=1)
    if last:
        return _inside(text, last[0].end())
    match = _LAST_LINE.search(text.rstrip()[-LIMIT_TAIL:])
    return match[1] if match else None


def inner(sentence: str) -> str | None:
    """The one formula or bold part of a sentence, or None if there is none or several."""
    found = _INNER.findall(sentence)
    return next(part for part in found[0] if part) if len(found) == 1 else None


def boxes(text: str) -> list[str]:
    """Contents of all boxes that close."""
    return [inside for match in _BOX.finditer(text) if (inside := _inside(text, match.end()))]


def _inside(text: str, start: int) -> str | None:
    """Content of the braces at ``start``, or the word there; None if the braces never close."""
    if text[start : start + 1] != "{":
        bare = re.compile(r"[^\s$.,\\{}]+").match(text, start)
        return bare[0] if bare else None
    end = _closing(text, start)
    return text[start + 1 : end] if end else None


def _closing(text: str, start: int) -> int | None:
    """Index of the brace that closes the one at ``start``; escaped braces do not count."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return match.start()
    return None
