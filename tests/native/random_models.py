"""Small models with random weights, as GGUF files and in Hugging Face's layout, with the reference that has the same.

Weights are drawn so that activations keep a size of about 1 from layer to layer and logits have a standard deviation
of about 3: some tokens are likely, none is certain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, RopeScalingType
from gguf.quants import dequantize, quantize
from numpy.random import Generator
from numpy.typing import NDArray

from .reference import Array, Config, Reference

Bytes = NDArray[np.uint8]
FloatType = Literal["F32", "F16", "BF16"]
Q = GGMLQuantizationType

HALF_SCALES = {
    Q.Q4_K: ((0, 1.0), (2, 7.5)), Q.Q5_K: ((0, 1.0), (2, 15.5)), Q.Q6_K: ((208, 1.0),), Q.IQ4_NL: ((0, 1.0),),
}  # fmt: skip
"""Where a block of those types that gguf can't quantise has its f16 scales, with ratios that make the mean about 0."""

MODEL_TYPES = {"qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
"""GGUF's architecture to Hugging Face's `model_type`."""

SMALL = Config(
    architecture="qwen2", layers=2, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocabulary=512, context=4096,
    norm_epsilon=0.0078125, rope_base=5000.0,
)  # fmt: skip
"""Every quantised type fits its rows. The last two are unusual, so that a program that guesses them is wrong."""


def small_config(architecture: str, **changes: Any) -> Config:
    """`SMALL` as an architecture, with other fields replaced."""
    if architecture == "qwen3moe":
        changes = {"ffn": 256, "experts": 8, "experts_used": 2, **changes}
    return replace(SMALL, architecture=architecture, **changes)


def write_gguf(
    path: Path,
    config: Config,
    *,
    types: Sequence[GGMLQuantizationType] = (Q.F32,),
    tied: bool = False,
    seed: int = 0,
    add_vocabulary: Callable[[GGUFWriter, int], None] | None = None,
) -> Reference:
    """Write a model whose matrices have `types`, in turn; vectors and routers are F32, as llama.cpp has them.

    `add_vocabulary` gets the writer and the vocabulary's size. Returns the reference with the weights that the file's
    bytes mean.
    """
    rng = np.random.default_rng(seed)
    writer = GGUFWriter(path, config.architecture)
    (add_vocabulary or _add_vocabulary)(writer, config.vocabulary)
    _add_metadata(writer, config)
    stored: dict[str, Array] = {}
    turn = cycle(types)
    for name, weights in random_weights(config, rng, tied=tied).items():
        if weights.ndim == 1 or "gate_inp" in name:
            stored[name] = weights
            writer.add_tensor(name, weights)
        else:
            kind = next(turn)
            if config.experts and name == "token_embd.weight" and kind in HALF_SCALES:
                kind = Q.Q8_0  # routing hangs on the embeddings' real values
            data = encode(weights, kind, rng)
            stored[name] = dequantize(data, kind)
            writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Reference.from_arrays(config, stored)


def write_safetensors(
    folder: Path,
    config: Config,
    *,
    dtype: FloatType = "BF16",
    shards: int = 1,
    tied: bool = False,
    without_head: bool = False,
    seed: int = 0,
) -> Reference:
    """Write `config.json` and the weights, all of `dtype`, to `folder`, which must exist.

    `without_head`: as Qwen3-Embedding is published, with no output matrix and with names that lack "model.". Returns
    the reference with the weights that the files' bytes mean.
    """
    stored: dict[str, Array] = {}
    tensors: dict[str, Bytes] = {}
    shapes: dict[str, list[int]] = {}
    for name, weights in random_weights(config, np.random.default_rng(seed), tied=tied).items():
        if without_head and name == "output.weight":
            continue
        data = quantize(weights, Q[dtype])
        stored[name] = dequantize(data, Q[dtype]).reshape(weights.shape)
        for theirs, index in _hugging_face_names(name, config.experts):
            part = data if index is None else data[index]
            theirs = theirs.removeprefix("model.") if without_head else theirs  # noqa: PLW2901
            tensors[theirs] = np.ascontiguousarray(part).view(np.uint8)
            shapes[theirs] = list(weights.shape if index is None else weights.shape[1:])
    (folder / "config.json").write_text(json.dumps(hugging_face_config(config, dtype=dtype, tied=tied), indent=2))
    _write_shards(folder, tensors, shapes, dtype, shards)
    return Reference.from_arrays(config, stored)


def random_weights(config: Config, rng: Generator, *, tied: bool) -> dict[str, Array]:
    """Float32 tensors by GGUF's names."""
    weights: dict[str, Array] = {}

    def draw(name: str, *shape: int, scale: float = 1.0) -> None:
        weights[name] = (rng.standard_normal(shape) * scale / math.sqrt(shape[-1])).astype(np.float32)

    def draw_vector(name: str, size: int, mean: float, deviation: float) -> None:
        weights[name] = (mean + deviation * rng.standard_normal(size)).astype(np.float32)

    sizes = {"q": config.heads * config.head_dim, "k": config.kv_heads * config.head_dim}
    sizes["v"] = sizes["k"]
    stack = (config.experts,) if config.experts else ()
    kind = "_exps" if config.experts else ""
    draw("token_embd.weight", config.vocabulary, config.hidden, scale=3 if tied else math.sqrt(config.hidden))
    for block in (f"blk.{layer}" for layer in range(config.layers)):
        draw_vector(f"{block}.attn_norm.weight", config.hidden, 1, 0.2)
        for part, size in sizes.items():
            draw(f"{block}.attn_{part}.weight", size, config.hidden)
            if config.architecture == "qwen2":
                draw_vector(f"{block}.attn_{part}.bias", size, 0, 0.2 if part == "v" else 1)
            elif part != "v":
                draw_vector(f"{block}.attn_{part}_norm.weight", config.head_dim, 1, 0.2)
        draw(f"{block}.attn_output.weight", config.hidden, sizes["q"])
        draw_vector(f"{block}.ffn_norm.weight", config.hidden, 1, 0.2)
        if config.experts:
            draw(f"{block}.ffn_gate_inp.weight", config.experts, config.hidden, scale=0.3)
        draw(f"{block}.ffn_gate{kind}.weight", *stack, config.ffn, config.hidden)
        draw(f"{block}.ffn_up{kind}.weight", *stack, config.ffn, config.hidden)
        draw(f"{block}.ffn_down{kind}.weight", *stack, config.hidden, config.ffn, scale=2)
    draw_vector("output_norm.weight", config.hidden, 1, 0.2)
    if not tied:
        draw("output.weight", config.vocabulary, config.hidden, scale=3)
    if config.experts:
        _settle_routing(weights, config, rng)
    return weights


def _settle_routing(weights: dict[str, Array], config: Config, rng: Generator) -> None:
    """Make each token want some experts clearly.

    Near a tie any rounding picks another expert, and everything after it is different: such models can't be compared.
    """
    directions = np.linalg.qr(rng.standard_normal((config.hidden, config.experts)))[0].T
    wanted = rng.permuted(np.tile(np.arange(config.experts), (config.vocabulary, 1)), axis=1)[:, : config.experts_used]
    embeddings = weights["token_embd.weight"]
    size = np.linalg.norm(embeddings, axis=1).mean() * np.linspace(1, 0.8, config.experts_used)
    embeddings += (directions[wanted] * size[:, None]).sum(axis=1).astype(np.float32)
    for layer in range(config.layers):
        router = weights[f"blk.{layer}.ffn_gate_inp.weight"]
        router += 6 / math.sqrt(config.hidden) * rng.permutation(directions).astype(np.float32)


def encode(weights: Array, kind: GGMLQuantizationType, rng: Generator) -> NDArray[Any]:
    """`weights` in a GGUF type. Types that gguf can't quantise get random codes with the same standard deviation."""
    if kind not in HALF_SCALES:
        return quantize(weights, kind)
    block, size = GGML_QUANT_SIZES[kind]
    shape = (*weights.shape[:-1], weights.shape[-1] // block * size)
    blocks = rng.integers(0, 256, (math.prod(shape) // size, size), np.uint8)
    scale = np.ones(len(blocks))
    for _ in range(2):
        for offset, ratio in HALF_SCALES[kind]:
            blocks[:, offset : offset + 2] = (scale * ratio).astype(np.float16)[:, None].view(np.uint8)
        scale = rng.uniform(0.7, 1.3, len(blocks)) * weights.std() / dequantize(blocks, kind).std()
        if kind is Q.IQ4_NL:  # the mean of its codes is not 0
            scale *= rng.choice((-1, 1), len(blocks))
    return blocks.reshape(shape)


def _add_metadata(writer: GGUFWriter, config: Config) -> None:
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope_base)
    if config.architecture != "qwen2" or config.head_dim * config.heads != config.hidden:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_feed_forward_length(config.ffn)
    if config.experts:
        writer.add_expert_count(config.experts)
        writer.add_expert_used_count(config.experts_used)
        writer.add_expert_feed_forward_length(config.ffn)
    if config.yarn:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config.yarn.factor)
        writer.add_rope_scaling_orig_ctx_len(config.yarn.original_context)


def _add_vocabulary(writer: GGUFWriter, size: int) -> None:
    """As little as makes llama.cpp serve the file. All ASCII: it tells no probabilities inside of a character."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"t{number}" for number in range(size)])
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(size - 1)


def hugging_face_config(config: Config, *, dtype: FloatType, tied: bool) -> dict[str, Any]:
    """What `config.json` holds."""
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    values: dict[str, Any] = {
        "model_type": MODEL_TYPES[config.architecture],
        "hidden_size": config.hidden,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_base,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "use_sliding_window": False,
        "torch_dtype": names[dtype],
    }
    if config.architecture != "qwen2":
        values |= {"head_dim": config.head_dim, "attention_bias": False}
    if config.experts:
        values |= {
            "num_experts": config.experts,
            "num_experts_per_tok": config.experts_used,
            "moe_intermediate_size": config.ffn,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    if config.yarn:
        values["rope_scaling"] = {
            "rope_type": "yarn",
            "factor": config.yarn.factor,
            "original_max_position_embeddings": config.yarn.original_context,
        }
    return values


LAYER_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj",
}  # fmt: skip
OTHER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def _hugging_face_names(name: str, experts: int) -> list[tuple[str, int | None]]:
    """The names in safetensors of one of GGUF's tensors, and which of its experts each one is."""
    stem, _, suffix = name.rpartition(".")
    if stem in OTHER_NAMES:
        return [(f"{OTHER_NAMES[stem]}.{suffix}", None)]
    _, layer, part = stem.split(".")
    prefix = f"model.layers.{layer}"
    if part.endswith("_exps"):
        return [(f"{prefix}.mlp.experts.{i}.{LAYER_NAMES[part]}.{suffix}", i) for i in range(experts)]
    return [(f"{prefix}.{LAYER_NAMES[part]}.{suffix}", None)]


def _write_shards(
    folder: Path, tensors: Mapping[str, Bytes], shapes: Mapping[str, list[int]], dtype: FloatType, shards: int
) -> None:
    if shards == 1:
        _write_shard(folder / "model.safetensors", tensors, shapes, dtype)
        return
    files = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    places = {name: files[index % shards] for index, name in enumerate(tensors)}
    for file in files:
        _write_shard(folder / file, {n: data for n, data in tensors.items() if places[n] == file}, shapes, dtype)
    index = {"metadata": {"total_size": sum(data.nbytes for data in tensors.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_shard(path: Path, tensors: Mapping[str, Bytes], shapes: Mapping[str, list[int]], dtype: FloatType) -> None:
    """The format: https://huggingface.co/docs/safetensors: a length in 8 bytes, a JSON header of it, the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, data in tensors.items():
        header[name] = {"dtype": dtype, "shape": shapes[name], "data_offsets": [offset, offset + data.nbytes]}
        offset += data.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for data in tensors.values():
            file.write(data.tobytes())
