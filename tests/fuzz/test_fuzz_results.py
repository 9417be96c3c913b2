"""What a run leaves and a leaderboard reads: prompts, records, run.json, slices; and what is drawn of them."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
from fuzz_harness import Finding, Mutant, both, fuzz
from fuzz_mutants import JUNK, byte_mutants, json_mutants
from hypothesis import strategies as st

from samzoo.evaluation.records import COLUMNS, Record, read_records, write_records
from samzoo.leaderboard.compute_load import load_run
from samzoo.leaderboard.overlays import UNREADABLE, _read_prompts, _read_slice
from samzoo.prompts.io import load_prompts

PROMPTS = {
    "format": "samzoo-prompts",
    "version": 1,
    "cases": {
        "a": {
            "mine": {
                "liver": [{"effort": 2, "boxes": [[1, 2, 0, 9, 8, 3]]}, {"effort": 1, "clicks": [[4, 5, 1, 1]]}],
                "spleen": [{"auto": True}, {"clicks": [[1, 1, 1, 0]]}],
            }
        }
    },
}


@both
def test_prompts(tmp_path, scale):
    path = tmp_path / "prompts.json"

    def read(content):
        path.write_bytes(content)
        book = load_prompts(path)
        book.check_cases(["a"])
        return book.steps("a", book.regime_of("a"), ("liver", "spleen"), (5, 20, 30))

    sound = read(json.dumps(PROMPTS).encode())
    fuzz("prompts.json", json_mutants(PROMPTS), read, sound, "prompts.json", int(1000 * scale))
    raw = json.dumps(PROMPTS).encode()
    fuzz("prompts.json", byte_mutants(raw), read, sound, "prompts.json", int(300 * scale))

    def drawn(content):
        """As a leaderboard reads them: what can't be used is left out and told."""
        path.write_bytes(content)
        try:
            return json.dumps(_read_prompts(path))
        except UNREADABLE as error:
            return Finding(str(error))

    fuzz("prompts.json of a board", json_mutants(PROMPTS), drawn, drawn(raw), "", int(300 * scale))


def rows():
    base = Record(
        dataset="d", method="m", case_id="a", patient="p", class_id=1, class_name="liver", regime="box", step=0,
        effort=2, oracle_classes=True, oracle_slices="range", tp=8, fp=2, fn=2, dice=0.8, iou=0.666667, nsd_1mm=0.5,
        nsd_2mm=0.6,
        hd95_mm=3.0, encode_seconds=0.125, decode_seconds=0.5, voxel_mm3=0.75,
    )  # fmt: skip
    found = []
    for case in "abc":
        for step in (0, 1, 2):
            own = replace(base, case_id=case, patient=f"p{case}", regime="clicks", step=step, effort=2 + step)
            found += [own, replace(own, class_id=2, class_name="spleen", tp=4, fp=0, fn=4, dice=2 / 3, iou=0.5)]
        found.append(replace(base, case_id=case, patient=f"p{case}"))
    nothing = {"tp": 0, "fp": 0, "fn": 0, "dice": None, "iou": None, "nsd_1mm": None, "nsd_2mm": None, "hd95_mm": None}
    found.append(replace(base, case_id="d", patient="pd", class_id=3, class_name="kidney", regime="auto", **nothing))
    return found


FREE = ("dataset", "method", "effort", "oracle_classes", "oracle_slices", "encode_seconds", "decode_seconds")
"""Columns whose values a file can't tell to be wrong."""
PLAUSIBLE = {"hd95_mm": ("0.999", "1.5", "2", "7"), "nsd_2mm": ("0.999",)}
"""Distances that another prediction with the same counts could have."""
ODD_CELLS = (
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "1e400",
    "0x1",
    "1_0",
    "\u0663",
    "two",
    "True",
    "1.5",
    "2",
    "0.999",
    "7",
    "9" * 30,
)


