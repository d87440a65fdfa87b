"""Exercises of notebook 05, auxiliary supervision."""

from __future__ import annotations

from typing import Any

import pandas as pd

from saferlrm.course.exercise import Case, Exercise, Mistake


def _batches() -> list[Case]:
    import torch

    t = torch.tensor
    return [
        Case((t([0.0, 2.0, -1.0]), t([0.5, 1.0, 0.0]))),
        Case((t([1.0, -3.0, 0.5]), t([0.9, -1.0, 0.2])), "the second prompt has no label"),
        Case((t([200.0, -200.0]), t([0.0, 1.0])), "a head that is sure and wrong"),
        Case((t([0.3, 0.7]), t([-1.0, -1.0])), "no prompt has a label"),
        Case((t([-0.2]), t([0.73])), "a soft label"),
    ]


def _gradient_property(attempt: Any) -> str | None:
    """The safety gradient must come out of it."""
    import torch

    logits = torch.tensor([0.4, -1.2], requires_grad=True)
    found = attempt(logits, torch.tensor([0.9, 0.3]))
    if not found.requires_grad:
        return "the loss has no graph, so no safety gradient flows: leave out .item(), .detach() and numpy."
    found.backward()
    right = (torch.sigmoid(logits.detach()) - torch.tensor([0.9, 0.3])) / 2
    if not torch.allclose(logits.grad, right, atol=1e-5):
        return (
            f"the gradient to the logits should be (σ(logit) − q)/n, {right.tolist()}, and is "
            f"{logits.grad.tolist()}."
        )
    empty = attempt(torch.tensor([0.4, -1.2], requires_grad=True), torch.tensor([-1.0, -1.0]))
    if not getattr(empty, "requires_grad", False):
        return "without any label the loss is 0 but has no graph, so `backward()` fails and training stops there."
    return None


def _tokens() -> list[Case]:
    return [
        Case(([5, 6, 7, 8, 9], 2, 0)),
        Case(([5, 6, 7, 8, 0, 0], 3, 2), "two tokens of padding at the end"),
        Case(([5, 6], 2, 0), "a prompt without a reply"),
        Case(([5, 6, 7], 0, 0), "nothing but a reply"),
        Case(([5, 6, 0, 7, 0], 1, 1), "token 0 occurs in the reply, too"),
    ]


def _turns() -> list[Case]:
    user, model = "user", "assistant"
    return [
        Case(([(user, "2 + 3?"), (model, "<think>2, then 3 more: 5</think>5")],), "one turn"),
        Case(
            ([(user, "Hi"), (model, "<think>polite</think>Hello"), (user, "1 + 1?"), (model, "<think>2</think>2")],),
            "two turns",
        ),
        Case(([(user, "Hi"), (model, "Hello")],), "a reply without a thought"),
        Case(([(user, "Is </think> a tag?"), (model, "<think>it is</think>Yes.")],), "the user writes a tag"),
        Case(
            ([(user, "Hi"), (model, "polite</think>Hello"), (user, "1 + 1?"), (model, "<think>2</think>2")],),
            "an earlier turn whose thought was opened by the template",
        ),
    ]


def latents(lm: list[float], aux: list[float]) -> pd.DataFrame:
    """Gradient norms by layer."""
    return pd.DataFrame({"norm_lm": lm, "norm_aux": aux}, index=pd.RangeIndex(1, len(lm) + 1, name="layer"))


def _norms() -> list[Case]:
    return [
        Case((latents([1.0, 2.0, 4.0], [2.0, 4.0, 2.0]),)),
        Case((latents([0.1, 0.2, 0.3, 5.0], [1.0, 1.0, 1.0, 0.0]),), "one layer gets no safety gradient"),
        Case((latents([0.0, 0.2], [0.5, 0.4]),)),
    ]


def _a_lambda(prediction: object) -> str | None:
    """A guess is a weight: a number above 0."""
    if isinstance(prediction, bool) or not isinstance(prediction, int | float):
        return f"it is {prediction!r}; a number is asked for, without quotation marks"
    return None if prediction > 0 else f"it is {prediction}; a weight of a loss lies above 0"


