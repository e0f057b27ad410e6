"""A rebuilt content proves itself before it may answer: it loads, it runs, it reproduces the golden vectors of its manifest."""

from __future__ import annotations

from client_agent.inference.engine import Engine
from model_registry.contract.content import Content
from model_registry.contract.golden import golden_inputs
from model_registry.contract.session import self_test


def prove(content: Content) -> Engine:
    """Load, warm and test a content beside whatever runs now. Raises ModelUnusable or SelfTestFailed."""
    engine = Engine(content)
    # The first run allocates and is slow; it must not be a client's.
    engine.run(golden_inputs(content.manifest, seed=0))
    self_test(engine.session)
    return engine