@both
def test_records(tmp_path, scale):
    path = tmp_path / "records.csv"
    write_records(path, rows())
    raw = path.read_bytes()
    table = list(csv.reader(io.StringIO(raw.decode())))

    def read(content):
        path.write_bytes(content)
        return read_records(path)

    def text(cells):
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(cells)
        return out.getvalue().encode("utf-8", "surrogatepass")

    def with_cell(drawn):
        row, name, cell = drawn
        cells = [list(line) for line in table]
        cells[row][COLUMNS.index(name)] = cell
        strings = ("case_id", "patient", "class_name", "regime")
        free = name in FREE + strings + ("step",) or cell in PLAUSIBLE.get(name, ())
        return Mutant(f"line {row + 1}, {name} = {cell!r}", text(cells), not free)

    def with_count(drawn):
        row, name, by = drawn
        cells = [list(line) for line in table]
        at = COLUMNS.index(name)
        cells[row][at] = str(int(cells[row][at]) + by)
        return Mutant(f"line {row + 1}, {name} + {by}", text(cells), True)

    def without(row):
        return Mutant(f"without line {row + 1}", text(table[:row] + table[row + 1 :]), 1 <= row <= 6)

    def twice(row):
        return Mutant(f"line {row + 1} twice", text([*table, table[row]]), True)

    def swapped(drawn):
        one, other = drawn
        order = list(range(len(COLUMNS)))
        order[one], order[other] = order[other], order[one]
        header = [table[0], *[[line[i] for i in order] for line in table[1:]]]
        alike = {COLUMNS[one], COLUMNS[other]}
        free = alike <= {
            *FREE,
            "dataset",
            "method",
            "case_id",
            "patient",
            "class_name",
            "regime",
            "oracle_slices",
            "step",
        }
        free = free or alike == {"fp", "fn"} or ("voxel_mm3" in alike and alike & {"encode_seconds", "decode_seconds"})
        return Mutant(f"cells of {sorted(alike)} swapped", text(header), not free and one != other)

    line = st.integers(1, len(table) - 2)
    column = st.integers(0, len(COLUMNS) - 1)
    cut = st.integers(0, len(raw) - 1).map(lambda n: Mutant(f"cut to {n} bytes", raw[:n], raw[:n][-1:] != b"\n"))
    encodings = [
        Mutant("UTF-16", raw.decode().encode("utf-16"), True),
        Mutant("BOM", b"\xef\xbb\xbf" + raw, True),
        Mutant("semicolons", raw.replace(b",", b";"), True),
        Mutant("NUL", raw.replace(b"box", b"b\0x"), False),
        Mutant("old line ends", raw.replace(b"\n", b"\r"), True),
        Mutant("open quote", raw.replace(b"liver", b'"liver', 1), True),
        Mutant("no columns", raw.split(b"\n", 1)[1], True),
        Mutant("huge cell", raw.replace(b"liver", b"x" * 200000), False),
    ]
    mutants = st.one_of(
        st.tuples(line, st.sampled_from(COLUMNS), st.sampled_from(ODD_CELLS)).map(with_cell),
        st.tuples(line, st.sampled_from(("tp", "fp", "fn")), st.sampled_from((-1, 1, 2, 50))).map(with_count),
        line.map(without),
        line.map(twice),
        st.tuples(column, column).map(swapped),
        cut,
        st.sampled_from(encodings),
        byte_mutants(raw).filter(lambda m: not m.what.startswith("cut")),
    )
    fuzz("records.csv", mutants, read, read(raw), "records.csv", int(1500 * scale))


INFO = {
    "method": "m",
    "dataset": "d",
    "dataset_signature": "s",
    "test_signature": "t",
    "train_signature": None,
    "weights": {"source": "sam_tiny", "sha256": "ff", "seen": ["a"], "seen_this": False},
    "config": {"model": {"class_path": "SAM", "init_args": {"architecture": "vit_tiny", "weights": "sam_tiny"}}},
    "seed_everything": "0",
    "versions": {"samzoo": "0.1.0"},
    "device": {"type": "cpu", "name": "a", "threads": 2},
    "side_by_side": 1,
    "parameters_total": 100,
    "parameters_trained": 10,
    "training": {"training_seconds": 1.5, "peak_memory_bytes": 5},
    "protocol": {"seed": 0, "prompts_file": None, "regimes": {"box": {"steps_scored": [0], "effort_rule": "2"}}},
    "flops": {"encode": 10, "prompt": 1},
    "cost": {"ms_per_encode": 1.0, "cases": {c: {"images_encoded": 1, "prompts_decoded": 2} for c in "abc"}},
    "peak_memory_bytes": 7,
    "records": len(rows()),
}