EXERCISES = (
    Exercise(
        id="05.1",
        kind="implement",
        title="The auxiliary loss",
        stars=2,
        minutes=20,
        function="auxiliary_loss",
        statement="""
        Write $\\mathcal L_{\\mathrm{aux}}$ of the theory above for a batch: the mean binary cross-entropy of the head's
        logits against soft labels $q$. A label below 0 means *no label*; such prompts do not count, and a batch without
        any label costs 0 (with a graph, so that training goes on). Logits can be large.
        """,
        hint="`F.binary_cross_entropy_with_logits(..., reduction=\"none\")` is safe for large logits. Multiply by "
        "a mask and "
        "divide by the number of labels, which is at least 1.",
        imports=("import torch", "from torch.nn import functional as F"),
        starter='''
        def auxiliary_loss(logits: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
            """Mean loss [] over the labelled prompts; logits and soft labels q [batch], q below 0 is none."""
            return None  # your code
        ''',
        solution='''
        def auxiliary_loss(logits: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
            """Mean loss [] over the labelled prompts; logits and soft labels q [batch], q below 0 is none."""
            labelled = q >= 0
            losses = F.binary_cross_entropy_with_logits(logits, q.clamp(min=0), reduction="none")
            return (losses * labelled).sum() / labelled.sum().clamp(min=1)
        ''',
        learned="Its gradient to a logit is (σ(logit) − q)/n: the safety gradient vanishes where the head agrees "
        "with the "
        "classifier, and a soft label lets it stop before certainty.",
        cases=_batches,
        property=_gradient_property,
        tolerance=1e-4,
        mistakes=(
            Mistake(
                """
                def auxiliary_loss(logits, q):
                    p, labelled = torch.sigmoid(logits), q >= 0
                    q = q.clamp(min=0)
                    losses = -(q * p.log() + (1 - q) * (1 - p).log())
                    return (losses * labelled).sum() / labelled.sum().clamp(min=1)
                """,
                "The logarithm of a sigmoid that has become 0 is −∞; use the loss that takes logits.",
            ),
            Mistake(
                """
                def auxiliary_loss(logits, q):
                    labelled = q >= 0
                    losses = F.binary_cross_entropy_with_logits(logits, q.clamp(min=0), reduction="none")
                    return (losses * labelled).mean()
                """,
                "Prompts without a label are in the denominator, so λ shrinks with their number.",
            ),
            Mistake(
                """
                def auxiliary_loss(logits, q):
                    return F.binary_cross_entropy_with_logits(logits, q.clamp(min=0))
                """,
                "A missing label was read as 0, which teaches the head to comply.",
            ),
            Mistake(
                """
                def auxiliary_loss(logits, q):
                    kept = q >= 0
                    return F.binary_cross_entropy_with_logits(logits[kept], q[kept])
                """,
                "The mean of an empty batch is NaN, and one NaN ends a training run.",
            ),
            Mistake(
                """
                def auxiliary_loss(logits, q):
                    labelled = q >= 0
                    if not labelled.any():
                        return torch.tensor(0.0)
                    return F.binary_cross_entropy_with_logits(logits[labelled], q[labelled])
                """,
                "without any label the loss is 0 but has no graph",
            ),
        ),
    ),
    Exercise(
        id="05.2",
        kind="implement",
        title="The prompt mask",
        stars=2,
        minutes=15,
        function="masked_labels",
        statement="""
        Training needs a label for every token: its own id where the model should learn to write it, −100 where it
        should
        not, that is on the prompt and on the padding at the end. Causal models of transformers shift the labels
        themselves: the label of position $t$ is token $t$.
        """,
        hint="Three pieces: `n_prompt` times −100, the ids in between, `n_padding` times −100.",
        starter='''
        def masked_labels(ids: list[int], n_prompt: int, n_padding: int) -> list[int]:
            """Labels, as many as ids; the first n_prompt and the last n_padding tokens are not learnt."""
            return None  # your code
        ''',
        solution='''
        def masked_labels(ids: list[int], n_prompt: int, n_padding: int) -> list[int]:
            """Labels, as many as ids; the first n_prompt and the last n_padding tokens are not learnt."""
            end = len(ids) - n_padding
            return [-100] * n_prompt + ids[n_prompt:end] + [-100] * n_padding
        ''',
        learned="Count tokens, not ids: the padding id may be a token that the reply needs, such as the end of the "
        "turn. "
        "And look at the labels of one example before every training run, as this notebook does.",
        cases=_tokens,
        mistakes=(
            Mistake(
                """
                def masked_labels(ids, n_prompt, n_padding):
                    end = len(ids) - n_padding
                    labels = [-100] * n_prompt + ids[n_prompt:end] + [-100] * n_padding
                    return labels[1:] + [-100]
                """,
                "The labels are shifted by one; the model shifts them again, and learns to skip a token.",
            ),
            Mistake(
                """
                def masked_labels(ids, n_prompt, n_padding):
                    return [-100] * n_prompt + ids[n_prompt:]
                """,
                "The padding is learnt, so the model learns to write padding.",
            ),
            Mistake(
                """
                def masked_labels(ids, n_prompt, n_padding):
                    return [-100 if i < n_prompt or token == 0 else token for i, token in enumerate(ids)]
                """,
                "Padding was recognised by its id, which also masks that token inside the reply; go by position.",
            ),
            Mistake(
                """
                def masked_labels(ids, n_prompt, n_padding):
                    end = len(ids) - n_padding
                    return [0] * n_prompt + ids[n_prompt:end] + [0] * n_padding
                """,
                "0 is a token. The loss ignores −100.",
            ),
            Mistake("def masked_labels(ids, n_prompt, n_padding):\n    return list(ids)",
                    "Nothing is masked: the model learns to write prompts."),
        ),
    ),
    Exercise(
        id="05.3",
        kind="find the bug",
        title="The template that deletes thoughts",
        stars=2,
        minutes=15,
        function="training_text",
        statement="""
        Chat templates of the R1 kind cut everything before `</think>` from assistant turns. That is right for *earlier*
        turns. Here it also happens to the last turn, the one that is learnt, and the model is trained not to
        think. Keep
        the thought of the last turn, and only that; what users write must stay as it is.
        """,
        hint="Only assistant turns before the last one lose what stands before `</think>`.",
        starter='''
        def training_text(turns: list[tuple[str, str]]) -> str:
            """The conversation as one text; turns are (role, content), the last is the assistant's."""
            parts = []
            for role, content in turns:
                content = content.split("</think>")[-1]
                parts.append(f"<|{role}|>{content}")
            return "".join(parts)
        ''',
        solution='''
        def training_text(turns: list[tuple[str, str]]) -> str:
            """The conversation as one text; turns are (role, content), the last is the assistant's."""
            parts = []
            for at, (role, content) in enumerate(turns):
                if role == "assistant" and at < len(turns) - 1:
                    content = content.split("</think>")[-1]
                parts.append(f"<|{role}|>{content}")
            return "".join(parts)
        ''',
        learned="Nothing fails when a thought is deleted: the loss falls, the model answers, and it has stopped "
        "thinking. "
        "Assert on tokens that the thought is in the training text, as the package does.",
        cases=_turns,
        mistakes=(
            Mistake(
                """
                def training_text(turns):
                    return "".join(f"<|{role}|>{content}" for role, content in turns)
                """,
                "Now the thoughts of earlier turns are kept as well, which the model never sees when it is used.",
            ),
            Mistake(
                """
                def training_text(turns):
                    parts = []
                    for at, (role, content) in enumerate(turns):
                        if at < len(turns) - 1:
                            content = content.split("</think>")[-1]
                        parts.append(f"<|{role}|>{content}")
                    return "".join(parts)
                """,
                "The last thought is there; but a user who writes the tag still loses half of the message.",
            ),
            Mistake(
                """
                def training_text(turns):
                    parts = []
                    for at, (role, content) in enumerate(turns):
                        if role == "assistant" and at < len(turns) - 1 and "<think>" in content:
                            content = content[: content.index("<think>")] + content.split("</think>")[-1]
                        parts.append(f"<|{role}|>{content}")
                    return "".join(parts)
                """,
                "Only `<think>...</think>` is deleted; where the template wrote the opening tag, the thought stays. "
                "Cut everything before `</think>`.",
            ),
        ),
    ),
    Exercise(
        id="05.4",
        kind="measure",
        title="How large is a small λ?",
        stars=2,
        minutes=10,
        function="balancing_lambda",
        statement="""
        At which λ would the safety gradient be as strong at the latents as the next-token gradient? Take the ratio
        of the
        norms layer by layer and the median over layers, leaving out layers that no safety gradient reaches. Guess first
        whether λ lies above or below the profile's.
        """,
        hint="λ times `norm_aux` should equal `norm_lm`.",
        imports=("import pandas as pd",),
        guess="your guess: a λ, above 0",
        guessed=_a_lambda,
        on=("latent",),
        starter='''
        def balancing_lambda(latent: pd.DataFrame) -> float:
            """Median over layers of the λ that makes both gradients equally strong."""
            return None  # your code
        ''',
        solution='''
        def balancing_lambda(latent: pd.DataFrame) -> float:
            """Median over layers of the λ that makes both gradients equally strong."""
            reached = latent[latent["norm_aux"] > 0]
            return float((reached["norm_lm"] / reached["norm_aux"]).median())
        ''',
        learned="λ weighs losses, not gradients. Where the next token is certain the language model sends almost no "
        "gradient, and a λ of 0.2 is anything but small there.",
        cases=_norms,
        mistakes=(
            Mistake(
                """
                def balancing_lambda(latent):
                    reached = latent[latent["norm_aux"] > 0]
                    return float((reached["norm_aux"] / reached["norm_lm"]).median())
                """,
                "The ratio is upside down.",
            ),
            Mistake(
                """
                def balancing_lambda(latent):
                    reached = latent[latent["norm_aux"] > 0]
                    return float(reached["norm_lm"].median() / reached["norm_aux"].median())
                """,
                "A ratio of medians is not the median of the ratios; norms of different layers have different scales.",
            ),
            Mistake(
                """
                def balancing_lambda(latent):
                    return float((latent["norm_lm"] / latent["norm_aux"]).median())
                """,
                "Layers without a safety gradient give infinite ratios; leave them out.",
            ),
        ),
    ),
)

FURTHER = """
1. *(10 minutes)* Set `head_token` to `"prompt_last"`. At which layers does the safety gradient grow, and why might
   a token before the template's own tokens be a worse place?
2. *(20 minutes)* Derive $\\partial \\mathcal L_{\\mathrm{aux}} / \\partial h_\\ell$ for a head *without*
   normalisation, and say what happens to its size when the norm of $h_\\ell$ grows tenfold from layer to layer.
"""
