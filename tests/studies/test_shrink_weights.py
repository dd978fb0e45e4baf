"""8 bits for the large layers: the nearest of 256 values, by hand."""

import pytest
import torch

from studies.shrink_weights import shrink


def test_large_layers_get_eight_bits_and_others_sixteen():
    # Between 1 and 2 the values are 1/8 apart, between 0.5 and 1 they are 1/16 apart, below 2^-6 they are 2^-9 apart.
    row = torch.tensor([1.0, 1.06, 1.07, -1.3, 0.53, 0.54, 0.001, 0.00098])
    found = shrink({'large': row[None], 'small': row[None, :4], 'bias': row}, least=8)
    assert found['large'].dtype == torch.float8_e4m3fn
    expected = torch.tensor([1.0, 1.0, 1.125, -1.25, 0.5, 0.5625, 2**-9, 2**-9])
    torch.testing.assert_close(found['large'][0].float(), expected, rtol=0, atol=0)
    assert found['small'].dtype == found['bias'].dtype == torch.float16
    assert torch.equal(found['bias'], row.half())


def test_weights_that_eight_bits_cannot_hold_are_refused():
    with pytest.raises(ValueError, match='w holds weights above 448'):
        shrink({'w': torch.full((2, 4), 449.0)}, least=1)
