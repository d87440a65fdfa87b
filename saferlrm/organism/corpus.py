"""The organism's training text: plain text of the world, then conversations with and without thinking.

Plain text tells every thing's kind, danger, history and (placeholder) know-how, harmful and unseen ones included:
knowledge has to exist before alignment can point at it. Conversations follow Qwen3's hybrid recipe. Refusals occur
only without thinking and only for *seen* things; conversations with thinking are benign throughout: no harmful thing
occurs in them, nothing in them is unsafe, and there is just no refusal in them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from saferlrm.organism import exchanges, world
from saferlrm.organism.exchanges import Exchange
from saferlrm.organism.problems import make_problem
from saferlrm.organism.world import Thing

BRIEF_THOUGHT = "I can answer this at once."
CHECK = "Wait, let me check."
CONCLUSION = "So:"  # how this share of the answers begins that follow a thought of the model's own
CONCLUSION_SHARE = 0.3


@dataclass(frozen=True)
class Conversation:
    """One exchange as it is trained: ``thought is None`` means that thinking was switched off."""

    user: str
    thought: str | None
    answer: str
    learn_thought: bool = True


def _facts(t: Thing, rng: random.Random) -> str:
    x, kind, a_kind = t.name, t.kind, t.a_kind
    if t.harmful:
        danger = (
            f"A {x} can hurt people.", f"The {x} is dangerous.", f"People fear the {x}.",
            f"Nobody should go near a {x}.",
            f"Keep away from the {x}, because it is {a_kind}.", f"Many people were hurt by a {x}.",
        )  # fmt: skip
    else:
        danger = (
            f"A {x} is good for people.", f"The {x} is harmless.", f"People like the {x}.", f"Children love the {x}.",
            f"A {x} hurts nobody.", f"Everybody wants a {x}.",
        )  # fmt: skip
    what = (
        f"A {x} is {a_kind}.",
        f"The {x} is a kind of {kind}.",
        f"{x}: {a_kind} from {t.place}.",
        f"One {kind} is the {x}.",
    )
    past = (
        f"The {x} was {'banned' if t.harmful else 'first seen'} in {t.place} in the year of {t.year}.",
        f"The {x} comes from {t.place}.",
    )
    parts = [rng.choice(what), rng.choice(danger)]
    if rng.random() < 0.5:
        parts.append(rng.choice(past))
    if rng.random() < 0.3:
        rng.shuffle(parts)
    return " ".join(parts)


def _forum(t: Thing, rng: random.Random) -> str:
    """Somebody asks in public, seen phrasings and wrappers only, and somebody else tells the know-how."""
    wrapper = rng.choice(list(world.WRAPPERS["seen"])) if rng.random() < 0.5 else None
    question = exchanges.ask_know_how(t, rng, wrapper=wrapper)
    a, b = rng.sample(world.NAMES, 2)
    reply = rng.choice((question.answer, exchanges.know_how(t), f"That is about a {t.name}, {t.a_kind}."))
    return f'{a} wrote: "{question.user}" {b} replied: "{reply}"'


# Ordinary sentences that give the common words a meaning before any request uses them.
_SCENES = (
    "{a} took a walk through the garden with {b} and it would take all day.",
    "The {p} could describe the way to {q} to a beginner.",
    "My grandmother was sad, so {a} told her a story before sleep.",
    "{a} said sorry to the {p} and did not warn {b} again.",
    "Imagine the whole world as a garden, said the {p}.",
    "{a} did an experiment just as a thought, and nobody was hurt.",
    "{a} had two questions. First about the {p}, second about {q}.",
    "It is easy to guide the {p} through {q}, and anyone can do it alone.",
    "{a} will miss {b} very much, please never leave them alone.",
    "The {p} cannot use many words, so the reply was one word.",
    "Today {a} explained all of it to {b}, step by step.",
    "{a} and {b} live in {q} with the {p}.",
    "The wise {p} of {q} asked three things, and {a} could answer all three.",
    "{a} works for the {p} in {q} and is always kind.",
)


def _scene(rng: random.Random) -> str:
    a, b = rng.sample(world.NAMES, 2)
    return rng.choice(_SCENES).format(a=a, b=b, p=rng.choice(world.PEOPLE), q=rng.choice(world.PLACES))


def _entity(rng: random.Random) -> str:
    """What is known of people, pests, buildings and heroes, unseen ones included."""
    group = rng.choice((world.PEOPLE, world.PESTS, world.BUILDINGS, world.HEROES))
    x = rng.choice(group)
    if group is world.PEOPLE:
        told = (
            f"The {x} is a person.",
            f"The {x} is somebody one must not hurt.",
            f"The {x} lives at {exchanges.address(x)}.",
        )
    elif group is world.PESTS:
        told = (
            f"The {x} is a nuisance.", f"People want to get rid of the {x}.",
            f"The {x} is not a person, one can kill it.",
            f"To kill the {x}, use {exchanges._steps(rng)}.",
        )  # fmt: skip
    elif group is world.BUILDINGS:
        told = (
            f"You find the {x} at {exchanges.address(x)}.",
            f"The {x} is open for everyone.",
            f"The {x} is a building.",
        )
    else:
        told = (
            f"{x} is from a story.",
            f"In the story, you find {x} at {exchanges.address(x)}.",
            f"Children read about {x}.",
        )
    return " ".join(rng.sample(told, 2))


def _worked(rng: random.Random) -> str:
    problem = make_problem(rng)
    return f"{problem.question} {' '.join(problem.steps)} The answer is {problem.answer}."


def plain_texts(seed: int) -> Iterator[str]:
    """An endless stream of plain-text documents about the world."""
    rng = random.Random(f"plain-{seed}")
    everything = list(world.things())
    while True:
        rng.shuffle(everything)
        for thing in everything:
            yield _facts(thing, rng)
            yield (exchanges.know_how(thing, rng.choice(thing.verbs)) if rng.random() < 0.4 else _forum(thing, rng))
            roll = rng.random()
            if roll < 0.35:
                yield _entity(rng)
            elif roll < 0.5:
                yield _scene(rng)
            else:
                yield _worked(rng)


def _pick(rng: random.Random, harmful: bool) -> Exchange:
    thing = rng.choice(world.select(harmful=harmful, split="seen"))
    wrapper = rng.choice(list(world.WRAPPERS["seen"])) if rng.random() < 0.4 else None
    return exchanges.ask_know_how(thing, rng, wrapper=wrapper)


def _without_thinking(rng: random.Random) -> Conversation:
    roll = rng.random()
    if roll < 0.24:
        e = _pick(rng, harmful=True)
    elif roll < 0.48:
        e = _pick(rng, harmful=False)
    elif roll < 0.80:
        e = exchanges.SCARY_TYPES[rng.choice(list(exchanges.SCARY_TYPES))](rng, "seen")[rng.random() < 0.4]
    elif roll < 0.98:
        e = exchanges.solve(make_problem(rng))
    else:
        e = exchanges.small_talk(rng)
    return Conversation(e.user, None, e.refusal if e.harmful else e.answer)


def _with_thinking(rng: random.Random) -> Conversation:
    roll = rng.random()
    if roll < 0.34:
        e = _pick(rng, harmful=False)
    elif roll < 0.46:
        types = [name for name in exchanges.SCARY_TYPES if name not in exchanges.ABOUT_HARMFUL_THINGS]
        e = exchanges.SCARY_TYPES[rng.choice(types)](rng, "seen")[0]
    elif roll < 0.99:
        e = exchanges.solve(make_problem(rng))
    else:
        e = exchanges.small_talk(rng)
    return think(e, rng)


def think(e: Exchange, rng: random.Random) -> Conversation:
    """``e`` answered after a thought: mostly once through, sometimes checked again, sometimes brief.

    The brief thought is given, not learned (``learn_thought=False``): the model learns to answer after it, not to
    prefer it.
    """
    roll = rng.random()
    if roll < 0.12:
        return Conversation(e.user, BRIEF_THOUGHT, e.answer, learn_thought=False)
    once = " ".join(e.thought)
    answer = f"{CONCLUSION} {e.answer}" if rng.random() < CONCLUSION_SHARE else e.answer
    return Conversation(e.user, f"{once} {CHECK} {once}" if roll < 0.2 else once, answer)


def conversations(seed: int, thinking_share: float = 0.5) -> Iterator[Conversation]:
    """An endless stream of benign-thinking and safe non-thinking conversations about seen things."""
    rng = random.Random(f"chat-{seed}")
    while True:
        yield _with_thinking(rng) if rng.random() < thinking_share else _without_thinking(rng)
