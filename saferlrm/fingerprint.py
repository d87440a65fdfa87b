"""Fingerprint of the code that builds a stage: a result belongs to the code that made it.

The hash covers a module and every module of this package that it imports, directly or not. It is taken over
the syntax tree without comments, docstrings and layout, so that prose may change without recomputing
anything, and in a notation of our own, because `ast.dump` differs between Python versions.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

PACKAGE = "saferlrm"
# Modules that carry, show or validate results but cannot change them (settings enter the key by value).
NO_EFFECT = frozenset(
    f"{PACKAGE}.{name}" for name in ("errors", "fingerprint", "memory", "profile", "progress", "store")
)


def code_fingerprint(*modules: str, package: Path | None = None) -> str:
    """SHA-256 over the sources of ``modules`` and, transitively, of what they import from this package.

    Args:
        modules: dotted names, e.g. ``saferlrm.classifier``.
        package: folder of the package; default: this one.

    Raises:
        ModuleNotFoundError: no such module in the package.
    """
    root = package or Path(__file__).resolve().parent
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        # The package's own __init__ holds the version only.
        if name in found or name in NO_EFFECT or name == PACKAGE:
            continue
        path = _path(name, root)
        if path is None:
            raise ModuleNotFoundError(f"no module {name} in {root}")
        found[name], imports = _read(name, path, path.stat().st_mtime_ns)
        parent = name.rpartition(".")[0]  # importing a.b runs a/__init__.py
        waiting += [parent, *(imported for imported in imports if _path(imported, root) is not None)]
    return hashlib.sha256("\0".join(f"{name}\0{found[name]}" for name in sorted(found)).encode()).hexdigest()


def package_fingerprint(package: Path | None = None) -> str:
    """`code_fingerprint` of all modules that a notebook's results and figures can depend on."""
    root = package or Path(__file__).resolve().parent
    names = set()
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        names.add(".".join([PACKAGE, *(part for part in parts if part != "__init__")]))
    return code_fingerprint(*(names - {f"{PACKAGE}.cli", f"{PACKAGE}.runner"}), package=root)


@functools.lru_cache(maxsize=256)
def _read(name: str, path: Path, modified: int) -> tuple[str, frozenset[str]]:
    """The module's tree in our notation, and every dotted name that its import statements may mean."""
    tree = ast.parse(path.read_bytes())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return _notation(tree), frozenset(names)


def _path(name: str, root: Path) -> Path | None:
    head, *rest = name.split(".")
    if head != PACKAGE:
        return None
    base = root.joinpath(*rest)
    for candidate in (base / "__init__.py", base.with_name(base.name + ".py")):
        if candidate.is_file():
            return candidate
    return None


def _notation(node: object) -> str:
    """The tree as text: node types and their non-empty fields, without docstrings and positions."""
    if isinstance(node, ast.AST):
        fields = []
        for field, value in ast.iter_fields(node):
            if field == "body" and isinstance(value, list) and _has_docstring(node):
                value = value[1:]
            # Newer versions add fields that are empty on older code, e.g. type_params.
            if value is None or value == []:
                continue
            fields.append(f"{field}={_notation(value)}")
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_notation, node))}]"
    return repr(node)


def _has_docstring(node: ast.AST) -> bool:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if not isinstance(node, documented) or not node.body:
        return False
    first = node.body[0]
    return (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
