"""All files of the model zoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studies.model_zoo.entries import Count, Entry
from studies.model_zoo.metafiles import metafile, model_index
from studies.model_zoo.pages import docs_page, family_page
from studies.model_zoo.published import FAMILIES


def generate(entries: Sequence[Entry], counts: Mapping[str, Count],
             results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Path below the root -> content.

    Args:
        counts: by network; of all entries.
        results: files of ``slimdiff benchmark``.
    """
    by_family = {f.folder: [e for e in entries if e.family == f.folder] for f in FAMILIES}
    families = [f for f in FAMILIES if by_family[f.folder]]
    files = {}
    for family in families:
        files[f'configs/{family.folder}/README.md'] = family_page(family, by_family[family.folder], counts, results)
        files[f'configs/{family.folder}/metafile.yml'] = metafile(family, by_family[family.folder], counts)
    files['model-index.yml'] = model_index(families)
    files['docs/en/model_zoo.md'] = docs_page(by_family, counts, results)
    return files
