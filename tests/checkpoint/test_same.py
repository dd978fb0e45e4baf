"""What differs between two settings, by hand."""

import pytest

from slimdiff.checkpoint.same import as_json, differences, listed, require_same


def test_every_key_that_differs_is_named_with_both_values():
    old = dict(a=dict(b=1, c=[1, 2]), gone=None, same=(1, 2))
    new = as_json(dict(a=dict(b=1.5, c=[1, 2, 3]), new='x', same=(1, 2)))
    assert differences(old, new) == ['a.b: 1 -> 1.5', 'a.c.2: (absent) -> 3', 'gone: None -> (absent)',
                                     "new: (absent) -> 'x'"]
    assert differences(old, new, ['a.*', 'gone']) == ["new: (absent) -> 'x'"]
    assert differences(new, new) == [] and differences(dict(x=0.1 + 0.2), as_json(dict(x=0.1 + 0.2))) == []


def test_the_refusal():
    require_same(dict(a=1), dict(a=1), 'x', 'y')
    many = {f'k{i}': i for i in range(12)}
    with pytest.raises(ValueError, match=r'(?s)^F holds others, with other values of\n    k0: 0 -> \(absent\)\n.*'
                                         r'\n    \.\.\. and 4 more\nNothing was changed\. Go elsewhere\.$'):
        require_same(many, {}, 'F holds others', 'Go elsewhere.')
    assert max(map(len, listed(differences(dict(a='x' * 500), {})).splitlines())) < 110
