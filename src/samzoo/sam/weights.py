"""The table of published weights and where each file is found, here or on the network."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from samzoo.download import download
from samzoo.errors import WeightsError
from samzoo.paths import samzoo_home

SHIPPED = Path(__file__).parents[1] / "weights"
"""The weights that come with the package."""


@dataclass(frozen=True)
class WeightsEntry:
    """One published file.

    Args:
        file: its name under `weights_folder()`, or in the package.
        url: None where the publisher gives no direct link; `obtain` then says where to get it by hand.
        sha256: of the whole file; None where none is published (the file is then used unverified).
        architecture: name in `ARCHITECTURES`, or in `ARCHITECTURES_3D` where `dim` is 3.
        image_size: S of the position table in the file; other sizes are resized on loading.
        holds: the parts that the file has.
        licence: SPDX identifier of the weights.
        obtain: page of the publisher.
        pixel_mean, pixel_std: on the 0..255 scale, in channel order (of 2D weights; 3D crops have a z-score each).
        channel_order: of the pictures it was trained on.
        dim: 2 for pictures, 3 for volumes.
        seen: the zoo's data sets whose training parts the weights were trained on, as far as the publisher tells.
        shipped: whether the file comes with samzoo and lies in its package.
    """

    file: str
    url: str | None
    sha256: str | None
    architecture: str
    image_size: int
    licence: str
    obtain: str
    holds: str = "encoder, prompt encoder, decoder"
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channel_order: str = "RGB"
    dim: int = 2
    seen: tuple[str, ...] = ()
    shipped: bool = False

    @property
    def path(self) -> Path:
        """Where the file lies, or would lie."""
        return (SHIPPED if self.shipped else weights_folder()) / self.file


def _official(letter: str, md5: str, sha256: str) -> WeightsEntry:
    # The six digits in the official file names begin the md5; the sha256 are of the same files.
    file = f"sam_vit_{letter}_{md5}.pth"
    return WeightsEntry(
        file=file,
        url=f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
        sha256=sha256,
        architecture=f"vit_{letter}",
        image_size=1024,
        licence="Apache-2.0",
        obtain="https://github.com/facebookresearch/segment-anything#model-checkpoints",
    )


def _timm(name: str, architecture: str) -> WeightsEntry:
    page = f"https://huggingface.co/timm/{name}.sa1b"
    return WeightsEntry(
        file=f"{name}.sa1b.safetensors",
        url=f"{page}/resolve/main/model.safetensors",
        sha256=None,
        architecture=architecture,
        image_size=1024,
        licence="Apache-2.0",
        obtain=page,
        holds="encoder",
    )


_SAM_MED3D_PAGE = "https://huggingface.co/blueyo0/SAM-Med3D"  # whose model card states the licence
_SAM_MED3D_SEEN = (
    # The maintainers' list of 44 sets, https://github.com/uni-medical/SAM-Med3D/issues/2#issuecomment-1849002225, by
    # our names: both files were trained on them (issue 39), the first on further ones that are not listed.
    "amos_ct",
    "amos_mr",
    "brats2020",
    "brats2021",
    "kipa22",
    "kits19",
    "kits21",
    "kits23",  # not on the list, but most of its cases are those of kits21
    "lits",
    "msd_brain_tumour",
    "msd_colon",
    "msd_hepatic_vessel",
    "msd_liver",
    "msd_pancreas",
    "msd_prostate",
    "msd_spleen",
    "spleen",
    "totalsegmentator",
)


def _sam_med3d(file: str, url: str | None, obtain: str) -> WeightsEntry:
    return WeightsEntry(
        file=file,
        url=url,
        sha256=None,
        architecture="vit_b_ori",
        image_size=128,
        licence="Apache-2.0",
        obtain=obtain,
        dim=3,
        seen=_SAM_MED3D_SEEN,
    )


def _shipped(name: str, architecture: str, image_size: int, dim: int, sha256: str | None) -> WeightsEntry:
    return WeightsEntry(
        file=f"{name}.safetensors",
        url=None,
        sha256=sha256,
        architecture=architecture,
        image_size=image_size,
        licence="Apache-2.0",
        obtain="part of samzoo",
        dim=dim,
        shipped=True,
    )


_SERIES = ("amos", "brats", "kits", "lits", "totalsegmentator")
"""Their releases share cases from year to year, so that one that was seen stands for all."""
_DECATHLON = re.compile(r"^(?:(?:msd|(?:task|dataset)0*(?:[1-9]|10))[\W_]+)+")
"""How names of the Medical Segmentation Decathlon's ten tasks begin; nnU-Net numbers them alike."""


def is_seen(seen: Iterable[str], dataset: str, layout: str = "") -> bool:
    """Whether a data set is among those seen, by whatever name people give it: KiTS23, Task10_Colon, or Colon in msd.

    Args:
        seen: `WeightsEntry.seen`.
        dataset: its name.
        layout: its layout; with msd, a bare organ is the Decathlon's task.
    """
    own = _family(dataset)
    return not {own, "msd" + own if layout == "msd" else own}.isdisjoint(map(_family, seen))


