"""Downloads: resumed, checked, shared between processes; and no network at all."""

import hashlib
import http.server
import threading
from dataclasses import replace
from multiprocessing import get_context

import pytest

from samzoo.download import download
from samzoo.errors import DataError, WeightsError
from samzoo.sam import weights

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        requests, cut_after, body, etag = [], None, BODY, '"1"'

        def do_GET(self):
            cls, wanted = type(self), self.headers.get("Range")
            cls.requests.append(wanted)
            if self.path.startswith("/missing"):
                return self.send_error(404)
            start = 0
            if wanted and self.headers.get("If-Range", cls.etag) == cls.etag:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(cls.body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(cls.body)}")
                    return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(cls.body) - 1}/{len(cls.body)}")
            self.send_header("Content-Length", str(len(cls.body) - start))
            self.send_header("ETag", cls.etag)
            self.end_headers()
            self.wfile.write(cls.body[start : cls.cut_after])

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{running.server_port}/sam.pth"
    yield Handler
    running.shutdown()
    running.server_close()


def test_a_broken_download_is_resumed(server, tmp_path):
    target = tmp_path / "weights" / "sam.pth"
    server.cut_after = 300_000
    with pytest.raises(WeightsError, match=r"ended after 300000 of 1024000 bytes.*Run again.*put it at .*sam\.pth"):
        download(server.url, target, SHA)
    assert not target.exists()
    server.cut_after = None
    download(server.url, target, SHA)
    assert target.read_bytes() == BODY and server.requests == [None, "bytes=300000-"]
    assert [p.name for p in target.parent.iterdir()] == ["sam.pth"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    server.cut_after = 300_000
    with pytest.raises(WeightsError):
        download(server.url, tmp_path / "f")
    server.cut_after, server.body, server.etag = None, BODY[::-1], '"2"'
    download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY[::-1]


def test_a_download_that_was_complete_but_not_renamed(server, tmp_path):
    (tmp_path / "f.part").write_bytes(BODY)
    download(server.url, tmp_path / "f", SHA)
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_download_that_was_killed_once_it_was_renamed(server, tmp_path):
    (tmp_path / "f").write_bytes(BODY)
    (tmp_path / "f.part.version").write_text('"1"')
    download(server.url, tmp_path / "f", SHA)
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and not server.requests


def test_wrong_hash_is_thrown_away(server, tmp_path):
    with pytest.raises(WeightsError, match=f"has sha256 {SHA} instead of {'0' * 64} and was thrown away"):
        download(server.url, tmp_path / "f", "0" * 64)
    assert not (tmp_path / "f").exists() and not (tmp_path / "f.part").exists()


def test_wrong_md5_is_the_error_of_who_asked(server, tmp_path):
    with pytest.raises(DataError, match=f"has md5 {hashlib.md5(BODY).hexdigest()} instead of {'0' * 32}"):
        download(server.url, tmp_path / "f", md5="0" * 32, error=DataError)
    download(server.url, tmp_path / "f", SHA, hashlib.md5(BODY).hexdigest())


def test_missing_on_the_server(server, tmp_path):
    with pytest.raises(WeightsError, match="404"):
        download(server.url.replace("/sam", "/missing"), tmp_path / "f")


def test_full_disk(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("samzoo.download._transfer", full)
    with pytest.raises(WeightsError, match=r"f\.part: can't be written: no space left .*free some and give the same"):
        download(server.url, tmp_path / "f")


def test_two_processes_fetch_once(server, tmp_path):
    context = get_context("spawn")
    workers = [context.Process(target=download, args=(server.url, tmp_path / "f", SHA)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0]
    assert (tmp_path / "f").read_bytes() == BODY and len(server.requests) == 1


def test_names_and_urls_are_cached_and_then_need_no_network(server, home, monkeypatch):
    monkeypatch.setitem(weights.WEIGHTS, "mine", replace(weights.WEIGHTS["sam_vit_b"], url=server.url, sha256=SHA))
    for source, verified in (("mine", True), (server.url, False)):
        first = weights.find_weights(source)
        assert first.path.is_relative_to(home) and first.sha256 == SHA and first.verified is verified
        count = len(server.requests)
        assert weights.find_weights(source) == first and len(server.requests) == count


def test_no_network(home, monkeypatch):
    entry = replace(weights.WEIGHTS["sam_vit_b"], url="http://127.0.0.1:9/sam.pth")
    monkeypatch.setitem(weights.WEIGHTS, "sam_vit_b", entry)
    with pytest.raises(WeightsError, match=r"can't fetch http://127\.0\.0\.1:9/sam\.pth.*put it at .*sam_vit_b_01ec64"):
        weights.find_weights("sam_vit_b")
