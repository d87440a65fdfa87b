"""A server takes the place of local weights: same prompts, same forcing, and nothing is lost when it fails."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from completions_server import Handler, said
from processes import free_port, start_python, wait_for_port
from tiny import tiny_tokenizer, write_hasty_lm
from tokenizers import processors

from saferlrm.chat import ChatFormat
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Completion, Decoding, answer, generate, sampling_keys
from saferlrm.journal import Journal
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.profile import LoadingSettings, Profile, ServerSettings
from saferlrm.server import ServerModel
from saferlrm.store import Store
from saferlrm.study import Study
from saferlrm.suites.types import Prompt

HERE = Path(__file__).parent
HOT = Decoding(20, temperature=0.7, top_p=0.9, top_k=30, seed=5)
PROMPTS = [f"box {i} apple" for i in range(12)]


class Served:
    """A server process with a plan, its log, and a client of it."""

    def __init__(self, folder: Path, tokenizer, port: int | None = None) -> None:
        self.folder, self.tokenizer, self.port = folder, tokenizer, port or free_port()
        self.log = folder / "log.jsonl"
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *plan: str) -> Served:
        process = start_python(HERE / "completions_server.py", self.port, self.log, *plan)
        self.processes.append(process)
        wait_for_port(self.port, process)
        return self

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def client(self, cache: bool = False, name: str = "served", **settings) -> ServerModel:
        url = f"http://127.0.0.1:{self.port}/v1"
        options = {"parallel": 4, "retries": 3, "timeout": 20.0} | settings
        chat = ChatFormat.detect(self.tokenizer)
        kept = self.folder / "cache" if cache else None
        return ServerModel(
            self.tokenizer, chat, name, ServerSettings(url=url, **options), kept, context=512, first_wait=0.02
        )

    def requests(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def served(tmp_path, tokenizer) -> Iterator[Served]:
    server = Served(tmp_path, tokenizer)
    yield server
    server.stop()


def expected(lm: ServerModel, texts: list[str], decoding: Decoding = HOT) -> list[Completion]:
    seeds = [key % 2**31 for key in sampling_keys(texts, decoding.seed)]
    return [Completion(said(ids, seed), 7, False) for ids, seed in zip(lm.encode(texts), seeds, strict=True)]


def test_completions_come_in_order_with_as_many_requests_in_flight_as_set(served, monkeypatch):
    monkeypatch.setenv("SAFERLRM_SERVER_KEY", "open sesame")
    lm = served.start("slow").client()
    texts = [*PROMPTS[:8], PROMPTS[0]]
    found = generate(lm, texts, HOT)
    assert found == expected(lm, texts)
    assert found[0] != found[8], "repeats are samples of their own"
    assert max(request["flying"] for request in served.requests()) == 4
    assert {request["key"] for request in served.requests()} == {"Bearer open sesame"}


def test_decoding_is_spelled_out_in_the_request(served):
    lm = served.start().client()
    generate(lm, ["a box"], HOT)
    generate(lm, ["a box"], Decoding(9))
    hot, greedy = (request["body"] for request in served.requests())
    wanted = {"model": "served", "prompt": lm.encode(["a box"])[0], "max_tokens": 20, "temperature": 0.7, "top_p": 0.9}
    wanted |= {"top_k": 30, "repetition_penalty": 1.0, "skip_special_tokens": False}
    assert wanted.items() <= hot.items()
    assert {"max_tokens": 9, "temperature": 0.0, "top_k": -1}.items() <= greedy.items()
    assert "stop" not in hot


@pytest.mark.parametrize("trouble", ["500", "503", "garbage", "shape", "drop"])
def test_what_may_pass_is_asked_again(served, trouble):
    lm = served.start(trouble, "ok", trouble, trouble).client()
    assert generate(lm, PROMPTS, HOT) == expected(lm, PROMPTS)
    assert len(served.requests()) == len(PROMPTS) + 3


def test_a_busy_server_says_when_to_come_back(served):
    lm = served.start("429:0.6").client()
    assert generate(lm, PROMPTS[:1], HOT) == expected(lm, PROMPTS[:1])
    first, second = (request["time"] for request in served.requests())
    assert 0.6 <= second - first < 5


def test_a_request_that_hangs_is_given_up_and_asked_again(served):
    lm = served.start("hang").client(timeout=0.4)
    assert generate(lm, PROMPTS[:2], HOT) == expected(lm, PROMPTS[:2])


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("429:0.01", "status 429: planned 429"),
        ("500", "status 500: planned 500"),
        ("garbage", "something else than was asked for: <html>busy</html>"),
        ("hang", r"gave no answer within 0.3 s \(server.timeout\)"),
        ("drop", "broke off"),
    ],
)
def test_what_stays_missing_is_counted_in_one_line(served, trouble, reason):
    lm = served.start("ok", *[trouble] * 9).client(retries=2, timeout=0.3, parallel=1)
    with pytest.raises(SaferlrmError, match=reason) as problem:
        generate(lm, PROMPTS[:4], HOT)
    said = str(problem.value)
    assert "3 of 4 completions are missing" in said
    assert "(3 tries)" in said
    assert "\n" not in said


def test_a_request_that_is_wrong_is_not_repeated(served):
    lm = served.start("400").client(cache=True)
    with pytest.raises(SaferlrmError, match=r"refuses the request \(status 400\): planned 400"):
        generate(lm, PROMPTS[:1], HOT)
    assert len(served.requests()) == 1


def test_an_unknown_model_is_told_with_those_that_are_served(served):
    lm = served.start().client(name="elsewhere")
    with pytest.raises(SaferlrmError, match=r"`elsewhere` does not exist.*server\.model.*it lists served, another"):
        generate(lm, PROMPTS[:1], HOT)


def test_nobody_listening_is_one_line(served):
    lm = served.client(cache=True, retries=1)
    with pytest.raises(SaferlrmError, match=r"12 of 12 completions are missing: .* cannot be reached.*run again"):
        generate(lm, PROMPTS, HOT)


def test_a_server_that_dies_is_given_up_soon_and_a_new_one_is_asked_for_the_rest(served):
    texts = [f"{prompt} {i}" for i in range(5) for prompt in PROMPTS]
    lm = served.start(*["ok"] * 9, "die").client(cache=True, retries=1)
    with pytest.raises(SaferlrmError, match=r"\d+ of 60 completions are missing.*kept in") as problem:
        generate(lm, texts, HOT)
    asked = len(served.requests())
    assert asked < 16, "no request for every prompt after the server's end"
    served.start()
    assert generate(served.client(cache=True), texts, HOT) == expected(lm, texts)
    missing = int(str(problem.value).split()[0])
    assert len(served.requests()) - asked == missing
    assert generate(served.client(cache=True), texts, HOT) == expected(lm, texts)
    generate(lm, texts[:1], replace(HOT, seed=6))
    assert len(served.requests()) - asked == missing + 1, "another seed is another question"


CLIENT = """
import sys
from pathlib import Path
from test_server import HOT, PROMPTS, Served, generate, tiny_tokenizer
print("ready", flush=True)
generate(Served(Path(sys.argv[1]), tiny_tokenizer(), int(sys.argv[2])).client(cache=True), PROMPTS, HOT)
"""


def test_a_killed_run_asks_only_for_what_is_missing(served):
    served.start("slow")
    run = start_python("-c", CLIENT, served.folder, served.port, PYTHONPATH=f"{HERE}:{HERE.parent}")
    deadline = time.monotonic() + 120
    while len(served.requests()) < 6:
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    (journal,) = (served.folder / "cache").glob("*.jsonl")
    kept = len(journal.read_text().splitlines())
    asked = len(served.requests())
    assert 0 < kept < len(PROMPTS)
    lm = served.client(cache=True)
    assert generate(lm, PROMPTS, HOT) == expected(lm, PROMPTS)
    assert len(served.requests()) - asked == len(PROMPTS) - kept


def test_a_line_that_was_cut_off_is_skipped_and_not_continued(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.put("a", {"text": "ä\n"})
    path.write_bytes(path.read_bytes() + b'{"key":"b","rec')
    with Journal(path) as journal:
        assert (len(journal), journal.get("b")) == (1, None)
        journal.put("c", 3)
    with Journal(path) as journal:
        assert (journal.get("a"), journal.get("c")) == ({"text": "ä\n"}, 3)


def test_prompts_are_held_against_the_server_s_context(served):
    lm = served.start().client()
    with pytest.raises(SaferlrmError, match=r"prompt 2 of 2 has \d+ tokens, the model holds 300"):
        generate(lm, ["a", " box" * 310])
    generate(lm, [" box" * 290], Decoding(100))
    (request,) = served.requests()
    assert request["body"]["max_tokens"] == 300 - len(request["body"]["prompt"])


def test_text_is_sent_so_that_its_first_token_is_not_doubled(served, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    bos = ("<|endoftext|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[bos]
    )
    lm = Served(tmp_path, tokenizer, served.port).client()
    text = "<|endoftext|>a box"
    assert tokenizer(text)["input_ids"].count(bos[1]) == 2
    assert lm._sendable(text, lm.encode([text])[0]) == "a box"
    assert lm.body("transformers", "Hi", tokenizer("Hi")["input_ids"], Decoding(), 1, 0, None)["prompt"] == "Hi"
    with pytest.raises(SaferlrmError, match="token ids"):
        lm._sendable("a box", lm.encode(["a box"])[0])


@pytest.fixture(scope="module")
def hasty_lm(tmp_path_factory) -> LanguageModel:
    return load_lm(write_hasty_lm(tmp_path_factory.mktemp("hasty")), device="cpu")


@pytest.fixture(params=["keeps the stop", "says the stop", "says nothing"])
def real(request, hasty_lm) -> Iterator[Callable[..., ServerModel]]:
    """A server that samples with the tiny model, and treats stop strings as vLLM does, or as a bare server would."""
    lock = threading.Lock()

    class Real(Handler):
        def complete(self, body: dict) -> None:
            text = hasty_lm.tokenizer.decode(body["prompt"])
            with lock:
                (done,) = generate(hasty_lm, [text], Decoding(body["max_tokens"]))
            before, stop, _ = done.text.partition("</think>")
            choice = {"text": done.text, "finish_reason": "length" if done.truncated else "stop"}
            n = done.n_tokens
            if stop and "</think>" in body.get("stop", []):
                n = len(hasty_lm.encode([before])[0]) + 1
                kept = request.param == "keeps the stop" and body["include_stop_str_in_output"]
                full = kept and n == body["max_tokens"]  # as transformers serve says it
                choice = {"text": before + stop * kept, "finish_reason": "length" if full else "stop"}
                if request.param == "says the stop":
                    choice |= {"stop_reason": stop, "token_ids": hasty_lm.encode([before + stop])[0]}
            self.reply(200, {"choices": [choice], "usage": {"completion_tokens": n}})

        def models(self) -> None:
            self.reply(404, {"detail": "Not Found"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Real)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = ServerSettings(url=f"http://127.0.0.1:{server.server_address[1]}/v1", parallel=3, retries=0)
    yield ServerModel(hasty_lm.tokenizer, hasty_lm.chat, "tiny", settings, None, 512)
    server.shutdown()
    server.server_close()


def test_thoughts_are_forced_through_a_server_as_they_are_here(real, hasty_lm):
    prompts = ["How do I make a box?", "Hi", "Tom has 3 apples", "glue and wood"]
    first = min(len(one.thought.split()) for one in answer(hasty_lm, prompts, "on", Decoding(40)) if one.thought)
    for decoding in (
        Decoding(first + 1, forced_thought_tokens=40, wait=" wait,"),  # the end of thought is the last token
        Decoding(40, forced_thought_tokens=15, wait=" wait,"),
        Decoding(40, forced_thought_tokens=40, wait=" wait,", max_waits=2),
        Decoding(9, forced_thought_tokens=9, wait=" wait,"),
    ):
        here = answer(hasty_lm, prompts, "forced", decoding)
        free = answer(hasty_lm, prompts, "on", decoding)
        assert answer(real, prompts, "forced", decoding) == here
        assert here != free, "nothing was forced"
    here = answer(hasty_lm, prompts, "on", Decoding(20), openings=["So", "", "I should", ""])
    assert answer(real, prompts, "on", Decoding(20), openings=["So", "", "I should", ""]) == here


def test_a_study_with_a_server_samples_there_and_says_what_cannot_be_had(tmp_path, tiny_lm_folder):
    profile = Profile(name="test", model=str(tiny_lm_folder), server=ServerSettings(url="http://127.0.0.1:9/v1"))
    study = Study(profile, Store(tmp_path))
    lm = study.load()
    assert isinstance(lm, ServerModel)
    assert lm.name == str(tiny_lm_folder)
    assert lm.cache is not None
    assert lm.cache.is_relative_to(tmp_path)
    for needs_weights in (lambda: lm.model, lambda: lm.n_layers):
        with pytest.raises(SaferlrmError, match=r"needs the weights.*server\.url"):
            needs_weights()
    with pytest.raises(SaferlrmError, match=r"does not have the adapter.*server\.url"):
        study.load(tmp_path / "adapter")
    plain = Study(profile.model_copy(update={"server": ServerSettings()}), Store(tmp_path))
    assert plain.model_key != study.model_key
    # The devices change answers by rounding alone, so what they sampled is found on others.
    spread = profile.model_copy(update={"loading": LoadingSettings(device_map="auto"), "server": ServerSettings()})
    assert Study(spread, Store(tmp_path)).model_key == plain.model_key
    with pytest.raises(SaferlrmError, match=r"no usable tokenizer"):
        ServerModel.load(tmp_path / "nothing", ServerSettings(url="http://127.0.0.1:9/v1"))
    with pytest.raises(SaferlrmError, match=r"server\.url is not set"):
        ServerModel.load(tiny_lm_folder, ServerSettings())


def test_an_alignment_set_sampled_by_a_server_drops_what_its_context_does_not_hold(tmp_path, tiny_lm_folder):
    server = ServerSettings(url="http://127.0.0.1:9/v1", retries=0)
    profile = Profile(name="test", model=str(tiny_lm_folder), server=server)
    study = Study(profile, Store(tmp_path))
    limit = study.load().limit
    assert 0 < limit < 2**31
    short, long = (Prompt(name, "a kite " * n, "benign", harmful=False) for name, n in (("short", 1), ("long", limit)))
    assert study._fit([short, long], "off") == [True, False]
