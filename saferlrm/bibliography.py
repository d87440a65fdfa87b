"""What the course cites, once each, with its authors, its title and a stable link."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import nbformat

from saferlrm.store import repository

ARXIV = re.compile(r"\d{2}(?:0[1-9]|1[0-2])\.\d{4,5}")
DOI = re.compile(r"10\.\d{4,9}/\S+")
# A number of this form is an arXiv id where its first four digits are a year from 2007 on and a month.
IN_TEXT = re.compile(r"(?<![\d.])(?:0[7-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])\.\d{4,5}(?![\d.]*\d)")
DOI_IN_TEXT = re.compile(r"(?:doi\.org/|\bdoi:\s*|\bDOI )(10\.\d{4,9}/[^\s)\"'`\\]+)")
PAGE = "docs/bibliography.md"


@dataclass(frozen=True)
class Entry:
    """One source.

    Attributes:
        id: arXiv id or DOI; for the rare source without either, its address.
        cited: how text without the id cites it, e.g. ``Newcombe 1998``, as a regular expression; empty for arXiv ids.
    """

    id: str
    authors: str
    title: str
    year: int
    cited: str = ""

    @property
    def link(self) -> str:
        """Stable address."""
        if ARXIV.fullmatch(self.id):
            return f"https://arxiv.org/abs/{self.id}"
        return self.id if self.id.startswith("https://") else f"https://doi.org/{quote(self.id, safe='/')}"


ENTRIES: tuple[Entry, ...] = (
    Entry("1706.04599", "C. Guo et al.", "On Calibration of Modern Neural Networks", 2017),
    Entry(
        "1909.05858", "N. S. Keskar et al.",
        "CTRL: A Conditional Transformer Language Model for Controllable Generation", 2019,
    ),
    Entry("2001.08361", "J. Kaplan et al.", "Scaling Laws for Neural Language Models", 2020),
    Entry("2106.09685", "E. J. Hu et al.", "LoRA: Low-Rank Adaptation of Large Language Models", 2021),
    Entry("2107.03374", "M. Chen et al.", "Evaluating Large Language Models Trained on Code", 2021),
    Entry("2110.14168", "K. Cobbe et al.", "Training Verifiers to Solve Math Word Problems", 2021),
    Entry("2201.11903", "J. Wei et al.", "Chain-of-Thought Prompting Elicits Reasoning in Large Language Models", 2022),
    Entry("2203.11171", "X. Wang et al.", "Self-Consistency Improves Chain of Thought Reasoning in Language "
        "Models", 2022),
    Entry(
        "2305.13245",
        "J. Ainslie et al.",
        "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints",
        2023,
    ),
    Entry("2305.14314", "T. Dettmers et al.", "QLoRA: Efficient Finetuning of Quantized LLMs", 2023),
    Entry("2305.20050", "H. Lightman et al.", "Let's Verify Step by Step", 2023),
    Entry(
        "2306.03341", "K. Li et al.",
        "Inference-Time Intervention: Eliciting Truthful Answers from a Language Model", 2023,
    ),
    Entry("2307.02483", "A. Wei, N. Haghtalab, J. Steinhardt", "Jailbroken: How Does LLM Safety Training Fail?", 2023),
    Entry("2307.13702", "T. Lanham et al.", "Measuring Faithfulness in Chain-of-Thought Reasoning", 2023),
    Entry(
        "2308.01263", "P. Röttger et al.",
        "XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in Large Language Models", 2023,
    ),
    Entry("2311.12022", "D. Rein et al.", "GPQA: A Graduate-Level Google-Proof Q&A Benchmark", 2023),
    Entry(
        "2312.06674", "H. Inan et al.",
        "Llama Guard: LLM-based Input-Output Safeguard for Human-AI Conversations", 2023,
    ),
    Entry(
        "2402.04249", "M. Mazeika et al.",
        "HarmBench: A Standardized Evaluation Framework for Automated Red Teaming and Robust Refusal", 2024,
    ),
    Entry("2402.10260", "A. Souly et al.", "A StrongREJECT for Empty Jailbreaks", 2024),
    Entry(
        "2404.01318", "P. Chao et al.",
        "JailbreakBench: An Open Robustness Benchmark for Jailbreaking Large Language Models", 2024,
    ),
    Entry(
        "2404.02151", "M. Andriushchenko, F. Croce, N. Flammarion",
        "Jailbreaking Leading Safety-Aligned LLMs with Simple Adaptive Attacks", 2024,
    ),
    Entry("2405.20947", "J. Cui et al.", "OR-Bench: An Over-Refusal Benchmark for Large Language Models", 2024),
    Entry("2406.05946", "X. Qi et al.", "Safety Alignment Should Be Made More Than Just a Few Tokens Deep", 2024),
    Entry("2406.11717", "A. Arditi et al.", "Refusal in Language Models Is Mediated by a Single Direction", 2024),
    Entry(
        "2406.18510", "L. Jiang et al.",
        "WildTeaming at Scale: From In-the-Wild Jailbreaks to (Adversarially) Safer Language Models", 2024,
    ),
    Entry("2501.19393", "N. Muennighoff et al.", "s1: Simple test-time scaling", 2025),
    Entry(
        "2502.12025", "F. Jiang et al.",
        "SafeChain: Safety of Language Models with Long Chain-of-Thought Reasoning Capabilities", 2025,
    ),
    Entry(
        "2503.00555", "T. Huang et al.",
        "Safety Tax: Safety Alignment Makes Your Large Reasoning Models Less Reasonable", 2025,
    ),
    Entry("2504.01903", "Z. Wang et al.", "STAR-1: Safer Alignment of Reasoning LLMs with 1K Data", 2025),
    Entry(
        "2505.14667", "W. Jeung, S. Yoon, M. Kahng, A. No",
        "SAFEPATH: Preventing Harmful Reasoning in Chain-of-Thought via Early Alignment", 2025,
    ),
    Entry("2505.05410", "Y. Chen et al.", "Reasoning Models Don't Always Say What They Think", 2025),
    Entry("2505.16186", "K. Zhou et al.", "SafeKey: Amplifying Aha-Moment Insights for Safety Reasoning", 2025),
    Entry(
        "2507.17075", "Y. Xue, B. Mirzasoleiman", "LoRA is All You Need for Safety Alignment of Reasoning LLMs", 2025,
    ),
    Entry("2510.06036", "Q. Yin et al.", "Refusal Falls off a Cliff: How Safety Alignment Fails in Reasoning?", 2025),
    Entry("2511.15169", "X. Gao et al.", "SafeRBench: Dissecting the Reasoning Safety of Large Language Models", 2025),
    Entry("2601.03662", "S.-H. Kim, H. Jin, Y. Lee, Y.-S. Han",
        "How Does the Thinking Step Influence Model Safety? An Entropy-based Safety Reminder for LRMs", 2026,
    ),
    Entry("2601.23143", "S. Lee et al.", "THINKSAFE: Self-Generated Safety Alignment for Reasoning Models", 2026),
    Entry(
        "2602.02136", "Y. Xie et al.",
        "Mitigating Safety Tax via Distribution-Grounded Refinement in Large Reasoning Models", 2026,
    ),
    Entry(
        "2603.17368", "J. Chen, Z. Zhang, S. He, L. Yue, L. Feng, M.-L. Zhang",
        "Towards Safer Large Reasoning Models by Promoting Safety Decision-Making before Chain-of-Thought Generation",
        2026,
    ),
    Entry(
        "2603.26410", "R. J. Young",
        "Why Models Know But Don't Say: Chain-of-Thought Faithfulness Divergence Between Thinking Tokens and Answers "
        "in Open-Weight Reasoning Models", 2026,
    ),
    Entry("2604.24074", "X. Zhang", "How Sensitive Are Safety Benchmarks to Judge Configuration Choices?", 2026),
    Entry("2605.12726", "S. Doda", "Before the Last Token: Diagnosing Final-Token Safety Probe Failures", 2026),
    Entry("2606.25013", "N. Ri, A. Panigrahi, S. Arora", "Do Thinking Tokens Help with Safety?", 2026),
    Entry(
        "10.1080/01621459.1927.10502953", "E. B. Wilson",
        "Probable Inference, the Law of Succession, and Statistical Inference", 1927, r"Wilson's interval",
    ),
    Entry(
        "10.1007/BF02295996", "Q. McNemar",
        "Note on the sampling error of the difference between correlated proportions or percentages", 1947,
        r"McNemar's exact test",
    ),
    Entry(
        "10.1093/oxfordjournals.aje.a112510", "W. J. Rogan, B. Gladen",
        "Estimating prevalence from the results of a screening test", 1978, r"Rogan and Gladen",
    ),
    Entry(
        "https://www.jstor.org/stable/4615733", "S. Holm", "A Simple Sequentially Rejective Multiple Test Procedure",
        1979, r"Holm's (?:method|correction)",
    ),
    Entry(
        "10.1007/BF01068419", "D. J. Schuirmann",
        "A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence of "
        "average bioavailability", 1987, r"Schuirmann, J\. Pharmacokinet\.",
    ),
    Entry(
        "10.2307/2531595", "E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson",
        "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves: A Nonparametric "
        "Approach", 1988, r"DeLong et al\., Biometrics 1988",
    ),
    Entry(
        "10.1109/SEQUEN.1997.666900", "A. Z. Broder", "On the resemblance and containment of documents", 1997,
        r"Broder 1997",
    ),
    Entry(
        "10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C", "R. G. Newcombe",
        "Improved confidence intervals for the difference between binomial proportions based on paired data", 1998,
        r"Newcombe 1998, method 8|Newcombe, Stat\. Med\. 17, 1998, method 8",
    ),
    Entry(
        "https://dl.acm.org/doi/10.5555/1642194.1642224", "C. Elkan", "The Foundations of Cost-Sensitive Learning",
        2001, r"Elkan, The foundations of cost-sensitive learning",
    ),
    Entry(
        "10.1002/sim.2532", "S. L. Hillis",
        "A comparison of denominator degrees of freedom methods for multiple observer ROC analysis", 2007,
        r"Hillis, Stat\. Med\. 2007",
    ),
    Entry(
        "10.1002/sim.3095", "G. Y. Zou, A. Donner",
        "Construction of confidence limits about effect measures: A general approach", 2008, r"Zou and Donner",
    ),
    Entry(
        "10.1016/j.prevetmed.2013.09.015", "Z. Lang, J. Reiczigel",
        "Confidence limits for prevalence of disease adjusted for estimated sensitivity and specificity", 2014,
        r"Lang and Reiczigel",
    ),
)  # fmt: skip


def cited_ids(text: str) -> set[str]:
    """arXiv ids and DOIs that a text names."""
    return set(IN_TEXT.findall(text)) | {doi.rstrip(".,;") for doi in DOI_IN_TEXT.findall(text)}


def sources(root: Path | None = None) -> Iterator[tuple[str, str]]:
    """Name and text of everything that may cite: notebooks (not their outputs), the package, the README, the pages."""
    root = root or repository()
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
        yield path.name, "\n".join(cell.source for cell in cells)
    for path in sorted((root / "saferlrm").rglob("*.py")):
        if path.name != "bibliography.py":
            yield path.relative_to(root).as_posix(), " ".join(path.read_text(encoding="utf-8").split())
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        if path.is_file() and path.name != Path(PAGE).name:
            yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def missing(texts: Iterable[tuple[str, str]]) -> list[str]:
    """``id (where)`` for every cited id that the list lacks."""
    known = {entry.id for entry in ENTRIES}
    return [f"{one} ({name})" for name, text in texts for one in sorted(cited_ids(text) - known)]


def unused(texts: Iterable[tuple[str, str]]) -> list[str]:
    """Ids of entries that nothing cites."""
    everything = "\n".join(text for _, text in texts)
    ids = cited_ids(everything)
    return [e.id for e in ENTRIES if e.id not in ids and not (e.cited and re.search(e.cited, everything))]


def page(root: Path | None = None) -> str:
    """The bibliography as a Markdown page; ``root`` is not read."""
    lines = []
    for entry in sorted(ENTRIES, key=lambda e: (e.year, e.id)):
        name = f"arXiv {entry.id}" if ARXIV.fullmatch(entry.id) else entry.link.removeprefix("https://")
        label = name.replace("%3C", "<").replace("%3E", ">").replace("%3A", ":").replace("%3B", ";")
        label = label.replace("%28", "(").replace("%29", ")").replace("<", "&lt;").replace(">", "&gt;")
        lines.append(f"- {entry.authors.rstrip('.')}. *{entry.title}*. {entry.year}. [{label}]({entry.link})")
    return "\n".join(
        [
            "# Bibliography",
            "",
            f"The {len(ENTRIES)} sources that the notebooks and the code cite, by year.",
            "",
            *lines,
            "",
        ]
    )
