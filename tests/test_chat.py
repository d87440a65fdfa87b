"""Every thinking mode reaches the model as intended, and replies come apart whatever the model wrote."""

import pytest
from tiny import (
    CHAT_TEMPLATE,
    PLAIN_TEMPLATE,
    R1_OLD_TEMPLATE,
    R1_TEMPLATE,
    SENTENCES,
    merging_tokenizer,
    tiny_tokenizer,
)

from saferlrm.chat import THINKING_MODES, ChatFormat
from saferlrm.errors import SaferlrmError
from saferlrm.organism.tokenizer import CHAT_TEMPLATE as ORGANISM_TEMPLATE
from saferlrm.organism.tokenizer import train_tokenizer

BEGIN, END, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"

# As Gemma's: no system role, strict turns, an assistant that is called model, white space cut off.
GEMMA_TEMPLATE = (
    "{{ bos_token }}"
    "{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{%- for m in messages %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + (m.role if m.role == 'user' else 'model') + '\\n' + m.content | trim + "
    "'<end_of_turn>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
# As Qwen3.5's: a switch, and the template opens the thought where it is on.
SWITCH_OPENS_TEMPLATE = CHAT_TEMPLATE.replace(
    "{%- endif %}{%- endif %}", "{%- else %}{{- '<think>\\n' }}{%- endif %}{%- endif %}"
)
# As DeepSeek-V3.1's: another name of the switch, tags without line breaks.
THINKING_TEMPLATE = R1_TEMPLATE.replace(
    "'<｜Assistant｜><think>\\n'", "'<｜Assistant｜>' + ('<think>' if thinking else '</think>')"
)


def chat_format(template: str | None = CHAT_TEMPLATE, thinking: str = "auto", system: str | None = None) -> ChatFormat:
    r1 = USER in (template or "")
    tokenizer = merging_tokenizer(template) if r1 else tiny_tokenizer()
    tokenizer.chat_template = template
    return ChatFormat.detect(tokenizer, thinking, system)


@pytest.fixture(scope="module")
def qwen() -> ChatFormat:
    return chat_format()


@pytest.fixture(scope="module")
def r1() -> ChatFormat:
    return chat_format(R1_TEMPLATE)


@pytest.fixture(scope="module")
def formats(qwen, r1) -> dict[str, ChatFormat]:
    return {
        "qwen": qwen,
        "r1": r1,
        "r1_old": chat_format(R1_OLD_TEMPLATE),
        "plain": chat_format(PLAIN_TEMPLATE),
        "switch_opens": chat_format(SWITCH_OPENS_TEMPLATE),
        "thinking": chat_format(THINKING_TEMPLATE),
    }


TURN = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
R1_TURN = f"{BEGIN}{USER}Hi{ASSISTANT}"
CLOSED = "<think>\n\n</think>\n\n"
SHORT = "<think>\nI can answer this at once.\n</think>\n\n"


@pytest.mark.parametrize(
    ("name", "turn", "on", "off"),
    [
        ("qwen", TURN, "", CLOSED),
        ("r1", R1_TURN, "<think>\n", CLOSED),
        ("r1_old", R1_TURN, "<think>\n", CLOSED),
        ("plain", TURN, "", CLOSED),
        ("switch_opens", TURN, "<think>\n", CLOSED),
        ("thinking", R1_TURN, "<think>", "</think>"),
    ],
)
def test_modes_differ_in_the_declared_prefix_of_the_turn_alone(formats, name, turn, on, off):
    chat = formats[name]
    for mode, prefix in {"off": off, "short": SHORT, "on": on, "forced": on}.items():
        assert chat.prefix(mode) == prefix
        assert chat.render("Hi", mode) == turn + prefix


@pytest.mark.parametrize(
    ("name", "style", "opens", "forces", "drops"),
    [
        ("qwen", "switch", False, False, False),
        ("r1", "opens", True, False, True),
        ("r1_old", "opens", True, True, True),
        ("plain", "tags", False, False, False),
        ("switch_opens", "switch", True, False, False),
        ("thinking", "switch", True, False, True),
    ],
)
def test_formats_are_recognised(formats, name, style, opens, forces, drops):
    chat = formats[name]
    assert (chat.style, chat.opens, chat.forces, chat.drops_thoughts) == (style, opens, forces, drops)
    assert chat.end_of_turn == (END if BEGIN in chat.render("Hi") else "<|im_end|>")


def test_the_organisms_rendering_is_the_qwen3_one():
    chat = ChatFormat.detect(train_tokenizer(SENTENCES, 420))
    assert (chat.style, chat.opens, chat.drops_thoughts, chat.end_of_turn) == ("switch", False, True, "<|im_end|>")
    assert [chat.render("Hi", mode) for mode in THINKING_MODES] == [TURN + CLOSED, TURN + SHORT, TURN, TURN]
    assert chat.render_opened("Hi", " plan ") == TURN + "<think>\nplan"
    assert chat.target("plan", "Done.") == "<think>\nplan\n</think>\n\nDone.<|im_end|>"


def test_the_style_can_be_set():
    forced = chat_format(CHAT_TEMPLATE, "opens")
    assert (forced.style, forced.render("Hi"), forced.render("Hi", "off")) == (
        "opens",
        TURN + "<think>\n",
        TURN + CLOSED,
    )
    assert chat_format(CHAT_TEMPLATE, "tags").render("Hi", "off") == TURN + CLOSED
    assert chat_format(R1_OLD_TEMPLATE, "tags").render("Hi") == R1_TURN
    textual = merging_tokenizer(PLAIN_TEMPLATE, tags=False)
    with pytest.raises(SaferlrmError, match=r"loading\.thinking=tags if the model writes <think>"):
        ChatFormat.detect(textual)
    assert ChatFormat.detect(textual, "tags").prefix("off") == CLOSED


@pytest.mark.parametrize(
    ("template", "thinking", "message"),
    [
        (PLAIN_TEMPLATE, "switch", "the chat template has no switch"),
        (R1_TEMPLATE, "tags", "opens <think> itself; set it to opens"),
        (R1_TEMPLATE, "loud", "choose auto, switch, opens or tags"),
        (None, "auto", "no chat template"),
        ("{{ raise_exception('no') }}", "auto", "template fails"),
        ("hello", "auto", "drops the user's message"),
    ],
)
def test_unusable_templates_and_settings_are_refused_in_one_line(template, thinking, message):
    with pytest.raises(SaferlrmError, match=message) as caught:
        chat_format(template, thinking)
    assert "\n" not in str(caught.value)


def test_an_unknown_mode_is_refused_with_the_choices(qwen):
    with pytest.raises(SaferlrmError, match="off, short, on, forced"):
        qwen.render("Hi", "loud")


TALK = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "<think>\nold plan\n</think>\n\nOne."},
    {"role": "user", "content": "Two?"},
]


