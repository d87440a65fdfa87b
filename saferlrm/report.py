"""One self-contained HTML page of a study: targets, figures, tables and what produced them.

The page is made from result files, figures and manifests. It loads nothing from elsewhere and shows no
prompt, thought or answer: columns of text are left out of every table.
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from saferlrm.errors import SaferlrmError
from saferlrm.profile import profile_names
from saferlrm.store import Artefact, environment, explain_write_errors, repository
from saferlrm.targets import shortfalls, targets

if TYPE_CHECKING:
    from saferlrm.study import Study

TEXT_COLUMNS = ("text", "prompt", "thought", "answer", "completion", "topic")
MAX_ROWS = 200
NOTE = (
    "All harmful requests of the model organism's world are about invented things, and its harmful know-how "
    "is made of placeholders. Prompts, thoughts and answers are not shown."
)
STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --dim: #5c6675; --rule: #d9dee5; --paper: #fff;
  --band: #f5f7f9; --good: #00704f; --bad: #b23a00; --unsure: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --dim: #a3adba; --rule: #3a424e;
  --paper: #161a20; --band: #1f252d; --good: #4fd1a5; --bad: #ff9a66; --unsure: #f0c04f; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 2.6rem; border-bottom: 1px solid var(--rule); }
nav a { margin-right: 1rem; } a { color: inherit; }
.wide { overflow-x: auto; } .dim, figcaption { color: var(--dim); font-size: 0.9rem; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; margin: 0.6rem 0; }
th, td { padding: 0.25rem 0.7rem; text-align: left; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
td.number, th.number { text-align: right; } tbody tr:nth-child(odd) { background: var(--band); }
figure { margin: 1.4rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.met { color: var(--good); } .missed { color: var(--bad); } .unsure { color: var(--unsure); }
summary { cursor: pointer; font-weight: 600; margin: 0.4rem 0; } td { overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Result:
    """One result file: a named table and the evidence stored with it."""

    name: str
    rows: pd.DataFrame
    evidence: dict[str, Any]


def build_report(study: Study) -> Path:
    """Writes ``report.html`` beside the study's results and returns its path.

    Raises:
        SaferlrmError: there are no results yet, or the folder cannot be written.
    """
    results, figures = read_results(study.out / "results"), sorted((study.out / "figures").glob("*.png"))
    if not results:
        named = f" --profile {study.profile.name}" if study.profile.name in profile_names() else " with this profile"
        command = f"saferlrm run{named}"
        raise SaferlrmError(f"no results in {study.out / 'results'}; execute the notebooks first: {command}")
    saved = next((result.rows for result in results if result.name.endswith("targets")), None)
    page = render(
        study.profile.model_dump(mode="json"),
        targets(study.evaluation()) if saved is None else saved.astype({"met": "boolean"}),
        results,
        figures,
        study.store.entries(),
        read_timings(study.profile.name),
    )
    path = study.out / "report.html"
    with explain_write_errors(path.parent, "make room or set SAFERLRM_OUT to another folder, and run again"):
        temporary = path.with_name(f".report.{os.getpid()}.html")
        try:
            temporary.write_text(page, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def read_results(folder: Path) -> list[Result]:
    """The result files of a folder (``name``, ``evidence``, ``rows``), by name; other JSON is passed over."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise SaferlrmError(
                f"{path} is not valid JSON ({problem}); delete it and run its notebook again"
            ) from None
        if isinstance(content, dict) and "rows" in content:
            found.append(Result(path.stem, pd.DataFrame(content["rows"]), content.get("evidence", {})))
    return found


def read_timings(profile: str) -> pd.DataFrame:
    """Time and peak memory of each notebook of a profile, as its last run measured them; may be empty."""
    from saferlrm.runner import finished_notebooks

    marks = finished_notebooks(repository() / "runs" / profile)
    columns = ["name", "seconds", "peak_memory_mb", "finished"]
    return pd.DataFrame([{key: mark.get(key) for key in columns} for mark in marks], columns=columns)


