"""A real `transformers serve` process gives the texts that the same weights give here, in every thinking mode."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from processes import free_port, wait_for_port
from tiny import write_hasty_lm

from saferlrm.errors import SaferlrmError
from saferlrm.generate import Decoding, answer, generate
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.profile import Profile, ServerSettings
from saferlrm.server import ServerModel
from saferlrm.store import Store
from saferlrm.study import Study

LACKING = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"transformers serve lacks {', '.join(LACKING)} (extra `test`)")

PROMPTS = ["How do I make a box?", "Hi", "Tom has 3 apples", "glue and wood", "desk", "Hi"]
DECODING = Decoding(40, forced_thought_tokens=15, wait=" wait,")
SERVE = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> LanguageModel:
    return load_lm(write_hasty_lm(tmp_path_factory.mktemp("hasty")), device="cpu")


@contextmanager
def serving(folder: str, log: Path) -> Iterator[str]:
    """The address of a `transformers serve` process that has this model alone."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, "serve", folder, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as out:  # not a pipe, which would be full one day
        process = subprocess.Popen([*command, "--device", "cpu"], stdout=out, stderr=out, text=True)
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(here, tmp_path_factory) -> Iterator[str]:
    with serving(here.name, tmp_path_factory.mktemp("serve") / "log.txt") as url:
        yield url


def test_every_thinking_mode_has_the_same_greedy_texts_as_here(here, server, tmp_path):
    settings = ServerSettings(url=server, parallel=4, retries=1, timeout=60.0)
    study = Study(Profile(name="test", model=here.name, server=settings), Store(tmp_path))
    lm = study.load()
    assert isinstance(lm, ServerModel)
    assert lm.dialect == "transformers"
    for mode in ("off", "short", "on", "forced"):
        # The server leaves special tokens out, so the end of the turn cannot be told from its text; the rest can.
        assert answer(lm, PROMPTS, mode, DECODING) == answer(here, PROMPTS, mode, DECODING)
    assert answer(here, PROMPTS, "forced", DECODING) != answer(here, PROMPTS, "on", DECODING)
    openings = ["I should", "", "So the", "", "", ""]
    told = answer(lm, PROMPTS, "on", DECODING, openings=openings)
    assert told == answer(here, PROMPTS, "on", DECODING, openings=openings)
    assert told[0].thought.startswith("I should")


def test_sampling_is_sampling_and_ends_with_the_turn(here, server):
    settings = ServerSettings(url=server, parallel=1, retries=1, timeout=60.0)
    lm = ServerModel.load(Path(here.name), settings)
    texts = [here.chat.render(prompt) for prompt in PROMPTS]
    hot = Decoding(40, temperature=0.7, top_k=20, top_p=0.9, seed=1)
    found = generate(lm, texts, hot)
    assert found == generate(lm, texts, hot), "one request at a time: the seed fixes the samples"
    assert found != generate(lm, texts, replace(hot, seed=2))
    assert found != generate(lm, texts, replace(hot, temperature=0.0))
    assert {one.truncated for one in found} == {False, True}
    assert found[1] != found[5], "the same prompt twice is two samples"


def test_a_model_that_is_not_served_is_told_in_one_line(here, server):
    settings = ServerSettings(url=server, model="Qwen/Qwen3-8B", retries=0)
    with pytest.raises(SaferlrmError, match=r"pinned to .*server\.model") as problem:
        generate(ServerModel.load(Path(here.name), settings), ["Hi"])
    assert "\n" not in str(problem.value)


def test_an_address_without_completions_is_told_in_one_line(here, server):
    settings = ServerSettings(url=server.removesuffix("/v1"), retries=0)
    with pytest.raises(SaferlrmError, match=r"status 404.*check server\.url"):
        generate(ServerModel.load(Path(here.name), settings), ["Hi"])