def test_conversations_are_shown_as_the_template_has_them(qwen, r1):
    assert qwen.render(TALK, "off").endswith("One.<|im_end|>\n" + TURN.replace("Hi", "Two?") + CLOSED)
    assert r1.render(TALK) == f"{BEGIN}{USER}One?{ASSISTANT}\n\nOne.{END}{USER}Two?{ASSISTANT}<think>\n"
    for chat in (qwen, r1):
        for talk in (TALK, [{"role": "system", "content": "Be brief."}, *TALK]):
            start, end = chat.prompt_span(talk)
            text = chat.render(talk)
            assert (text[start:end], text.count("Two?")) == ("Two?", 1)


def test_a_thought_that_the_template_would_delete_stands_in_the_training_text():
    dropped = [*TALK, {"role": "assistant", "content": "<think>\nnew plan\n</think>\n\nTwo."}]
    for template in (R1_TEMPLATE, R1_OLD_TEMPLATE, ORGANISM_TEMPLATE):
        chat = chat_format(template)
        assert chat.drops_thoughts
        rendered = chat.tokenizer.apply_chat_template(dropped, tokenize=False)
        assert "old plan" not in rendered
        text = chat.render(TALK) + chat.target("new plan", "Two.")
        assert text.endswith(f"<think>\nnew plan\n</think>\n\nTwo.{chat.end_of_turn}")
        assert text.count("<think>") == 1


