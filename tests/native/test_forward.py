"""The native forward pass says what the reference says: every architecture, weight type, file format, instruction set.

The bounds: activations are rounded to 8 bits before every matrix, and so are float weights, 0.5 to 1 % of noise each
time; keys, queries and values are rounded to bfloat16. That makes 1 to 3 % in the logits of these two-layer models, and
up to 9 % in a single row, in NumPy simulations as in the native model. A wrong scale, minimum, frequency or head makes
more than 30 %. What each weight type and instruction set does with shapes of every kind is test_kernels.py's question.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quern.config_models
from quern.engine.cpu import _native
from quern.engine.cpu.native import NativeModel, NativeOptions
from quern.errors import ModelLoadError
from quern.modelfiles.description import KvShape
from quern.modelfiles.sizes import kv_cache_bytes

from .native_model import BLOCK, INSTRUCTION_SETS, distance, load, random_ids, teacher_forced
from .random_models import MODEL_TYPES, FloatType, Q, small_config, write_gguf, write_safetensors
from .reference import ARCHITECTURES, Array, Config, Reference, Yarn

TYPES = [
    Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.IQ4_NL, Q.F16, Q.BF16, Q.F32,
]  # fmt: skip
ODD_SIZES: dict[str, dict[str, Any]] = {
    "three heads on one": {"hidden": 96, "heads": 3, "kv_heads": 1, "ffn": 352},
    "every head its own": {"hidden": 224, "heads": 2, "kv_heads": 2, "ffn": 160, "vocabulary": 509},
    "long heads": {"hidden": 160, "heads": 5, "kv_heads": 1, "head_dim": 128, "ffn": 32, "vocabulary": 1000},
    "one layer": {"hidden": 32, "heads": 1, "kv_heads": 1, "ffn": 64, "vocabulary": 17, "layers": 1},
}


def assert_close(right: Array, said: Array, *, relative: float = 0.04, row: float = 0.12) -> None:
    """The KL of independent errors is half their variance, and the logits' standard deviation is about 3."""
    found = distance(right, said)
    assert np.isfinite(said).all()
    assert found.relative < relative
    assert found.rows.max() < row
    assert found.divergence < (3 * relative) ** 2 / 2


def assert_same_as_reference(path: Path, reference: Reference, *, tokens: int = 70, **options: Any) -> None:
    """Over more than two blocks of the KV cache."""
    ids = random_ids(reference.config, tokens)
    assert_close(reference.logits(ids), teacher_forced(load(path, **options), ids))


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_gguf_files_of_every_weight_type(tmp_path: Path, kind: Q) -> None:
    path = tmp_path / "model.gguf"
    assert_same_as_reference(path, write_gguf(path, small_config("qwen2"), types=[kind]))


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_instruction_set_with_mixed_weight_types(tmp_path: Path, architecture: str, isa: str) -> None:
    """Five types in turn, so that the matrices of one layer, and of the next, differ."""
    path = tmp_path / "model.gguf"
    reference = write_gguf(path, small_config(architecture), types=[Q.Q4_K, Q.Q6_K, Q.Q8_0, Q.Q4_K, Q.Q5_0])
    assert load(path, isa=isa).isa == isa
    assert_same_as_reference(path, reference, isa=isa)


