"""How much memory there is, and how much this process uses."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

GIB = 2**30


def _status(key: str, file: str = "/proc/self/status") -> int | None:
    """Bytes that a line like `VmRSS:  1234 kB` of the kernel tells; None where there is no such line."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", Path(file).read_text(), re.M)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def peak_resident_bytes() -> int:
    """The most that this process has held since `reset_peak`; where the kernel can't reset it, since its start."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_bytes(device: torch.device) -> int:
    """On CUDA the most that tensors took since its statistics were reset; else `peak_resident_bytes`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()


def resident_bytes() -> int:
    """What this process holds now; where the kernel does not tell, the most that it ever held."""
    return _status("VmRSS") or peak_resident_bytes()


def reset_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def available_bytes() -> int:
    """What this process may still take: of the machine, of its control groups, of its own limit (`ulimit -v`)."""
    found = [_status("MemAvailable", "/proc/meminfo") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and (taken := _status("VmSize")):
        found.append(limit - taken)
    return max(0, min(found + list(_left_in_groups())))


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group (version 1 or 2) of this process leaves, up to the root; file caches count as free."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controllers not in ("", "memory"):
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
        top = root / controllers
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            try:
                limit, usage = ((folder / name).read_text().strip() for name in names[:2])
                cache = re.search(rf"^{names[2]} (\d+)", (folder / "memory.stat").read_text(), re.M)
            except OSError:  # a container does not see the groups around it, and the root has no limit
                limit = "max"
            if limit != "max":
                yield int(limit) - int(usage) + (int(cache[1]) if cache else 0)
            if folder == top:
                break
