"""The course as data: its ideas, how they hang together, where each is measured, and what each notebook costs.

The concept graph (:mod:`saferlrm.concept_graph`, :func:`saferlrm.plots.concepts`), the map in notebook 00 and the short
one in the README are all made from here, so that none of them can say something else than the notebooks do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from saferlrm.errors import SaferlrmError
from saferlrm.store import repository

Group = Literal["question", "teacher", "signal", "cure", "verdict"]
GROUPS: dict[Group, str] = {
    "question": "the question",
    "teacher": "the teacher",
    "signal": "the signal",
    "cure": "the cure",
    "verdict": "the verdict",
}
WARM = "finished stages at hand"
COLD = "within `make study`, computing what no earlier notebook has"
PLAN_OPEN = "<!-- plan: written by `saferlrm report --readme`, compared by tests/test_course_map.py -->"
PLAN_CLOSE = "<!-- /plan -->"
OPEN = "<!-- map: written by `saferlrm report --readme`, compared by tests/test_course_map.py -->"
CLOSE = "<!-- /map -->"


@dataclass(frozen=True)
class Place:
    """A heading of a notebook."""

    notebook: str
    heading: str

    def link(self, folder: str = "") -> str:
        """Address of the heading as JupyterLab resolves it; ``folder`` leads to the notebooks."""
        return f"{folder}{self.notebook}.ipynb#{quote(self.heading.replace(' ', '-'), safe='-,?')}"

    def site_link(self) -> str:
        """Address of the heading on the web site, where notebooks are pages and anchors are slugs."""
        return f"{self.notebook}.html#{slug(self.heading)}"


@dataclass(frozen=True)
class Idea:
    """One node of the concept graph.

    Attributes:
        says: the idea in one sentence.
        measured: where the course measures it.
        at: column and row in the drawing, from the top left.
    """

    name: str
    group: Group
    says: str
    measured: Place
    at: tuple[float, float]


@dataclass(frozen=True)
class Edge:
    """``source`` ``verb`` ``target``; ``via`` are points (column, row) that the line bends at."""

    source: str
    verb: str
    target: str
    via: tuple[tuple[float, float], ...] = ()


_N = {
    "01": "01_reasoning_before_answering",
    "02": "02_safety_lost_in_thought",
    "03": "03_probing_latent_safety_signals",
    "04": "04_safety_decision_classifier",
    "05": "05_auxiliary_supervision",
    "06": "06_evaluation",
    "07": "07_controls_and_ablations",
    "08": "08_mechanism",
    "09": "09_rivals_and_robustness",
    "10": "10_claims_ledger",
}

IDEAS: dict[str, Idea] = {
    "model": Idea(
        "Large reasoning model", "question",
        "A language model trained to write its reasoning down before it answers; here a miniature one, or a real one.",
        Place(_N["01"], "One problem in four modes"), (0, 1),
    ),
    "thought": Idea(
        "Chain of thought", "question",
        "Intermediate steps in words, which buy the sequential computation that hard problems need.",
        Place(_N["01"], "Accuracy by depth"), (1, 0),
    ),
    "loss": Idea(
        "Safety lost after the thought", "question",
        "The same model refuses a request when it answers at once, and complies once it has thought about it.",
        Place(_N["02"], "The contrast, paired"), (2, 0),
    ),
    "tension": Idea(
        "Safety against performance", "question",
        "What makes a model refuse more may make it less useful, so no rate means anything alone.",
        Place(_N["06"], "Safety against over-refusal against reasoning"), (3, 0),
    ),
    "teacher": Idea(
        "Safe teacher: thoughts off", "teacher",
        "The same model with its thoughts switched off still refuses well, so nobody else has to label the prompts.",
        Place(_N["02"], "Attack success by suite and mode"), (1, 1),
    ),
    "decision": Idea(
        "Safety decision signal", "teacher",
        "Whether the teacher refused or complied, one bit for each prompt: what it does, mistakes included.",
        Place(_N["04"], "Collecting decisions"), (2, 1),
    ),
    "classifier": Idea(
        "BERT classifier", "teacher",
        "A small encoder that learns to predict the teacher's decision from the words of the prompt.",
        Place(_N["04"], "How good is it?"), (3, 1),
    ),
    "soft": Idea(
        "Soft labels", "teacher",
        "Calibrated probabilities of a refusal, which say how sure the classifier is instead of only which side it "
        "takes.",
        Place(_N["04"], "Is it calibrated?"), (4, 1),
    ),
    "latent": Idea(
        "Latent before the thought", "signal",
        "The hidden state at the last token before the model's own words, where harm can already be read.",
        Place(_N["03"], "By layer"), (1, 2),
    ),
    "head": Idea(
        "Auxiliary linear head", "signal",
        "One weight for each dimension of that state; it reads the decision in training and is thrown away afterwards.",
        Place(_N["07"], "Is it the gradient, and is it the labels?"), (4, 2),
    ),
    "supervision": Idea(
        "Auxiliary supervision", "signal",
        "The head's loss against the soft label, added with a weight to the loss of the next token.",
        Place(_N["07"], "Does the head help beyond plain fine-tuning?"), (3, 2),
    ),
    "gradient": Idea(
        "Safety gradient", "signal",
        "What the head's loss sends back through the state before the thought to all weights below it.",
        Place(_N["05"], "Where the safety gradient arrives"), (2, 2),
    ),
    "know": Idea(
        "Knowing, saying, doing", "cure",
        "A state may hold that a request is harmful while the thought leaves it out and the answer ignores it.",
        Place(_N["08"], "Know, say, do"), (1, 3),
    ),
    "lora": Idea(
        "LoRA alignment", "cure",
        "A thin trainable addition to frozen weights, taught by the model's own refusals and thoughts.",
        Place(_N["05"], "Training"), (3, 3),
    ),
    "before": Idea(
        "Decision before the thought", "cure",
        "The preemptive safety decision: refuse or think is settled at the first token, before a thought is written.",
        Place(_N["06"], "Does the model still think?"), (4, 3),
    ),
    "attack": Idea(
        "A thought begun by others", "verdict",
        "An attacker who writes the first words of the thought steps past a decision that is made before it.",
        Place(_N["09"], "Adaptive attacks"), (4, 4),
    ),
    "evaluation": Idea(
        "Evaluation", "verdict",
        "Attack success, over-refusal and reasoning side by side, on the same prompts, with intervals.",
        Place(_N["06"], "Suite by suite"), (3, 4),
    ),
    "results": Idea(
        "Results", "verdict",
        "Each published claim as a quantity with a bound, judged by a rule that was fixed before the numbers were "
        "known.",
        Place(_N["10"], "The ledger"), (2, 4),
    ),
    "product": Idea(
        "Impact on products", "verdict",
        "What such a decision saves in tokens, what it costs to train, and what it cannot see once deployed.",
        Place(_N["09"], "Scorecard"), (1, 4),
    ),
}  # fmt: skip

EDGES: tuple[Edge, ...] = (
    Edge("model", "writes", "thought"),
    Edge("thought", "can bring", "loss"),
    Edge("thought", "is the gain in", "tension", ((1, -0.62), (3, -0.62))),
    Edge("loss", "is what it costs in", "tension"),
    Edge("model", "can be a", "teacher"),
    Edge("teacher", "gives", "decision"),
    Edge("decision", "trains", "classifier"),
    Edge("classifier", "predicts", "soft"),
    Edge("soft", "are targets of", "head"),
    Edge("model", "holds", "latent"),
    Edge("latent", "is read by", "head", ((1, 1.52), (3.8, 1.52))),
    Edge("head", "adds its loss to", "supervision"),
    Edge("supervision", "sends", "gradient"),
    Edge("gradient", "moves", "latent"),
    Edge("gradient", "reaches", "lora", ((2, 3),)),
    Edge("latent", "is compared with the thought in", "know"),
    Edge("lora", "is to install the", "before"),
    Edge("tension", "asks for", "before", ((4.72, 0), (4.72, 3))),
    Edge("before", "is tested in", "evaluation"),
    Edge("attack", "steps past", "before"),
    Edge("attack", "is part of", "evaluation"),
    Edge("evaluation", "yields", "results"),
    Edge("results", "limit the", "product"),
)

# What each notebook asks; the rest of its row is read from the notebook itself.
QUESTIONS: dict[str, str] = {
    "00_start_here": "What is asked, and of which model?",
    "01_reasoning_before_answering": "What is thinking good for?",
    "02_safety_lost_in_thought": "Does the same model stay safe when it thinks?",
    "03_probing_latent_safety_signals": "Does it know before it thinks?",
    "04_safety_decision_classifier": "Can a small encoder learn its decisions?",
    "05_auxiliary_supervision": "How does the decision get into the model?",
    "06_evaluation": "Is it safe again, at what price, compared with what?",
    "07_controls_and_ablations": "Does the head help, when, and is it the head?",
    "08_mechanism": "Where does the decision sit, and is it used?",
    "09_rivals_and_robustness": "What would others do, and does it hold under pressure?",
    "10_claims_ledger": "Which published claims hold here?",
    "11_real_models": "How is this run on a real model, and what are its instruments worth?",
}

# The plan of somebody who works the course through: when, which notebooks, what to do besides their exercises.
PLAN: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("first morning", ("00", "01", "02"), "write down each prediction before you run on"),
    ("first afternoon", ("03", "04"), "change the token that the probe reads; put your own prompts to the classifier"),
    ("second morning", ("05", "06"), "derive the safety gradient on paper; change λ and run 05 again"),
    ("second afternoon", ("07", "08"), "train one control from the command line"),
    ("third morning", ("09", "10"), "attack the aligned model; add a claim to the ledger"),
    ("third afternoon", ("11",), "estimate what a model of your choice would cost on your card"),
)


def slug(heading: str) -> str:
    """A heading's anchor on GitHub and on the site: lower case, spaces to hyphens, punctuation left out."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def for_site(text: str) -> str:
    """Text of a notebook or of one of its outputs with links to notebooks turned into links to the site's pages."""
    anchors = {place.link(): place.site_link() for place in (idea.measured for idea in IDEAS.values())}
    for old, new in sorted(anchors.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(old, new)
    return text


def headings(notebook: str, root: Path | None = None) -> tuple[str, ...]:
    """The headings of a notebook in their order, of all levels.

    Raises:
        SaferlrmError: there is no such notebook.
    """
    return tuple(re.findall(r"^#+ (.+?)\s*$", _prose(notebook, root or repository()), flags=re.MULTILINE))


@dataclass(frozen=True)
class Row:
    """What the maps say of one notebook.

    Attributes:
        objective: its first one.
        time, memory: with finished stages at hand and, where it differs, within the study.
        exercises: their number and the minutes that they are said to take.
        cpu: ``yes`` if a CPU is enough.
    """

    stem: str
    title: str
    question: str
    objective: str
    time: str
    memory: str
    exercises: str
    cpu: str


def exercise_minutes(*numbers: str) -> tuple[int, int]:
    """How many exercises some notebooks have, and the minutes that these take together."""
    from saferlrm.course.registry import exercises_of  # here, because the exercises use the map's own package

    found = [one for number in numbers for one in exercises_of(number)]
    return len(found), sum(one.minutes for one in found)


def map_rows(root: Path | None = None) -> Iterator[Row]:
    """The notebooks in their order, read from themselves and from their exercises."""
    root = root or repository()
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        text = _prose(path.stem, root)
        title = re.match(r"# (.+)", text)
        objective = re.search(r"^## Objectives.*?^1\. (.+?);?$", text, flags=re.MULTILINE | re.DOTALL)
        warm, cold = _cost(text, WARM), _cost(text, COLD)
        if not title or not objective or not warm or path.stem not in QUESTIONS:
            raise SaferlrmError(f"{path.name} lacks a title, a first objective, costs, or a question in QUESTIONS")
        time = warm[0] if not cold else f"{warm[0]}; in the study {cold[0]}"
        memory = max((part[1] for part in (warm, cold) if part), key=lambda text: float(text.split()[0]))
        cpu = "yes" if "A CPU is enough" in text else "no"
        exercises = "{} in {} min".format(*exercise_minutes(path.name[:2]))
        words = title.group(1).replace(" · ", " "), QUESTIONS[path.stem], objective.group(1).rstrip(";.")
        yield Row(path.stem, *words, time, memory, exercises, cpu)


def map_table(root: Path | None = None, folder: str = "") -> str:
    """The map of the course as a Markdown table; ``folder`` leads from the page to the notebooks."""
    header = "| notebook | question | afterwards you can | exercises | time to run | memory | CPU is enough |"
    lines = [
        f"| [{row.title}]({folder}{row.stem}.ipynb) | {row.question} | {row.objective} | {row.exercises} | "
        f"{row.time} | {row.memory} | {row.cpu} |"
        for row in map_rows(root)
    ]
    return "\n".join([header, "|" + "---|" * 7, *lines])


def compact_map(root: Path | None = None, folder: str = "") -> str:
    """The map in short, for the README: notebook, question, exercises, and time with finished stages at hand."""
    lines = [
        f"| [{row.title}]({folder}{row.stem}.ipynb) | {row.question} | {row.exercises} | {row.time.partition(';')[0]} |"
        for row in map_rows(root)
    ]
    return "\n".join(["| notebook | question | exercises | time to run |", "|---|---|---|---|", *lines])


def plan_table() -> str:
    """The reading plan of a student as a Markdown table, with the minutes that the exercises are said to take."""
    lines = []
    for when, numbers, todo in PLAN:
        names = " to ".join((numbers[0], numbers[-1])) if len(numbers) > 2 else ", ".join(numbers)
        count, minutes = exercise_minutes(*numbers)
        lines.append(f"| {when}: {names} | {count} in {minutes} min | {todo} |")
    return "\n".join(["| a student, in three days | exercises | and besides |", "|---|---|---|", *lines])


def ideas_table(folder: str = "") -> str:
    """All ideas with their sentence and the place where they are measured, as a Markdown table."""
    lines = [
        f"| **{idea.name}** | {idea.says} | [{idea.measured.notebook[:2]}: {idea.measured.heading}]"
        f"({idea.measured.link(folder)}) |"
        for idea in IDEAS.values()
    ]
    return "\n".join(["| idea | in one sentence | measured in |", "|---|---|---|", *lines])


def between_marks(text: str, new: str, what: str, marks: tuple[str, str] = (OPEN, CLOSE)) -> str:
    """``text`` with ``new`` between two marks, those of the map by default.

    Raises:
        SaferlrmError: the marks are missing.
    """
    first, last = marks
    if first not in text or last not in text:
        raise SaferlrmError(f"{what} lacks the marks around its map; put back {first} and {last}")
    before, rest = text.split(first, 1)
    return f"{before}{first}\n\n{new}\n\n{last}{rest.split(last, 1)[1]}"


def write_maps(root: Path | None = None) -> list[Path]:
    """Renews map and plan in notebook 00 and the short map in the README; nothing else in the two files changes."""
    import nbformat  # here, because its validator takes seconds to import, and every notebook draws the map

    root = root or repository()
    readme = root / "README.md"
    _replace(readme, between_marks(readme.read_text(encoding="utf-8"), compact_map(root, "notebooks/"), "README.md"))
    start = root / "notebooks" / "00_start_here.ipynb"
    notebook = nbformat.read(start, as_version=nbformat.NO_CONVERT)
    cells = {cell.id: cell for cell in notebook.cells}
    plan = (PLAN_OPEN, PLAN_CLOSE)
    for name, table, marks in (("map", map_table(root), (OPEN, CLOSE)), ("reading-plan", plan_table(), plan)):
        if name not in cells:
            raise SaferlrmError(f"{start.name} has no cell with the id {name!r}; put back the map of the course")
        cells[name].source = between_marks(cells[name].source, table, start.name, marks)
    _replace(start, nbformat.writes(notebook) + "\n")
    return [readme, start]


def _cost(text: str, run: str) -> tuple[str, str] | None:
    """Time and memory of one row of a notebook's table of costs."""
    found = re.search(rf"^\| {re.escape(run)} \| (.+?) \| (.+?) \|$", text, flags=re.MULTILINE)
    return (found.group(1), found.group(2)) if found else None


def _prose(notebook: str, root: Path) -> str:
    import nbformat

    path = root / "notebooks" / f"{notebook}.ipynb"
    if not path.is_file():
        raise SaferlrmError(f"{path} does not exist; name a notebook of the course")
    cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
