"""Every format, whole and damaged: what can be read is read, and what cannot is counted with its reason and place."""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from k2.data.document import Dropped, Found
from k2.data.sources import cut, list_source, read_one, read_piece
from k2.recipe.data import FilesSource
from k2.recipe.place import Place

TEXTS = [f"document {number} " + "word é漢😀 " * (number % 7) for number in range(500)]
LINES = [json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in TEXTS]
STARTS = [sum(map(len, LINES[:number])) for number in range(len(LINES))]
PACK = {".gz": gzip.compress, ".zst": zstd.compress}


def read_all(folder, pattern="*", piece_bytes=1 << 40, **settings):
    source, place = FilesSource(pattern=pattern, **settings), Place(data_dir=str(folder))
    return [found for piece in cut(list_source(source, place), piece_bytes) for found in read_piece(source, place, piece)]


def table(texts=TEXTS, **columns):
    return pa.table({"id": list(range(len(texts))), "text": texts, **columns})


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.json.gz", "a.ndjson.zst"])
def test_compressed_lines_are_read_and_found_again_by_their_place_in_the_text(tmp_path, name):
    pack = PACK[Path(name).suffix]
    (tmp_path / name).write_bytes(pack(b"".join(LINES[:100])) + pack(b"") + pack(b"".join(LINES[100:])))  # several frames
    read = read_all(tmp_path, piece_bytes=100)
    assert read == [Found(name, start, text) for start, text in zip(STARTS, TEXTS, strict=True)]
    for found in read[::100]:
        assert read_one(FilesSource(pattern="*"), Place(data_dir=str(tmp_path)), name, found.position) == found


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_of_a_half_written_file_what_was_whole_is_kept(tmp_path, end):
    packed = PACK[end](os.urandom(2000).hex().encode().join(LINES))
    (tmp_path / f"a.jsonl{end}").write_bytes(packed[: len(packed) // 2])
    *kept, torn = read_all(tmp_path)
    assert len(kept) > 10
    assert torn.reason == "torn file"
    assert all(found.position < torn.position for found in kept)
    assert (tmp_path / f"a.jsonl{end}").write_bytes(b"") == 0
    assert read_all(tmp_path) == [Dropped(f"a.jsonl{end}", 0, "empty")]


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_damage_inside_a_compressed_file_is_counted(tmp_path, end):
    packed = bytearray(PACK[end](b"".join(LINES)))
    packed[len(packed) // 2 : len(packed) // 2 + 40] = b"\xff" * 40
    (tmp_path / f"a.jsonl{end}").write_bytes(packed)
    read = read_all(tmp_path)
    assert read[-1].reason == "damaged file"
    (tmp_path / f"a.jsonl{end}").write_bytes(b"no compressed file at all")
    assert read_all(tmp_path) == [Dropped(f"a.jsonl{end}", 0, "damaged file")]


@pytest.mark.parametrize("piece_bytes", [1, 5000, 1 << 40])
def test_parquet_gives_its_text_column_however_it_is_cut(tmp_path, piece_bytes):
    pq.write_table(table(), tmp_path / "a.parquet", row_group_size=130)
    read = read_all(tmp_path, piece_bytes=piece_bytes)
    assert read == [Found("a.parquet", row, text) for row, text in enumerate(TEXTS)]
    assert read_one(FilesSource(pattern="*"), Place(data_dir=str(tmp_path)), "a.parquet", 300) == read[300]


def test_parquet_texts_may_be_dictionaries_large_or_members_and_may_be_missing(tmp_path):
    texts = ["one", None, " ", "two", "one"]
    member = pa.array([{"text": text, "n": 1} for text in texts])
    columns = {"dictionary": pa.array(texts).dictionary_encode(), "large": pa.array(texts, pa.large_string()), "inner": member}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    said = ["one", "text is no string", "empty", "two", "one"]
    for field in ("dictionary", "large", "inner.text"):
        assert [getattr(found, "text", None) or found.reason for found in read_all(tmp_path, text_field=field)] == said
    assert read_all(tmp_path, text_field="body") == [Dropped("a.parquet", row, "no text field") for row in range(5)]
    assert {found.reason for found in read_all(tmp_path, text_field="inner.n")} == {"text is no string"}


def test_a_damaged_row_group_drops_its_rows_and_no_others(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(table(), path, row_group_size=100, use_dictionary=False)
    column = pq.read_metadata(path).row_group(2).column(1)
    content = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle : middle + 50] = b"\xff" * 50
    content[column.data_page_offset : column.data_page_offset + 8] = b"\xff" * 8
    path.write_bytes(content)
    read = read_all(tmp_path, piece_bytes=1)
    assert [found.position for found in read] == list(range(500))
    assert {found.position for found in read if found == Dropped("a.parquet", found.position, "damaged file")} == set(range(200, 300))
    assert [found.text for found in read[300:]] == TEXTS[300:]


def test_what_is_no_parquet_and_bytes_that_are_no_text_are_counted(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 torn")
    pq.write_table(pa.table({"text": pa.array([b"good", b"\xff\xfe"], pa.binary())}), tmp_path / "b.parquet")
    assert read_all(tmp_path, piece_bytes=4) == [
        Dropped("a.parquet", 0, "damaged file"),
        Found("b.parquet", 0, "good"),
        Dropped("b.parquet", 1, "not UTF-8"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"text": "x", "score": NaN}', "x"),
        (b'{"text": "x", "score": -Infinity}', "x"),
        (b'{"text": NaN}', "text is no string"),
        (b'{"text": "x", "n": ' + b"9" * 300 + b"}", "x"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"text": "x", "deep": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "not JSON"),
        (b'{"text": "x\xff"}', "not UTF-8"),
        (b'{"text": "\\ud800"}', "not encodable"),
        (b'{"text": "\\ud83d\\ude00"}', "😀"),
        (b'{"text": "x", "other": "\\udfff"}', "x"),
        (b'{"text": ["x"]}', "text is no string"),
        (b'{"text": null}', "text is no string"),
        (b'{"text": "\\u0000"}', "\x00"),
        (b'\xef\xbb\xbf{"text": "x"}', "x"),
        (b'{"text": "x"} {"text": "y"}', "not JSON"),
        (b'"text"', "no text field"),
        (b'{"text": "\\u2003 \\n"}', "empty"),
    ],
    ids=range(17),
)
def test_one_line_of_json_gives_its_text_or_a_reason(tmp_path, line, said):
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + LINES[0])
    first, second = read_all(tmp_path)
    assert (getattr(first, "text", None) or first.reason) == said
    assert second == Found("a.jsonl", len(line) + 1, TEXTS[0])


def test_what_is_too_large_is_dropped_in_every_format(tmp_path):
    texts = ["small", "x" * 2000, "small too"]
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.zst").write_bytes(zstd.compress(lines))
    pq.write_table(table(texts), tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_text(texts[1])
    read = read_all(tmp_path, max_document_bytes=1000)
    assert [getattr(found, "text", None) or found.reason for found in read] == [*["small", "too large", "small too"] * 3, "too large"]


def test_a_file_that_may_not_be_opened_is_dropped_once(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"".join(LINES))
    (tmp_path / "a.jsonl").chmod(0)
    script = (  # what root may read it reads once, so that nothing has to be imported later
        "import os, sys; from tests.data.test_formats import read_all\n"
        "if os.getuid() == 0: read_all(sys.argv[1]); os.setuid(65534)\n"
        "print(read_all(sys.argv[1], piece_bytes=1000))"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "[Dropped(source='a.jsonl', position=0, reason='unreadable')]\n"


# What each of these would take in memory if it were held: 1 GB; 10 GB; 1 GB; 4 GB
BOMBS = {
    "one line of 1 GB": ("a.jsonl", "too large"),
    "zeros, 10 GB": ("b.jsonl.zst", "too large, unfolds more than 250-fold"),
    "gzipped zeros, 1 GB": ("c.jsonl.gz", "too large, unfolds more than 250-fold"),
    "window of 1 GB": ("d.jsonl.zst", "needs a window above 128 MB"),
}


def lay_bomb(path, name):
    if name == "one line of 1 GB":
        with path.open("wb") as file:
            file.truncate(1 << 30)  # a hole: one line of NULs
            file.seek(0, os.SEEK_END)
            file.write(b"\n" + LINES[0])
    elif name == "zeros, 10 GB":
        frame = zstd.compress(bytes(1 << 26))
        path.write_bytes(frame * 160)
    elif name == "gzipped zeros, 1 GB":
        path.write_bytes(gzip.compress(bytes(1 << 24)) * 64)
    else:
        options = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.content_size_flag: 0}
        made = zstd.ZstdCompressor(options=options)
        path.write_bytes(made.compress(b"".join(LINES)) + made.flush())


@pytest.mark.parametrize("name", BOMBS)
def test_memory_stays_flat_before_what_would_fill_it(tmp_path, name):
    file, reason = BOMBS[name]
    lay_bomb(tmp_path / file, name)
    script = (
        "import resource, sys; from tests.data.test_formats import read_all\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read = read_all(sys.argv[1])\n"
        "print(*(found.reason for found in read if not hasattr(found, 'text')), sep=', ', end=' | ')\n"
        "print(len(read), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    argv = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    said, _, numbers = done.stdout.partition(" | ")
    count, kilobytes = map(int, numbers.split())
    assert said == reason
    assert count == (1 if name == "window of 1 GB" else 2)
    assert kilobytes < 100_000
