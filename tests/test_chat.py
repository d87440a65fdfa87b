"""Every thinking mode reaches the model as intended, and replies come apart whatever the model wrote."""

import pytest
from tiny import CHAT_TEMPLATE, tiny_tokenizer

from saferlrm.chat import ChatFormat
from saferlrm.errors import SaferlrmError

# R1 style: the template opens the thought, knows no switch, and drops thoughts from earlier turns.
R1_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}"
    "{% else %}<|im_start|>assistant\n{{ m.content.split('</think>')[-1] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def chat_format(template: str = CHAT_TEMPLATE) -> ChatFormat:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return ChatFormat.detect(tokenizer)


@pytest.fixture(scope="module")
def qwen() -> ChatFormat:
    return chat_format()


@pytest.fixture(scope="module")
def r1() -> ChatFormat:
    return chat_format(R1_TEMPLATE)


TURN = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("on", ""),
        ("forced", ""),
        ("off", "<think>\n\n</think>\n\n"),
        ("short", "<think>\nI can answer this at once.\n</think>\n\n"),
    ],
)
def test_qwen_modes_differ_in_how_the_turn_begins(qwen, mode, ending):
    assert qwen.render("Hi", mode) == TURN + ending


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("on", "<think>\n"),
        ("off", "<think>\n\n</think>\n\n"),
        ("short", "<think>\nI can answer this at once.\n</think>\n\n"),
    ],
)
def test_r1_modes_close_the_thought_that_the_template_opens(r1, mode, ending):
    assert r1.render("Hi", mode) == "<|im_start|>user\nHi<|im_start|>assistant\n" + ending


def test_formats_are_recognised(qwen, r1):
    assert (qwen.switch, qwen.opens, qwen.end_of_turn) == (True, False, "<|im_end|>")
    assert (r1.switch, r1.opens, r1.end_of_turn) == (False, True, "<|im_end|>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('no') }}", "template fails"),
        (
            "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
            "cannot switch thinking off",
        ),
        ("hello", "drops the user's message"),
    ],
)
def test_unusable_templates_are_refused_in_one_line(template, message):
    with pytest.raises(SaferlrmError, match=message) as caught:
        chat_format(template)
    assert "\n" not in str(caught.value)


def test_an_unknown_mode_is_refused_with_the_choices(qwen):
    with pytest.raises(SaferlrmError, match="off, short, on, forced"):
        qwen.render("Hi", "loud")


@pytest.mark.parametrize("prompt", ["Hi", "user", "assistant\n", "", "  spaces  ", "twice twice"])
def test_the_prompt_is_found_in_its_rendering(qwen, r1, prompt):
    for chat in (qwen, r1):
        for mode in ("on", "off"):
            start, end = chat.prompt_span(prompt, mode)
            assert chat.render(prompt, mode)[start:end] == prompt


@pytest.mark.parametrize(
    ("completion", "thought", "answer", "closed"),
    [
        ("<think>\nplan\n</think>\n\nDone.", "plan", "Done.", True),
        ("<think>\nplan\n</think>\n\nDone.<|im_end|>\nrest", "plan", "Done.", True),
        ("<think>\n\n</think>\n\nDone.", "", "Done.", True),
        ("<think>\nplan without end", "plan without end", "", False),
        ("<think>a</think>b</think>c", "a", "bc", True),
        ("<think>a</think>b<think>c</think>d", "a", "bcd", True),
        ("<think>a<think>b</think>c", "ab", "c", True),
        ("Done.", "", "Done.", True),
        ("plan</think>Done.", "plan", "Done.", True),
        ("I refuse.<think>a</think>b", "a", "I refuse.\nb", True),
        ("", "", "", True),
    ],
)
def test_replies_of_a_thinking_qwen_come_apart(qwen, completion, thought, answer, closed):
    for mode in ("on", "forced"):
        reply = qwen.split(completion, mode)
        assert (reply.thought, reply.answer, reply.closed) == (thought, answer, closed)


@pytest.mark.parametrize("mode", ["off", "short"])
def test_after_a_closed_prefix_everything_is_answer_unless_a_thought_is_opened_anew(qwen, r1, mode):
    for chat in (qwen, r1):
        for text in ("Done.", "Done.</think>", "</think>\n\nDone."):
            reply = chat.split(text, mode)
            assert (reply.thought, reply.answer, reply.closed) == ("", "Done.", True)
        assert chat.split("<think>a</think>b", mode).thought == "a"
        assert not chat.split("<think>a", mode).closed


def test_replies_of_r1_begin_inside_the_thought(r1):
    reply = r1.split("plan\n</think>\n\nDone.", "on")
    assert (reply.thought, reply.answer, reply.closed) == ("plan", "Done.", True)
    assert r1.split("<think>\nplan</think>b", "on").thought == "plan"
    reply = r1.split("plan without end", "on")
    assert (reply.thought, reply.answer, reply.closed) == ("plan without end", "", False)


@pytest.mark.parametrize("thought", [None, "plan", "two\n\nparts"])
def test_a_target_continues_the_rendering_and_comes_apart_again(qwen, r1, thought):
    for chat in (qwen, r1):
        target = chat.target(thought, "Done.")
        assert target.endswith("Done." + chat.end_of_turn)
        assert (chat.render("Hi", "on") + target).count("<think>\n") == 1
        reply = chat.split(target, "on")
        assert (reply.thought, reply.answer, reply.closed) == (thought or "", "Done.", True)
    assert qwen.render("Hi", "on") + qwen.target(None, "x") == qwen.render("Hi", "off") + "x<|im_end|>"
