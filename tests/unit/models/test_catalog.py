"""The catalog's own consistency."""

from __future__ import annotations

import re

import pytest

from quern.config_models import ModelSettings
from quern.errors import ModelNotFound
from quern.modelfiles.sizes import kv_cache_bytes
from quern.models.catalog import CATALOG, HubSource, SourceKind, WheelSource, find
from quern.models.progress import format_bytes


def test_names_are_unique_and_found() -> None:
    assert len({entry.name for entry in CATALOG}) == len(CATALOG)
    assert all(find(entry.name) is entry for entry in CATALOG)


def test_the_default_model_is_in_the_catalog_and_needs_no_hub() -> None:
    entry = find(ModelSettings().name)
    assert any(source.kind is SourceKind.PYPI for source in entry.sources)


def test_every_file_is_a_single_gguf_of_the_stated_quantisation() -> None:
    for entry in CATALOG:
        assert entry.file_name.lower().endswith(f"-{entry.quantisation.lower()}.gguf")
        assert not re.search(r"-of-\d+", entry.file_name)
        files = {source.file for source in entry.sources if isinstance(source, HubSource)}
        assert files == {entry.file_name}


def test_sources_are_in_the_order_they_should_be_tried_in() -> None:
    order = list(SourceKind)
    for entry in CATALOG:
        ranks = [order.index(source.kind) for source in entry.sources]
        assert ranks == sorted(ranks)


def test_a_file_in_wheels_has_an_exact_size_and_a_pin() -> None:
    for entry in CATALOG:
        wheels = [source for source in entry.sources if isinstance(source, WheelSource)]
        assert entry.size_exact == bool(wheels)
        assert entry.pins == {source.sha256 for source in wheels}
        assert all(source.size == entry.size and re.fullmatch("[0-9a-f]{64}", source.sha256) for source in wheels)


def test_only_the_3b_model_is_not_apache() -> None:
    assert {entry.name for entry in CATALOG if entry.licence != "Apache-2.0"} == {"qwen2.5-coder-3b"}


def test_memory_is_the_file_and_the_kv_cache() -> None:
    entry = find("qwen2.5-coder-1.5b")
    # 28 layers, 2 KV heads of 128, keys and values of 2 bytes each.
    assert kv_cache_bytes(entry.kv_shape, tokens=1) == 28_672


def test_a_misspelt_name_gets_a_hint() -> None:
    with pytest.raises(ModelNotFound, match=r"Did you mean qwen3-coder-30b-a3b"):
        find("Qwen3-Coder-30B")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (491_400_064, "491.4 MB"), (18_600_000_000, "18.6 GB")]
)
def test_sizes_are_decimal(size: int, text: str) -> None:
    assert format_bytes(size) == text
