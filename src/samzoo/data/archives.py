"""Public archives that samzoo fetches by itself: the ten tasks of the Medical Segmentation Decathlon. No torch.

An archive is fetched (resumed, checked), unpacked beside its place and moved there when it is whole. It comes from
outside, so that only plain files and folders below the one it is named after are taken from it.
Addresses and md5 are those of MONAI's `monai.apps.DecathlonDataset`.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from samzoo.download import download
from samzoo.errors import DataError
from samzoo.locks import locked
from samzoo.writing import DISK_FULL, NOT_ALLOWED, disk_errors

SERVER = "https://msd-for-monai.s3-us-west-2.amazonaws.com"
LICENCE = "Medical Segmentation Decathlon, medicaldecathlon.com, CC-BY-SA 4.0"


@dataclass(frozen=True)
class Archive:
    """A tar file, not compressed, that holds one folder.

    Args:
        folder: that it holds, and the root of the data set.
        md5: of the tar file.
    """

    folder: str
    md5: str

    @property
    def url(self) -> str:
        return f"{SERVER}/{self.folder}.tar"


ARCHIVES = {
    "msd_brain_tumour": Archive("Task01_BrainTumour", "240a19d752f0d9e9101544901065d872"),
    "msd_heart": Archive("Task02_Heart", "06ee59366e1e5124267b774dbd654057"),
    "msd_liver": Archive("Task03_Liver", "a90ec6c4aa7f6a3d087205e23d4e6397"),
    "msd_hippocampus": Archive("Task04_Hippocampus", "9d24dba78a72977dbd1d2e110310f31b"),
    "msd_prostate": Archive("Task05_Prostate", "35138f08b1efaef89d7424d2bcc928db"),
    "msd_lung": Archive("Task06_Lung", "8afd997733c7fc0432f71255ba4e52dc"),
    "msd_pancreas": Archive("Task07_Pancreas", "4f7080cfca169fa8066d17ce6eb061e4"),
    "msd_hepatic_vessel": Archive("Task08_HepaticVessel", "641d79e80ec66453921d997fbf12a29c"),
    "msd_spleen": Archive("Task09_Spleen", "410d4a301da4e5b2f6f86ec3ddba524e"),
    "msd_colon": Archive("Task10_Colon", "bad7a188931dc2f6acf72b08eb6202d0"),
}
"""By the name of a data set's config, or what it would be."""


def command(root: str | None) -> str | None:
    """What fetches the data set whose root is missing, None if nothing does."""
    folder = Path(root).name if root else None
    return next((f"samzoo download {name}" for name, a in ARCHIVES.items() if a.folder == folder), None)


def fetch(archive: Archive, out: Path, url: str | None = None) -> tuple[Path, bool]:
    """Download and unpack an archive; what is done already is not done again.

    Args:
        archive: one of `ARCHIVES`.
        out: folder in which its own folder is made.
        url: another address of the same file.

    Returns:
        root of the data set, and whether it was there already.

    Raises:
        DataError: no network, another md5, no space, or an archive with something in it that does not belong there.
    """
    root, tar = out / archive.folder, out / f"{archive.folder}.tar"
    remedy = "name another place with --out"
    with disk_errors(out, remedy), locked(out / f".{archive.folder}.lock"):  # who waited finds it there
        if (root / "dataset.json").is_file():
            if _building(root).exists():  # killed once all was there
                tar.unlink(missing_ok=True)
                shutil.rmtree(_building(root), ignore_errors=True)
            return root, True
        if root.exists():
            raise DataError(f"{root} exists, but holds no dataset.json; move it away, or {remedy}")
        download(url or archive.url, tar, md5=archive.md5, error=DataError)
        unpack(tar, root)
    return root, False


def _building(root: Path) -> Path:
    return root.with_name(f".{root.name}-unpacking")


def unpack(tar: Path, root: Path) -> None:
    """Unpack the folder `root.name` of a tar file to `root`, whole or not at all, and remove the file.

    macOS's `._` files are left out. The file is read as not compressed, so what it holds can't be larger than it is.

    Raises:
        DataError: no tar file, cut short, larger than the free space, or with anything but files and folders in it.
    """
    building = _building(root)
    shutil.rmtree(building, ignore_errors=True)
    try:
        with tarfile.open(tar, "r:") as file:
            members = []
            for member in file:  # each is looked at before the next one, which a size below 0 could put before it
                if not PurePosixPath(member.name).name.startswith("._") or member.size < 0:
                    _check(member, tar, root.name)
                    members.append(member)
            _check_end(file, tar)
            need, free = sum(m.size for m in members), shutil.disk_usage(root.parent).free
            if need > free:
                raise DataError(
                    f"{tar} unpacks to {need / 2**20:.0f} MiB, but {root.parent} has {free / 2**20:.0f} MiB free; free "
                    "some and run again, or name another place with --out"
                )
            building.mkdir()
            for member in tqdm(members, desc=f"unpacking {tar.name}", unit="file"):
                file.extract(member, building, filter="data")
        if not (building / root.name / "dataset.json").is_file():
            raise DataError(f"{tar} holds no {root.name}/dataset.json: it is not the archive that it should be")
        os.replace(building / root.name, root)
        tar.unlink()
    except OSError as error:
        if error.errno in (*DISK_FULL, *NOT_ALLOWED):
            raise
        raise DataError(f"{tar} can't be unpacked ({error.strerror or error}); delete it and run again") from None
    except (tarfile.TarError, EOFError, ValueError, ArithmeticError, LookupError) as error:
        raise DataError(f"{tar} can't be unpacked ({error}); delete it and run again to fetch it anew") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _check_end(file: tarfile.TarFile, tar: Path) -> None:
    """Raises DataError: what follows the last member is not the zeros that end an archive: it was cut, or sizes lie."""
    file.fileobj.seek(file.offset)
    end = file.fileobj.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise DataError(f"{tar} is cut short or damaged; delete it and run again to fetch it anew")


def _check(member: tarfile.TarInfo, tar: Path, folder: str) -> None:
    """Raises DataError: not a plain file or folder, or not below `folder`."""
    parts = PurePosixPath(member.name).parts
    wrong = None
    if not (member.isreg() or member.isdir()) or member.issparse():
        wrong = "is a link, a device or a sparse file"
    elif not parts or parts[0] != folder or ".." in parts:
        wrong = f"does not lie in {folder}"
    elif member.size < 0:
        wrong = "has a size below 0"
    if wrong:
        raise DataError(f"{tar}: {member.name!r} {wrong}; nothing was unpacked, delete the file if you don't trust it")
