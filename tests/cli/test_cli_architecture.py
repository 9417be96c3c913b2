"""Which package may import which: the picture of docs/architecture.md."""

import ast
from pathlib import Path

import pytest

import samzoo

ROOT = Path(samzoo.__file__).parent
BASE = {"types", "geometry", "errors", "paths", "reading", "locks", "writing", "download", "memory_use", "whereabouts"}
RECORDS = "evaluation.records"
ALLOWED = {
    "types": {"errors"},
    "geometry": {"errors"},
    "errors": set(),
    "paths": {"errors"},
    "reading": set(),
    "locks": set(),
    "writing": {"errors", "locks"},
    "download": {"errors", "locks", "writing"},
    "memory_use": set(),
    "whereabouts": {"errors"},
    "sam": BASE | {"sam"},
    "prompts": BASE | {"prompts"},
    "metrics": BASE | {"metrics"},
    "data": BASE | {"data"},
    "methods": BASE | {"sam", "prompts", "methods"},
    "evaluation": BASE | {"__version__", "run_folder", "prompts", "metrics", "methods.base", "evaluation"},
    "leaderboard": {"errors", "reading", "writing", RECORDS, "leaderboard"},
    "run_folder": {"errors", "locks", "paths", "writing"},
    "termination": set(),
    "training": {"errors", "memory_use", "writing", "run_folder", "termination"},
    "processes": {"errors", "whereabouts"},
    "preemption": {"termination"},
    "memory": {"errors", "memory_use", "types", "data.index", "methods.base"},
    "batch_size": {"errors", "memory", "memory_use", "data", "methods.base"},
}
HEAVY = {"torch", "lightning", "monai", "torchmetrics", "timm"}
WITHOUT_TORCH = [
    "errors",
    "paths",
    "reading",
    "locks",
    "writing",
    "download",
    "run_folder",
    "cli",
    "cli_config",
    "cli_download",
    "data.archives",
    "cli_leaderboard",
    "cli_own",
    "cli_runner",
    "cli_slurm",
    "cli_suite",
    "leaderboard",
    RECORDS,
]


def modules(package):
    path = ROOT / package.replace(".", "/")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imports(path, top_level_only=False):
    """Dotted names that a file imports."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "samzoo")


def own(path):
    return {name.removeprefix("samzoo.") for name in imports(path) if name.startswith("samzoo.")}


def inside(name, packages):
    return any(name == p or name.startswith(f"{p}.") for p in packages)


@pytest.mark.parametrize("package", ALLOWED)
def test_direction(package):
    for path in modules(package):
        wrong = sorted(n for n in own(path) if not inside(n, ALLOWED[package]))
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_methods_do_not_import_each_other():
    folders = [p for p in (ROOT / "methods").iterdir() if p.is_dir() and (p / "__init__.py").exists()]
    assert folders
    for folder in folders:
        others = {f"methods.{p.name}" for p in folders if p != folder}
        for path in folder.rglob("*.py"):
            assert not [n for n in own(path) if inside(n, others)], path


def test_every_package_is_in_the_picture():
    known = {p.split(".")[0] for p in ALLOWED}
    found = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert {n for n in found - known if not n.startswith("cli")} == {"__init__"}


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_light_modules_do_not_import_torch_at_the_top(package):
    for path in modules(package):
        assert not [n for n in imports(path, top_level_only=True) if n.split(".")[0] in HEAVY], path
