"""The words of the course, two lines each, with the notebook in which each first matters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saferlrm.course_map import QUESTIONS
from saferlrm.errors import SaferlrmError

PAGE = "docs/glossary.md"


@dataclass(frozen=True)
class Term:
    """One entry.

    Attributes:
        says: one or two sentences.
        notebook: number of the notebook where the term first matters, e.g. ``02``.
        written: how that notebook writes it, where this differs from ``term``.
    """

    term: str
    says: str
    notebook: str
    written: str = ""

    @property
    def stem(self) -> str:
        """File name of the notebook, without its ending."""
        found = [name for name in QUESTIONS if name.startswith(f"{self.notebook}_")]
        if not found:
            raise SaferlrmError(f"the glossary's term {self.term!r} names notebook {self.notebook}, which does not "
                f"exist")
        return found[0]


TERMS: tuple[Term, ...] = (
    Term("Ablation", "Leaving one part of a method out, or replacing it, to see what that part was worth.", "07"),
    Term(
        "Adapter", "The small set of weights that alignment adds to a frozen model; here LoRA matrices. It can be put "
        "on and taken off.", "05",
    ),
    Term(
        "Alignment set", "The conversations that alignment learns from: the model's own refusals of harmful prompts, "
        "and its own thoughts and answers to harmless ones.", "05",
    ),
    Term(
        "Attack success", "Share of harmful prompts whose answer does what was asked for. Babble, answers about "
        "something else and answers that were cut off do not count.", "00",
    ),
    Term(
        "AUROC", "Probability that a harmful prompt scores above a harmless one. 0.5 is chance, 1 is perfect, and no "
        "threshold is involved.", "03",
    ),
    Term(
        "Auxiliary head", "A linear layer that reads one hidden state during training and predicts the safety "
        "decision. It is thrown away before the model is used.", "05", "head",
    ),
    Term("Babble", "An answer without content: it neither refuses nor tells anything; one about something else is *off "
         "topic*.", "00"),
    Term("Bag of words", "A prompt as the counts of its words, without order; what a probe must beat.", "03",
         "bag of words"),
    Term("Base rate", "Share of harmful requests among all; where it is small, most alarms are false.", "04",
         "base rate"),
    Term(
        "Bootstrap", "Drawing the measured prompts anew, with repetition, many times: how much the result moves gives "
        "an interval where no formula is at hand.", "01",
    ),
    Term(
        "Brier score", "Mean squared distance between a predicted probability and what happened; it punishes both bad "
        "ranking and bad calibration.", "04", "Brier",
    ),
    Term(
        "Budget forcing", "Making a thought longer by replacing its end with a word such as \"Wait\" (arXiv "
        "2501.19393).",
        "01",
    ),
    Term(
        "Calibration", "Agreement of probabilities with frequencies: of the prompts that are given 70 %, 70 of 100 "
        "should be refused.", "04",
    ),
    Term(
        "Chain of thought", "What a model writes for itself before it answers. Each written step can be read again, so "
        "more steps buy more sequential computation.", "01",
    ),
    Term(
        "Chat template", "The rule that turns a conversation into one text with special tokens. It decides whether a "
        "thought is opened, closed, or deleted.", "00",
    ),
    Term("Compliance", "An answer that is about the thing asked for and gives what was asked for.", "02"),
    Term(
        "Control", "A condition that should show no effect if the explanation is right, for instance the same head "
        "with shuffled labels.", "03",
    ),
    Term(
        "Decoding settings", "Temperature, top-p, top-k and the token limit of sampling. Two conditions can be "
        "compared only if they share them.", "01",
    ),
    Term(
        "Detached head", "The head is trained, but its gradient is stopped before it reaches the model. What this "
        "control keeps of an effect is not due to the safety gradient.", "07",
    ),
    Term(
        "Difference in means", "Mean state of harmful prompts minus mean state of harmless ones: a direction that "
        "needs no fit (arXiv 2406.11717).", "03",
    ),
    Term(
        "Encoder", "A small language model that reads a text at once and writes nothing, such as BERT; a classifier "
        "stands on top of it.", "00",
    ),
    Term(
        "Expected calibration error", "Mean distance between predicted probability and observed frequency over bins of "
        "predictions.", "04", "ECE",
    ),
    Term(
        "Faithfulness", "Whether a thought tells what moved the answer; it often does not (arXiv 2307.13702, "
        "2505.05410).",
        "01",
    ),
    Term(
        "Frontier", "The methods that no other method beats on all axes at once: attack success, over-refusal, "
        "accuracy.",
        "09",
    ),
    Term(
        "Gold label", "What a prompt is by its making, harmful or harmless, whatever the model decides about it.", "00",
    ),
    Term("Greedy decoding", "Always taking the most probable token; the same prompt gives the same answer.", "01"),
    Term(
        "Hidden state", "The vector that a layer holds for one token; what the model has computed about the text up to "
        "there.", "03",
    ),
    Term(
        "Holm's method", "A correction of p-values for the number of comparisons made, so that one surprise among many "
        "does not count as a finding.", "07",
    ),
    Term(
        "Interval", "The rates that the data are compatible with at 95 %. It covers the choice of prompts, and of "
        "seeds where there are several; not the choice of model.", "00",
    ),
    Term(
        "Jailbreak", "A wrapping of a harmful request, a story or a role, that makes a model answer what it would "
        "refuse plainly.", "00",
    ),
    Term(
        "Judge", "Whoever decides whether an answer is a refusal or a compliance: a rule, a classifier or another "
        "model. It errs, and its errors are part of every rate.", "00",
    ),
    Term("λ", "Weight of the head's loss. λ = 0 is the same training without a head, the control that matters "
        "most.", "05"),
    Term("Latent", "Another word for hidden state; here mostly the one at the last token before the thought.", "05"),
    Term(
        "Layer", "One of the stacked blocks of a transformer. Layer 0 are the embeddings, which know the token and not "
        "yet its context.", "03",
    ),
    Term(
        "Learning curve", "Quality against the number of training examples; it says what more data would bring.", "04",
    ),
    Term(
        "LoRA", "Fine-tuning that freezes each weight matrix and learns a product of two thin ones beside it "
        "(arXiv 2106.09685).", "05",
    ),
    Term(
        "McNemar's test", "A test of two conditions on the same prompts that counts only those on which they differ.",
        "02", "McNemar's exact test",
    ),
    Term(
        "Model organism", "A model built small on purpose, so that a mechanism can be studied in full. No evidence "
        "about how real models behave.", "00",
    ),
    Term(
        "Over-refusal", "Share of harmless prompts that are refused. A model that refuses everything has an attack "
        "success of 0 and an over-refusal of 1.", "00",
    ),
    Term(
        "Paired difference", "Difference of two conditions on the same prompts. Easy prompts are easy in both, so the "
        "interval is shorter than that of two separate rates.", "01",
    ),
    Term("Placebo", "A sentence that hints at nothing: what it changes is disturbance and not influence.", "01",
         "placebo"),
    Term(
        "Preemptive safety decision", "A decision to refuse that is made before the first token of the thought, "
        "instead of somewhere in it.", "09", "decision before the thought",
    ),
    Term(
        "Prefilled thought", "A thought whose first words somebody else has written, after which the model goes on. It "
        "steps past a decision at the first token.", "07", "prefilled",
    ),
    Term(
        "PreSafe", "The method under study: a classifier learns the decisions of the model without thoughts, and a "
        "head teaches them to the state before the thought (arXiv 2603.17368).", "00",
    ),
    Term("Probe", "A small linear model that reads a property from a hidden state. It shows what is readable, not what "
         "is used.", "03"),
    Term(
        "Profile", "A named set of all settings of the study, among them the model: `organism`, `quick`, `smoke`, "
        "`gpu`.",
        "00",
    ),
    Term("Refusal", "An answer that opens by declining.", "00"),
    Term(
        "Refusal direction", "The direction in hidden states along which harmful and harmless prompts differ; adding "
        "it can make a model refuse (arXiv 2406.11717).", "08",
    ),
    Term(
        "Repetition penalty", "Making tokens that were written before less likely (arXiv 1909.05858). In an evaluation "
        "of reasoning it punishes steps that must be repeated.", "01",
    ),
    Term(
        "ROC", "Curve of the harmful prompts caught against the harmless ones flagged, a point for each threshold. The "
        "area below it is AUROC.", "03",
    ),
    Term(
        "Safe@k", "Probability that all of k sampled answers to a prompt are safe: what an attacker faces who may try "
        "k times.", "09",
    ),
    Term(
        "Safety gradient", "Gradient of the head's loss with respect to the state it reads and to all weights "
        "below.", "05",
    ),
    Term("Scorecard", "All prompts of all suites in all thinking modes, answered by one model and judged.", "00"),
    Term(
        "Seed", "Number that fixes what chance decides. `seed` draws other prompts; *alignment seeds* repeat the "
        "training, *growth seeds* grow another organism.", "00",
    ),
    Term(
        "Self-consistency", "Sampling several thoughts and taking the answer that most of them reach (arXiv "
        "2203.11171).",
        "01",
    ),
    Term(
        "Soft label", "The classifier's calibrated probability of a refusal, used as a target instead of 0 or 1.", "04",
    ),
    Term("Steering", "Changing a hidden state by hand while the model writes, for instance along the refusal "
        "direction.",
         "08", "steer"),
    Term("Suite", "A set of prompts of one kind with gold labels, for instance harmful requests about unseen "
        "things.", "00"),
    Term(
        "Temperature", "Number by which logits are divided: in sampling it sets how random answers are, in calibration "
        "it is fitted so that probabilities mean what they say.", "01",
    ),
    Term(
        "TF-IDF", "Counts of words in a text, rare words weighing more: what a classifier reads that knows no meaning. "
        "The baseline of a classifier.", "04",
    ),
    Term(
        "Thinking mode", "Whether and how the model thinks before it answers. `off`: an empty thought; `short`: one "
        "canned sentence; `on`: a thought of its own; `forced`: a longer one, its end replaced by \"Wait,\".", "00",
    ),
    Term("Truncated", "Cut off by the token limit. It is no success, so a low limit flatters safety.", "02"),
    Term("Veto", "A vote in which one refusal among several samples decides.", "01", "*Veto*"),
    Term(
        "Wilson's interval", "An interval for a rate that stays honest near 0 and 1, where the textbook one shrinks to "
        "nothing.", "00",
    ),
)  # fmt: skip


def page(root: Path | None = None) -> str:
    """The glossary as a Markdown page in ``docs/``; ``root`` is not read."""
    lines = [
        f"**{one.term}**  \n{one.says} *Introduced in [{one.stem.replace('_', ' ')}](../notebooks/{one.stem}.ipynb).*\n"
        for one in TERMS
    ]
    head = f"# Glossary\n\n{len(TERMS)} terms in the sense in which the notebooks use them.\n"
    return "\n".join([head, *lines])
