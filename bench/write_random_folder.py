"""Write a model's folder, as Hugging Face has it, of random weights in the shapes of Qwen3-Coder-30B-A3B-Instruct.

Every matrix has its exact shape; of the layers there are as many as are asked for, 1.25 GB each in BF16. Nothing is
needed for it but NumPy: the tokenizer is made up too, a byte-level BPE with as many tokens as the model's own, so a
machine that can fetch nothing can write the folder. Its answers are noise.

    python bench/write_random_folder.py build/random-8-layers --layers 8
    python bench/write_random_folder.py build/random-tiny --tiny
"""

from __future__ import annotations

import argparse
import json
import math
import string
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shapes import QWEN3_CODER_30B_A3B, TINY, MoeShape

DEVIATION = 0.02
"""Of all matrices, `initializer_range` of the model; so activations neither vanish nor explode."""
POOL_VALUES = 2**24
NAMED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
SPECIAL = 293
"""Tokens that are no text: as many ids as the real vocabulary of 151643 leaves of 151936."""
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""As it stands in the tokenizer.json of every Qwen2.5 and Qwen3 model."""
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
COMMON = string.ascii_lowercase + " " + string.ascii_uppercase + string.digits + string.punctuation

Numbers = npt.NDArray[np.uint16]


class RandomNumbers:
    """Values of bfloat16, quickly: a pool is drawn once and given out again and again from random starts."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        drawn = self._random.normal(0, DEVIATION, POOL_VALUES).astype(np.float32)
        self._pool: Numbers = (drawn.view(np.uint32) >> 16).astype(np.uint16)

    def pieces(self, values: int) -> Iterator[Numbers]:
        """`values` of them, in pieces."""
        while values:
            start = int(self._random.integers(0, POOL_VALUES // 2))
            piece = self._pool[start : start + values]
            yield piece
            values -= len(piece)


def tensors(shape: MoeShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all weights. Source: the index of the model's safetensors."""
    width, kv_width = shape.heads * shape.head_length, shape.kv_heads * shape.head_length
    yield "model.embed_tokens.weight", (shape.vocabulary, shape.hidden)
    for number in range(shape.layers):
        layer = f"model.layers.{number}"
        yield f"{layer}.input_layernorm.weight", (shape.hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (shape.hidden,)
        yield f"{layer}.self_attn.q_norm.weight", (shape.head_length,)
        yield f"{layer}.self_attn.k_norm.weight", (shape.head_length,)
        yield f"{layer}.self_attn.q_proj.weight", (width, shape.hidden)
        yield f"{layer}.self_attn.k_proj.weight", (kv_width, shape.hidden)
        yield f"{layer}.self_attn.v_proj.weight", (kv_width, shape.hidden)
        yield f"{layer}.self_attn.o_proj.weight", (shape.hidden, width)
        yield f"{layer}.mlp.gate.weight", (shape.experts, shape.hidden)
        for expert in range(shape.experts):
            yield f"{layer}.mlp.experts.{expert}.gate_proj.weight", (shape.expert_hidden, shape.hidden)
            yield f"{layer}.mlp.experts.{expert}.up_proj.weight", (shape.expert_hidden, shape.hidden)
            yield f"{layer}.mlp.experts.{expert}.down_proj.weight", (shape.hidden, shape.expert_hidden)
    yield "model.norm.weight", (shape.hidden,)
    yield "lm_head.weight", (shape.vocabulary, shape.hidden)


def write_weights(path: Path, shape: MoeShape, seed: int) -> None:
    """One file. Format: safetensors, an 8-byte length, a header of JSON, the data."""
    header, offset = dict[str, Any](), 0
    for name, dimensions in tensors(shape):
        end = offset + 2 * math.prod(dimensions)
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    numbers, one = RandomNumbers(seed), np.float32(1).view(np.uint32) >> 16
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dimensions in tensors(shape):
            values = math.prod(dimensions)
            if "norm" in name:
                np.full(values, one, np.uint16).tofile(file)
            else:
                for piece in numbers.pieces(values):
                    piece.tofile(file)


def config(shape: MoeShape) -> Mapping[str, Any]:
    """`config.json`, as the model has it but for the layers."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "decoder_sparse_step": 1,
        "dtype": "bfloat16",
        "eos_token_id": shape.vocabulary - SPECIAL + NAMED.index("<|im_end|>"),
        "head_dim": shape.head_length,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": DEVIATION,
        "intermediate_size": shape.experts_used * shape.expert_hidden,  # of dense layers, which it has none of
        "max_position_embeddings": shape.context,
        "mlp_only_layers": [],
        "moe_intermediate_size": shape.expert_hidden,
        "norm_topk_prob": True,
        "num_attention_heads": shape.heads,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.experts_used,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "output_router_logits": False,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_scaling": None,
        "rope_theta": shape.rope_base,
        "router_aux_loss_coef": 0.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocabulary,
    }


def _alphabet() -> list[str]:
    """The characters that stand for the 256 bytes in byte-level BPE (GPT-2's `bytes_to_unicode`)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = {byte: chr(256 + number) for number, byte in enumerate(sorted(set(range(256)) - set(shown)))}
    return [hidden.get(byte, chr(byte)) for byte in range(256)]


def tokenizer(vocabulary: int) -> Mapping[str, Any]:
    """`tokenizer.json`: bytes, then pairs and triples of printable characters, until there are enough."""
    alphabet = _alphabet()
    letters = [alphabet[byte] for byte in COMMON.encode()]
    pairs = list(product(letters, letters))
    triples = (("".join(pair), letter) for pair, letter in product(pairs, letters))
    texts = vocabulary - SPECIAL
    merges = [*pairs, *islice(triples, max(0, texts - len(alphabet) - len(pairs)))][: texts - len(alphabet)]
    tokens = [*alphabet, *("".join(merge) for merge in merges)]
    special = [*NAMED, *(f"<|extra_{number}|>" for number in range(SPECIAL - len(NAMED)))]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": texts + number,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": "tool_call" not in text,
            }
            for number, text in enumerate(special)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def write_folder(folder: Path, shape: MoeShape, seed: int = 1) -> Path:
    """The whole folder; what was there under the files' names is written over."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Mapping[str, Any]] = {
        "config.json": config(shape),
        "tokenizer.json": tokenizer(shape.vocabulary),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": shape.context,
        },
        "generation_config.json": {"eos_token_id": [config(shape)["eos_token_id"]]},
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    write_weights(folder / "model.safetensors", shape, seed)
    return folder


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="how many of the model's 48; 8 if not given")
    parser.add_argument("--tiny", action="store_true", help="a small network of the same architecture")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    shape = TINY if options.tiny else replace(QWEN3_CODER_30B_A3B, layers=8)
    shape = replace(shape, layers=options.layers or shape.layers)
    started = time.monotonic()
    write_folder(options.folder, shape, options.seed)
    size = (options.folder / "model.safetensors").stat().st_size
    print(f"{options.folder}: {shape.layers} layers, {size / 1e9:.2f} GB in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
