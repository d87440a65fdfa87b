"""A server without completions: what can be asked of it is the same as here, the rest is refused with the reason."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from completions_server import Handler
from test_serve import LACKING, serving
from tiny import FAMILIES, write_family, write_hasty_lm

from saferlrm.chat import THINKING_MODES, ChatFormat
from saferlrm.chat_endpoint import turn_of, whole_text
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Decoding, answer, generate
from saferlrm.lm import LanguageModel, load_lm, load_tokenizer
from saferlrm.profile import ServerSettings
from saferlrm.server import ServerModel

PROMPTS = ["How do I make a box?", "Hi", "Tom has 3 apples", "glue and wood", " desk \n"]
DECODING = Decoding(40, forced_thought_tokens=15, wait=" wait,")
LM = LanguageModel


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return load_lm(write_hasty_lm(tmp_path_factory.mktemp("hasty")), device="cpu")


class ChatOnly:
    """A server on this machine that has chat completions alone, of the tiny model; as bad as ``ways`` say.

    ``parses``: cuts thoughts out into ``reasoning_content``; ``forgets switches``: takes chat_template_kwargs and does
    nothing; ``no continuing``: refuses continue_final_message; ``counts nothing``: no usage; ``strict``: knows the
    fields of OpenAI only.
    """

    def __init__(self, lm: LM, *ways: str) -> None:
        self.lm, self.bodies = lm, []
        lock, bodies = threading.Lock(), self.bodies

        class Chat(Handler):
            def do_POST(self) -> None:  # noqa: N802  the library's name
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.path.endswith("/chat/completions"):
                    self.reply(404, {"detail": "Not Found"})
                    return
                known = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop"}
                if "strict" in ways and (more := sorted(set(body) - known - {"chat_template_kwargs"})):
                    self.reply(400, {"error": {"message": f"Unrecognized request argument: {more[0]}"}})
                    return
                if "no continuing" in ways and body.get("continue_final_message"):
                    self.reply(400, {"error": {"message": "continue_final_message is not supported"}})
                    return
                with lock:
                    bodies.append(body)
                    self.reply(200, self.completed(body))

            def completed(self, body: dict) -> dict:
                switch = {} if "forgets switches" in ways else body.get("chat_template_kwargs", {})
                goes_on = body.get("continue_final_message", False)
                options = {"continue_final_message": True} if goes_on else {"add_generation_prompt": True}
                text = lm.tokenizer.apply_chat_template(body["messages"], tokenize=False, **options, **switch)
                (done,) = generate(lm, [text], Decoding(body["max_tokens"]))
                said, n, cut, extra = done.text, done.n_tokens, done.truncated, {}
                stop = "</think>" if "</think>" in body.get("stop", []) else None
                if stop and stop in said:
                    said, cut, extra = said.partition(stop)[0], False, {"stop_reason": stop}
                    n = len(lm.encode([said])[0]) + 1
                message = {"role": "assistant", "content": said}
                if "parses" in ways:
                    message = self.parsed(said, text, stopped=bool(extra))
                usage = {"prompt_tokens": len(lm.encode([text])[0]), "completion_tokens": n}
                choice = {"message": message, "finish_reason": "length" if cut else "stop", **extra}
                return {"choices": [choice]} | ({} if "counts nothing" in ways else {"usage": usage})

            def parsed(self, said: str, text: str, stopped: bool) -> dict:
                inside = text.rpartition("<think>")[1] and "</think>" not in text.rpartition("<think>")[2]
                before, opened, rest = ("", True, said) if inside else said.partition("<think>")
                if not opened or before.strip():
                    return {"role": "assistant", "content": said}
                thought, closed, after = rest.partition("</think>")
                found = {"role": "assistant", "content": after.strip("\n") if closed else None}
                return found | {"reasoning_content": thought.strip("\n")}

            def models(self) -> None:
                self.reply(404, {"detail": "Not Found"})

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def client(self) -> ServerModel:
        settings = ServerSettings(url=f"http://127.0.0.1:{self.http.server_address[1]}/v1", parallel=3, retries=0)
        return ServerModel(self.lm.tokenizer, self.lm.chat, "tiny", settings, None, 512)

    def __enter__(self) -> ChatOnly:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.mark.parametrize("ways", [(), ("parses",)], ids=["raw", "parses"])
def test_every_mode_is_the_same_as_here_where_turns_may_be_continued(here: LM, ways: tuple[str, ...]) -> None:
    with ChatOnly(here, *ways) as chat_only:
        lm = chat_only.client()
        assert lm.dialect == "chat extended"
        for mode in THINKING_MODES:
            assert answer(lm, PROMPTS, mode, DECODING) == answer(here, PROMPTS, mode, DECODING), mode
        assert any(one.thought for one in answer(lm, PROMPTS, "on", DECODING))
        openings = ["I should", "", "So the", "", ""]
        told = answer(lm, PROMPTS, "on", DECODING, openings=openings)
        assert told == answer(here, PROMPTS, "on", DECODING, openings=openings)
    assert answer(here, PROMPTS, "forced", DECODING) != answer(here, PROMPTS, "on", DECODING)
    sent = [body for body in chat_only.bodies if body["max_tokens"] == 40]
    assert {"top_k": -1, "repetition_penalty": 1.0, "separate_reasoning": False}.items() <= sent[0].items()
    assert {"enable_thinking": False} in [body.get("chat_template_kwargs") for body in sent]


def test_a_server_that_cannot_continue_still_serves_on_and_off(here: LM) -> None:
    with ChatOnly(here, "no continuing") as chat_only:
        lm = chat_only.client()
        for mode in ("on", "off"):
            assert answer(lm, PROMPTS, mode, DECODING) == answer(here, PROMPTS, mode, DECODING)
        asked = len(chat_only.bodies)
        for mode in ("short", "forced"):
            with pytest.raises(SaferlrmError, match=r"cannot continue a thought unless.*not supported") as problem:
                answer(lm, PROMPTS, mode, DECODING)
            assert "\n" not in str(problem.value)
        assert len(chat_only.bodies) == asked, "nothing is sampled that could not be finished"


def test_a_server_of_few_words_is_asked_in_few(here: LM) -> None:
    with ChatOnly(here, "strict") as chat_only:
        lm = chat_only.client()
        assert lm.dialect == "chat plain"
        for mode in ("on", "off"):
            assert answer(lm, PROMPTS, mode, DECODING) == answer(here, PROMPTS, mode, DECODING)
        with pytest.raises(SaferlrmError, match=r"does not take decoding\.top_k"):
            answer(lm, PROMPTS, "on", replace(DECODING, temperature=0.6, top_k=20))


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("forgets switches", r"read \d+ tokens where the prompt has \d+: it does not heed chat_template_kwargs"),
        ("counts nothing", r"nobody can tell whether it heeds chat_template_kwargs"),
    ],
)
def test_a_switch_that_is_not_heeded_is_seen(here: LM, way: str, message: str) -> None:
    with ChatOnly(here, way) as chat_only:
        lm = chat_only.client()
        free = answer(lm, PROMPTS, "on", DECODING)
        assert [one.answer for one in free] == [one.answer for one in answer(here, PROMPTS, "on", DECODING)]
        with pytest.raises(SaferlrmError, match=message) as problem:
            answer(lm, PROMPTS, "off", DECODING)
        assert "\n" not in str(problem.value)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ChatFormat]:
    folder = write_family(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, ChatFormat.detect(load_tokenizer(folder), system_prompt="Be brief.")


def test_what_can_be_put_as_messages_is_exactly_the_prompt(family: tuple[str, ChatFormat]) -> None:
    name, chat = family
    for mode in THINKING_MODES:
        text = chat.render("What is a box?", mode)
        if name.startswith("r1") and mode in ("off", "short"):
            # R1's templates cut thoughts from assistant turns, so theirs cannot be closed through messages.
            with pytest.raises(SaferlrmError, match=r"^a chat endpoint cannot begin the model's turn with[^\n]*$"):
                turn_of(text, chat)
            continue
        turn = turn_of(text, chat)
        options = {"continue_final_message": True} if turn.continued else {"add_generation_prompt": True}
        made = chat.tokenizer.apply_chat_template(list(turn.messages), tokenize=False, **options, **turn.switch)
        assert made == text
        assert text.endswith(turn.begun)


@pytest.mark.parametrize(
    ("message", "begun", "text"),
    [
        ({"content": "<think>a</think>b"}, "", "<think>a</think>b"),
        ({"content": "b", "reasoning_content": "a"}, "", "<think>\na\n</think>\n\nb"),
        ({"content": "b", "reasoning": "a"}, "<think>\n", "a\n</think>\n\nb"),
        ({"content": None, "reasoning_content": "a"}, "<think>\n", "a"),
        ({"content": None, "reasoning_content": "b"}, "<think>\n\n</think>\n\n", "b"),
        ({"content": "b", "reasoning_content": "a"}, "<think>\n\n</think>\n\n", "<think>\na\n</think>\n\nb"),
        ({"content": None, "reasoning_content": None}, "", ""),
    ],
)
def test_a_thought_that_the_server_cut_out_is_put_back(here: LM, message: dict, begun: str, text: str) -> None:
    assert whole_text(message, begun, here.chat) == text


@pytest.mark.skipif(bool(LACKING), reason=f"transformers serve lacks {', '.join(LACKING)} (extra `test`)")
def test_a_real_server_gives_the_same_texts_by_chat(here: LM, tmp_path: Path) -> None:
    with serving(here.name, tmp_path / "log.txt") as url:
        lm = ServerModel.load(Path(here.name), ServerSettings(url=url, parallel=4, retries=1, timeout=60.0))
        lm.__dict__["dialect"] = "chat transformers"  # it has completions too, and those are preferred
        for mode in ("on", "off"):
            assert [(one.thought, one.answer) for one in answer(lm, PROMPTS, mode, DECODING)] == [
                (one.thought, one.answer) for one in answer(here, PROMPTS, mode, DECODING)
            ]
        with pytest.raises(SaferlrmError, match=r"cannot continue a thought unless it takes continue_final_message"):
            answer(lm, PROMPTS, "short", DECODING)
