"""How big a model is, in bytes: its files on the disk, its weights in memory, its KV cache."""

from __future__ import annotations

from pathlib import Path

from quern.config_models import KvType, Quantise
from quern.modelfiles.description import KvShape
from quern.modelfiles.file_types import FLOAT_BITS
from quern.modelfiles.folder import weight_files

QUANTISED_BITS = {Quantise.Q8: 8.5, Quantise.Q4: 5.0}
"""Bits of one weight that the engine `cpu` has quantised, scales included."""

KV_VALUE_BYTES = {KvType.BF16: 2, KvType.INT8: 1}
KV_SCALE_BYTES = {KvType.BF16: 0, KvType.INT8: 4}
"""Of each key and each value as a whole; native/src/kernels/kernels.h, `KvLayout`."""


def size_on_disk(path: Path) -> int:
    """Bytes of a model's file, or of the weights in its folder. Raises OSError."""
    return sum(file.stat().st_size for file in (weight_files(path) if path.is_dir() else [path]))


def loaded_bytes(size: int, quantisation: str, quantise: Quantise) -> int:
    """Memory that the engine `cpu` needs for weights of `size` bytes on the disk.

    Floats are quantised, all else is kept as it is.
    """
    file_bits = FLOAT_BITS.get(quantisation)
    return size if file_bits is None else round(size * QUANTISED_BITS[quantise] / file_bits)


def kv_cache_bytes(shape: KvShape, tokens: int, kv_type: KvType = KvType.BF16) -> int:
    """Memory that the keys and values of `tokens` tokens take. llama.cpp's f16 is as large as `bf16`."""
    values = (shape.key_length + shape.value_length) * KV_VALUE_BYTES[kv_type]
    return tokens * shape.heads * (values + 2 * KV_SCALE_BYTES[kv_type])
