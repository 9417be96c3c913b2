"""`samzoo download`: an archive from a local server, in every state that a user may find it."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from data_sets import write_msd

from samzoo import cli
from samzoo.data import SamzooDataModule, archives
from samzoo.data.archives import ARCHIVES, Archive
from samzoo.data.readers import read_index
from samzoo.errors import DataError

FOLDER = "Task06_Lung"


def tar_of(folder, extra=()) -> bytes:
    """As the Decathlon packs them, AppleDouble files and all; `extra` are further members without content."""
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w") as file:
            file.add(folder, FOLDER)
            for member in (tarfile.TarInfo(f"{FOLDER}/._dataset.json"), tarfile.TarInfo("._Task06_Lung"), *extra):
                file.addfile(member)
        return out.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves `body`, from where it is asked, and breaks off after `cut` bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        body, cut, ranges = b"", None, []

        def do_GET(self):
            cls, wanted = type(self), self.headers.get("Range")
            cls.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(cls.body) - 1}/{len(cls.body)}")
            self.send_header("Content-Length", str(len(cls.body) - start))
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(cls.body[start : cls.cut])

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()

    def serve(body, cut=None):
        Handler.body, Handler.cut, Handler.ranges = body, cut, []
        monkeypatch.setitem(ARCHIVES, "msd_lung", Archive(FOLDER, hashlib.md5(body).hexdigest()))
        return Handler

    url = f"http://127.0.0.1:{running.server_port}/{FOLDER}.tar"
    source = write_msd(tmp_path / "made" / FOLDER, ("cancer",))
    yield SimpleNamespace(
        serve=serve, source=source, args=["download", "msd_lung", "--url", url], out=tmp_path / "data"
    )
    running.shutdown()
    running.server_close()


def fetch(server, *args) -> int:
    return cli.main([*server.args, "--out", str(server.out), *args])


def test_fetched_unpacked_and_found_again(server, capsys, monkeypatch):
    body = tar_of(server.source)
    handler = server.serve(body, cut=len(body) // 2)
    assert fetch(server) == 1
    error = capsys.readouterr().err
    assert f"ended after {len(body) // 2} of {len(body)} bytes" in error and "Run again to go on" in error
    handler = server.serve(body)
    assert fetch(server) == 0
    assert handler.ranges == [f"bytes={len(body) // 2}-"]
    said = capsys.readouterr().out
    root = server.out / FOLDER
    assert "CC-BY-SA 4.0" in said and f"samzoo verify {root} --data msd_lung.yaml" in said and "samzoo fit" in said
    assert [p.name for p in server.out.iterdir()] == [FOLDER]
    assert not list(root.rglob("._*")) and len(read_index(root).entries) == 6
    monkeypatch.setenv("SAMZOO_DATA", str(server.out))
    assert cli.main([*server.args[:1], "Task06"]) == 0 and len(handler.ranges) == 1
    assert f"already in {root}" in capsys.readouterr().out


def test_wrong_md5(server, capsys, monkeypatch):
    server.serve(tar_of(server.source))
    monkeypatch.setitem(ARCHIVES, "msd_lung", Archive(FOLDER, "0" * 32))
    assert fetch(server) == 1
    assert f"instead of {'0' * 32} and was thrown away" in capsys.readouterr().err
    assert not list(server.out.iterdir())


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (member(f"{FOLDER}/../../evil"), "does not lie in"),
        (member("/tmp/evil"), "does not lie in"),
        (member("other/file"), "does not lie in"),
        (member(f"{FOLDER}/link", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (member(f"{FOLDER}/hard", tarfile.LNKTYPE, f"{FOLDER}/dataset.json"), "is a link"),
        (member(f"{FOLDER}/pipe", tarfile.FIFOTYPE), "a device"),
    ],
)
def test_what_does_not_belong_in_an_archive(server, capsys, extra, reason):
    server.serve(tar_of(server.source, [extra]))
    assert fetch(server) == 1
    error = capsys.readouterr().err
    assert reason in error and repr(extra.name) in error and "nothing was unpacked" in error
    assert [p.name for p in server.out.iterdir()] == [f"{FOLDER}.tar"]


def test_compressed_archive_is_not_opened(server, capsys):
    """A small file that unpacks to a disk's size has to be compressed."""
    server.serve(gzip.compress(tar_of(server.source)))
    assert fetch(server) == 1 and "can't be unpacked" in capsys.readouterr().err


def test_interrupted_or_full_while_unpacking(server, capsys, monkeypatch):
    handler = server.serve(tar_of(server.source))
    with monkeypatch.context() as patch:
        patch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        assert fetch(server) == 1
    assert "0 MiB free; free some and run again" in capsys.readouterr().err

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", stop)
        assert fetch(server) == 130
    assert not (server.out / FOLDER).exists() and not list(server.out.glob(".*unpacking"))
    assert fetch(server) == 0 and len(handler.ranges) == 1, "the archive itself was kept"


@pytest.mark.parametrize("last", ["replace", "unlink"])
def test_killed_once_all_was_unpacked(server, capsys, monkeypatch, last):
    """The archive, some GB, goes with the next call."""
    handler = server.serve(tar_of(server.source))
    monkeypatch.setattr(archives.shutil, "rmtree", lambda *_, **__: None)
    done = getattr(archives.os, last)

    def kill(*names):
        done(*names)
        if Path(names[-1]).name == (FOLDER if last == "replace" else f"{FOLDER}.tar"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archives.os, last, kill)
        assert fetch(server) == 130
    assert (server.out / FOLDER / "dataset.json").is_file() and len(list(server.out.iterdir())) > 1
    monkeypatch.undo()
    monkeypatch.setitem(ARCHIVES, "msd_lung", Archive(FOLDER, "no matter"))
    assert fetch(server) == 0 and "already in" in capsys.readouterr().out
    assert [p.name for p in server.out.iterdir()] == [FOLDER] and len(handler.ranges) == 1


def test_folder_of_the_users_own_is_left_alone(server, capsys):
    server.serve(tar_of(server.source))
    (server.out / FOLDER).mkdir(parents=True)
    (server.out / FOLDER / "notes.txt").write_text("mine")
    assert fetch(server) == 1 and "move it away" in capsys.readouterr().err
    assert (server.out / FOLDER / "notes.txt").read_text() == "mine"


def test_names_are_listed_and_corrected(capsys):
    assert cli.main(["download"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and archive.url in listed for name, archive in ARCHIVES.items())
    assert cli.main(["download", "msd_lungs"]) == 2
    assert "did you mean msd_lung" in capsys.readouterr().err
    assert len(ARCHIVES) == 10 and len({a.md5 for a in ARCHIVES.values()}) == 10


def test_missing_root_says_what_fetches_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="what fetches it: samzoo download msd_colon"):
        SamzooDataModule(root="Task10_Colon", layout="msd")