def _family(dataset: str) -> str:
    """A data set's name without year, case and punctuation."""
    name = dataset.lower().removeprefix("miccai_")
    if series := next((s for s in _SERIES if name.startswith(s)), None):
        return series
    return re.sub(r"[\W_]|\d.*", "", _DECATHLON.sub("msd", name))


WEIGHTS: dict[str, WeightsEntry] = {
    "sam_vit_b": _official("b", "01ec64", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "sam_vit_l": _official("l", "0b3195", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "sam_vit_h": _official("h", "4b8939", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    "samvit_base_patch16.sa1b": _timm("samvit_base_patch16", "vit_b"),
    "samvit_large_patch16.sa1b": _timm("samvit_large_patch16", "vit_l"),
    "samvit_huge_patch16.sa1b": _timm("samvit_huge_patch16", "vit_h"),
    "sam_med2d_b": WeightsEntry(
        file="sam-med2d_b.pth",
        url=None,  # offered through a file-sharing page only
        sha256=None,
        architecture="vit_b",
        image_size=256,
        licence="Apache-2.0",
        obtain="https://github.com/OpenGVLab/SAM-Med2D",
        holds="encoder with adapters, prompt encoder, decoder",
    ),
    # the page below offers the second file only
    "sam_med3d": _sam_med3d("sam_med3d.pth", None, "https://github.com/uni-medical/SAM-Med3D"),
    "sam_med3d_turbo": _sam_med3d(
        "sam_med3d_turbo.pth", f"{_SAM_MED3D_PAGE}/resolve/main/sam_med3d_turbo.pth", _SAM_MED3D_PAGE
    ),
    "sam_tiny": _shipped(
        "sam_tiny", "vit_tiny", 128, 2, "83b7e0b075b0d0df9814fe57198c0e8405746af12d82c747a2181ac8a45cc2d1"
    ),
    "sam_tiny_3d": _shipped(
        "sam_tiny_3d", "vit_tiny_3d", 48, 3, "82e86393566e83ac9dc8fcd839c0767fd7f508f9e714502257d77979cd9d5236"
    ),
}


@dataclass(frozen=True)
class WeightsFile:
    """A file on this machine; `verified` if its hash is known and matches."""

    path: Path
    sha256: str
    verified: bool

    @property
    def seen(self) -> tuple[str, ...]:
        """`WeightsEntry.seen` of the table's file of this name, for copies of it are given by path or url, too."""
        return next((entry.seen for entry in WEIGHTS.values() if self.path.name.endswith(entry.file)), ())


def weights_folder() -> Path:
    """$SAMZOO_HOME/weights, by default ~/.cache/samzoo/weights."""
    return samzoo_home() / "weights"


def find_weights(source: str | Path) -> WeightsFile:
    """The file behind a table name, a path or a url; fetched once, then used without network.

    Raises:
        WeightsError: nothing of that name, not to be had, or with another hash than it should have.
    """
    if entry := WEIGHTS.get(str(source)):
        return _find_entry(str(source), entry)
    if re.match(r"https?://", str(source)):
        tag = hashlib.sha256(str(source).encode()).hexdigest()[:8]  # many urls end in model.safetensors
        name = re.split(r"[?#]", str(source))[0].rstrip("/").rsplit("/", 1)[-1]
        path = weights_folder() / f"{tag}-{name}"
        if not path.is_file():
            download(str(source), path)
        return WeightsFile(path, file_sha256(path), verified=False)
    path = Path(source).expanduser()
    if path.is_file():
        return WeightsFile(path, file_sha256(path), verified=False)
    near = difflib.get_close_matches(str(source), WEIGHTS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise WeightsError(
        f"weights {str(source)!r} are neither a file nor a url nor a known name; {hint}(known: {', '.join(WEIGHTS)})"
    )


def _find_entry(name: str, entry: WeightsEntry) -> WeightsFile:
    path = entry.path
    if not path.is_file():
        if entry.shipped:
            raise WeightsError(f"the weights {name} belong to samzoo, but {path} is missing: install samzoo again")
        if entry.url is None:
            raise WeightsError(
                f"the weights {name} have no direct download: get {entry.file} from {entry.obtain}, put it at {path}, "
                "or give the path of your copy"
            )
        download(entry.url, path, entry.sha256)
    sha256 = file_sha256(path)
    if entry.sha256 not in (None, sha256):
        remedy = "install samzoo again" if entry.shipped else "delete it to fetch it again"
        raise WeightsError(
            f"{path} has sha256 {sha256}, but {name} has {entry.sha256}: the file is damaged or another one; "
            f"{remedy}, or give the path of your file if you mean that one"
        )
    return WeightsFile(path, sha256, verified=entry.sha256 is not None)


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"can't read {path}: {error}") from error
