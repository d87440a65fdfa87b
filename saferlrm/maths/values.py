"""Values in the text of an answer: one spelling, exact numbers with their units, words, and composed values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)"
DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_PART = rf"(?:\{{\s*([+-]?\s*{DECIMAL})\s*\}}|(\d))"
_FRACTION = rf"(?:\\frac\s*{_PART}\s*{_PART}|({_INTEGER})\s*/\s*({_INTEGER}))"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>[$€£¥₹]?)\s*(?P<inner>[+-]?)\s*"
    rf"(?:(?:(?P<mixed>{_INTEGER})(?:\s+|(?=\\frac)))?(?P<fraction>{_FRACTION})|(?P<decimal>{DECIMAL}))"
    rf"(?:\s*(?:\\times|\\cdot|[×*x])\s*10\s*\^\s*(?:\{{\s*(?P<power>[+-]?\d{{1,3}})\s*\}}|(?P<digit>-?\d{{1,3}}))"
    rf"|[eE](?P<e>[+-]?\d{{1,3}})(?![\d.]))?"
    rf"(?P<rest>.*)",
    re.DOTALL,
)
_UNIT_WORDS = re.compile(r"[A-Za-z°.'/ -]+(?:\^\{?[23]\}?)?")
_ATTACHED = re.compile(r"(?:cm|mm|km|kg|mg|ml|ft|lbs?|mph|kph|hrs?|mins?|am|pm|degrees?|°)\b")
_AND = re.compile(r"(?:\s|(?<=\d)|\\text\s*\{)\s*(?:and|or)\b\s*\}?")
_CURRENCY = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
TEXT = re.compile(r"\\(?:text|mbox|textbf|textit|textrm|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")


@dataclass(frozen=True)
class Number:
    """An exact number; ``decimals``: digits behind its point, None for an integer or a fraction."""

    value: Fraction
    decimals: int | None
    percent: bool
    unit: str


def clean(text: str) -> str:
    """One spelling for what means the same: delimiters, spaces, fractions, signs, degrees."""
    text = text.strip().strip("*`").strip()
    for old, new in (("−", "-"), ("–", "-"), ("’", "'"), ("\\%", "%"), ("\\$", "\0"), ("{,}", ","), ("%", " % ")):
        text = text.replace(old, new)
    text = re.sub(r",\s*\\!\s*", ",", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![A-Za-z])", "", text)
    text = re.sub(r"\\[,;:!]|\\quad|\\qquad|\\ |~|&nbsp;", " ", text)
    text = re.sub(r"\s*\^\s*\{?\s*\\circ\s*\}?|°", " degrees ", text)
    text = re.sub(r"\\(?:\(|\)|\[|\])", "", text)
    paired = re.fullmatch(r"\$+([^$]*)\$+", text.rstrip(". "))
    text = paired[1] if paired else text
    text = re.sub(r"\$(?!\s*[\d.])|(?<=[\d}])\$", "", text).replace("\0", "$")
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"(?<=[\w})\]%])\.$", "", text).strip()


def number(text: str) -> Number | None:
    """The exact value of a number with or without unit, or None for anything else."""
    match = _NUMBER.fullmatch(text)
    if match is None or (match["sign"] and match["inner"]):
        return None
    try:
        value, decimals = _value(match)
    except (ValueError, ZeroDivisionError):
        return None
    rest = match["rest"]
    percent = bool(re.match(r"\s*(?:%|percent\b|\\text\s*\{\s*percent\s*\})", rest))
    rest = re.sub(r"^\s*(?:%|percent\b|\\text\s*\{\s*percent\s*\})", "", rest)
    unwrapped = TEXT.sub(r" \1", rest)
    plain = unwrapped.strip()
    if plain and unwrapped == rest and not rest.startswith(" ") and not _ATTACHED.match(rest):
        return None  # 2k is a product, 2 km a length
    if plain and (not _UNIT_WORDS.fullmatch(plain) or (unwrapped == rest and re.fullmatch(r"\w", plain))):
        return None
    if len(plain.split()) > 6:
        return None
    unit = _unit(plain) or _CURRENCY.get(match["currency"], "")
    return Number(value, decimals, percent, unit)


def _value(match: re.Match[str]) -> tuple[Fraction, int | None]:
    def exact(digits: str) -> Fraction:
        return Fraction(digits.replace(",", "").replace(" ", "").rstrip("."))

    if match["fraction"]:
        parts = [group for group in re.fullmatch(_FRACTION, match["fraction"]).groups() if group]
        value, decimals = exact(parts[0]) / exact(parts[1]), None
        if match["mixed"]:
            if parts[0].startswith("-"):
                raise ValueError
            value += exact(match["mixed"])
    else:
        digits = match["decimal"]
        value, decimals = exact(digits), len(digits.partition(".")[2]) or None
    power = int(match["power"] or match["digit"] or match["e"] or 0)
    if power and decimals is not None:
        decimals = max(0, decimals - power) or None
    return (-1 if "-" in (match["sign"], match["inner"]) else 1) * value * Fraction(10) ** power, decimals


def _unit(words: str) -> str:
    words = re.sub(r"[\^{}.]|\b(?:the|of|in|a|an|per)\b", " ", words.lower()).replace("/", " ")
    return " ".join(re.sub(r"(?<=\w\w)s$", "", word) for word in words.split())


def words(text: str) -> str | None:
    """Words in small letters without articles, or None for what is no text."""
    plain = TEXT.sub(r" \1 ", text)
    if re.search(r"[\\\d^_=<>+*/(){}\[\]|,]", plain) or not re.search(r"[A-Za-z]{2}", plain):
        return None
    if plain == text and not re.fullmatch(r"[A-Za-z' .-]*[A-Za-z]{3}[A-Za-z' .-]*", plain):
        return None  # ab is a product
    words = re.sub(r"[^\w' -]", " ", plain.casefold()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the")) or None


def parts(text: str) -> tuple[str, list[str]] | None:
    """Kind (brackets, ``list``, ``cup`` or a matrix's shape) and parts of a composed value; None for a simple one."""
    text = re.sub(r"^[A-Za-z]\s*(?:\\in\b|=(?=\s*[(\[\\{]))\s*(?=[(\[]|\\\{|\\begin)", "", text)
    matrix = re.fullmatch(r"\\begin\s*\{([bpvB]?matrix)\}(.*)\\end\s*\{\1\}", text.strip(), re.DOTALL)
    if matrix:
        rows = [row.split("&") for row in re.split(r"\\\\", matrix[2]) if row.strip()]
        return f"matrix {[len(row) for row in rows]}", [clean(cell) for row in rows for cell in row]
    pieces = _split(text, "\\cup")
    if len(pieces) > 1:
        return "cup", pieces
    opening, closing = text[:1], text[-1:]
    kind, inner = "list", text
    if text.startswith("\\{") and text.endswith("\\}"):
        inner = text[2:-2]
    elif opening in ("(", "[") and closing in (")", "]") and len(_split(text[1:-1], ",", thousands=False)) > 1:
        kind, inner = opening + closing, text[1:-1]
    pieces = _split(inner, ",", thousands=kind == "list" and inner == text)
    if kind == "list":
        pieces = [part for piece in pieces for part in _AND.split(piece)]
        pieces = [signed for piece in pieces for signed in _both_signs(piece)]
    pieces = [piece.strip() for piece in pieces if piece.strip()]
    return (kind, pieces) if len(pieces) > 1 else None


def _both_signs(text: str) -> list[str]:
    if text.count("\\pm") + text.count("±") != 1:
        return [text]
    return [re.sub(r"\\pm|±", sign, text) for sign in "+-"]


def _split(text: str, mark: str, thousands: bool = True) -> list[str]:
    """Parts between marks that stand outside all brackets; with ``thousands``, 1,234 has no mark."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        if text.startswith(mark, at) and depth == 0 and not (thousands and _is_thousands(text, at)):
            parts.append(text[start:at].strip())
            start = at + len(mark)
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[at], 0)
        at += 1
    return [*parts, text[start:].strip()]


def _is_thousands(text: str, at: int) -> bool:
    return bool(re.match(r",\d{3}(?!\d)", text[at:]) and re.search(r"(?<!\d)\d{1,3}(?:,\d{3})*$", text[:at]))
