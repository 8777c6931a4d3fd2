"""How many bytes a model is, on the disk and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from quern.config_models import KvType, Quantise
from quern.modelfiles.description import KvShape
from quern.modelfiles.file_types import FLOAT_BITS, LLAMA_FILE_TYPES
from quern.modelfiles.sizes import kv_cache_bytes, loaded_bytes, size_on_disk


def test_a_kv_cache_of_8_bits_has_a_scale_for_each_key_and_each_value() -> None:
    shape = KvShape(heads=56, key_length=128, value_length=64)
    assert kv_cache_bytes(shape, tokens=10) == 10 * 56 * (128 + 64) * 2
    assert kv_cache_bytes(shape, tokens=10, kv_type=KvType.INT8) == 10 * 56 * (128 + 64 + 2 * 4)


def test_floats_are_quantised_when_they_are_loaded_and_all_else_is_kept() -> None:
    assert loaded_bytes(16_000, "BF16", Quantise.Q8) == 8_500
    assert loaded_bytes(32_000, "F32", Quantise.Q4) == 5_000
    assert loaded_bytes(16_000, "Q4_K_M", Quantise.Q8) == 16_000
    assert set(FLOAT_BITS) <= set(LLAMA_FILE_TYPES.values())


def test_of_a_folder_only_the_weights_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("long " * 100)
    for part in (1, 2):
        (tmp_path / f"model-0000{part}-of-00002.safetensors").write_bytes(bytes(1000))
    assert size_on_disk(tmp_path) == 2000
    assert size_on_disk(tmp_path / "README.md") == 500
    with pytest.raises(OSError, match="none"):
        size_on_disk(tmp_path / "none.gguf")
