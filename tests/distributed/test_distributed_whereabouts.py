"""What a process noted outlives it, and nothing else does."""

import json
import os
import signal
import time

import pytest

from samzoo import whereabouts


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / whereabouts.FOLDER
    whereabouts.end()


def killed(folder, *doing):
    """A process that notes all this and is killed."""
    if (pid := os.fork()) == 0:
        whereabouts.begin(folder, "process 1 of 2")
        for what in doing:
            whereabouts.doing(what)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


def test_the_last_word_of_a_killed_process_is_kept_until_it_is_taken(folder):
    pid = killed(folder, "reading a case with a long name", "test case b")
    (place,) = whereabouts.lost(folder)
    assert (place.pid, place.doing) == (pid, "test case b") and "process 1 of 2" in str(place)
    assert whereabouts.place_of(folder, pid) == place
    assert whereabouts.take_last_words(folder) == [place]
    assert not folder.exists()


def test_a_process_that_lives_is_neither_lost_nor_swept(folder):
    whereabouts.begin(folder, "process 0 of 2")
    whereabouts.doing("test case a")
    killed(folder, "test case b")
    assert [place.doing for place in whereabouts.take_last_words(folder)] == ["test case b"]
    assert whereabouts.here().doing == "test case a" and len(list(folder.iterdir())) == 1
    whereabouts.end()
    assert not folder.exists()


def test_one_that_failed_says_so_to_the_others(folder):
    if (pid := os.fork()) == 0:
        whereabouts.begin(folder, "process 1 of 2")
        whereabouts.doing("test case b")
        whereabouts.end(failed="RuntimeError: boom")
        os._exit(0)
    os.waitpid(pid, 0)
    (place,) = whereabouts.lost(folder)
    assert (place.doing, place.failed) == ("test case b", "RuntimeError: boom")


def test_notes_from_other_machines_count_once_they_are_old(folder):
    killed(folder, "test case b")
    (path,) = folder.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text().splitlines()[0]) | {"host": "elsewhere"}))
    assert not whereabouts.lost(folder) and not whereabouts.take_last_words(folder)
    old = time.time() - 2 * whereabouts.STALE_SECONDS
    os.utime(path, (old, old))
    assert [place.host for place in whereabouts.take_last_words(folder)] == ["elsewhere"]


def test_where_nothing_can_be_written_all_goes_on_without(tmp_path):
    (tmp_path / "file").touch()
    whereabouts.begin(tmp_path / "file" / "notes", "process 0 of 1")
    whereabouts.doing("test case a")
    assert whereabouts.here() is None
    with pytest.raises(RuntimeError) as caught, whereabouts.at("reading case a"):
        raise RuntimeError("boom")
    assert caught.value.__notes__ == ["samzoo was at: reading case a"]
    whereabouts.end()
