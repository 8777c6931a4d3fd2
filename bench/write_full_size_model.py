"""Write a GGUF of random weights with the exact shapes and types of Qwen3-Coder-30B-A3B-Instruct in Q4_K_M: 18.6 GB.

Speed and memory do not depend on what the weights are, so the full-size model can be measured on a machine that can't
fetch it. Its answers are noise. Shapes: the model's config.json. Types: `llama_tensor_get_type` in llama.cpp's
llama-quant.cpp. Tokenizer and chat template are copied from a Qwen2.5-Coder file, whose vocabulary is the same but for
some special tokens.

    python bench/write_full_size_model.py build/full-size/model.gguf
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

from gguf_tensors import Tensor
from installed import installed
from quern.modelfiles.gguf_header import Metadata, read_metadata
from random_blocks import RandomBlocks
from shapes import QWEN3_CODER_30B_A3B

ARCHITECTURE = "qwen3moe"
SHAPE = QWEN3_CODER_30B_A3B
LAYERS, HIDDEN, VOCABULARY = SHAPE.layers, SHAPE.hidden, SHAPE.vocabulary
HEADS, KV_HEADS, HEAD_LENGTH = SHAPE.heads, SHAPE.kv_heads, SHAPE.head_length
EXPERTS, EXPERTS_USED, EXPERT_HIDDEN = SHAPE.experts, SHAPE.experts_used, SHAPE.expert_hidden


def more_bits(layer: int) -> bool:
    """The layers whose values and down projections Q4_K_M stores as Q6_K: llama.cpp's `use_more_bits`."""
    return layer < LAYERS // 8 or layer >= 7 * LAYERS // 8 or (layer - LAYERS // 8) % 3 == 2


def tensors() -> Iterator[Tensor]:
    """Every tensor of the model, in the order of the file."""
    yield Tensor("token_embd.weight", "Q4_K", (HIDDEN, VOCABULARY))
    yield Tensor("output_norm.weight", "F32", (HIDDEN,))
    yield Tensor("output.weight", "Q6_K", (HIDDEN, VOCABULARY))
    for layer in range(LAYERS):
        finer = "Q6_K" if more_bits(layer) else "Q4_K"
        for name, kind, shape in (
            ("attn_norm", "F32", (HIDDEN,)),
            ("attn_q", "Q4_K", (HIDDEN, HEADS * HEAD_LENGTH)),
            ("attn_q_norm", "F32", (HEAD_LENGTH,)),
            ("attn_k", "Q4_K", (HIDDEN, KV_HEADS * HEAD_LENGTH)),
            ("attn_k_norm", "F32", (HEAD_LENGTH,)),
            ("attn_v", finer, (HIDDEN, KV_HEADS * HEAD_LENGTH)),
            ("attn_output", "Q4_K", (HEADS * HEAD_LENGTH, HIDDEN)),
            ("ffn_norm", "F32", (HIDDEN,)),
            ("ffn_gate_inp", "F32", (HIDDEN, EXPERTS)),
            ("ffn_gate_exps", "Q4_K", (HIDDEN, EXPERT_HIDDEN, EXPERTS)),
            ("ffn_up_exps", "Q4_K", (HIDDEN, EXPERT_HIDDEN, EXPERTS)),
            ("ffn_down_exps", finer, (EXPERT_HIDDEN, HIDDEN, EXPERTS)),
        ):
            yield Tensor(f"blk.{layer}.{name}.weight", kind, shape)


def add_shape(writer: GGUFWriter) -> None:
    """The model's hyperparameters."""
    writer.add_name("Random weights in the shape of Qwen3-Coder-30B-A3B")
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_quantization_version(2)
    writer.add_block_count(LAYERS)
    writer.add_context_length(SHAPE.context)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(EXPERTS_USED * EXPERT_HIDDEN)  # of dense layers, which the model has none of
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_LENGTH)
    writer.add_value_length(HEAD_LENGTH)
    writer.add_rope_freq_base(SHAPE.rope_base)
    writer.add_layer_norm_rms_eps(SHAPE.norm_epsilon)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(EXPERTS_USED)
    writer.add_expert_feed_forward_length(EXPERT_HIDDEN)


def add_tokenizer(writer: GGUFWriter, source: Metadata) -> None:
    """Another model's tokenizer and chat template. Raises ValueError where its vocabulary has another size."""
    tokens = source.texts("tokenizer.ggml.tokens")
    if len(tokens) != VOCABULARY:
        msg = f"{source.path} has {len(tokens)} tokens, not {VOCABULARY}: give a Qwen2.5-Coder file of up to 3B"
        raise ValueError(msg)
    writer.add_tokenizer_model(source.text("tokenizer.ggml.model"))
    writer.add_tokenizer_pre(source.text("tokenizer.ggml.pre"))
    writer.add_token_list(tokens)
    writer.add_token_types(source.integers("tokenizer.ggml.token_type"))
    writer.add_token_merges(source.texts("tokenizer.ggml.merges"))
    for role, add in (("eos", writer.add_eos_token_id), ("padding", writer.add_pad_token_id)):
        token = source.integer(f"tokenizer.ggml.{role}_token_id")
        if token is not None:
            add(token)
    writer.add_add_bos_token(False)
    writer.add_chat_template(source.text("tokenizer.chat_template"))


def _write_data(writer: GGUFWriter, blocks: RandomBlocks, tensor: Tensor) -> None:
    values = int(np.prod(tensor.shape))
    if tensor.type == "F32":
        mean = 1.0 if tensor.name.endswith("norm.weight") else 0.0
        writer.write_tensor_data(blocks.normal(values, mean))
    else:
        writer.write_tensor_data(np.concatenate(list(blocks.quantised(tensor.type, values))))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the file to write; 18.6 GB")
    parser.add_argument("--tokenizer-of", default="qwen2.5-coder-1.5b", help="a catalog name or a GGUF file")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    table = list(tensors())
    options.path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(options.path, ARCHITECTURE)
    add_shape(writer)
    add_tokenizer(writer, read_metadata(installed(options.tokenizer_of)))
    for tensor in table:
        kind = GGMLQuantizationType[tensor.type]
        writer.add_tensor_info(tensor.name, tensor.shape[::-1], np.dtype(np.float32), tensor.bytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    blocks = RandomBlocks(options.seed)
    for number, tensor in enumerate(table):
        _write_data(writer, blocks, tensor)
        print(f"\r{number + 1} of {len(table)} tensors", end="", flush=True)
    writer.close()
    seconds = time.monotonic() - started
    print(f"\n{options.path}: {options.path.stat().st_size / 1e9:.2f} GB in {seconds:.0f} s")


if __name__ == "__main__":
    main()
