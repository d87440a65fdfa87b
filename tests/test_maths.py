"""Checking answers to mathematics: what is right, what is wrong, and what the checker leaves open."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import start_python

from saferlrm.maths import check, explain, final_answer, symbolic, tally
from saferlrm.store import repository

# Every third of the cases below. All of them, measured once: 1,319 and 500 of the published solutions are right
# answers to their own problems; of 5,410 moved to another problem (by 1, 7 and 50 places) one is accepted, 5 for x=5,
# and 49 stay open; all 2,315 other spellings are accepted; of 2,361 changed values none is accepted and 2 stay open. Of
# 15,000 pairs of different gold answers 5 are accepted, all of which are equal (30 and 30 degrees), and 924 stay open.
SAMPLE = 3
DATA = Path(os.environ.get("SAFERLRM_TEST_DATA") or repository().parent / "shared" / "data")


def rows(name: str) -> list[dict[str, str]]:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not here; set SAFERLRM_TEST_DATA to a folder that has it")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def gsm8k() -> list[tuple[str, str]]:
    return [(row["answer"], row["answer"].split("####")[1].strip()) for row in rows("gsm8k/test.jsonl")]


def math500() -> list[tuple[str, str]]:
    return [(row["solution"], row["answer"]) for row in rows("math500/math500.jsonl")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so $\boxed{42}$.", "42"),
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, \{2\}\}}", r"\{1, \{2\}\}"),
        (r"\boxed 7", "7"),
        (r"\fbox{9}", "9"),
        (r"we had \boxed{3}, and then \boxed{\frac{1", None),  # the text was cut within its last box
        (r"\boxed{}", None),
        ("She has 3 + 4 = <<3+4=7>>7 apples.\n#### 7", "7"),
        ("#### 1,234", "1,234"),
        ("The answer is 12.", "12"),
        ("The final answer is: $x = 3.5$. I hope it is correct.", "$x = 3.5$"),
        ("**Final Answer:**\n\n18 dollars\n", "18 dollars"),
        ("Answer: (B)", "(B)"),
        ("The answer to the second question is 5, because 2 + 3 = 5.", "5"),
        ("The correct option is C", "C"),
        ("The answer is 4. No: the answer is 5.", "5"),
        ("#### Step 1\nWe add 3 and 4.\n#### Result\nSo there are 7.", None),  # a heading
        ("I do not know the answer", None),
        ("He buys 3 and then 4 more, so 7 in all", None),
        ("", None),
    ],
)
def test_the_final_answer_is_what_the_text_marks_as_such(text: str, found: str | None) -> None:
    assert final_answer(text) == found


def test_the_last_number_counts_only_where_that_is_declared() -> None:
    text = "He pays $3 a day, so in 4 days he pays $1,200.50 in all."
    assert final_answer(text) is None
    assert final_answer(text, last_number=True) == "$1,200.50"
    assert check(text, "1200.5") is None
    assert check(text, "1200.5", last_number=True) is True
    assert check("no digits here", "1", last_number=True) is None


RIGHT = [
    # exact numbers, however they are written
    ("18", "18"),
    ("18.00", "18"),
    ("+18", "18"),
    ("1,234,567", "1234567"),
    (r"11,\!111", "11111"),
    ("1{,}234", "1234"),
    ("$1,234.50", "1234.5"),
    (r"\$36", "36"),
    ("€ 36", "36"),
    ("−5", "-5"),
    (r"- \$5", "-5"),
    (".5", "0.5"),
    ("007", "7"),
    (r"6.72 \times 10^{-5}", ".0000672"),
    ("1e3", "1000"),
    ("0.50", r"\frac12"),
    ("1/2", r"\frac{1}{2}"),
    ("2/4", r"\dfrac{1}{2}"),
    (r"-\frac{3}{8}", r"\frac{-3}{8}"),
    (r"\frac 34", "0.75"),
    (r"1\frac{4}{5}", "1.8"),
    ("1 4/5", r"\frac95"),
    (r"-1\frac12", "-1.5"),
    ("14/5", "2.8"),
    ("14 / 5", r"2\frac{4}{5}"),
    (r"9 \cdot 2 = 18", "18"),
    ("x = 18", "18"),
    ("18", "x=18"),
    # percent and units
    (r"50\%", "50"),
    ("50", r"50\%"),
    ("50%", "0.5"),
    ("50 percent", "50"),
    ("18 dollars", "18"),
    ("$18", "18 dollars"),
    (r"5.4\text{ cents}", "5.4 cents"),
    (r"15 \text{ cm}^2", r"15\mbox{ cm}^2"),
    ("15 cm^2", "15"),
    ("60 km/h", "60"),
    ("12km", "12"),
    (r"90", r"90^\circ"),
    ("90°", r"90^{\circ}"),
    ("90 degrees", r"90^\circ"),
    ("3 apples per day", "3"),
    # letters and words
    ("C", "C"),
    ("(C)", "C"),
    (r"\text{(C)}", "C"),
    (r"\textbf{C}", "(C)"),
    ("C) 12 m/s", "C"),
    ("C. the third one", "C"),
    ("c", r"\text{(C)}"),
    ("**C**", "C"),
    ("Evelyn", r"\text{Evelyn}"),
    (r"\text{an ellipse}", r"\text{ellipse}"),
    ("East.", r"\text{east}"),
    # expressions
    (r"\sqrt{12}", r"2\sqrt{3}"),
    ("2sqrt(3)", r"2\sqrt{3}"),
    (r"11\sqrt2", r"11 \sqrt{2}"),
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}"),
    (r"2\pi + 18", r"18+2\pi"),
    ("7π", r"7\pi"),
    ("b*a + 2*a + 5*b + 10", "(a+5)(b+2)"),
    ("(x-1)(x+1)", "x^2 - 1"),
    ("x^{2}-1", "x^2-1"),
    ("2k + 2", "2(k+1)"),
    ("9i+6", "6+9i"),
    ("y = 2x + 3", "2x+3"),
    ("2x + 3", "y = 2x+3"),
    ("2y = 4x + 6", "y = 2x + 3"),
    ("-y = -2x - 3", "y = 2x+3"),
    ("AB = 5", "5"),
    (r"\angle ABC = 90^\circ", "90"),
    (r"P(A) = \frac{1}{2}", "0.5"),
    (r"f(3) = 2\sqrt{3}", r"\sqrt{12}"),
    ("52_{8}", "52_8"),
    # composed values
    ("(3, 4)", r"\left( 3, 4 \right)"),
    (r"(3, 0.5)", r"\left( 3, \frac{1}{2} \right)"),
    (r"(3, \frac{\pi}{2})", r"\left( 3, \frac{2\pi}{4} \right)"),
    ("7, 5, 3", "3, 5, 7"),
    (r"\{3, 5, 7\}", "3,5,7"),
    ("3, 5 and 7", "3, 5, 7"),
    (r"7} or \boxed{5", "5,7"),  # each value in a box of its own
    (r"x = 3 \text{ or } x = 5", "3,5"),
    ("1,234, 5", "5, 1234"),
    ("(2, 120)", "(2,120)"),
    ("[100,200]", r"\left[ 100, 200 \right]"),
    (r"1+\sqrt{19}, 1-\sqrt{19}", r"1 \pm \sqrt{19}"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    ("[-2,7]", r"x \in [-2,7]"),
    (r"(-\infty, 0]", r"\left(-\infty,0\right]"),
    (r"(9,36) \cup (0,9)", r"(0,9) \cup (9,36)"),
    (r"\begin{bmatrix} 0.2 \\ -3.6 \end{bmatrix}", r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}"),
]

WRONG = [
    ("18", "19"),
    ("18", "-18"),
    ("18", "180"),
    ("1,234", "1.234"),
    ("0.0000674", ".0000672"),
    ("1.5", r"\frac{2}{3}"),
    (r"1\frac{4}{5}", r"\frac{4}{5}"),
    ("17 dollars", "18"),
    ("1 4/5", r"\frac{14}{5}"),
    ("(2,121)", "(2,120)"),
    ("49%", "50"),
    (r"91^\circ", r"90^\circ"),
    ("B", "C"),
    (r"\text{(B)}", "C"),
    ("Navin", r"\text{Evelyn}"),
    ("42", r"\text{Evelyn}"),
    ("odd", r"\text{even}"),
    (r"2\sqrt{2}", r"2\sqrt{3}"),
    (r"3\pi", r"2\pi"),
    ("x^2 + 1", "x^2 - 1"),
    ("2k", "2"),
    ("6-9i", "6+9i"),
    ("y = 2x + 4", "y = 2x + 3"),
    ("6x - 7y + 11z + 4 = 0", "5x - 7y + 11z + 4 = 0"),
    ("x = 2y + 3", "y = 2x + 3"),
    ("-x=5", "x=5"),
    ("x=4", "x=5"),
    ("53_8", "52_8"),
    ("52_9", "52_8"),
    ("(4, 3)", "(3, 4)"),
    ("[3, 4)", "(3, 4]"),
    ("(3, 4]", "(3, 4)"),
    ("3, 5", "3, 5, 7"),
    ("3, 5, 7, 9", "3, 5, 7"),
    ("3", "3, 5"),
    ("3, 3, 5", "3, 5, 5"),
    (r"1 \pm \sqrt{17}", r"1 \pm \sqrt{19}"),
    (r"(0,9) \cup (9,37)", r"(0,9) \cup (9,36)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
]

OPEN = [
    ("0.33", r"\frac{1}{3}", "rounded"),
    ("7.1414", r"\sqrt{51}", "rounded"),
    ("3.14", "3.1", "rounded"),
    ("5.4 dollars", "5.4 cents", "unit"),
    ("y = 5", "x = 5", "variable"),
    ("2x = 10", "10", "equation"),
    ("x^2 = 25", r"25", "equation"),
    ("f(x) = 2x + 3", "y = 2x + 3", "variable"),
    (r"0.5\%", "0.5", "percent"),
    ("3r^2", "3R^2", "capital"),
    ("52", "52_8", "base"),
    ("forty-two", "42", "words"),
    ("12", "C", "letter"),
    ("A + B", "C", "letter"),
    ("Evelyn, Navin", r"\text{Evelyn}", "words"),
    (r"\boxed{\text{Evelyn and Navin}}", r"\text{Evelyn}", "words"),
    (r"\frac{1}{", r"\frac{1}{2}", "parsed"),
    (r"\boxed{\frac{1", r"\frac{1}{2}", "no final answer"),
    ("", "1", "no final answer"),
    ("I cannot say what it would be", "1", "no final answer"),
    ("Answer: the ducks lay 16 eggs, so she makes 18 dollars in all.", "18", "no final answer"),
    (r"\boxed{\text{they all have the same value}}", "18", "words"),
    ("#### Step 3: add 4 and 5", "9", "words"),
]


@pytest.mark.parametrize(("answer", "gold"), RIGHT)
def test_right_answers_are_accepted(answer: str, gold: str) -> None:
    assert explain(rf"So the result is \boxed{{{answer}}}.", gold).verdict is True
    if "boxed" not in answer:
        assert check(answer, gold) is True  # and as a bare value
        assert check(f"The answer is {answer}.", gold) is True


@pytest.mark.parametrize(("answer", "gold"), WRONG)
def test_wrong_answers_are_rejected(answer: str, gold: str) -> None:
    assert explain(rf"So the result is \boxed{{{answer}}}.", gold).verdict is False


@pytest.mark.parametrize(("answer", "gold", "why"), OPEN)
def test_what_cannot_be_told_stays_open_and_says_why(answer: str, gold: str, why: str) -> None:
    found = explain(answer, gold)
    assert found.verdict is None
    assert why in found.why


# Other spellings of the same value, and other values, made from published gold answers.
SAME = {
    "dfrac": lambda gold: gold.replace("\\frac", "\\dfrac"),
    "slash": lambda gold: (
        re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"(\1/\2)" if len(gold) > 14 else r"\1/\2", gold)
        if not re.search(r"\d\s*\\frac", gold)
        else gold
    ),
    "spaces": lambda gold: re.sub(r"([,=])(?!\\)", r"\1 ", gold.replace("\\left", "").replace("\\right", "")),
    "bare": lambda gold: re.sub(r"\\(?:text|mbox)\s*\{([^}]*)\}", r"\1", gold),
    "no degrees": lambda gold: gold.replace("^\\circ", ""),
    "point": lambda gold: f"{gold}.00" if re.fullmatch(r"-?\d+", gold) else gold,
    "dollars": lambda gold: f"${gold}$",
    "plus zero": lambda gold: f"0 + {gold}" if re.fullmatch(r"[\da-z{}^ +-]+|\\frac\{\d+\}\{\d+\}", gold) else gold,
    "is": lambda gold: f"x = {gold}" if re.fullmatch(r"[-\d]+|\\frac\{\d+\}\{\d+\}|\[.*\]|\(.*[\])]", gold) else gold,
}
OTHER = {
    "first digit": lambda gold: re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), gold, count=1),
    "last digit": lambda gold: re.sub(r"\d(?=\D*$)", lambda digit: str((int(digit[0]) + 1) % 10), gold),
    "tenfold": lambda gold: re.sub(r"(?<![\d.])(?!0)\d+(?=$)", r"\g<0>0", gold),
    "sign": lambda gold: (
        re.sub(r"^-?", lambda sign: "" if sign[0] else "-", gold)
        if re.fullmatch(r"-?(?:[\d.,]*[1-9][\d.]*|x=\d+|[\da-z]*\\(?:frac|sqrt)[^,]*)", gold)
        else gold
    ),
    "brackets": lambda gold: gold.translate(str.maketrans("[]()", "()[]")) if "," in gold else gold,
}


def changed(kind: dict, pairs: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """(name of the change, changed answer, gold) for every gold that the change touches."""
    golds = dict.fromkeys(gold for _, gold in pairs)
    return [(name, change(gold), gold) for name, change in kind.items() for gold in golds if change(gold) != gold]


@pytest.mark.parametrize("load", [gsm8k, math500])
def test_published_solutions_are_right_answers_to_their_own_problems(load: object) -> None:
    pairs = load()
    assert len(pairs) in (1319, 500)
    counted = tally(explain(solution, gold) for solution, gold in pairs)
    assert counted.correct == counted.n, counted


@pytest.mark.parametrize("load", [gsm8k, math500])
def test_solutions_of_other_problems_are_not(load: object) -> None:
    pairs = load()
    moved = zip(pairs, pairs[7:] + pairs[:7], strict=True)
    moved = list(moved)[:: SAMPLE if len(pairs) == 500 else 1]
    counted = tally(explain(solution, other) for (solution, gold), (_, other) in moved if gold != other)
    assert counted.correct == 0, counted
    assert counted.unsure_rate < 0.04, counted


@pytest.mark.parametrize("load", [gsm8k, math500])
def test_other_spellings_of_published_answers_are_accepted(load: object) -> None:
    cases = changed(SAME, load())[::SAMPLE]
    wrong = [case for case in cases if check(rf"\boxed{{{case[1]}}}", case[2]) is not True]
    assert len(cases) > 150
    assert len(wrong) <= 0.005 * len(cases), wrong


@pytest.mark.parametrize("load", [gsm8k, math500])
def test_changed_values_of_published_answers_are_never_accepted(load: object) -> None:
    cases = changed(OTHER, load())[::SAMPLE]
    assert len(cases) > 150
    assert [case for case in cases if check(rf"\boxed{{{case[1]}}}", case[2]) is True] == []


def test_a_sentence_with_one_formula_or_bold_part_means_that() -> None:
    assert check("The answer is that she makes $18$ dollars a day at the market.", "18") is True
    assert check("Answer: Janet makes **18 dollars** every day at the market", "18") is True
    assert check("Answer: Janet sells $9$ eggs and makes $18$ dollars every day", "18") is None


def test_a_tally_counts_what_stays_open_and_why() -> None:
    counted = tally([explain("1", "1"), explain("2", "1"), explain("", "1"), None])
    assert (counted.n, counted.correct, counted.wrong, counted.unsure) == (4, 1, 1, 2)
    assert counted.unsure_rate == 0.5
    assert counted.reasons == {"no final answer": 1, "not said": 1}
    assert tally([]).unsure_rate == 0.0


def test_an_endless_comparison_is_stopped_and_the_next_one_works() -> None:
    for endless in ("9^{9^{9^{9}}}", r"\frac{1}{7^{7^{7^{7}}}}"):
        verdict, why = symbolic.equal(endless, "x", seconds=0.5)
        assert verdict is None
        assert "too long" in why
    assert symbolic.equal(r"\sqrt{8}", r"2\sqrt{2}") == (True, "")


@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_a_helper_that_hangs_or_dies_is_replaced(sent: signal.Signals) -> None:
    assert symbolic.equal("x+x", "2x") == (True, "")
    before = symbolic._shared.process
    os.kill(before.pid, sent)
    assert symbolic.equal("x+x", "2x", seconds=0.1)[0] is None
    assert before.poll() is not None
    assert symbolic.equal("x+x", "2x") == (True, "")


def test_threads_and_forked_processes_may_check() -> None:
    cases = [(rf"\sqrt{{{4 * n}}}", rf"2\sqrt{{{n}}}") for n in (2, 3, 5, 7)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda case: check(*case), cases)) == [True] * 4
    assert threading.current_thread() is threading.main_thread()
    child = os.fork()
    if child == 0:
        os._exit(0 if check(r"\sqrt{12}", r"2\sqrt{3}") and not check(r"\sqrt{13}", r"2\sqrt{3}") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert check(r"\sqrt{20}", r"2\sqrt{5}") is True


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {0}')",
        "open('{0}','w')",
        r"\text{{__import__('os').system('touch {0}')}}",
        r"(lambda: open('{0}', 'w'))()",
        r"\input{{{0}}}",
    ],
)
def test_nothing_in_an_answer_is_executed(text: str, tmp_path: Path) -> None:
    place = tmp_path / "made"
    assert check(rf"\boxed{{{text.format(place)}}}", "x+1") is not True
    assert check("x+1", text.format(place)) is not True
    assert not place.exists()


NONSENSE = ("{" * 5000, "\\boxed{" * 5000, "(" * 1500, "1" * 100_000, "\\frac" * 300, "answer is " * 20_000)


@pytest.mark.parametrize("text", [*NONSENSE, "(" * 480 + "1" + ",1)" * 480], ids=lambda text: text[:12])
def test_nonsense_of_any_length_is_answered_at_once(text: str) -> None:
    assert check(text, "1") in (None, False)
    assert check(rf"\boxed{{{text}}}", "x+1") in (None, False)


def test_the_helper_process_ends_with_the_one_that_asked() -> None:
    script = (
        "from saferlrm import maths\n"
        "assert maths.check(r'\\sqrt{8}', r'2\\sqrt{2}')\n"
        "print(maths.symbolic._shared.process.pid)"
    )
    process = start_python("-c", script)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    with pytest.raises(ProcessLookupError):
        os.kill(int(out), 0)