def test_a_system_prompt_goes_first_and_is_joined_with_that_of_a_conversation():
    chat = chat_format(system="Be kind.")
    assert chat.render("Hi") == "<|im_start|>system\nBe kind.<|im_end|>\n" + TURN
    talk = [{"role": "system", "content": "Be brief."}, *TALK]
    assert chat.render(talk).startswith("<|im_start|>system\nBe kind.\n\nBe brief.<|im_end|>\n<|im_start|>user\nOne?")
    r1 = chat_format(R1_TEMPLATE, system="Be kind.")
    assert r1.render(talk).startswith(f"{BEGIN}Be kind.\n\nBe brief.{USER}One?")
    assert talk[0]["content"] == "Be brief.", "the caller's messages stay as they are"
    for mode in THINKING_MODES:
        start, end = r1.prompt_span("Hi", mode)
        assert r1.render("Hi", mode)[start:end] == "Hi"
        assert r1.prefix(mode) == chat_format(R1_TEMPLATE).prefix(mode)


@pytest.mark.parametrize("template", [GEMMA_TEMPLATE, GEMMA_TEMPLATE.replace("messages[0].role == 'system'", "false")])
def test_where_there_is_no_system_role_the_system_prompt_opens_the_first_message(template):
    chat = chat_format(template, system="Be kind.")
    assert not chat.system_role
    assert chat.render("Hi").endswith("<start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\n")
    start, end = chat.prompt_span("Hi")
    assert chat.render("Hi")[start:end] == "Hi"
    assert "user\nBe kind.\n\nBe brief.\n\nOne?" in chat.render([{"role": "system", "content": "Be brief."}, *TALK])


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        ([], "roles of no message"),
        (TALK[:2], "the user's last"),
        ([*TALK[:1], {"role": "system", "content": "x"}, TALK[2]], "user, system, user"),
        ([{"role": "tool", "content": "x"}, TALK[0]], "tool, user"),
        ([{"role": "user"}], "no text"),
        ([{"role": "user", "content": None}], "no text"),
        ([TALK[0], TALK[2]], "roles must alternate"),
    ],
)
def test_messages_that_are_no_conversation_are_refused_in_one_line(talk, message):
    with pytest.raises(SaferlrmError, match=message) as caught:
        chat_format(GEMMA_TEMPLATE).render(talk)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", ["Hi", "user", "assistant\n", "", "  spaces  ", "twice twice"])
def test_the_prompt_is_found_in_its_rendering(formats, prompt):
    for chat in formats.values():
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
def test_after_a_closed_prefix_everything_is_answer_unless_a_thought_is_opened_anew(formats, mode):
    for chat in formats.values():
        for text in ("Done.", "Done.</think>", "</think>\n\nDone."):
            reply = chat.split(text, mode)
            assert (reply.thought, reply.answer, reply.closed) == ("", "Done.", True)
        assert chat.split("<think>a</think>b", mode).thought == "a"
        assert not chat.split("<think>a", mode).closed


@pytest.mark.parametrize("name", ["r1", "r1_old", "switch_opens", "thinking"])
@pytest.mark.parametrize(
    ("completion", "thought", "answer", "closed"),
    [
        ("plan\n</think>\n\nDone.", "plan", "Done.", True),
        ("<think>\nplan</think>b", "plan", "b", True),
        ("plan without end", "plan without end", "", False),
        ("a</think>b</think>c", "a", "bc", True),
        ("a</think>b<think>c</think>d", "a", "bcd", True),
        ("\n</think>\n\nDone.", "", "Done.", True),
        ("", "", "", False),
    ],
)
def test_replies_after_an_open_thought_begin_inside_it(formats, name, completion, thought, answer, closed):
    for mode in ("on", "forced"):
        for end in ("", formats[name].end_of_turn):
            reply = formats[name].split(completion + end, mode)
            assert (reply.thought, reply.answer, reply.closed) == (thought, answer, closed)


@pytest.mark.parametrize("thought", [None, "plan", "two\n\nparts"])
def test_a_target_continues_the_rendering_and_comes_apart_again(formats, thought):
    for name, chat in formats.items():
        target = chat.target(thought, "Done.")
        assert target.endswith("Done." + chat.end_of_turn)
        text = chat.render("Hi", "on") + target
        assert text.count("<think>\n" if thought is None else f"<think>\n{thought}\n</think>\n\nDone.") == 1
        assert text.count("<think>") == 1
        reply = chat.split(target, "on")
        assert (reply.thought, reply.answer, reply.closed) == (thought or "", "Done.", True)
        if name != "thinking":
            assert chat.render("Hi", "on") + chat.target(None, "x") == chat.render("Hi", "off") + "x" + chat.end_of_turn
            assert chat.render_opened("Hi", "plan") == text.partition("<think>")[0] + "<think>\nplan"
