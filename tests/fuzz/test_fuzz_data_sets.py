"""Whole data sets: their JSON, their settings, their names; as the readers see them and as `verify` does."""

import json
import shutil

from data_sets import write_acdc, write_kits, write_msd, write_nnunet, write_pictures, write_sam_med2d
from fuzz_harness import Finding, Mutant, both, fuzz
from fuzz_mutants import json_mutants, object_mutants
from hypothesis import strategies as st

from samzoo.cli import main
from samzoo.data.decode import load
from samzoo.data.index import ReadSettings
from samzoo.data.readers import read_index
from samzoo.data.verify import verify
from samzoo.errors import DataError


def seen(index):
    """What of an index decides on scores: classes, channels and the files of each case, with its split."""
    table = index.table
    entries = [(e.id, e.patient, e.images, e.labels, e.split) for e in index.entries]
    return dict(table.values), table.background, table.ignore, index.channels, entries


def reader(root, file, settings=None):
    def read(content):
        (root / file).write_bytes(content)
        return seen(read_index(root, settings or ReadSettings()))

    return read


@both
def test_json_of_data_sets(tmp_path, scale):
    nnunet = write_nnunet(tmp_path / "nnunet", cases=2)
    msd = write_msd(tmp_path / "msd", ("organ", "tumour"), cases=3)
    demo = write_sam_med2d(tmp_path / "demo")
    for root, file, number in (
        (nnunet, "dataset.json", 700),
        (msd, "dataset.json", 900),
        (demo, "image2label_train.json", 400),
        (demo, "label2image_test.json", 400),
    ):
        sound = (root / file).read_bytes()
        read = reader(root, file)
        mutants = json_mutants(json.loads(sound))
        # what the reader does not look at may be anything that is JSON
        unread = ("tensorImageSize", "numTest", "numTraining", "name", "file_ending")
        mutants = mutants.map(lambda m: m._replace(bad=m.bad and not any(f"('{u}',)" in m.what for u in unread)))  # noqa: B023
        names = (file, root.name, "data.")
        fuzz(f"{file} of {root.name}", mutants, read, read(sound), names, int(number * scale))
        (root / file).write_bytes(sound)


@both
def test_splits(tmp_path, scale):
    root = write_nnunet(tmp_path / "set", cases=4)
    cases = [f"case_{i:02d}" for i in range(4)]
    for content in (
        [{"train": cases[:2], "val": cases[2:]}],
        {"train": cases[:2], "val": cases[2:3], "test": cases[3:]},
    ):
        read = reader(root, "splits_final.json")
        sound = read(json.dumps(content).encode())
        names = ("splits_final.json", "data.fold")
        fuzz("splits", json_mutants(content), read, sound, names, int(350 * scale))


@both
def test_settings_of_a_data_set(tmp_path, scale):
    """A data set's YAML in the hands of `verify`: findings, no exceptions."""
    root = write_pictures(tmp_path / "set", cases=3, high=1)
    settings = {
        "layout": "folder",
        "name": "cells",
        "classes": {"background": 0, "cell": 1},
        "patient_pattern": "(p.)",
        "include": "p[0-9]",
        "fold": 0,
        "splits_file": None,
        "pictures": "rgb",
        "mask_suffix": "",
        "mask_threshold": None,
        "class_pattern": None,
        "val_fraction": 0.3,
        "test_fraction": 0.3,
        "folds": None,
        "seed": 0,
        "slice_axis": 2,
        "canonical": False,
    }

    def read(content):
        report = verify(root, content, progress=False)
        if report.errors:
            assert all(f.message for f in report.errors)
            return Finding(report.text())
        return {name: c for name, c in vars(report).items() if name in ("classes", "channels", "cases")}

    odd = [
        ("patient_pattern", "("),
        ("include", "["),
        ("class_pattern", "(?P<"),
        ("patient_pattern", "p."),
        ("seed", []),
    ]
    odd += [("classes", {1: 1}), ("classes", {None: 1}), ("classes", [1, 2]), ("layout", ["folder"]), ("fold", "0")]
    fixed = [Mutant(f"{k} = {v!r}", {**settings, k: v}) for k, v in odd]
    fuzz("settings for verify", fixed, read, read(settings), "data.")
    mutants = object_mutants(settings).filter(lambda m: isinstance(m.content, dict))
    fuzz("settings for verify", mutants, read, read(settings), "data.", int(500 * scale))


