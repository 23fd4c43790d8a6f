"""Sources on a real S3 server and on a loopback Hub: listed, read in ranges, and what goes wrong is said."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from fault_proxy import Fault, FaultProxy

from k2.data.document import DataError, Found
from k2.data.remote import _opened, glob_pattern
from k2.data.sources import cut, list_source, read_one, read_piece
from k2.data.store import SourceUnavailable
from k2.recipe.data import FilesSource
from k2.recipe.place import Place

TEXTS = [f"document {number} " + "word é漢😀 " * (number % 7) for number in range(200)]
LINES = b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in TEXTS)
PLACE = Place()


@pytest.fixture(autouse=True)
def _new_clients():
    """Each test has its own servers in the environment, so no client of another test may serve it."""
    _opened.cache_clear()
    yield
    _opened.cache_clear()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "c.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=50)
    return {"a.jsonl": LINES, "b.jsonl.zst": zstd.compress(LINES), "deep/c.parquet": path.read_bytes(), "d.py": b"d = 4\n"}


@pytest.fixture
def bucket(client, files):
    client.create_bucket(Bucket="k2-sources")
    for name, content in files.items():
        client.put_object(Bucket="k2-sources", Key=f"corpus/{name}", Body=content)
    yield "s3://k2-sources/corpus"
    for name in files:
        client.delete_object(Bucket="k2-sources", Key=f"corpus/{name}")
    client.delete_bucket(Bucket="k2-sources")


@pytest.fixture
def repository(hub, files):
    from hub_store import StoredFile, StoredRepository

    tree = {f"corpus/{name}": StoredFile(content, large=not name.endswith(".py")) for name, content in files.items()}
    hub.repositories["llm/corpus"] = StoredRepository({"c0ffee": tree}, {"main": "c0ffee"})
    return "hf://datasets/llm/corpus/corpus"


def read_all(source, piece_bytes):
    return [found for piece in cut(list_source(source, PLACE), piece_bytes) for found in read_piece(source, PLACE, piece)]


def check_reading(folder, files):
    source = FilesSource(pattern=f"{folder}/**")
    listed = list_source(source, PLACE)
    assert [(file.name, file.bytes) for file in listed] == sorted((f"{folder}/{name}", len(content)) for name, content in files.items())
    assert all(file.version for file in listed)
    read = read_all(source, 3000)
    assert [found.text for found in read] == [*TEXTS, *TEXTS, "d = 4\n", *TEXTS]
    for found in (read[150], read[350], read[400], read[500]):
        assert read_one(source, PLACE, found.source, found.position) == found
    assert {found.source for found in read_all(FilesSource(pattern=f"{folder}/*.jsonl"), 1 << 40)} == {f"{folder}/a.jsonl"}


def test_every_format_is_read_from_s3(bucket, files):
    check_reading(bucket, files)


def test_every_format_is_read_from_the_hub(repository, files):
    check_reading(repository, files)


def test_an_object_that_changed_is_refused(bucket, client):
    source = FilesSource(pattern=f"{bucket}/a.jsonl")
    (piece,) = cut(list_source(source, PLACE), 1 << 40)
    client.put_object(Bucket="k2-sources", Key="corpus/a.jsonl", Body=LINES.replace(b"word", b"work"))
    with pytest.raises(DataError, match=r"a\.jsonl changed since the build began"):
        list(read_piece(source, PLACE, piece))


def test_what_credentials_and_names_get_wrong_is_said_with_its_fix(bucket, monkeypatch):
    for pattern, said in (
        (f"{bucket}/*.txt", "names no file there"),
        ("s3://k2-no-such-bucket/x", "no such bucket"),
        ("s3://k2-sources", "must name one bucket and a key"),
    ):
        with pytest.raises(DataError, match=said):
            list_source(FilesSource(pattern=pattern), PLACE)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    _opened.cache_clear()
    with pytest.raises(DataError, match="correct AWS_SECRET_ACCESS_KEY"):
        list_source(FilesSource(pattern=f"{bucket}/*"), PLACE)


def test_a_store_that_cannot_be_reached_drops_nothing(monkeypatch):
    for name, value in (("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "canary-secret"),
                        ("AWS_MAX_ATTEMPTS", "1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceUnavailable, match="nothing was dropped, try again") as unreachable:
        list_source(FilesSource(pattern="s3://k2-sources/*"), PLACE)
    assert "canary-secret" not in str(unreachable.value)


def test_what_a_network_does_to_s3_is_outlived_or_said(bucket, s3, monkeypatch):
    source = FilesSource(pattern=f"{bucket}/a.jsonl")
    with FaultProxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        _opened.cache_clear()
        (piece,) = cut(list_source(source, PLACE), 1 << 40)
        for kind in ("cut answer", "error", "reset"):
            proxy.faults.append(Fault(kind, "GET", r"a\.jsonl", times=1))
            assert [found.text for found in read_piece(source, PLACE, piece)] == TEXTS
        assert len(proxy.met) == 3
        proxy.faults.append(Fault("cut answer", "GET", r"a\.jsonl", times=100))
        with pytest.raises(SourceUnavailable, match="nothing was dropped, try again"):
            list(read_piece(source, PLACE, piece))


def test_an_endpoint_that_would_tell_a_machines_secrets_is_refused(monkeypatch):
    for endpoint in ("http://169.254.169.254", "http://[fe80::1]:9000", "file:///etc"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        for pattern in ("s3://bucket/x.jsonl", "hf://datasets/a/b/x.jsonl"):
            with pytest.raises(DataError, match=r"ENDPOINT.* is no endpoint of a store"):
                list_source(FilesSource(pattern=pattern), PLACE)


def test_an_answer_of_the_hub_that_breaks_off_is_asked_for_again(repository, hub):
    source = FilesSource(pattern=f"{repository}/a.jsonl")
    hub.fail(r"GET /datasets/llm/corpus/resolve/.*a\.jsonl", status=0)
    assert len(read_all(source, 1 << 40)) == len(TEXTS)


def test_the_hub_says_what_is_missing(repository, hub, monkeypatch):
    with pytest.raises(DataError, match=r"no/such/x\.jsonl does not exist, or may not be seen by this token|names no file there"):
        list_source(FilesSource(pattern="hf://datasets/no/such/x.jsonl"), PLACE)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    _opened.cache_clear()
    with pytest.raises(DataError, match="HF_TOKEN"):
        list_source(FilesSource(pattern=f"{repository}/a.jsonl"), PLACE)


def test_the_place_decides_which_addresses_a_recipe_may_read():
    source = FilesSource(pattern="s3://other-team/*.jsonl")
    for read_from in ((), ("hf://",), ("s3://other",), ("s3://other-team/public/",)):
        with pytest.raises(DataError, match=r"may not be read here: the place allows .*read_from"):
            list_source(source, Place(read_from=read_from))
    with pytest.raises(DataError, match="unknown scheme 'http'"):
        list_source(FilesSource(pattern="http://169.254.169.254/latest"), Place(read_from=("http://",)))


def test_globs_of_addresses_stay_in_their_folder():
    def names(glob):
        return [name for name in ("a.py", "x/a.py", "x/y/a.py", "x/y/ab.py", "b.txt") if glob_pattern(glob).fullmatch(name)]

    assert names("*.py") == ["a.py"]
    assert names("**/a.py") == ["a.py", "x/a.py", "x/y/a.py"]
    assert names("x/**") == ["x/a.py", "x/y/a.py", "x/y/ab.py"]
    assert names("x/?/a?.py") == ["x/y/ab.py"]


def test_positions_are_those_of_the_text(bucket):
    read = read_all(FilesSource(pattern=f"{bucket}/b.jsonl.zst"), 1)
    assert read[1] == Found(f"{bucket}/b.jsonl.zst", LINES.index(b"\n") + 1, TEXTS[1])
