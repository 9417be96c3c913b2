"""Fetch one file: resumed, checked, whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from samzoo.errors import SamzooError, WeightsError
from samzoo.locks import locked
from samzoo.writing import DISK_FULL, unwritable

TIMEOUT_S = 30
CHUNK = 1 << 20


def download(
    url: str,
    target: Path,
    sha256: str | None = None,
    md5: str | None = None,
    error: type[SamzooError] = WeightsError,
) -> None:
    """Fetch `url` to `target`, going on where a broken download stopped; a second process waits and uses the result.

    Args:
        url: http(s) address.
        target: file to write; left alone if it is there.
        sha256, md5: what the file must have; None is not checked.
        error: what is raised.

    Raises:
        SamzooError: of the type `error`: no network, not on the server, disk full, or another hash than asked for.
    """
    part = target.with_name(target.name + ".part")
    try:
        with locked(Path(f"{target}.lock")):
            if not target.is_file():
                _transfer(url, part)
                for name, wanted in (("sha256", sha256), ("md5", md5)):
                    if wanted is not None and (found := _digest(part, name)) != wanted:
                        part.unlink()
                        _validator(part).unlink(missing_ok=True)
                        raise error(f"what came from {url} has {name} {found} instead of {wanted} and was thrown away")
                os.replace(part, target)
            _validator(part).unlink(missing_ok=True)  # also what a call has left that was killed here
    except (OSError, http.client.HTTPException) as fault:
        if isinstance(fault, OSError) and fault.errno in DISK_FULL:
            raise error(unwritable(part, fault)) from fault
        raise error(
            f"can't fetch {url}: {fault}. Run again to go on with the download, or get the file by other means and put "
            f"it at {target}"
        ) from fault


def _digest(path: Path, name: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, name).hexdigest()


def _validator(part: Path) -> Path:
    """Beside the unfinished file: the server's mark of the version that it belongs to."""
    return part.with_name(part.name + ".version")


def _transfer(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "samzoo"})
    version = _validator(part)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version.exists():
            request.add_header("If-Range", version.read_text())
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if not (have and error.code == 416):  # the range begins at or behind the end
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return
        part.unlink()
        return _transfer(url, part)
    with response:
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise OSError(
                f"the server answered with another range than asked for ({response.headers['Content-Range']})"
            )
        start = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        etag = response.headers.get("ETag", "")
        mark = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        if not start:  # what is there is of another version: it must not outlive that version's mark
            part.unlink(missing_ok=True)
            version.write_text(mark) if mark else version.unlink(missing_ok=True)
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.name.removesuffix(".part"))
        with open(part, "ab" if start else "wb") as out, bar:
            while chunk := response.read(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"the connection ended after {size} of {total} bytes")
