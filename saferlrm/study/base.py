"""What every part of the study stands on: the profile, the store, the model, the suites and the results folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from saferlrm.chat import ThinkingMode
from saferlrm.devices import further_devices, replicate
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Answer, Decoding, answer
from saferlrm.judges import Judge, WorldJudge
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.memory import memory_explained
from saferlrm.plots import alt_text
from saferlrm.profile import GrowthSettings, LoadingSettings, Profile, load_profile
from saferlrm.server import ServerModel
from saferlrm.store import (
    Artefact,
    Store,
    code_fingerprint,
    explain_write_errors,
    file_hash,
    repository,
    write_json,
)
from saferlrm.suites.source import Source, source_of
from saferlrm.suites.types import Prompt

# Small models save two checkpoints within a second. The Trainer then orders them by their numbers, which is right, and
# warns the reader of a file system at fault.
logging.getLogger("transformers.trainer_utils").addFilter(
    lambda record: "mtime may not be reliable" not in record.getMessage()
)


class Base:
    """One profile's model, prompts, stages and results.

    Args:
        profile: a profile or the name of one.
        store: where finished stages live; the checkout's own store by default.
        overrides: dotted settings that differ from the profile, e.g. ``**{"alignment.lambda_aux": 0.5}``.
    """

    def __init__(self, profile: Profile | str = "organism", store: Store | None = None, **overrides: Any) -> None:
        if isinstance(profile, Profile) and overrides:
            raise SaferlrmError("give overrides with a profile's name, not with a loaded profile")
        self.profile = profile if isinstance(profile, Profile) else load_profile(profile, **overrides)
        self.store = store or Store.default()

    def organism(self, seed: int | None = None) -> Path:
        """Checkpoint folder of a model organism: one that ships if its settings are the profile's, else grown.

        ``seed`` is the growth seed, the profile's by default.
        """
        growth = self.profile.growth
        if seed is not None:
            growth = growth.model_copy(update={"seed": seed})
        shipped = shipped_organism(growth.seed)
        if (shipped / "growth.json").is_file():
            record = json.loads((shipped / "growth.json").read_text())
            if GrowthSettings.model_validate(record["settings"]) == growth:
                return shipped

        def build(folder: Path) -> None:
            from saferlrm.organism.grow import grow

            grow(growth.seed, folder, growth)

        return self.stage("organism", growth.model_dump(mode="json"), {}, build, "saferlrm.organism.grow").path

    @cached_property
    def model(self) -> str:
        """Folder or hub name of the model under study."""
        return str(self.organism()) if self.profile.model == "organism" else self.profile.model

    @cached_property
    def model_key(self) -> str:
        """What identifies the model's weights: the hash of a folder's configuration and weights, or the hub name.

        Settings of loading that differ from the default are part of it, except the devices, which change answers by
        rounding alone. So is a server's name of the model: nothing vouches that it serves these very weights.
        """
        loading = self.profile.loading.model_copy(update={"device_map": "single"})
        key = self._weights_key if loading == LoadingSettings() else f"{self._weights_key} {loading.model_dump_json()}"
        if self.profile.server.url is not None:
            return f"{key} served as {self.profile.server.model or self.model}"
        return key

    @cached_property
    def _weights_key(self) -> str:
        folder = Path(self.model)
        if not folder.is_dir():
            return self.model
        files = sorted(
            p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".jinja"} and p.name != "growth.json"
        )
        return hashlib.sha256("".join(f"{p.name}:{file_hash(p)}" for p in files).encode()).hexdigest()

    def load(self, adapter: Path | None = None) -> LanguageModel:
        """The model under study, with an adapter merged into it if one is given.

        With ``server.url`` set, the model behind that server, which samples and has no weights here
        (:class:`saferlrm.server.ServerModel`).

        Raises:
            SaferlrmError: an adapter is asked of a server.
        """
        if self.profile.server.url is not None:
            return self._served(adapter)  # type: ignore[return-value]  # a Sampler; says so where weights are needed
        p = self.profile
        source = {"path_or_id": self.model, "adapter": adapter, "dtype": p.dtype, "loading": p.loading}
        lm = load_lm(**source, device=p.device)
        others = further_devices(lm, p.device)
        return replicate(lm, others, **source) if others else lm

    def _served(self, adapter: Path | None) -> ServerModel:
        server = self.profile.server
        if adapter is not None:
            raise SaferlrmError(
                f"the server at {server.url} does not have the adapter {adapter}; set server.url to null, and trained "
                "models are loaded here"
            )
        kept = self.store.root / "served" / hashlib.sha256(self.model_key.encode()).hexdigest()[:16]
        chat = {"thinking": self.profile.loading.thinking, "system_prompt": self.profile.loading.system_prompt}
        return ServerModel.load(self.model, server, kept, **chat)

    def suites(self) -> dict[str, list[Prompt]]:
        """All evaluation suites."""
        return {name: list(suite) for name, suite in self._suites.items()}

    @cached_property
    def _suites(self) -> dict[str, list[Prompt]]:
        return self.source.suites()

    @cached_property
    def source(self) -> Source:
        """Where all prompts come from: the organism's world or published data sets."""
        return source_of(self.profile)

    @property
    def data_key(self) -> dict[str, Any]:
        """What stands for the prompts in the settings of a stage that does not declare their text."""
        return self.source.key()

    def training_prompts(self, n_harmful: int, n_benign: int, role: str) -> list[Prompt]:
        """Prompts for training, harmful ones first; different roles have different ones.

        Args:
            role: ``classifier``, ``probe``, ``alignment``, ``decision_only``, ``steering`` or ``validation``.

        Raises:
            SaferlrmError: published sets hold too few for the role.
        """
        return self.source.training_prompts(n_harmful, n_benign, role)

    def probe_prompts(self) -> list[Prompt]:
        """The training prompts that probes learn from, half of them harmful."""
        n = self.profile.probe.n_train
        return self.training_prompts(n - n // 2, n // 2, "probe")

    def overlap_report(self) -> pd.DataFrame:
        """Training prompts with a twin in an evaluation suite, by suite and kind, and whether they were left out.

        Columns of :func:`saferlrm.suites.overlap.report`, and ``left_out``.
        """
        return self.source.overlap_report()

    def decoding(self, max_new_tokens: int | None = None) -> Decoding:
        """The profile's decoding settings, the same for every mode and method."""
        d = self.profile.decoding
        return Decoding(
            max_new_tokens=max_new_tokens or d.max_new_tokens,
            temperature=d.temperature,
            top_p=d.top_p,
            top_k=d.top_k,
            forced_thought_tokens=d.forced_thought_tokens,
        )

    @cached_property
    def out(self) -> Path:
        """Where results and figures go: the checkout for the study as declared, ``runs/<profile>`` for any other.

        So a run with other settings never overwrites the results that the README reports. ``SAFERLRM_OUT`` overrides.
        """
        elsewhere = os.environ.get("SAFERLRM_OUT")
        return Path(elsewhere).expanduser() if elsewhere else self.home

    @cached_property
    def home(self) -> Path:
        """:attr:`out` where nothing overrides it."""
        declared = self.profile == load_profile("organism")
        return repository() if declared else repository() / "runs" / self.profile.name

    def save_table(self, name: str, table: pd.DataFrame) -> Path:
        """Writes a results table to ``results/<name>.json``: its rows, and what they were computed with."""
        path = self.out / "results" / f"{name}.json"
        evidence = {"profile": self.profile.model_dump(mode="json"), "model": self.model_key}
        with explain_write_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                path,
                {
                    "name": name,
                    "evidence": evidence,
                    "rows": json.loads(table.to_json(orient="records", double_precision=6)),
                },
            )
        return path

    def save_rows(self, name: str, rows: pd.DataFrame) -> Path:
        """Writes tidy rows (one for each prompt, model, mode and sample, without texts) to ``results/tidy``.

        Parquet, so that anyone can recompute the statistics; texts are left out.
        """
        folder = self.out / "results" / "tidy"
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f".{name}.{os.getpid()}.parquet"
            rows.drop(columns=["thought", "answer", "text"], errors="ignore").to_parquet(
                part, index=False, compression="zstd"
            )
            os.replace(part, folder / f"{name}.parquet")
        return folder / f"{name}.parquet"

    def saved_rows(self, name: str) -> pd.DataFrame:
        """Tidy rows of a stage that is run on request, from :attr:`out` or else :attr:`home`; empty if in neither."""
        paths = [folder / "results" / "tidy" / f"{name}.parquet" for folder in (self.out, self.home)]
        return next((pd.read_parquet(path) for path in paths if path.is_file()), pd.DataFrame())

    def save_figure(self, figure: Figure, name: str) -> None:
        """Writes a figure to ``figures/<name>.png`` and ``.svg``."""
        folder = self.out / "figures"
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for suffix in ("png", "svg"):
                part = folder / f".{name}.{os.getpid()}.{suffix}"
                # No date and no random ids in the file: equal results give equal files.
                with matplotlib.rc_context({"svg.hashsalt": name}):
                    figure.savefig(
                        part,
                        dpi=150,
                        bbox_inches="tight",
                        metadata={"Description": alt_text(figure)} | ({"Date": None} if suffix == "svg" else {}),
                    )
                os.replace(part, folder / f"{name}.{suffix}")

    def judge(self) -> Judge:
        """Who judges answers: the world's rules on the organism's prompts, else the profile's judge."""
        return self._judge

    @cached_property
    def _judge(self) -> Judge:
        p = self.profile
        if p.data.source == "synthetic":
            return WorldJudge()
        from saferlrm.judges.models import make_judge

        return make_judge(p.judge, p.server, self.store.root / "judgements" / f"{p.judge.kind}.jsonl", p.device)

    def judged_by(self) -> dict[str, Any]:
        """What verdicts depend on, for a stage's settings; nothing on the organism's prompts."""
        if self.profile.data.source == "synthetic":
            return {}
        return {"judge": self.profile.judge.model_dump(mode="json", exclude={"url", "batch_size"})}

    def answers(self, prompts: list[Prompt], mode: ThinkingMode, progress: str) -> list[Answer]:
        batch = self.profile.decoding.batch_size
        return answer(self.load(), [p.text for p in prompts], mode, self.decoding(), batch, progress=progress)

    def stage(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: dict[str, Artefact],
        build: Callable[[Path], None],
        *modules: str,
    ) -> Artefact:
        if self.profile.data.source == "published":
            modules += ("saferlrm.judges.models", "saferlrm.suites.source")
        code = hashlib.sha256("".join(code_fingerprint(module) for module in modules).encode()).hexdigest()

        def explained(folder: Path) -> None:
            with memory_explained(f"stage {name}"):
                build(folder)

        return self.store.load_or_compute(name, settings, inputs, explained, code)


def digest(values: Iterable[Any]) -> str:
    """Hash of JSON values: what identifies a set of prompts or examples in a stage's key."""
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()


def shipped_organism(seed: int = 0) -> Path:
    """Folder of the checkpoint of this growth seed that ships with the package; other seeds have none."""
    return Path(str(resources.files("saferlrm") / "organism" / "checkpoints" / f"seed{seed}"))
