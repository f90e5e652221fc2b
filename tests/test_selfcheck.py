"""The start-up check passes on devices that compute rightly and refuses those that do not."""

import jax
import numpy as np
import pytest

from infoutil_jax import layerwise, parallel, selfcheck
from infoutil_jax.errors import NumericError


def test_good_devices_pass():
    assert 0 <= selfcheck.run() < 1e-5


@pytest.mark.parametrize("form", ["_by_product", "_by_gram_matrices"])
def test_both_forms_of_the_layerwise_norms_are_checked(monkeypatch, form):
    right, norms = getattr(layerwise, form), selfcheck._norms
    monkeypatch.setattr(layerwise, form, lambda *args: 1.1 * right(*args))
    monkeypatch.setattr(selfcheck, "_norms", lambda *args: norms(*args))  # another function: traced again
    with pytest.raises(NumericError, match="wrong by"):
        selfcheck.run()


@pytest.mark.parametrize("way", [0, 1])  # layerwise, vmap
@pytest.mark.parametrize("fault", [0.0, 1.01, np.nan])
def test_wrong_rows_off_the_first_device_are_refused(monkeypatch, fault, way):
    right = parallel.map_batches

    def wrong(fn, rows_per_device, *args):
        out = right(fn, rows_per_device, *args)
        out[rows_per_device:, way] *= fault
        return out

    monkeypatch.setattr(parallel, "map_batches", wrong)
    with pytest.raises(NumericError, match=f"{len(jax.local_devices())} x cpu.*wrong by"):
        selfcheck.run()
