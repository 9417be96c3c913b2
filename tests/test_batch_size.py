"""What a batch size is chosen by, how memory is measured, and which settings an error proposes."""

import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from samzoo import batch_size
from samzoo.batch_size import BATCH_VARIABLE, find_batch_size
from samzoo.cli_parser import concrete_methods
from samzoo.errors import ConfigError
from samzoo.memory import REMEDIES, is_out_of_memory, remedies
from samzoo.memory_use import GIB, _left_in_groups, available_bytes

CUDA_ERROR = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of which 512.00 MiB is "
    "free. Including non-PyTorch memory, this process has 78.14 GiB memory in use."
)
CPU_ERROR = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4294967296 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.fixture
def search(monkeypatch):
    """search(outcomes, ...) with a made-up outcome for each size: GiB, or an error."""

    def run(outcomes, limit, units=10_000, unit="slice", predicts=True, copies=0):
        tried = []

        def fake(trainer, method, datamodule, memory, size):
            tried.append(size)
            outcome = outcomes(size)
            if isinstance(outcome, Exception):
                raise outcome
            return units, int(outcome * GIB)

        monkeypatch.setattr(batch_size, "_try", fake)
        monkeypatch.setattr(batch_size, "_release", lambda: None)  # it takes its time where many objects are alive
        method = SimpleNamespace(spec=SimpleNamespace(unit=unit))
        memory = SimpleNamespace(predicts=predicts, limit=limit * GIB)
        return batch_size._search(None, method, None, memory, copies), tried

    return run


def test_on_cpu_no_size_is_tried_that_would_take_too_much(search, capsys):
    assert search(lambda n: 1 + n, limit=11) == (8, [1, 2, 4, 8])
    text = capsys.readouterr().out
    assert text.startswith("batch size: 1 takes 2.00 GiB, 2 take 3.00 GiB") and text.count("\n") == 1
    assert "chosen 8: 16 would take 17.00 GiB of the 11.00" in text
    assert search(lambda n: n, limit=1.5) == (1, [1]), "two are taken for twice as much as one"
    assert search(lambda n: n, limit=0.5)[0] == 1, "it has run, and nothing is smaller"


def test_on_cuda_too_large_a_size_is_an_error_that_ends_the_search(search, capsys):
    outcomes = {1: 1, 2: 2, 4: torch.OutOfMemoryError(CUDA_ERROR)}
    assert search(outcomes.get, limit=3, predicts=False) == (2, [1, 2, 4])
    assert "chosen 2: 4 run out of memory" in capsys.readouterr().out
    assert search(lambda n: n, limit=3, predicts=False) == (2, [1, 2, 4]), "4 ran, but left too little"


def test_gradients_that_several_processes_send_count(search):
    assert search(lambda n: n, limit=8.5)[0] == 8
    assert search(lambda n: n, limit=8.5, copies=GIB)[0] == 4


def test_a_batch_is_a_twentieth_of_an_epoch_at_most(search, capsys):
    assert search(lambda n: 0, limit=1, units=100) == (4, [1, 2, 4])
    assert "chosen 4: 8 are more than 5% of an epoch's 100 units" in capsys.readouterr().out
    assert search(lambda n: 0, limit=1, units=3) == (1, [1])
    assert search(lambda n: 0, limit=1, units=3, unit="slab") == (2, [1, 2])
    assert search(lambda n: n, limit=1.5, units=3, unit="slab")[0] == 1, "but only if they fit"
    assert search(lambda n: 0, limit=1)[0] == 64


def test_sizes_that_a_method_refuses_are_passed_over(search):
    refused = ConfigError("batch normalisation needs two")
    assert search(lambda n: refused if n in (1, 4) else n, limit=100, units=200) == (8, [1, 2, 4, 8])
    assert search(lambda n: refused if n == 1 else n, limit=100, units=3) == (2, [1, 2])
    with pytest.raises(ConfigError, match="needs two"):
        search(lambda n: refused, limit=100)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA_ERROR), ValueError("something else")])
def test_what_one_unit_raises_is_raised(search, error):
    with pytest.raises(type(error)):
        search(lambda n: error, limit=1)


# --- processes ---------------------------------------------------------------------------------------------------


