"""Places are those that sorting all values by context would give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model_registry.contract.codecs import places
from model_registry.contract.codecs.places import Sorted


@given(st.data())
def test_stretches_put_together_are_in_order(data: st.DataObject) -> None:
    count = data.draw(st.sampled_from([1, 3, 255, 256, 300]))
    contexts = data.draw(hnp.arrays(np.int64, st.integers(0, 40), elements=st.integers(0, count)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "STRETCH", data.draw(st.sampled_from([3, 8, 100])))
        found = Sorted(contexts, count)
        coded = np.flatnonzero(contexts < count)
        expected = coded[np.argsort(contexts[coded], kind="stable")]
        assert found.at(np.arange(expected.size)).tolist() == expected.tolist()
        assert found.at(np.arange(expected.size)[1::3]).tolist() == expected[1::3].tolist()
        assert found.room.tolist() == np.unique(contexts[coded], return_counts=True)[1].tolist()
