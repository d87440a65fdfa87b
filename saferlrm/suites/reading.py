"""Getting a data file: from a local folder, the model hub or a web address; and reading it, whatever its format.

All three ways end in one file, which ``datasets`` reads, so that a local copy gives the same rows as the hub. Text is
UTF-8, with or without a byte-order mark; any other encoding is an error, because guessing one can change prompts.
"""

from __future__ import annotations

import codecs
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from saferlrm.errors import SaferlrmError

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_LOCAL = "or set data.folder to a folder with local copies"


def find_local(name: str, stems: Sequence[str], folder: Path | None, files: Mapping[str, str]) -> Path:
    """The local file of a data set.

    Args:
        name: of the data set.
        stems: paths below ``folder``, with or without suffix, under which its file may stand.
        folder: where to look; ``None`` if every set is named in ``files``.
        files: by name of a set, its file or a folder with this file alone; relative paths start at ``folder``.

    Raises:
        SaferlrmError: no such file, or several.
    """
    named = files.get(name)
    if named is not None:
        path = (folder or Path()) / Path(named).expanduser()
        found = [path] if path.is_file() else _data_files(path)
        looked = str(path)
    elif folder is None or not folder.is_dir():
        raise SaferlrmError(f"data.folder = {str(folder)!r} is no folder; give one with local copies, or null")
    else:
        candidates = [
            folder / (stem if Path(stem).suffix in BUILDERS else stem + suffix) for stem in stems for suffix in BUILDERS
        ]
        found = list(dict.fromkeys(path for path in candidates if path.is_file())) or _data_files(folder / name)
        looked = f"{folder}/{name} with suffix {', '.join(BUILDERS)}"
    if not found:
        raise SaferlrmError(f"no local file of {name} (looked for {looked}); add it, or name it in data.files")
    if len(found) > 1:
        raise SaferlrmError(
            f"{len(found)} files may be {name} ({', '.join(sorted(path.name for path in found))}); "
            "name one in data.files"
        )
    return found[0]


def _data_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in BUILDERS) if folder.is_dir() else []


def download(name: str, hub: str, file: str, revision: str, gated: bool = False) -> Path:
    """A file of a data set's repository on the model hub, at one revision; kept in the hub's cache.

    Raises:
        SaferlrmError: gated and no access, repository, revision or file gone, hub unreachable or out of order.
    """
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(hub, file, repo_type="dataset", revision=revision))
    except errors.GatedRepoError:
        raise SaferlrmError(_gated(name, hub)) from None
    except errors.RevisionNotFoundError:
        raise SaferlrmError(f"revision {revision[:12]} of {hub} is gone from the hub; update it, {_LOCAL}") from None
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):  # it answered, but not with the file
            raise SaferlrmError(_failed(name, error.__cause__)) from None
        raise SaferlrmError(
            f"cannot reach the model hub for {name} ({hub}), and it is not in the cache; go online, {_LOCAL}"
        ) from None
    except errors.EntryNotFoundError:
        raise SaferlrmError(
            f"{hub} has no file {file} at revision {revision[:12]}; update the registry, {_LOCAL}"
        ) from None
    except errors.RepositoryNotFoundError:
        # Without a token the hub does not say whether a repository is private or missing.
        missing = f"the hub has no data set {hub}, or hides it; log in, {_LOCAL}"
        raise SaferlrmError(_gated(name, hub) if gated else missing) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise SaferlrmError(_failed(name, error)) from None


def fetch(name: str, url: str) -> Path:
    """A file from the web, kept in the cache of ``datasets``."""
    from datasets import DownloadManager
    from datasets.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(DownloadManager(dataset_name=name).download(url))
    except Exception as error:  # the client underneath has many kinds of network errors
        # An address that cannot be reached is a missing file too, for another reason.
        unreachable = any(isinstance(e, OSError) and not isinstance(e, FileNotFoundError) for e in _chain(error))
        if isinstance(error, FileNotFoundError) and not unreachable:
            raise SaferlrmError(f"the file of {name} is gone from {url}; update the registry, {_LOCAL}") from None
        raise SaferlrmError(f"cannot fetch {name} from {url} ({_short(error)}); go online, {_LOCAL}") from None


def load_repository(name: str, hub: str, config: str | None, split: str, revision: str) -> pd.DataFrame:
    """A split of a repository on the hub whose files ``datasets`` finds by itself."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from datasets.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return load_dataset(hub, config, split=split, revision=revision).to_pandas()
    except DatasetNotFoundError as error:
        problem = f"{name} ({hub}, revision {revision[:12]}) is gated or gone ({_short(error)})"
        raise SaferlrmError(f"{problem}; log in or update the registry, {_LOCAL}") from None
    except Exception as error:  # network, cache and format have many kinds of errors
        raise SaferlrmError(
            f"cannot get {name} ({hub}) from the model hub ({_short(_chain(error)[-1])}); go online, {_LOCAL}"
        ) from None


def _failed(name: str, error: BaseException) -> str:
    return f"the model hub failed for {name} ({_short(error)}); try again later, {_LOCAL}"


def _gated(name: str, hub: str) -> str:
    return (
        f"{name} is gated: accept the terms of the data set {hub} on the hub, then run 'hf auth login' "
        f"or set HF_TOKEN, {_LOCAL}"
    )


def read(path: Path, suffix: str | None = None) -> pd.DataFrame:
    """All rows of a CSV, TSV, JSON, JSONL or Parquet file; empty cells of a table are empty texts.

    Args:
        suffix: of the format, where the file's name has none.

    Raises:
        SaferlrmError: unknown format, not UTF-8, malformed, or no rows.
    """
    from datasets import load_dataset
    from datasets.utils import disable_progress_bars

    suffix = suffix or path.suffix
    if suffix not in BUILDERS:
        raise SaferlrmError(f"{path.name} has no known format; use {', '.join(BUILDERS)}")
    options: dict[str, object] = {}
    if suffix != ".parquet":
        options["encoding"] = _encoding(path)
    if suffix in (".csv", ".tsv"):
        # "None" and "null" can be a prompt's own words.
        options |= {"keep_default_na": False, "sep": "\t" if suffix == ".tsv" else ","}
    disable_progress_bars()
    try:
        # A cache of its own: the shared one tells files apart by their dates.
        with tempfile.TemporaryDirectory(prefix="saferlrm-data-") as cache:
            rows = load_dataset(
                BUILDERS[suffix], data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True, **options
            ).to_pandas()
    except Exception as error:  # parsers raise whatever they like
        if "corresponds to no data" in str(error):
            raise SaferlrmError(f"{path.name} is empty: it has no rows; replace it") from None
        why = _short(_chain(error)[-1])
        raise SaferlrmError(f"cannot read {path.name} ({why}); mend or replace the file") from None
    return rows


def _encoding(path: Path) -> str:
    """``utf-8`` or ``utf-8-sig``; anything else is an error that says where."""
    with path.open("rb") as file:
        start = file.read(4)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise SaferlrmError(f"{path.name} is UTF-16; save it as UTF-8 (iconv -f utf-16 -t utf-8)")
        if not start:
            raise SaferlrmError(f"{path.name} is empty; replace it")
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise SaferlrmError(
                    f"{path.name} is not UTF-8 (byte 0x{line[error.start]:02x} in line {number}); "
                    "save it as UTF-8, e.g. iconv -f cp1252 -t utf-8"
                ) from None
    return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what led to it, latest first."""
    found = [error]
    while (before := found[-1].__cause__ or found[-1].__context__) is not None:
        found.append(before)
    return found


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