@both
def test_run_json(tmp_path, scale):
    """Read, then put on a board beside a sound run, as tables and as a page."""
    from samzoo.leaderboard.compute import compute_board
    from samzoo.leaderboard.markdown import markdown
    from samzoo.leaderboard.merge import check
    from samzoo.leaderboard.page import Page
    from samzoo.leaderboard.table import csv_text

    for name in ("one", "two"):
        write_records(tmp_path / name / "records.csv", rows())
        (tmp_path / name / "run.json").write_text(json.dumps(INFO))
    other = load_run("two", tmp_path / "two")

    def read(content):
        (tmp_path / "one" / "run.json").write_bytes(content)
        run = load_run("one", tmp_path / "one")
        check([run, other])
        board = compute_board([run, other], draws=20)
        empty = [[] for _ in board.sections]
        Page(tmp_path).render(board, empty, empty)
        return csv_text(board), markdown(board, empty, empty)

    sound = read(json.dumps(INFO).encode())
    mutants = json_mutants(INFO).map(lambda m: m._replace(bad=m.bad and "init_args" not in m.what))
    fuzz("run.json", mutants, read, sound, ("run.json", "records.csv"), int(500 * scale))


def test_rows_that_were_lost(tmp_path):
    """Whole rows less or more than run.json tells of."""
    write_records(tmp_path / "records.csv", rows())
    (tmp_path / "run.json").write_text(json.dumps(INFO))
    lines = (tmp_path / "records.csv").read_text().splitlines(keepends=True)

    def read(content):
        (tmp_path / "records.csv").write_text("".join(content))
        return load_run("one", tmp_path).records

    sound = read(lines)
    numbers = range(1, len(lines))
    mutants = [Mutant(f"without line {n + 1}", lines[:n] + lines[n + 1 :], True) for n in numbers]
    mutants += [Mutant(f"cut after line {n}", lines[:n], True) for n in numbers]
    mutants += [Mutant(f"without case {c}", [line for line in lines if f",m,{c}," not in line], True) for c in "abcd"]
    fuzz("lost rows of records.csv", mutants, read, sound, "records.csv")


@both
def test_slices(tmp_path, scale):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.npz"
    truth = np.zeros((12, 16), np.uint8)
    truth[3:8, 4:9] = 1
    arrays = {
        "case_id": np.array("a"),
        "z": np.array(2),
        "shape": np.array((5, 12, 16)),
        "spacing": np.array((3.0, 1.0, 1.0)),
        "factor": np.array(1),
        "image": rng.integers(0, 255, (12, 16)).astype(np.uint8),
        "truth": truth,
        "box/0": truth,
    }

    def packed(content):
        out = io.BytesIO()
        np.savez_compressed(out, **content)
        return out.getvalue()

    def read(content):
        path.write_bytes(content)
        try:
            return {k: (v.shape, str(v.dtype), v.tobytes()) for k, v in _read_slice(path, "a").items()}
        except UNREADABLE as error:
            return Finding(str(error))

    raw = packed(arrays)
    fuzz("bytes of slices", byte_mutants(raw, checksum=True), read, read(raw), "", int(400 * scale))

    odd = [np.array(v) for v in (-1, 0, 5, 99, 2.5, np.nan, np.inf, 2**40, "x", [1, 2], True, 1j)]
    odd += [np.zeros(s, np.uint8) for s in ((12, 15), (12, 16, 3), (12, 16, 4), (0, 16), (1, 12, 16), (3,), ())]
    odd += [np.zeros((12, 16), np.float32), np.zeros((12, 16), bool), np.array([{}], object), truth]
    optional = ("case_id", "factor", "box/0")

    def changed(drawn):
        name, i = drawn
        same = odd[i].shape == arrays[name].shape and odd[i].dtype.kind in ("ui" if name in ("z", "factor") else "u")
        same = same or (name == "image" and odd[i].shape == (12, 16, 3)) or name == "case_id"
        return Mutant(f"{name} = array {i}", packed(arrays | {name: odd[i]}), not same)

    one = st.sampled_from(sorted(arrays))
    mutants = st.one_of(
        st.tuples(one, st.integers(0, len(odd) - 1)).map(changed),
        one.map(lambda n: Mutant(f"no {n}", packed({k: v for k, v in arrays.items() if k != n}), n not in optional)),
        st.tuples(one, one).map(lambda d: Mutant(f"{d[0]} is {d[1]}", packed(arrays | {d[0]: arrays[d[1]]}), False)),
    )
    fuzz("arrays of slices", mutants, read, read(raw), "", int(400 * scale))


def test_junk_is_no_prompts(tmp_path):
    path = tmp_path / "prompts.json"

    def read(content):
        path.write_text(json.dumps(content))
        return load_prompts(path)

    fuzz("prompts.json", [Mutant(f"{j!r}", j, True) for j in JUNK], read, None, "prompts.json")
