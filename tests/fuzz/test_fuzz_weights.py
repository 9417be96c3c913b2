"""Weights and checkpoints: no file runs code, fills the memory, or is loaded half."""

import io
import json
import pickle
import struct

import pytest
import torch
from fuzz_harness import Mutant, both, fuzz
from fuzz_mutants import byte_mutants
from hypothesis import strategies as st
from safetensors.torch import save

from samzoo.cli_checkpoint import check_checkpoint
from samzoo.sam.checkpoint import base_hash, read_state_dict

STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3), "b": torch.zeros(2, 2, 2)}
CHECKPOINT = {"state_dict": STATE, "epoch": 3, "samzoo_base_sha256": "ff", "global_step": 7}


class Evil:
    """Writes a file where it is unpickled."""

    def __init__(self, path, how=open):
        self.path, self.how = path, how

    def __reduce__(self):
        return (
            (self.how, (str(self.path), "w")) if self.how is open else (self.how, (f"open({str(self.path)!r}, 'w')",))
        )


def saved(content, **options):
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def compared(state):
    return {k: (v.dtype, tuple(v.shape), v.tolist()) for k, v in state.items()}


@pytest.fixture
def reader(tmp_path):
    evil = tmp_path / "evil"

    def make(name, look):
        path = tmp_path / name

        def read(content):
            path.write_bytes(content)
            try:
                return look(path)
            finally:
                assert not evil.exists(), "code was run"

        return read

    make.evil = evil
    return make


def weights(path):
    return compared(read_state_dict(path)), base_hash(path)


def checkpoint(path):
    """As a test reads it: looked through, then loaded."""
    check_checkpoint(path)
    return compared(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])


@both
def test_bytes_of_weights(reader, scale):
    for name, raw, look, checksum, number in (
        ("a.safetensors", save(STATE), weights, False, 500),
        ("a.pth", saved(STATE), weights, False, 600),
        ("old.pth", saved(STATE, _use_new_zipfile_serialization=False), weights, False, 500),
        ("a.ckpt", saved(CHECKPOINT), checkpoint, False, 500),
    ):
        read = reader(name, look)
        fuzz(f"bytes of {name}", byte_mutants(raw, checksum), read, read(raw), name, int(number * scale))


@both
def test_headers_of_safetensors(reader, scale):
    raw = save(STATE)
    size = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]

    def packed(head, length=None):
        text = json.dumps(head).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def lying(drawn):
        name, key, value = drawn
        # whole numbers of as many bytes: what they are for, the model knows (tests/sam)
        bad = value not in (header[name][key], "I32")
        return Mutant(f"{name}.{key} = {value}", packed(header | {name: header[name] | {key: value}}), bad)

    shapes = ([], [2**40], [3, -4], [4, 3, 2**60], None, [1.5], {})
    odd = st.sampled_from(([0, 0], [0, 2**40], [-1, 4], [48, 0], [0, 48], [12, 60], "F16", "F64", "I32", "X", *shapes))
    mutants = st.one_of(
        st.tuples(st.sampled_from(sorted(STATE)), st.sampled_from(("dtype", "shape", "data_offsets")), odd).map(lying),
        st.sampled_from((0, 1, size - 1, size + 1, 2**20, 2**40, 2**63)).map(
            lambda n: Mutant(f"length {n}", packed(header, n), True)
        ),
    )
    read = reader("a.safetensors", weights)
    fuzz("headers of .safetensors", mutants, read, read(raw), "a.safetensors", int(150 * scale))


def test_what_is_no_state_dict(reader):
    nan = {**STATE, "b": torch.full((2, 2, 2), float("nan"))}
    kinds = {
        "code": {"x": Evil(reader.evil)},
        "code by eval": {"x": Evil(reader.evil, eval)},
        "code by exec": {"state_dict": Evil(reader.evil, exec)},
        "names that are none": {1: torch.ones(2), (2, 3): torch.ones(1)},
        "no tensors": {"a": 1, "b": "x"},
        "a list": [torch.ones(2)],
        "a tensor": torch.ones(3),
        "nothing": {},
        "None": None,
        "NaN": nan,
        "infinite": {"a": torch.tensor([float("inf")])},
        "complex": {"a": torch.ones(3, dtype=torch.complex64)},
        "of terabytes": {"a": torch.zeros(1).expand(10**6, 10**6)},
        "sparse": {"a": torch.eye(3).to_sparse()},
        "quantised": {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
        "without content": {"a": torch.ones(3, device="meta")},
    }
    old = {"_use_new_zipfile_serialization": False}
    for form, options in (("zip", {}), ("old", old)):
        read = reader("a.pth", weights)
        mutants = [Mutant(f"{form}: {k}", saved(v, **options), True) for k, v in kinds.items()]
        fuzz("what is no state dict", mutants, read, None, "a.pth")
        read = reader("a.ckpt", checkpoint)
        # a method without weights has a checkpoint whose state dict is empty
        held = {k: v for k, v in kinds.items() if k not in ("a tensor", "a list", "nothing")}
        mutants = [
            Mutant(f"{form}: {k}", saved({**CHECKPOINT, "state_dict": v}, **options), True) for k, v in held.items()
        ]
        mutants += [Mutant(f"{form}: no checkpoint: {k}", saved(v, **options), True) for k, v in kinds.items()]
        fuzz("what is no checkpoint", mutants, read, None, "a.ckpt")
    read = reader("a.pth", weights)
    plain = [Mutant("pickle alone", pickle.dumps({"x": Evil(reader.evil)}), True), Mutant("text", b"hello", True)]
    fuzz("what is no state dict", plain, read, None, "a.pth")
