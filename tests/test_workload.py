"""How much a study trains and samples, by counting."""

from __future__ import annotations

import json
import re
import shlex

from saferlrm.architectures import architecture
from saferlrm.conditions import CARD_SUITES, controls
from saferlrm.estimate import Hardware, estimate
from saferlrm.profile import load_profile
from saferlrm.store import repository
from saferlrm.suites.synthetic import SUITE_NAMES
from saferlrm.workload import BEGIN_SMALL, small, workload

PROFILE, ARCH = load_profile("gpu"), architecture("Qwen/Qwen3-8B")


def test_every_adapter_is_counted_once_and_every_answer_where_it_is_asked_for() -> None:
    table = workload(PROFILE, ARCH).set_index("notebook")
    assert table.loc["05", "adapters"] == 2 * len(PROFILE.seeds)
    assert table.loc["06", "adapters"] == 0  # those of 05
    assert table.loc["02", "answers"] == len(PROFILE.modes) * len(SUITE_NAMES) * PROFILE.suite_size
    few = [one for one in controls() if one.few]
    whole = [one for one in controls() if not one.few][1:]  # without the model before alignment
    seeds, fewer = len(PROFILE.evidence.seeds), len(PROFILE.evidence.sweep_seeds)
    assert table.loc["07, controls", "adapters"] == len(few) * seeds + (len(whole) - 2) * fewer
    card = (len(CARD_SUITES) + 1) * PROFILE.evidence.suite_size
    assert table.loc["07, controls", "answers"] == (1 + len(few) * seeds + len(whole) * fewer) * card
    assert table.loc["all", "adapters"] == table["adapters"].iloc[:-1].sum()


def test_a_small_beginning_costs_a_fraction() -> None:
    def hours(profile) -> float:
        made = estimate(ARCH, profile, Hardware(), 4096, 1024, 2048, 8000)
        return workload(profile, ARCH, made)["hours"].iloc[-1]

    whole, begun = hours(PROFILE), hours(small(PROFILE))
    assert 0 < begun < whole
    assert small(PROFILE).modes == ("off", "on")


def test_the_guide_begins_as_small_as_the_estimate_and_says_what_both_cost() -> None:
    guide = (repository() / "docs" / "gpu_server.md").read_text(encoding="utf-8")
    command = re.search(r"saferlrm profile \$profile (--set name=gpu-small .*?) > gpu-small.yaml", guide, re.DOTALL)
    words = [word for word in shlex.split(command.group(1).replace("\\\n", " ")) if word != "--set"]
    said = {name: json.loads(value) for name, _, value in (word.partition("=") for word in words[1:])}
    assert said == json.loads(json.dumps(BEGIN_SMALL))
    assert load_profile("gpu", **said) == small(PROFILE)  # and so every setting is accepted

    arch = architecture("DeepSeek-R1-Distill-Qwen-7B")
    tables = [workload(one, arch, estimate(arch, one)).set_index("notebook") for one in (PROFILE, small(PROFILE))]
    whole, begun = (table.loc["all", "hours"] for table in tables)
    assert f"about {whole:.0f} and {begun:.0f} hours" in guide
    assert f"--only 02,04,05,06    # about {tables[1].loc['02':'06', 'hours'].sum():.0f} hours" in guide
