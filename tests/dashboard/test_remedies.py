"""Every reason that a vehicle can report has a next step."""

from __future__ import annotations

from collections.abc import Iterator

from model_registry.contract.errors import Refusal
from server.dashboard.remedies import REMEDIES, UNKNOWN, remedy


def contract_refusals(base: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    if base.__module__.startswith("model_registry.contract"):
        yield base
    for child in base.__subclasses__():
        yield from contract_refusals(child)


def test_every_refusal_of_the_contract_has_its_own_remedy() -> None:
    codes = {refusal.code for refusal in contract_refusals()}
    assert codes <= set(REMEDIES)
    assert "self_test_failed" in codes


def test_a_code_from_a_newer_agent_is_still_answered() -> None:
    assert remedy("battery_too_low") == UNKNOWN
