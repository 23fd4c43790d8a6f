"""Real text that any machine with Python holds: what the installation that runs k2 consists of.

Enters the name of a part (`code`, `reference`, `docstrings`, `licences`, `metadata`); leaves `Found` and
`Dropped`. Files are only read: no module is imported, and nothing of them is executed. They come in an order given
by the digests of their names, so that a cap on the bytes takes from everywhere and not from the letter A.
"""

import ast
import hashlib
import inspect
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from email.parser import BytesParser
from pathlib import Path

from k2.data.document import Dropped, Found
from k2.data.read import read_text
from k2.recipe.data import PythonSource

_NOT_TEXT = {"site-packages", "dist-packages", "test", "tests", "testing", "idle_test", "__pycache__", "node_modules"}
_LICENCE_NAMES = ("license", "licence", "copying", "notice")
_SHORTEST = 200  # characters: what is shorter says nothing


def read_installation(source: PythonSource) -> Iterator[Found | Dropped]:
    """The documents of one part of this Python installation."""
    parts: dict[str, Callable[[], Iterator[Found | Dropped]]] = {
        "code": _code,
        "reference": _reference,
        "docstrings": _docstrings,
        "licences": _licences,
        "metadata": _metadata,
    }
    return parts[source.part]()


def _code() -> Iterator[Found | Dropped]:
    """The sources of the standard library, a module a document."""
    library = _library()
    for name in _spread(name for name in _walk(library) if name.endswith(".py") and not name.startswith("pydoc_data")):
        yield read_text(library / name, f"python/{name}")


def _reference() -> Iterator[Found | Dropped]:
    """The language reference that `help()` shows, a topic a document, and the library's notes."""
    library = _library()
    topics = [Found("python/pydoc_data/topics.py", position, text) for position, text in enumerate(_topics(library))]
    yield from sorted(topics, key=lambda found: _order(found.text))
    for name in _spread(name for name in _walk(library) if name.endswith((".rst", ".txt")) and not _is_licence(name)):
        yield read_text(library / name, f"python/{name}")


def _docstrings() -> Iterator[Found | Dropped]:
    """What installed packages say of their functions and classes, a module a document.

    Not the standard library's: those lie in `code`, and what is held out of one must not be trained on by the other.
    """
    for root in _package_folders():
        for name in _spread(name for name in _walk(root) if name.endswith(".py")):
            read = read_text(root / name, f"packages/{name}")
            if isinstance(read, Found):
                text = docstrings_of(read.text)
                if len(text) >= _SHORTEST:
                    yield Found(read.source, 0, text)


def _licences() -> Iterator[Found | Dropped]:
    """Python's licence and those of the installed packages."""
    for name in _spread(name for name in _walk(_library()) if _is_licence(name)):
        yield read_text(_library() / name, f"python/{name}")
    for root, name in _metadata_files():
        if _is_licence(name):
            yield read_text(root / name, f"packages/{name}")


def _metadata() -> Iterator[Found | Dropped]:
    """What the installed packages say of themselves: mostly their READMEs."""
    for root, name in _metadata_files():
        if Path(name).name in {"METADATA", "PKG-INFO"}:
            text = _description(root / name)
            if len(text) >= _SHORTEST:
                yield Found(f"packages/{name}", 0, text)


def docstrings_of(source: str) -> str:
    """The docstrings of a module, each under the name of what it describes. Empty for what is not Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # other people's escape sequences
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return "\n\n".join(_described(tree, ""))


def _described(node: ast.AST, name: str) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield f"{name}\n{inspect.cleandoc(text)}" if name else inspect.cleandoc(text)
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _described(child, f"{name}.{child.name}" if name else child.name)


def _topics(library: Path) -> list[str]:
    """The texts of pydoc's topics, read from the module's source; none where a distribution leaves it out."""
    read = read_text(library / "pydoc_data" / "topics.py", "topics")
    if isinstance(read, Dropped):
        return []
    for node in ast.parse(read.text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return [str(text) for text in ast.literal_eval(node.value).values()]
    return []


def _description(path: Path) -> str:
    """The long description of a package's metadata."""
    try:
        payload = BytesParser().parsebytes(path.read_bytes()).get_payload(decode=True)
        return payload.decode("utf-8") if isinstance(payload, bytes) else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _package_folders() -> list[Path]:
    """The folders that installed packages lie in."""
    named = {Path(sysconfig.get_path(key)) for key in ("purelib", "platlib")}
    on_path = {Path(entry) for entry in sys.path if Path(entry).name in {"site-packages", "dist-packages"}}
    return sorted(folder for folder in named | on_path if folder.is_dir())


def _metadata_files() -> list[tuple[Path, str]]:
    """Every file of the packages' metadata folders, spread."""
    roots = {
        f"{info.name}": root
        for root in _package_folders()
        for info in [*root.glob("*.dist-info"), *root.glob("*.egg-info")]
        if info.is_dir()
    }
    names = [f"{info}/{name}" for info, root in roots.items() for name in _walk(root / info)]
    return [(roots[name.partition("/")[0]], name) for name in _spread(iter(names))]


def _walk(root: Path) -> Iterator[str]:
    """Paths of the files below `root`, relative to it, without tests."""
    above = len(str(root)) + 1
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_TEXT]
        yield from (f"{folder}/{file}"[above:] for file in files)


def _spread(names: Iterator[str]) -> list[str]:
    return sorted(names, key=_order)


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _is_licence(name: str) -> bool:
    return Path(name).name.lower().startswith(_LICENCE_NAMES) and not name.endswith((".py", ".pyc", ".json"))
