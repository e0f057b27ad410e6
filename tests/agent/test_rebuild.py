"""Decoding in a child: whatever happens to it, the parent gets a refusal and goes on."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from client_agent import rebuild as rebuilding
from client_agent.rebuild import Coded, Job, rebuild
from client_agent.stop import Stopped, StopSignal
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec
from model_registry.contract.errors import ArtifactRefused, ContentMismatch, LimitExceeded, WrongBase
from model_registry.contract.full import encode_full
from model_registry.deltas import make_delta
from tests.agent.models import make_content


def job(directory: Path, artifact: bytes, content: Content, base: Content | None = None, *, content_bytes: int = 0) -> Job:
    (directory / "artifact").write_bytes(artifact)
    if base is not None:
        (directory / "base").write_bytes(base.data)
    path = directory / "base" if base is not None else None
    coded = Coded(directory / "artifact", content.sha256, content_bytes or len(content.data))
    return Job(path, (coded,), directory / "out")


def chain(directory: Path, contents: list[Content], *, signed: list[Content] | None = None) -> Job:
    """Deltas from each content to the next; ``signed``: what metadata says they lead to, if that is something else."""
    (directory / "base").write_bytes(contents[0].data)
    coded = []
    for number, ((one, two), said) in enumerate(zip(pairwise(contents), signed or contents[1:], strict=True)):
        (directory / f"{number}.dfd").write_bytes(make_delta(one, two).data)
        coded.append(Coded(directory / f"{number}.dfd", said.sha256, len(said.data)))
    return Job(directory / "base", tuple(coded), directory / "out")


def run(task: Job, *, deadline_s: float = 60.0) -> None:
    rebuild(task, deadline_s=deadline_s, stop=StopSignal())


def test_a_full_artifact_becomes_the_content(tmp_path: Path, v1: Content) -> None:
    task = job(tmp_path, encode_full(v1), v1)
    run(task)
    assert task.out.read_bytes() == v1.data


def test_a_delta_becomes_the_content(tmp_path: Path, v1: Content, v2: Content) -> None:
    task = job(tmp_path, make_delta(v1, v2).data, v2, v1)
    run(task)
    assert task.out.read_bytes() == v2.data


def test_a_chain_of_deltas_becomes_the_last_content_and_leaves_no_other(
    tmp_path: Path, v1: Content, v2: Content, v3: Content
) -> None:
    task = chain(tmp_path, [v1, v2, v3, v1, v2, v3])
    run(task)
    assert task.out.read_bytes() == v3.data
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out", *(f"{n}.dfd" for n in range(5))}


def test_a_content_on_the_way_that_is_not_the_signed_one_is_refused_at_once(
    tmp_path: Path, v1: Content, v2: Content, v3: Content
) -> None:
    stranger = make_content("2.0.0", seed=9)
    task = chain(tmp_path, [v1, stranger, v3], signed=[v2, v3])
    with pytest.raises((ContentMismatch, LimitExceeded)):
        run(task)
    assert not task.out.exists()


def test_deltas_in_the_wrong_order_are_refused(tmp_path: Path, v1: Content, v2: Content, v3: Content) -> None:
    task = chain(tmp_path, [v1, v2, v3])
    with pytest.raises(WrongBase):
        run(replace(task, artifacts=task.artifacts[::-1]))


def test_a_delta_on_another_base_is_named(tmp_path: Path, v1: Content, v2: Content) -> None:
    task = job(tmp_path, make_delta(v1, v2).data, v2, make_content("1.1.0", seed=3))
    with pytest.raises(WrongBase):
        run(task)
    assert not task.out.exists()


def test_another_content_than_the_signed_one_is_refused(tmp_path: Path, v1: Content, v2: Content) -> None:
    task = job(tmp_path, encode_full(v1), v2, content_bytes=len(v1.data))
    with pytest.raises(ContentMismatch):
        run(task)
    assert not task.out.exists()


def test_a_content_above_its_signed_size_is_refused(tmp_path: Path, v1: Content) -> None:
    with pytest.raises(LimitExceeded):
        run(job(tmp_path, encode_full(v1), v1, content_bytes=1000))


def test_decoding_that_takes_too_long_is_ended(tmp_path: Path, v1: Content) -> None:
    with pytest.raises(LimitExceeded, match="seconds"):
        run(job(tmp_path, encode_full(v1), v1), deadline_s=0.01)


def test_a_stop_ends_decoding(tmp_path: Path, v1: Content) -> None:
    stop = StopSignal()
    threading.Timer(0.02, stop.set).start()
    with pytest.raises(Stopped):
        rebuild(job(tmp_path, encode_full(v1), v1), deadline_s=60, stop=stop)


def test_a_child_that_dies_without_a_word_is_a_refusal(tmp_path: Path, v1: Content) -> None:
    task = job(tmp_path, encode_full(v1), v1)
    (tmp_path / "artifact").unlink()
    with pytest.raises(ArtifactRefused, match="status"):
        run(task)


def test_memory_beyond_the_allowance_is_a_refusal(tmp_path: Path, v1: Content) -> None:
    """The limit is put around a decoder that asks for too much, in a process of its own."""
    program = (
        "import sys; from client_agent import rebuild\n"
        "rebuild.decode = lambda job: bytearray(4 * rebuild.allowance_bytes(job.largest_bytes))\n"
        "sys.exit(rebuild.main(sys.argv[1:]))"
    )
    task = job(tmp_path, encode_full(v1), v1)
    done = subprocess.run(
        [sys.executable, "-c", program, *task.arguments()], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "memory" in done.stdout


def test_the_allowance_is_enough_for_a_large_content(tmp_path: Path) -> None:
    content = make_content("1.0.0", hidden=1500)
    assert len(content.data) > 4e6
    task = job(tmp_path, encode_full(content), content)
    run(task)
    assert task.out.stat().st_size == len(content.data)


def test_the_allowance_counts_the_base_that_is_left_behind(tmp_path: Path, v1: Content) -> None:
    large = make_content("1.0.0", hidden=1500)
    task = job(tmp_path, make_delta(large, v1, Codec.ZSTD).data, v1, large)
    assert task.largest_bytes == len(large.data) > len(v1.data)
    run(task)
    assert task.out.read_bytes() == v1.data


def test_the_parents_own_limits_are_untouched(tmp_path: Path, v1: Content) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    run(job(tmp_path, encode_full(v1), v1))
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert rebuilding.allowance_bytes(0) > 0
