"""Receipts say what an output is; commits make it exist at once; digests notice every change."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from k2.run.durable import durable_folder, sweep, write_durably
from k2.run.receipt import BrokenOutput, Receipt, check_files, now, read_receipt, seal_folder


def make(target: Path) -> Receipt:
    with durable_folder(target) as folder:
        (folder / "a.bin").write_bytes(b"a" * 1000)
        (folder / "sub").mkdir()
        (folder / "sub" / "b.bin").write_bytes(b"b")
        return seal_folder(folder, Receipt(kind="chunk", name="x", recipe="r", made_at=now()))


def test_a_committed_folder_agrees_with_its_receipt(tmp_path: Path) -> None:
    written = make(tmp_path / "out")
    assert read_receipt(tmp_path / "out") == written
    assert [f.path for f in written.files] == ["a.bin", "sub/b.bin"]
    assert check_files(tmp_path / "out", written) == []


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "link"])
def test_every_harm_is_named(tmp_path: Path, harm: str) -> None:
    receipt = make(tmp_path / "out")
    victim = tmp_path / "out" / "a.bin"
    if harm == "flip":
        victim.write_bytes(b"a" * 500 + b"c" + b"a" * 499)
    elif harm == "truncate":
        victim.write_bytes(b"a" * 999)
    else:
        victim.unlink()
    if harm == "link":
        victim.symlink_to("/etc/hostname")
    assert [line.split(":")[0] for line in check_files(tmp_path / "out", receipt)] == ["a.bin"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), durable_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_finished_artifact_is_never_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "out")
    with pytest.raises(FileExistsError):
        make(tmp_path / "out")


def test_a_killed_writer_leaves_no_output(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from k2.run.durable import durable_folder\n"
        "with durable_folder(Path(sys.argv[1])) as f:\n"
        "    (f / 'a').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(sweep(tmp_path)) == 1
    assert os.listdir(tmp_path) == []


def test_a_receipt_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenOutput, match="does not exist"):
        read_receipt(tmp_path / "receipt.json")
    write_durably(tmp_path / "receipt.json", b'{"kind": 3}')
    with pytest.raises(BrokenOutput, match="no readable receipt"):
        read_receipt(tmp_path / "receipt.json")
