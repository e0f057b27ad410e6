"""A run of the benchmark: which scenarios, on which data, with what beside them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection
from pathlib import Path

from model_registry.bench.artifacts import CompressionFailed
from model_registry.bench.comparison import Comparison, peer_versions
from model_registry.bench.networks import NetworkCache
from model_registry.bench.peers import PEERS
from model_registry.bench.scenarios import SCENARIOS, Scenario, Update
from model_registry.bench.table import Result

Progress = Callable[[str, float, str], None]
CPU_INFO = Path("/proc/cpuinfo")


def compare(networks: NetworkCache, only: Collection[str], *, workspace: Path, with_peers: bool, progress: Progress) -> Result:
    """Measure the scenarios named in ``only``, or all; networks that are missing are taught first.

    ``workspace``: an empty folder, where the artifacts stay. A scenario that cannot be compressed is told in the result.
    Raises Refusal for data that cannot be read.
    """
    chosen = [scenario for scenario in SCENARIOS if not only or scenario.name in only]
    paths = networks.make(dict.fromkeys(name for scenario in chosen for name in _networks(scenario)), progress)
    peers = PEERS if with_peers else ()
    comparison = Comparison(paths, networks.split, workspace, peers=peers, progress=progress)
    rows, failures = [], []
    for scenario in chosen:
        try:
            rows.append(comparison.row(scenario))
        except CompressionFailed as exc:
            # The others are still worth their hours.
            failures.append(f"{scenario.name}: {exc.message}")
        progress(scenario.name, 1.0, "measured")
    return Result(tuple(rows), peer_versions(peers), _machine(), tuple(failures))


def _networks(scenario: Scenario) -> tuple[str, ...]:
    return (scenario.base, scenario.network) if isinstance(scenario, Update) else (scenario.network,)


def _machine() -> dict[str, str]:
    return {"cpu": _cpu(), "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}


def _cpu() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
