"""Real text of the machine at hand, as `.jsonl`: what the Python installation and its packages consist of."""

import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_TEXT = (".py", ".pyi", ".md", ".rst", ".txt", ".c", ".h", ".html", ".js", ".css", ".json", ".yaml", ".toml")
_LARGEST_BYTES = 2_000_000  # a vocabulary or a test table says nothing of text


def write_corpus(folder: Path, megabytes: int, files: int) -> int:
    """Write about so many megabytes of text into `files` files of about the same size; give the bytes of text."""
    wanted = megabytes * 1_000_000
    outputs = [(folder / f"part_{number:02d}.jsonl").open("wb") for number in range(files)]
    written = 0
    for name, text in _texts():
        size = len(text.encode())
        outputs[written * files // wanted].write(json.dumps({"text": text, "source": name}, ensure_ascii=False).encode() + b"\n")
        written += size
        if written >= wanted:
            break
    for output in outputs:
        output.close()
    return written


def _texts() -> Iterator[tuple[str, str]]:
    """Every file of text below the libraries' folders, by name. Copies are left in: corpora have them too."""
    for root in dict.fromkeys(Path(sysconfig.get_path(key)) for key in ("purelib", "stdlib")):
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if name.endswith(_TEXT) and path.is_file() and 0 < path.stat().st_size <= _LARGEST_BYTES:
                    try:
                        text = path.read_bytes().decode("utf-8")
                    except UnicodeDecodeError:
                        continue
                    if text.strip():
                        yield str(path), text