def render(
    profile: dict[str, Any],
    goals: pd.DataFrame,
    results: Sequence[Result],
    figures: Sequence[Path],
    stages: Sequence[Artefact],
    timings: pd.DataFrame,
) -> str:
    """The page as one string of HTML.

    Args:
        profile: the resolved settings.
        goals: the table of :func:`saferlrm.targets.targets`.
        results: tables to show, in order.
        figures: PNG files to embed, in order.
        stages: finished stages, for versions, time and memory.
        timings: columns ``name``, ``seconds``, ``peak_memory_mb``, ``finished``.
    """
    title = f"Safety decisions before the chain of thought: profile {profile['name']}"
    sections = {
        "Targets": _goals(goals),
        "What falls short": _shortfalls(goals),
        "Claims": _claims(next((result.rows for result in results if result.name.endswith("_claims")), None)),
        "Figures": "".join(_figure(path) for path in figures) or "<p>No figures yet.</p>",
        "Tables": "".join(_result(result) for result in results),
        "What was run": _run(profile, stages, timings),
    }
    links = "".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in sections)
    body = "".join(f'<h2 id="{_anchor(name)}">{name}</h2>{content}' for name, content in sections.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<h1>{html.escape(title)}</h1><p class="dim">{NOTE}</p><nav>{links}</nav>{body}</body></html>\n'
    )


def _goals(goals: pd.DataFrame) -> str:
    met, measured = int(goals["met"].fillna(False).sum()), int(goals["met"].notna().sum())
    rows = []
    for row in goals.itertuples():
        value = _interval(row.value, row.low, row.high)
        beside = _interval(row.control, row.control_low, row.control_high)
        words = [row.about, row.metric.replace("_", " "), row.suite.replace("_", " "), row.mode, row.target]
        cells = "".join(f"<td>{html.escape(str(word))}</td>" for word in words)
        look = "met" if row.verdict == "met" else "missed" if row.verdict == "missed" else "unsure"
        verdict = f'<td class="{look}">{html.escape(row.verdict)}</td>'
        rows.append(f"<tr>{cells}<td>{value}</td><td>{row.n}</td>{verdict}<td>{beside}</td></tr>")
    names = ("about", "metric", "suite", "thinking", "target", "value [95 %]", "n", "verdict", "λ = 0 [95 %]")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f"<p>{met} of {len(goals)} targets are met by the estimate; {measured} were measured. A change of "
        "accuracy is the paired difference to the model before alignment. n counts prompts; where several "
        "seeds answer them, intervals are clustered by prompt.</p>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _shortfalls(goals: pd.DataFrame) -> str:
    found = shortfalls(goals)
    if not found:
        return "<p>Nothing: every target is met, and every interval lies on the right side of its bound.</p>"
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in found)}</ul>"


LEDGER_HEAD = ("verdict", "claim", "source", "metric", "rule", "measured here")


def control_in_words(row: Any) -> str:
    """Value, interval and verdict of λ = 0 beside a claim's; a dash where the claim has no control."""
    if not row.control_verdict:
        return "–"
    return f"{_interval(row.control_value, row.control_low, row.control_high)}: {row.control_verdict}"


def _claims(ledger: pd.DataFrame | None) -> str:
    """The claims ledger: every claim, its source, what was measured and the verdict, in the ledger's order."""
    if ledger is None:
        return "<p>The ledger was not computed yet; execute its notebook.</p>"
    looks = {"holds": "met", "does not hold": "missed"}
    counted = ", ".join(f"{count} {verdict}" for verdict, count in ledger["verdict"].value_counts().items())
    rows = []
    for row in ledger.itertuples():
        why = f"{row.why} {row.note.capitalize()}." if row.note else row.why
        cells = (row.claim, f"{row.source}; {row.grounding}", row.metric, row.rule, why, control_in_words(row))
        told = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        look = looks.get(row.verdict, "unsure")
        rows.append(f'<tr><td class="{look}">{html.escape(row.verdict)}</td>{told}</tr>')
    head = "".join(f"<th>{name}</th>" for name in (*LEDGER_HEAD, "λ = 0"))
    return (
        f"<p>{len(ledger)} claims: {counted}. Verdicts are computed from intervals by rules fixed in the code.</p>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _interval(value: float, low: float, high: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _figure(path: Path) -> str:
    with Image.open(path) as image:
        size, described = image.size, image.info.get("Description")
    name = path.stem.replace("_", " ")
    # Figures carry their alt text as metadata; one from elsewhere has its name at least.
    words = html.escape(described or name, quote=True)
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure id="{html.escape(path.stem)}"><img alt="{words}" width="{size[0] // 2}" '
        f'height="{size[1] // 2}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
    )


