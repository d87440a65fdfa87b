"""Two final answers compared: as choices, numbers, words, part by part, and as expressions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from saferlrm.maths import symbolic
from saferlrm.maths.values import TEXT, number, parts, words

_LETTER = re.compile(r"\(?\s*([A-Ja-j])\s*(?:$|\)\s*$|[).:]\s+\S.*$|\)\s*\S.*$)", re.DOTALL)
_NAME = re.compile(r"(?:\\text\s*\{[^{}]*\}|\\?[A-Za-z]+(?:\s+[A-Z]+)?'*(?:_\{?\w+\}?)?(?:\s*\([^()=]*\))?|\|[^|=]+\|)")
_COMPOUND = "an equation"
_NUMBER_WORDS = re.compile(
    r"zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|teen|twenty|thirty|forty|fifty|hundred|thousand|"
    r"million|half|third|quarter|none|first|second"
)


Verdict = tuple[bool | None, str]  # and the reason for None
LIMIT_PARTS = 64


def compare(answer: str, gold: str) -> Verdict:
    """Whether two cleaned values are the same, and why not if that is not known."""
    if _squeeze(answer) == _squeeze(gold):
        return True, ""
    for way in (_compare_letters, _compare_numbers, _compare_bases, _compare_words, _compare_parts):
        found = way(answer, gold)
        if found is not None:
            return found
    return _compare_symbols(answer, gold)


def _squeeze(text: str) -> str:
    # A space between digits stays: 1 4/5 is not 14/5.
    pattern = r"(?<!\d)\s+|\s+(?!\d)|(?<=[_^])\{(\w)\}"
    return re.sub(pattern, lambda match: match[1] or "", TEXT.sub(r"\1", text))


def _compare_letters(answer: str, gold: str) -> Verdict | None:
    wanted = re.fullmatch(r"\(?([A-J])[).]?", TEXT.sub(r"\1", gold).strip())
    if wanted is None:
        return None
    chosen = _LETTER.match(TEXT.sub(r" \1 ", answer).replace("*", "").strip())
    if chosen is None:
        return None, "no letter of a choice"
    return chosen[1].upper() == wanted[1], ""


def _compare_numbers(answer: str, gold: str) -> Verdict | None:
    (name, mine), (wanted_name, theirs) = _named(answer), _named(gold)
    theirs, mine = number(theirs), number(mine)
    if theirs is None or mine is None:
        return None
    if _COMPOUND in (name, wanted_name):
        return None if name and wanted_name else (None, "an equation against a value")
    if name and wanted_name and name != wanted_name and mine.value == theirs.value:
        return None, "another variable"
    if mine.unit and theirs.unit and mine.unit != theirs.unit:
        return None, "another unit"
    if mine.value == theirs.value and mine.percent == theirs.percent:
        return True, ""
    if mine.percent != theirs.percent:  # "what percent" may be answered by 50 or by 50 %, and 0.5 is 50 %
        if mine.value == theirs.value and abs(mine.value) <= 1:
            return None, "percent or share"
        ratio = 100 if mine.percent else Fraction(1, 100)
        return mine.value in (theirs.value, theirs.value * ratio), ""
    for one, other in ((mine, theirs), (theirs, mine)):
        if one.decimals and abs(one.value - other.value) <= Fraction(1, 2 * 10**one.decimals):
            return None, "one is the other, rounded"
    return False, ""


def _named(text: str) -> tuple[str, str]:
    """Name and value of "x = 5" or "2 + 3 = 5" (no name); the name is `_COMPOUND` for "2x = 5"."""
    *left, value = re.split(r"(?<![<>!])=|\\approx|≈", text)
    if not left:
        return "", text
    name = left[0].strip()
    if not re.search(r"[A-Za-z]", re.sub(r"\\(?:cdot|times|frac|sqrt|pi|div)\b", "", name)):
        return "", value.strip()
    return (name if _NAME.fullmatch(name) else _COMPOUND), value.strip()


def _compare_symbols(answer: str, gold: str) -> Verdict:
    (name, mine), (wanted_name, theirs) = _named(answer), _named(gold)
    if bool(name) != bool(wanted_name):
        if _COMPOUND in (name, wanted_name):
            return None, "an equation against a value"
        return symbolic.equal(_latex(mine), _latex(theirs))
    verdict, why = symbolic.equal(_latex(answer), _latex(gold))
    used, wanted = _variables(answer), _variables(gold)
    if verdict and used != wanted and {v.lower() for v in used} == {v.lower() for v in wanted}:
        return None, "small and capital letters"  # the library takes r for R
    renamed = name and name != wanted_name and _COMPOUND not in (name, wanted_name)
    if verdict is False and renamed and symbolic.equal(_latex(mine), _latex(theirs))[0] is not False:
        return None, "another variable"  # f(x) = 2x may be what is called y = 2x
    return verdict, why


def _variables(text: str) -> set[str]:
    return set(re.sub(r"\\[A-Za-z]+|[^A-Za-z]", "", text))


def _compare_bases(answer: str, gold: str) -> Verdict | None:
    pattern = r"([\dA-F]+)_\{?(\d+)\}?"
    theirs, mine = re.fullmatch(pattern, gold), re.fullmatch(pattern, answer)
    if theirs is None and mine is None:
        return None
    if theirs and mine:
        return theirs.groups() == mine.groups(), ""
    digits = (theirs or mine)[1]
    other = answer if theirs else gold
    if re.fullmatch(r"[\dA-F]+", other):
        return (None, "no number base") if other == digits else (False, "")
    return None, "no number base"


def _compare_words(answer: str, gold: str) -> Verdict | None:
    wanted, said = words(gold), words(answer)
    if wanted is None and said is None:
        return (None, "words against an expression") if _is_prose(answer) and not _is_prose(gold) else None
    if wanted is None or said is None:
        if said is None and number(answer) and not _NUMBER_WORDS.search(wanted):
            return False, ""
        return None, "words against an expression"
    if wanted == said:
        return True, ""
    longer = f" {said} ", f" {wanted} "
    if longer[0] in longer[1] or longer[1] in longer[0]:
        return None, "more words, or fewer"
    return False, ""


def _compare_parts(answer: str, gold: str) -> Verdict | None:
    theirs, mine = parts(gold), parts(answer)
    if theirs is None or (mine is None and theirs[0] != "list"):
        return None
    mine = mine or ("list", [answer])
    kinds = {mine[0], theirs[0]}
    if len(mine[1]) != len(theirs[1]) or (kinds != {mine[0]} and not kinds <= {"list", "()"}):
        return False, ""
    if max(len(mine[1]), len(theirs[1])) > LIMIT_PARTS:
        return None, "too long to compare"
    if kinds == {"list"} or kinds == {"cup"}:
        return _unordered(mine[1], theirs[1])
    return _all([compare(one, other) for one, other in zip(mine[1], theirs[1], strict=True)])


def _unordered(mine: Sequence[str], theirs: Sequence[str]) -> Verdict:
    left, results = list(mine), []
    for gold in theirs:
        found = [compare(one, gold) for one in left]
        best = next((i for want in (True, None) for i, (verdict, _) in enumerate(found) if verdict is want), None)
        if best is None:
            return False, ""
        results.append(found[best])
        left.pop(best)
    return _all(results)


def _all(results: Sequence[Verdict]) -> Verdict:
    for want in (False, None):
        for verdict, why in results:
            if verdict is want:
                return verdict, why
    return True, ""


def _latex(text: str) -> str:
    """Plain spellings of functions as LaTeX; units and equations stay."""
    text = re.sub(r"(?<!\\)\bsqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = text.replace("π", "\\pi ").replace("∞", "\\infty ")
    text = re.sub(r"(?<!\\)\b(pi|infty|sin|cos|tan|log|ln)\b", r"\\\1", text)
    text = re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", text)
    return re.sub(r"√\s*(\d+|\([^()]*\))", r"\\sqrt{\1}", text).replace("**", "^").replace("*", "\\cdot ")


def _is_prose(text: str) -> bool:
    return len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{3,}", TEXT.sub(r" \1 ", text))) > 2


def is_bare(text: str) -> bool:
    """A number, a choice, an expression or up to two words; not a sentence."""
    if number(text) or _LETTER.match(text):
        return True
    return len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", "", text))) <= 2