ODD_NAMES = [
    *(
        "a\nb",
        "a\tb",
        " a",
        "a ",
        "a'b",
        'a"b',
        "a`b",
        "$(a)",
        "%s",
        "{a}",
        "\\",
        "a\\b",
        "-a",
        "--help",
        "~",
        "*",
        "[a]",
    ),
    *(
        "\u202egnp",
        "e\u0301",
        "\u00e9",
        "\U0001f9e0",
        "\u4e2d\u6587",
        "a" * 200,
        "con",
        "nul",
        "a.b.c",
        "..a",
        "a..",
        "#",
    ),
    *("=1+1", "@a", "+1", "<b>x", "a|b", "a,b", "a;b", "\x01", "\x1b[31m", "0", "NaN", "null", "true", "\udcff"),
]


@both
def test_odd_names(tmp_path, scale, monkeypatch, capsys):
    """Folders and files of any name: the command ends in 0 or 1, and nothing lies outside of where it should."""
    name = st.sampled_from(ODD_NAMES) | st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
    )
    place = tmp_path / "place"
    monkeypatch.chdir(tmp_path)
    small = write_pictures(tmp_path / "small", cases=1)

    def read(drawn):
        folder, stem = drawn
        shutil.rmtree(place, ignore_errors=True)
        root = place / folder
        try:
            for kind in ("images", "masks"):
                (root / kind).mkdir(parents=True)
                shutil.copy(small / kind / "p0.png", root / kind / f"{stem}.png")
        except (OSError, ValueError) as error:
            raise DataError(f"no such name: {error}") from None
        capsys.readouterr()
        code = main(["verify", str(root), "--overlays", str(place / "out"), "--json", str(place / "report.json")])
        said = "".join(capsys.readouterr())
        assert code in (0, 1) and "Traceback" not in said
        assert {p.name for p in tmp_path.iterdir()} <= {"place", "small", "home"}
        assert {p.name for p in place.iterdir()} <= {folder, "out", "report.json", root.name}
        return "read" if code == 0 else Finding(said)

    def usable(drawn):
        return all(part not in (".", "..") for part in drawn)

    mutants = st.tuples(name, name).filter(usable).map(lambda d: Mutant(f"{d!r}", d))
    fuzz("odd names of files and folders", mutants, read, read(("set", "p0")), "no such name", int(300 * scale))


@both
def test_files_that_are_missing_or_elsewhere(tmp_path, scale):
    """Of every layout: a file removed, renamed, emptied, swapped with another, or a folder in its place."""
    roots = {
        "nnunet": write_nnunet(tmp_path / "nnunet", cases=2),
        "msd": write_msd(tmp_path / "msd", ("organ", "tumour"), cases=2),
        "sam_med2d": write_sam_med2d(tmp_path / "demo"),
        "folder": write_pictures(tmp_path / "cells", cases=2),
        "acdc": write_acdc(tmp_path / "acdc", (1, 2)),
        "kits": write_kits(tmp_path / "kits"),
    }
    for layout, root in roots.items():
        copy = tmp_path / "copy"
        files = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())

        def read(content, root=root, copy=copy, layout=layout):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(root, copy)
            if content is not None:
                content(copy)
            index = read_index(copy, ReadSettings(layout=layout))
            cases = {e.id: load(e, index) for e in index.entries}
            return {
                i: (c.parts[0].data.tobytes(), None if c.label is None else c.label.tobytes()) for i, c in cases.items()
            }

        def damage(drawn):
            kind, i, j = drawn
            one, other = files[i], files[j]  # noqa: B023

            def act(folder):
                path = folder / one
                if kind == "removed":
                    path.unlink()
                elif kind == "emptied":
                    path.write_bytes(b"")
                elif kind == "a folder":
                    path.unlink()
                    path.mkdir()
                elif kind == "a broken link":
                    path.unlink()
                    path.symlink_to("nowhere")
                elif kind == "a link to itself":
                    path.unlink()
                    path.symlink_to(path.name)
                elif kind == "renamed":
                    path.rename(path.with_name(f"x{path.name}"))
                elif kind == "upper case":
                    path.rename(path.with_name(path.name.upper()))
                elif kind == "copied" and one != other:
                    shutil.copy(folder / other, path)

            return Mutant(f"{layout}: {one} {kind} {other if kind == 'copied' else ''}", act)  # noqa: B023

        kinds = [
            "removed",
            "emptied",
            "a folder",
            "a broken link",
            "a link to itself",
            "renamed",
            "upper case",
            "copied",
        ]
        number = st.integers(0, len(files) - 1)
        mutants = st.tuples(st.sampled_from(kinds), number, number).map(damage)
        names = (str(copy), "case '", "data set", "imagesTr", "dataset.json")
        fuzz("files missing or elsewhere", mutants, read, read(None), names, int(120 * scale))