def _result(result: Result) -> str:
    table = result.rows.drop(columns=[name for name in TEXT_COLUMNS if name in result.rows])
    note = ""
    if len(table) > MAX_ROWS:
        rest = f"the rest is in results/{result.name}.json"
        note = f'<p class="dim">The first {MAX_ROWS} of {len(table):,} rows; {rest}.</p>'
    model = str(result.evidence.get("model", ""))[:12]
    source = f'<p class="dim">Model {html.escape(model)}</p>' if model else ""
    summary = f"{html.escape(result.name.replace('_', ' '))} ({len(table):,} rows)"
    return f"<details><summary>{summary}</summary>{source}{note}{_table(table.head(MAX_ROWS))}</details>"


def _table(table: pd.DataFrame) -> str:
    if table.empty:
        return "<p>No rows.</p>"
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    classes = [' class="number"' if number else "" for number in numeric]
    head = "".join(
        f"<th{look}>{html.escape(str(name).replace('_', ' '))}</th>"
        for look, name in zip(classes, table, strict=True)
    )
    rows = [
        "".join(f"<td{look}>{_cell(value)}</td>" for look, value in zip(classes, row, strict=True))
        for row in table.itertuples(index=False, name=None)
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if value is None or (not isinstance(value, (list, dict)) and pd.isna(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) >= 2 else f"{value:.4g}"
    return html.escape(str(value))


def _judge(profile: dict[str, Any]) -> str:
    if profile.get("data", {}).get("source", "synthetic") == "synthetic":
        return "rules of the synthetic world; it reads the answer, never the thought"
    judge = profile.get("judge", {})
    model = judge.get("model") or judge.get("url")
    reads = "the thought and the answer" if judge.get("reads_thought") else "the answer, never the thought"
    return f"{judge.get('kind')}{f' ({model})' if model else ''}; it reads {reads}"


def _run(profile: dict[str, Any], stages: Sequence[Artefact], timings: pd.DataFrame) -> str:
    now = environment()
    decoding = ", ".join(f"{key} {value}" for key, value in profile.get("decoding", {}).items())
    facts = {
        "profile": profile["name"],
        "model": profile.get("model"),
        "prompts a suite": profile.get("suite_size"),
        "alignment seeds": profile.get("seeds"),
        "data seed": profile.get("data_seed"),
        "decoding, all modes": decoding,
        "judge": _judge(profile),
        "device": now["device"],
        "code": now["git_commit"] or "not a git checkout",
        "versions": ", ".join(f"{name} {version}" for name, version in now["versions"].items()),
    }
    listed = "".join(f"<tr><td>{name}</td><td>{_cell(value)}</td></tr>" for name, value in facts.items())
    settings = html.escape(json.dumps(profile, indent=1, ensure_ascii=False))
    done = pd.DataFrame(
        [
            {
                "stage": artefact.stage,
                "key": artefact.key[:12],
                "started": str(artefact.manifest["started"])[:16].replace("T", " "),
                "seconds": artefact.manifest.get("seconds"),
                "peak memory MB": artefact.manifest.get("peak_memory_mb"),
                "MB": round(artefact.bytes / 1e6, 2),
                "commit": str(artefact.manifest.get("git_commit") or "")[:10],
            }
            for artefact in stages
        ]
    )
    parts = [
        f'<div class="wide"><table><tbody>{listed}</tbody></table></div>',
        f"<details><summary>All settings</summary><pre>{settings}</pre></details>",
    ]
    if len(timings):
        total, peak = timings["seconds"].sum(), timings["peak_memory_mb"].max()
        parts += [f"<h3>Notebooks: {total:.0f} s, peak {peak:.0f} MB</h3>", _table(timings)]
    if len(done):
        total = f"Stages: {done['seconds'].sum():.0f} s in all, peak {done['peak memory MB'].max():.0f} MB"
        parts.append(f"<details><summary>{total} ({len(done)} finished)</summary>{_table(done)}</details>")
    return "".join(parts)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
