"""Files on a full disk, what killed writers leave, locks, and folders that two processes want."""

import errno
import os
import resource
import signal
import time
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from samzoo import locks, run_folder
from samzoo.data.restore import write_label
from samzoo.errors import ConfigError, DataError
from samzoo.run_folder import Run
from samzoo.training import WholeCheckpoints
from samzoo.writing import LIVE_SECONDS, discard, sweep, whole_folder, write_atomically

NOISE = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
WRITERS = {
    "last.ckpt": lambda path: WholeCheckpoints().save_checkpoint({"a": torch.ones(90_000)}, path),
    "a.npz": lambda path: write_atomically(path, lambda file: np.savez_compressed(file, noise=NOISE), "wb"),
    "a.png": lambda path: write_atomically(path, lambda file: Image.fromarray(NOISE).save(file, format="PNG"), "wb"),
    "a.csv": lambda path: write_atomically(path, lambda file: file.writelines("1,2,3\n" for _ in range(20_000))),
}


@contextmanager
def full_after(count):
    """No file may be larger than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("count", [0, 1000, 50_000])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_older_file_and_says_what_to_do(tmp_path, name, count):
    path = tmp_path / name
    path.write_text("older")
    with (
        pytest.raises(DataError, match=rf"{name}: can't be written: no space left .*free some") as error,
        full_after(count),
    ):
        WRITERS[name](path)
    assert str(error.value).startswith(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == [name] and path.read_text() == "older"
    WRITERS[name](path)
    assert path.stat().st_size > 50_000


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.png"])
def test_a_label_map_on_a_full_disk(tmp_path, name):
    source, target = tmp_path / f"source{Path(name).suffix}", tmp_path / "out" / name
    if name == "a.png":
        Image.fromarray(NOISE).save(source)
    else:
        nib.save(nib.Nifti1Image(NOISE[..., None], np.eye(4)), source := tmp_path / "source.nii.gz")
    with pytest.raises(DataError, match=rf"{name}: can't be written: no space left .*free some"), full_after(5000):
        write_label(NOISE[None] % 2, source, target, (0, 1), 2)
    assert not list(target.parent.iterdir())


@contextmanager
def forked(act):
    """A process that does something, then says so and waits to be killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()
            os.write(writer, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)


def write_for_ever(path, ready):
    def write(file):
        file.write("half")
        file.flush()
        os.write(ready, b"x")
        time.sleep(60)

    write_atomically(path, write)


def test_what_a_killed_writer_has_left_goes_and_what_is_being_written_stays(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_for_ever(tmp_path / "a.csv", writer)
        finally:
            os._exit(1)
    os.read(reader, 1)
    (tmp_path / ".mine").touch()
    (being_written,) = tmp_path.glob(".a.csv.*")
    os.utime(being_written, (0, 0))
    sweep(tmp_path)
    assert len(list(tmp_path.glob(".a.csv.*"))) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.utime(being_written)
    sweep(tmp_path)
    assert being_written.exists(), "it may be another machine's, whose lock is not seen here"
    os.utime(being_written, (time.time() - 2 * LIVE_SECONDS,) * 2)
    write_atomically(tmp_path / "b.csv", lambda file: file.write("b"))
    assert {p.name for p in tmp_path.iterdir()} == {".mine", "b.csv"}


def test_an_unfinished_folder_is_swept_once_its_builder_is_dead(tmp_path):
    def build():
        with whole_folder(tmp_path / "set") as building:
            (building / "half").touch()
            os.utime(building, (0, 0))
            told.set()
            time.sleep(60)

    told = get_context("fork").Event()
    builder = get_context("fork").Process(target=build)
    builder.start()
    assert told.wait(30)
    sweep(tmp_path)
    (left,) = tmp_path.iterdir()
    builder.kill()
    builder.join()
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())
    with whole_folder(left) as building:
        (building / "whole").touch()
    assert [p.name for p in left.iterdir()] == ["whole"]


