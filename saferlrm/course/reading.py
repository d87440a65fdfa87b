"""What to read after a notebook: entries of the bibliography, each with one sentence on why.

The cell at the end of each notebook is generated from here, as the exercises are (:mod:`saferlrm.course.sync`).
"""

from __future__ import annotations

from saferlrm.bibliography import ARXIV, ENTRIES, Entry

PRESAFE = "2603.17368"

# Number of a notebook: ids of the bibliography, in the order to read them, with the reason.
READING: dict[str, tuple[tuple[str, str], ...]] = {
    "00": (
        (PRESAFE, "the paper under study; read its abstract now, and come back to it after notebook 06."),
        ("2502.12025", "thoughts cut, canned and prolonged: where the four thinking modes come from."),
        ("2511.15169", "reports models that thinking makes *safer*, the opposite of what this course starts from."),
        ("10.1080/01621459.1927.10502953", "the interval that stands behind nearly every number here, in four pages."),
    ),
    "01": (
        ("2201.11903", "the experiment that showed what written steps are worth."),
        ("2203.11171", "the vote over sampled thoughts, on problems harder than those here."),
        ("2501.19393", "longer thoughts by putting \"Wait\" in the place of their end."),
        ("2307.13702", "does an answer depend on its thought? Tested by cutting it and by putting mistakes into it."),
        ("2505.05410", "hints that were used and not admitted, in large reasoning models."),
    ),
    "02": (
        ("2307.02483", "why safety training fails: two failure modes, and the jailbreaks that use each."),
        ("2502.12025", "the same contrast of thinking modes on real reasoning models."),
        ("2308.01263", "over-refusal measured with safe prompts in dangerous words."),
        ("2604.24074", "how far the wording of a judge alone moves attack success."),
    ),
    "03": (
        ("2406.11717", "the difference of two means as a direction, and what adding it or removing it does."),
        ("2606.25013", "probes the first token of the thought and asks what the rest of the thought still decides."),
        ("2510.06036", "follows the signal through the thought to its end, where it falls."),
        ("2605.12726", "what a probe of the last token misses, which is a limit of this notebook too."),
    ),
    "04": (
        ("1706.04599", "calibration and the temperature that mends it."),
        ("2312.06674", "a classifier of prompts and answers used as a safeguard, to compare the small one with."),
        ("https://dl.acm.org/doi/10.5555/1642194.1642224", "where the threshold belongs when two errors cost "
            "different amounts."),
        ("10.2307/2531595", "how to compare two AUROCs measured on the same prompts."),
    ),
    "05": (
        ("2106.09685", "low-rank adaptation, the form in which all training here is done."),
        ("2505.16186", "the nearest neighbour of the method: safety heads beside the next-token loss."),
        ("2507.17075", "the control as a paper: LoRA on refusals alone, without a head."),
        ("2601.23143", "another way to make a model write its own refusals for the alignment set."),
    ),
    "06": (
        (PRESAFE, "the claim that is tested here."),
        ("2503.00555", "safety bought with reasoning, and the name for its price."),
        ("2405.20947", "over-refusal on a large set; the second axis of every figure here."),
        ("10.1007/BF02295996", "the test behind paired comparisons, in a few pages."),
    ),
    "07": (
        ("2507.17075", "what fine-tuning on refusals reaches alone; the first thing that a head has to beat."),
        ("2602.02136", "how few examples may be enough to bring refusals back."),
        ("2505.16186", "has the ablation with a detached head that this notebook repeats."),
        ("https://www.jstor.org/stable/4615733", "the correction for making many comparisons at once."),
    ),
    "08": (
        ("2406.11717", "the refusal direction, added and removed, in models up to 72 billion parameters."),
        ("2510.06036", "where in the thought the refusal is lost, and the few attention heads behind much of it."),
        ("2603.26410", "what models know and do not say, measured in thoughts and answers apart."),
        ("2106.09685", "to see which weights the safety gradient could move at all."),
    ),
    "09": (
        ("2505.14667", "trains the first tokens of the thought alone."),
        ("2504.01903", "the reasoned refusal: a thousand examples that argue from a policy."),
        ("2601.03662", "a reminder put into the thought while it is written, without any training."),
        ("2406.05946", "why safety that is a few tokens deep can be stepped past by prefilling them."),
        ("2404.02151", "attacks that adapt to the defence, which is the fair test of one."),
    ),
    "10": (
        (PRESAFE, "hold its abstract beside the ledger, claim by claim."),
        ("10.1007/BF01068419", "how to show that two things are equal enough, which no large p-value does."),
        ("https://www.jstor.org/stable/4615733", "why the verdicts are corrected for their number."),
        ("2604.24074", "a reason to doubt numbers that come from one judge, these included."),
    ),
    "11": (
        ("2308.01263", "the prompts and the human labels behind the judge's calibration."),
        ("2404.01318", "an open benchmark with its attacks and judges; the first to run on a real model."),
        ("10.1093/oxfordjournals.aje.a112510", "a rate corrected for the errors of the instrument, from epidemiology."),
        ("10.1016/j.prevetmed.2013.09.015", "the interval that belongs to it."),
        ("2305.14314", "fine-tuning on quantised weights, for cards on which nothing else fits."),
    ),
}  # fmt: skip


def reading_text(number: str) -> str:
    """The section of one notebook as Markdown."""
    known = {entry.id: entry for entry in ENTRIES}
    lines = [f"- {_cited(known[key])}: {why}" for key, why in READING[number]]
    head = "### Further reading\n\nAll sources of the course are in the [bibliography](../docs/bibliography.md)."
    return "\n".join([f"{head} After this notebook:", "", *lines])


def _cited(entry: Entry) -> str:
    name = f"arXiv {entry.id}" if ARXIV.fullmatch(entry.id) else "DOI" if "doi.org" in entry.link else "link"
    return f"{entry.authors}, *{entry.title}* ({entry.year}, [{name}]({entry.link}))"