@pytest.mark.parametrize(("dtype", "shards"), [("BF16", 1), ("F16", 3), ("F32", 1)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hugging_face_directories(tmp_path: Path, architecture: str, dtype: FloatType, shards: int) -> None:
    reference = write_safetensors(tmp_path, small_config(architecture), dtype=dtype, shards=shards)
    assert_same_as_reference(tmp_path, reference)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_floats_quantised_to_four_bits_cost_accuracy_but_not_the_meaning(tmp_path: Path, architecture: str) -> None:
    """16 levels between the least and the greatest of 32 weights are 8 % of noise in each matrix, simulated 17 to 24 %
    in the logits. The weights take little more than half as much memory as with eight bits.
    """
    reference = write_safetensors(tmp_path, small_config(architecture))
    ids = random_ids(reference.config, 70)
    fine, coarse = load(tmp_path), load(tmp_path, quantise="q4")
    apart = distance(reference.logits(ids), teacher_forced(coarse, ids))
    assert 0.05 < apart.relative < 0.35
    assert coarse.weight_bytes < 0.8 * fine.weight_bytes


@pytest.mark.parametrize("tied", [False, True], ids=["own output", "tied output"])
@pytest.mark.parametrize("sizes", ODD_SIZES.values(), ids=ODD_SIZES.keys())
def test_sizes_that_fill_no_panel_or_superblock(tmp_path: Path, sizes: dict[str, Any], tied: bool) -> None:
    """Narrow matrices have larger errors: less noise averages out."""
    config = small_config("qwen2" if sizes.get("head_dim") is None else "qwen3", **sizes)
    path = tmp_path / "model.gguf"
    reference = write_gguf(path, config, types=[Q.Q8_0, Q.Q5_1], tied=tied)
    ids = random_ids(config, 70)
    assert_close(reference.logits(ids), teacher_forced(load(path), ids), relative=0.06, row=0.15)


@pytest.mark.parametrize("sizes", [{"experts": 5, "experts_used": 3, "ffn": 96}, {"experts": 32, "experts_used": 4}])
@pytest.mark.parametrize("stacked", [False, True], ids=["a tensor each", "stacked"])
def test_experts_of_other_numbers_and_sizes(tmp_path: Path, sizes: dict[str, Any], stacked: bool) -> None:
    config = small_config("qwen3moe", hidden=224, **sizes)
    if stacked:
        reference = write_gguf(tmp_path / "model.gguf", config, types=[Q.Q8_0])
    else:
        reference = write_safetensors(tmp_path, config)
    assert_same_as_reference(tmp_path / "model.gguf" if stacked else tmp_path, reference)


@pytest.mark.parametrize("hugging_face", [False, True], ids=["gguf", "safetensors"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_yarn_within_and_beyond_the_original_context(tmp_path: Path, architecture: str, hugging_face: bool) -> None:
    config = small_config(architecture, yarn=Yarn(factor=4, original_context=64), context=256)
    if hugging_face:
        reference = write_safetensors(tmp_path, config)
    else:
        reference = write_gguf(tmp_path / "model.gguf", config, types=[Q.Q8_0])
    assert_same_as_reference(tmp_path if hugging_face else tmp_path / "model.gguf", reference, tokens=200)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_int8_kv_cache_is_nearly_as_good_and_about_half_as_large(tmp_path: Path, architecture: str) -> None:
    config = small_config(architecture, head_dim=128)
    path = tmp_path / "model.gguf"
    reference = write_gguf(path, config, types=[Q.Q8_0])
    assert_same_as_reference(path, reference, kv_type="int8")
    shape = KvShape(config.layers * config.kv_heads, config.head_dim, config.head_dim)
    full, small = (kv_cache_bytes(shape, tokens=1, kv_type=kv_type) for kv_type in quern.config_models.KvType)
    assert load(path).kv_bytes_per_token == full == 2 * 2 * config.layers * config.kv_heads * config.head_dim
    assert load(path, kv_type="int8").kv_bytes_per_token == small
    assert full / 2 <= small < full * 0.6


def test_a_kv_cache_that_no_memory_holds_is_refused_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, small_config("qwen3", layers=8, heads=8, kv_heads=8, head_dim=256), types=[Q.Q8_0])
    options = NativeOptions(
        threads=1,
        kv_tokens=2**31,
        kv_type=quern.config_models.KvType.BF16,
        kv_bytes=kv_cache_bytes(KvShape(8 * 8, 256, 256), 2**31),
        quantise=quern.config_models.Quantise.Q8,
    )
    with pytest.raises(ModelLoadError, match=r"not enough memory .* which takes 140737\.5 GB\. .*engine\.kv_tokens"):
        NativeModel.load(path, options, lambda _: None)


@pytest.mark.parametrize("hugging_face", [False, True], ids=["gguf", "safetensors"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_tells_what_it_is(tmp_path: Path, architecture: str, hugging_face: bool) -> None:
    config = small_config(architecture, vocabulary=509)
    if hugging_face:
        write_safetensors(tmp_path, config)
    else:
        write_gguf(tmp_path / "model.gguf", config, types=[Q.Q8_0])
    model = load(tmp_path if hugging_face else tmp_path / "model.gguf", kv_tokens=BLOCK + 1)
    assert model.architecture in {architecture, MODEL_TYPES[architecture]}
    assert model.architecture in _native.ARCHITECTURES
    assert (model.vocabulary_size, model.context_length) == (509, 4096)
    assert model.kv_blocks == 2
    assert model.isa == _native.instruction_set()
    parameters = _parameters(config)
    assert 0.9 * parameters <= model.weight_bytes <= 1.5 * parameters


def _parameters(config: Config) -> int:
    """Of the matrices."""
    attention = 2 * config.hidden * (config.heads + config.kv_heads) * config.head_dim
    feed_forward = 3 * config.hidden * config.ffn * max(config.experts, 1)
    return config.layers * (attention + feed_forward) + 2 * config.vocabulary * config.hidden


def test_loading_tells_its_progress(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", small_config("qwen2"), types=[Q.Q4_K])
    seen: list[float] = []
    _native.Model(str(tmp_path / "model.gguf"), threads=2, kv_tokens=BLOCK, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] >= 0
    assert seen[-1] == 1


def test_what_the_progress_callback_raises_ends_the_loading(tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def cancel(share: float) -> None:
        raise Cancelled(str(share))

    write_gguf(tmp_path / "model.gguf", small_config("qwen2"), types=[Q.Q4_K])
    with pytest.raises(Cancelled):
        _native.Model(str(tmp_path / "model.gguf"), threads=2, kv_tokens=BLOCK, progress=cancel)
