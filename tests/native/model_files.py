"""Tiny models on disk: GGUF files by the `gguf` package's writer, Hugging Face folders by one for safetensors here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from quern.engine.cpu import _native

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCABULARY = 2, 32, 4, 2, 8, 64, 48
EXPERTS, EXPERTS_USED, EXPERT_FFN = 3, 2, 32

HF_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
}
HF_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def weights(architecture: str = "qwen2", *, seed: int = 0, stacked: bool = True) -> dict[str, Floats]:
    """Random weights of a tiny model under GGUF's names; experts in stacks, or one by one as in a folder.

    Every value is exact in all three float formats.
    """
    rng = np.random.default_rng(seed)
    shapes = _shapes(architecture, stacked)
    return {name: (rng.integers(-64, 64, size=shape) / 8).astype(np.float32) for name, shape in shapes.items()}


def _shapes(architecture: str, stacked: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "output.weight": (VOCABULARY, HIDDEN),
    }
    inner = _expert_shapes(stacked) if architecture == "qwen3moe" else _dense_shapes()
    for layer in range(LAYERS):
        block = {**_attention_shapes(architecture), "ffn_norm.weight": (HIDDEN,), **inner}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def _attention_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (HIDDEN,),
        "attn_q.weight": (queries, HIDDEN),
        "attn_k.weight": (keys, HIDDEN),
        "attn_v.weight": (keys, HIDDEN),
        "attn_output.weight": (HIDDEN, queries),
    }
    if architecture == "qwen2":
        return shapes | {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    return shapes | {"attn_q_norm.weight": (HEAD_DIM,), "attn_k_norm.weight": (HEAD_DIM,)}


def _dense_shapes() -> dict[str, tuple[int, ...]]:
    return {
        "ffn_gate.weight": (FFN, HIDDEN),
        "ffn_up.weight": (FFN, HIDDEN),
        "ffn_down.weight": (HIDDEN, FFN),
    }


def _expert_shapes(stacked: bool) -> dict[str, tuple[int, ...]]:
    single = {"gate": (EXPERT_FFN, HIDDEN), "up": (EXPERT_FFN, HIDDEN), "down": (HIDDEN, EXPERT_FFN)}
    router: dict[str, tuple[int, ...]] = {"ffn_gate_inp.weight": (EXPERTS, HIDDEN)}
    if stacked:
        return router | {f"ffn_{name}_exps.weight": (EXPERTS, *shape) for name, shape in single.items()}
    return router | {
        f"ffn_{name}.{expert}.weight": shape for name, shape in single.items() for expert in range(EXPERTS)
    }


def write_gguf(
    path: Path,
    architecture: str = "qwen2",
    *,
    tensors: Mapping[str, Floats] | None = None,
    blocks: Mapping[str, tuple[gguf.GGMLQuantizationType, Bytes]] | None = None,
    settings: Callable[[gguf.GGUFWriter], None] | None = None,
    parts_of: int = 0,
) -> Path:
    """A tiny model; `blocks` are tensors already quantised, `parts_of` splits it into parts of so many tensors."""
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=parts_of)
    _add_settings(writer, architecture)
    if settings is not None:
        settings(writer)
    for name, values in (weights(architecture) if tensors is None else tensors).items():
        writer.add_tensor(name, values)
    for name, (kind, data) in (blocks or {}).items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_settings(writer: gguf.GGUFWriter, architecture: str) -> None:
    writer.add_block_count(LAYERS)
    writer.add_context_length(1024)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_token_list([f"token{number}" for number in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    if architecture == "qwen3moe":
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(EXPERTS_USED)
        writer.add_expert_feed_forward_length(EXPERT_FFN)


def folder_config(architecture: str = "qwen2", changes: Mapping[str, object] | None = None) -> dict[str, object]:
    """A tiny model's config.json, with some values changed."""
    config: dict[str, object] = {
        "model_type": "qwen3_moe" if architecture == "qwen3moe" else architecture,
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": FFN,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
    }
    if architecture == "qwen3moe":
        config |= {
            "num_experts": EXPERTS,
            "num_experts_per_tok": EXPERTS_USED,
            "moe_intermediate_size": EXPERT_FFN,
            "norm_topk_prob": True,
        }
    return config | dict(changes or {})


def write_folder(
    folder: Path,
    architecture: str = "qwen2",
    *,
    tensors: Mapping[str, Floats] | None = None,
    dtype: str = "F32",
    shards: int = 1,
    config: Mapping[str, object] | None = None,
) -> Path:
    """A tiny model in Hugging Face's layout; `tensors` have GGUF's names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(folder_config(architecture, config)))
    chosen = weights(architecture, stacked=False) if tensors is None else tensors
    stored = {hugging_face_name(name): (dtype, values) for name, values in chosen.items()}
    if shards == 1:
        write_safetensors(folder / "model.safetensors", stored)
        return folder
    names = list(stored)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file_name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: stored[name] for name in names[shard::shards]}
        write_safetensors(folder / file_name, part)
        weight_map |= dict.fromkeys(part, file_name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def hugging_face_name(name: str) -> str:
    """What transformers calls a tensor of GGUF's name."""
    if not name.startswith("blk."):
        return HF_NAMES.get(name, name)
    _, layer, rest = name.split(".", 2)
    if rest in HF_LAYER_NAMES:
        return f"model.layers.{layer}.{HF_LAYER_NAMES[rest]}"
    matrix, expert, _ = rest.split(".")
    return f"model.layers.{layer}.mlp.experts.{expert}.{matrix.removeprefix('ffn_')}_proj.weight"


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, Floats]]) -> Path:
    """Tensors by name, each with the type to store it as."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, values) in tensors.items():
        stored = encode(values, dtype)
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + len(stored)]}
        data += stored
    return write_header(path, json.dumps(header).encode(), data)


def write_header(path: Path, header: bytes, data: bytes = b"") -> Path:
    """A safetensors file with this header, whatever it is."""
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def encode(values: Floats, dtype: str) -> bytes:
    """Bytes of a float tensor whose values are exact in that type."""
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype]).tobytes()


def random_blocks(kind: gguf.GGMLQuantizationType, rows: int, columns: int, *, seed: int) -> Bytes:
    """Rows of random bytes: every bit pattern of scales and quants."""
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rng: Any = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(rows, columns // per_block * block_bytes), dtype=np.uint8)


def refusal(path: Path) -> str:
    """The sentence with which the native module refuses a file."""
    with pytest.raises(_native.ModelFileError) as caught:
        _native.open_model(str(path)).check_tensors()
    message = str(caught.value)
    assert str(path.parent) in message
    assert message.endswith(".")
    return message


def read_floats(model: _native.ModelFile, name: str) -> Floats:
    """A tensor as the native module dequantises it."""
    return np.asarray(model.read_floats(name), dtype=np.float32)
