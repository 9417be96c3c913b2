"""`samzoo zoo`: what there is, and what of it is here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samzoo.cli_config import read_yaml
from samzoo.errors import SamzooError
from samzoo.methods import METHODS
from samzoo.paths import config_folders, find_root
from samzoo.sam import WEIGHTS


def listing() -> str:
    """Methods, weights and data sets as text."""
    methods = [
        (
            m.__name__,
            f"{m.spec.dim}D",
            ", ".join(sorted(m.spec.prompts)),
            "all classes at once" if m.spec.multiclass else "one class per prompt",
            f"frozen: {m.spec.frozen}",
            ", ".join(_named(m.__name__)),
        )
        for m in METHODS
    ]
    weights = [
        (
            name,
            _present(w.path),
            w.architecture,
            f"{w.image_size}{'²' if w.dim == 2 else '³'}",
            w.licence,
            w.holds,
            w.url or (w.obtain if w.shipped else f"by hand: {w.obtain}"),
            f"has seen: {', '.join(w.seen)}" if w.seen else "",
        )
        for name, w in WEIGHTS.items()
    ]
    data = [(f"datasets/{path.name}", *_data_set(path)) for path in _configs("datasets")]
    whole = sorted({path.name for path in _configs("")})
    return "\n\n".join(
        [
            "Methods\n" + _columns(methods),
            "Weights\n" + _columns(weights),
            "Data sets\n" + _columns(data),
            "Configs\n  " + "\n  ".join(whole),
        ]
    )


def _configs(folder: str) -> list[Path]:
    """Config files of a sub-folder, as the look-up by name finds them; the working folder itself is left out."""
    found: dict[str, Path] = {}
    for place in config_folders()[1:]:
        for path in sorted((place / folder).glob("*.yaml")):
            found.setdefault(path.name, path)
    return sorted(found.values(), key=lambda p: p.name)


def _named(class_name: str) -> list[str]:
    """Configs of a method."""
    files = _configs("methods")
    return [f"methods/{p.name}" for p in files if str(read_yaml(p).get("class_path", "")).split(".")[-1] == class_name]


def _data_set(path: Path) -> tuple[str, str, str]:
    """Whether it is here, where it is or belongs, and where it comes from under which licence."""
    content = read_yaml(path)
    if content.get("layout") == "phantom":
        return "here", "-", "made on first use"
    source = " ".join(str(content.get("source", "")).split())
    try:
        return "here", str(find_root(content.get("root"))), source
    except SamzooError:
        return "missing", str(content.get("root")), source


def _present(path: Path) -> str:
    return "here" if path.is_file() else "missing"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