def test_one_process_at_a_time(tmp_path, monkeypatch):
    """Also where those that wait have opened a file that the one before them removes."""
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.001)
    count = tmp_path / "count"
    count.write_text("0")

    def add():
        for _ in range(25):
            with locks.locked(tmp_path / "new" / "lock"):
                number = int(count.read_text())
                time.sleep(0.001)
                count.write_text(str(number + 1))

    adders = [get_context("fork").Process(target=add) for _ in range(4)]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    assert count.read_text() == "100" and not list((tmp_path / "new").iterdir())


def test_workers_that_outlive_a_killed_training_do_not_hold_its_lock(tmp_path):
    def train():
        assert locks.hold(tmp_path / "lock")
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)

    with forked(train):
        assert locks.hold(tmp_path / "lock", wait_seconds=0) is None
    assert locks.hold(tmp_path / "lock", wait_seconds=0)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    left = tmp_path / ".a.xyz.unfinished"
    left.touch()
    os.utime(left, (0, 0))
    with locks.locked(tmp_path / "lock") as mine, locks.locked(tmp_path / "lock", wait_seconds=0) as also:
        assert mine and also, "renames keep what is written whole"
    sweep(tmp_path)
    assert left.exists(), "it may be being written"


@pytest.mark.parametrize("name", ["ü" * 125, "a" * 250, "\udcff" * 250, "a" + "漢" * 80])
def test_names_as_long_as_the_disk_takes(tmp_path, name):
    write_atomically(tmp_path / name, lambda file: file.write("b"))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_one_training_at_a_time_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "WAIT_SECONDS", 0.3)
    with (
        forked(lambda: run_folder.take(Run(tmp_path))),
        pytest.raises(ConfigError, match="another process is training"),
    ):
        run_folder.take(Run(tmp_path))
    run_folder.take(Run(tmp_path))
    assert run_folder.holds_nothing(tmp_path), "a beginning that was killed here may be begun again"


def test_a_test_takes_up_its_own_unfinished_folder(tmp_path):
    run = Run(tmp_path)
    run.config.write_text("mine")
    assert run_folder.result_folder(run, "mine") == tmp_path
    other = run_folder.result_folder(run, "other")
    assert other != tmp_path and run_folder.result_folder(run, "other") == other
    (other / "records.csv").touch()
    (other / ".unfinished/x").mkdir(parents=True)
    third = run_folder.result_folder(run, "other")
    assert third not in (other, tmp_path) and not (other / ".unfinished").exists()
    (third / "config.yaml").unlink()
    assert run_folder.result_folder(run, "other") == third, "killed before its config was written"


def test_two_tests_at_a_time_have_folders_of_their_own(tmp_path):
    run = Run(tmp_path)
    run.config.write_text("mine")
    with forked(lambda: run_folder.result_folder(run, "mine")):
        assert run_folder.result_folder(run, "mine") != tmp_path


@pytest.mark.parametrize("given", [None, "here"])
def test_a_test_without_training_is_found_again(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    begun = run_folder.new(given, "sam", "test", "mine")
    (begun.path / "fingerprint.json").touch()
    if given:
        assert run_folder.new(given, "sam", "test", "mine").path == begun.path, "killed before its config was written"
    begun.config.write_text("mine")
    assert run_folder.new(given, "sam", "test", "mine").path == begun.path, "killed before a case was scored"
    (begun.path / ".unfinished").mkdir()
    assert run_folder.new(given, "sam", "test", "mine").path == begun.path
    refused = pytest.raises(ConfigError, match=r"name a new folder \(a test") if given else nullcontext()
    with refused:
        assert run_folder.new(given, "sam", "test", "other").path != begun.path
    (begun.path / "records.csv").touch()
    with refused:
        assert run_folder.new(given, "sam", "test", "mine").path != begun.path


def test_an_old_folder_goes_whole(tmp_path, monkeypatch):
    (tmp_path / "case-1").mkdir()
    (tmp_path / "case-1/image.npy").touch()
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed before the first file is gone
    discard(tmp_path / "case-1")
    assert not (tmp_path / "case-1").exists() and len(list(tmp_path.glob(".case-1.*.unfinished/image.npy"))) == 1