def trainer_of(rank, ranks, external, nodes=1):
    environment = SimpleNamespace(creates_processes_externally=external)
    strategy = SimpleNamespace(cluster_environment=environment, root_device=torch.device("cpu"))
    return SimpleNamespace(global_rank=rank, world_size=ranks, num_nodes=nodes, num_devices=ranks, strategy=strategy)


def test_further_processes_take_what_the_first_one_found(monkeypatch):
    monkeypatch.setenv(BATCH_VARIABLE, "16")
    assert find_batch_size(trainer_of(1, 2, external=True), None, None) == 16


@pytest.mark.parametrize(("rank", "external", "nodes"), [(0, True, 1), (1, True, 1), (0, False, 2)])
def test_external_launchers_are_told_how_to_find_it(monkeypatch, rank, external, nodes):
    monkeypatch.delenv(BATCH_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"one process first .*--trainer\.devices 1"):
        find_batch_size(trainer_of(rank, 2, external, nodes), None, None)


# --- measuring ---------------------------------------------------------------------------------------------------


PEAK = """
import torch
from samzoo.batch_size import HostMemory
for megabytes in (300, 100):
    memory = HostMemory(processes=2)
    memory.begin()
    torch.ones(megabytes, 2**18)  # each row is a MiB
    print(memory.used() / 2**20, memory.limit)
"""


def test_peak_of_main_memory():
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pytest.skip("the kernel can't reset the peak here")
    # in a process of its own: of one that has long run, the kernel may take pages of libraries back at any time
    said = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    large, small = (line.split() for line in said.splitlines())
    assert float(large[0]) == pytest.approx(300, abs=40) and float(small[0]) == pytest.approx(100, abs=40)
    assert 0 < float(small[1]) < 0.36 * available_bytes() + GIB


@pytest.mark.parametrize("version", [1, 2])
def test_limit_of_a_control_group(tmp_path, version):
    names = ("memory.max", "memory.current", "inactive_file")
    top = tmp_path
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        top = tmp_path / "memory"
    for folder, limit in ((top / "job", 8 * GIB), (top / "job/step", 2**63 if version == 1 else "max")):
        folder.mkdir(parents=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{3 * GIB}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {GIB}\n")
    own = tmp_path / "own"
    own.write_text("0::/job/step\n" if version == 2 else "7:blkio:/\n4:memory:/job/step\n")
    assert min(_left_in_groups(tmp_path, own)) == 6 * GIB, "a file cache gives way"


# --- what helps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA_ERROR), True),
        (RuntimeError(CPU_ERROR), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), True),
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory(error, expected):
    assert is_out_of_memory(error) == expected


OWN = {name for name, method in concrete_methods().items() if method.__module__.startswith("samzoo.")}


@pytest.mark.parametrize("name", sorted(OWN - {"BoxEllipse"}))
def test_methods_name_settings_that_exist(name):
    method = concrete_methods()[name]
    arguments = inspect.signature(method).parameters
    for setting in (*method.memory_settings, *method.memory_settings_scoring):
        assert setting in REMEDIES
        if setting.startswith("model.init_args."):
            assert setting.split(".")[2] in arguments, f"{name} has no {setting}"


def test_settings_that_have_nothing_to_give_are_left_out():
    method = SimpleNamespace(
        memory_settings=("model.init_args.checkpointing", "data.batch_size", "trainer.precision", "data.features"),
        memory_settings_scoring=("protocol.encode_chunk",),
        sam=SimpleNamespace(config=SimpleNamespace(image_size=1024)),
    )
    config = {
        "model": {"init_args": {"checkpointing": False}},
        "data": {"batch_size": 8, "features": None},
        "trainer": {"precision": None},
        "protocol": {"encode_chunk": 8},
    }

    def names(scoring=False, cuda=True):
        return [(name, better) for name, _, better, _ in remedies(method, scoring, config, cuda)]

    assert names() == [
        ("model.init_args.checkpointing", True),
        ("data.batch_size", 4),
        ("trainer.precision", "bf16-mixed"),
    ]
    assert names(cuda=False)[2] == ("data.features", "{}")
    assert names(scoring=True) == [("protocol.encode_chunk", 4)]
    config["data"]["batch_size"], config["model"]["init_args"]["checkpointing"] = 1, True
    config["trainer"]["precision"] = "16-mixed"
    assert names() == [("data.features", "{}")]
