"""The forward pass of the Qwen architectures in float32 NumPy, written to be checked by eye: what is right.

Formulas: Transformers' `modeling_qwen2.py`, `modeling_qwen3.py`, `modeling_qwen3_moe.py`, and for YaRN its
`_compute_yarn_parameters` (Peng et al., 2023, arXiv 2309.00071). Tensors have GGUF's names and are stored
[outputs, inputs], stacked experts [experts, outputs, inputs].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rows = int | slice | NDArray[np.int64]

ARCHITECTURES = ("qwen2", "qwen3", "qwen3moe")
HEAD_ROWS = 16384
"""Rows of the output matrix that are dequantised at a time: 100 MB for the 1.5B model."""


@dataclass(frozen=True, slots=True)
class Yarn:
    """YaRN's parameters; the defaults are the paper's. `attention_factor` None means 0.1 ln(factor) + 1."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """A model in numbers. `ffn` is the width of one expert where there are `experts`."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    context: int
    norm_epsilon: float = 1e-6
    rope_base: float = 1e6
    experts: int = 0
    experts_used: int = 0
    yarn: Yarn | None = None


class Weights(Protocol):
    """Where the tensors come from."""

    def __contains__(self, name: str) -> bool: ...

    def get(self, name: str, rows: Rows = slice(None)) -> Array:
        """A tensor, or some of its first dimension. Raises KeyError."""
        ...


class ArrayWeights:
    """Tensors in memory."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def get(self, name: str, rows: Rows = slice(None)) -> Array:
        """See Weights."""
        return self._arrays[name][rows]


class GgufWeights:
    """Tensors of a GGUF file, dequantised each time they are asked for."""

    def __init__(self, reader: GGUFReader) -> None:
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str, rows: Rows = slice(None)) -> Array:
        """See Weights."""
        tensor = self._tensors[name]
        return dequantize(tensor.data[rows], tensor.tensor_type)

    def loaded(self) -> ArrayWeights:
        """All of them in memory, four bytes a weight."""
        return ArrayWeights({name: self.get(name) for name in self._tensors})


class QuickReader(GGUFReader):
    """gguf's reader on a plain array over the file: each slice of NumPy's `memmap` takes several times as long, and a
    vocabulary is half a million of them.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, np.asarray(value) if name == "data" else value)


class Reference:
    """The model. Weights are read layer by layer, so one layer and one part of the output matrix are in memory."""

    def __init__(self, config: Config, weights: Weights) -> None:
        self.config = config
        self.weights = weights

    @classmethod
    def from_gguf(cls, path: Path, *, load: bool = False) -> Reference:
        """A GGUF file; with `load` all weights stay in memory, which is quicker from the second call on."""
        return cls.from_reader(QuickReader(path), load=load)

    @classmethod
    def from_reader(cls, reader: GGUFReader, *, load: bool = False) -> Reference:
        """The same of an open file."""
        weights = GgufWeights(reader)
        return cls(_gguf_config(reader), weights.loaded() if load else weights)

    @classmethod
    def from_arrays(cls, config: Config, arrays: Mapping[str, Array]) -> Reference:
        """Tensors by GGUF's names."""
        return cls(config, ArrayWeights(arrays))

    def logits(self, ids: Sequence[int], last: int | None = None) -> Array:
        """Logits after each of `ids`, or only after the `last` ones: [n, vocabulary]."""
        states = self.hidden_states([ids])[0]
        return self.project(states if last is None else states[len(states) - last :])

    def hidden_states(self, sequences: Sequence[Sequence[int]]) -> list[Array]:
        """What the output matrix gets, for each sequence [n, hidden]. Every layer's weights are read once for all."""
        lengths = [len(ids) for ids in sequences]
        bounds = np.cumsum(lengths)[:-1]
        rope = [rope_table(self.config, np.arange(length)) for length in lengths]
        states = self.weights.get("token_embd.weight", np.concatenate([np.asarray(ids, np.int64) for ids in sequences]))
        for layer in range(self.config.layers):
            states = states + self._attention(layer, self._norm(states, f"blk.{layer}.attn_norm.weight"), bounds, rope)
            states = states + self._feed_forward(layer, self._norm(states, f"blk.{layer}.ffn_norm.weight"))
        return np.split(self._norm(states, "output_norm.weight"), bounds)

    def project(self, states: Array) -> Array:
        """Logits of hidden states: [n, vocabulary]."""
        name = "output.weight" if "output.weight" in self.weights else "token_embd.weight"
        logits = np.empty((len(states), self.config.vocabulary), np.float32)
        for start in range(0, self.config.vocabulary, HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            logits[:, rows] = states @ self.weights.get(name, rows).T
        return logits

    def _norm(self, states: Array, name: str) -> Array:
        return rms_norm(states, self.weights.get(name), self.config.norm_epsilon)

    def _linear(self, states: Array, name: str) -> Array:
        result = states @ self.weights.get(f"{name}.weight").T
        return result + self.weights.get(f"{name}.bias") if f"{name}.bias" in self.weights else result

    def _attention(
        self, layer: int, states: Array, bounds: NDArray[np.int64], rope: Sequence[tuple[Array, Array]]
    ) -> Array:
        size = self.config.head_dim
        query, key, value = (
            self._linear(states, f"blk.{layer}.attn_{part}").reshape(len(states), -1, size) for part in "qkv"
        )
        if f"blk.{layer}.attn_q_norm.weight" in self.weights:
            query = self._norm(query, f"blk.{layer}.attn_q_norm.weight")
            key = self._norm(key, f"blk.{layer}.attn_k_norm.weight")
        parts = zip(*(np.split(part, bounds) for part in (query, key, value)), rope, strict=True)
        mixed = [causal_attention(rotate(q, table), rotate(k, table), v) for q, k, v, table in parts]
        return self._linear(np.concatenate(mixed), f"blk.{layer}.attn_output")

    def _feed_forward(self, layer: int, states: Array) -> Array:
        if self.config.experts:
            return self._experts(layer, states)
        name = f"blk.{layer}.ffn"
        gate, up = self._linear(states, f"{name}_gate"), self._linear(states, f"{name}_up")
        return self._linear(silu(gate) * up, f"{name}_down")

    def _experts(self, layer: int, states: Array) -> Array:
        name = f"blk.{layer}.ffn"
        chosen, shares = route(self._linear(states, f"{name}_gate_inp"), self.config.experts_used)
        result = np.zeros_like(states)
        for expert in np.unique(chosen):
            rows, rank = np.nonzero(chosen == expert)
            gate, up, down = (self.weights.get(f"{name}_{part}_exps.weight", expert) for part in ("gate", "up", "down"))
            inputs = states[rows]
            result[rows] += shares[rows, rank, None] * ((silu(inputs @ gate.T) * (inputs @ up.T)) @ down.T)
        return result


def rms_norm(states: Array, weight: Array, epsilon: float) -> Array:
    """Over the last dimension."""
    mean_square = np.mean(np.square(states), axis=-1, keepdims=True)
    return states / np.sqrt(mean_square + np.float32(epsilon)) * weight


def silu(x: Array) -> Array:
    """x sigmoid(x), without overflow."""
    return x * (np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x)))


def softmax(x: Array) -> Array:
    """Over the last dimension."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def log_softmax(logits: Array) -> NDArray[np.float64]:
    """Over the last dimension, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def route(router_logits: Array, used: int) -> tuple[NDArray[np.int64], Array]:
    """The experts of each row, likeliest first, and their shares, which sum to 1: both [n, used]."""
    probabilities = softmax(router_logits)
    chosen = np.argsort(-probabilities, axis=-1, kind="stable")[:, :used]
    shares = np.take_along_axis(probabilities, chosen, axis=-1)
    return chosen, shares / shares.sum(axis=-1, keepdims=True)


def causal_attention(query: Array, key: Array, value: Array) -> Array:
    """One sequence: query [n, heads, size], key and value [n, kv_heads, size]; gives [n, heads * size].

    Consecutive query heads share a KV head.
    """
    length, heads, size = query.shape
    group = heads // key.shape[1]
    future = np.triu(np.full((length, length), -np.inf, np.float32), 1)
    result = np.empty_like(query)
    for head in range(heads):
        scores = query[:, head] @ key[:, head // group].T * np.float32(1 / math.sqrt(size))
        result[:, head] = softmax(scores + future) @ value[:, head // group]
    return result.reshape(length, heads * size)


def rotate(x: Array, table: tuple[Array, Array]) -> Array:
    """NeoX's rotary embedding of x [n, heads, size]: each dimension of the first half turns with one of the second."""
    cosine, sine = table[0][:, None, :], table[1][:, None, :]
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return np.concatenate(turned, axis=-1, dtype=np.float32)


def rope_table(config: Config, positions: NDArray[np.int64]) -> tuple[Array, Array]:
    """Cosines and sines, each [positions, head_dim / 2], scaled by YaRN's attention factor."""
    frequencies, attention_factor = rope_frequencies(config)
    angles = positions[:, None] * frequencies
    cosine, sine = np.cos(angles) * attention_factor, np.sin(angles) * attention_factor
    return cosine.astype(np.float32), sine.astype(np.float32)


def rope_frequencies(config: Config) -> tuple[NDArray[np.float64], float]:
    """Radians per position of each pair of dimensions, and the factor on queries and keys."""
    pairs = np.arange(config.head_dim // 2)
    frequencies = config.rope_base ** (-2 * pairs / config.head_dim)
    yarn = config.yarn
    if yarn is None:
        return frequencies, 1.0

    def pair_that_turns(times: float) -> float:
        turns = yarn.original_context / (times * 2 * math.pi)
        return config.head_dim * math.log(turns) / (2 * math.log(config.rope_base))

    low = max(math.floor(pair_that_turns(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(yarn.beta_slow)), config.head_dim - 1)
    interpolated = np.clip((pairs - low) / max(high - low, 0.001), 0, 1)
    factor = yarn.attention_factor
    if factor is None:
        factor = 0.1 * math.log(yarn.factor) + 1 if yarn.factor > 1 else 1.0
    return frequencies * (1 - interpolated + interpolated / yarn.factor), factor


def _gguf_config(reader: GGUFReader) -> Config:
    metadata = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    architecture = metadata["general.architecture"]
    if architecture not in ARCHITECTURES:
        raise ValueError(f"the reference knows {', '.join(ARCHITECTURES)}, not {architecture}")
    own = {name.removeprefix(f"{architecture}."): value for name, value in metadata.items()}
    heads, hidden, context = own["attention.head_count"], own["embedding_length"], own["context_length"]
    yarn = None
    if own.get("rope.scaling.type") == "yarn":
        yarn = Yarn(own["rope.scaling.factor"], own.get("rope.scaling.original_context_length", context))
    moe = architecture == "qwen3moe"
    return Config(
        architecture=architecture,
        layers=own["block_count"],
        hidden=hidden,
        heads=heads,
        kv_heads=own.get("attention.head_count_kv", heads),
        head_dim=own.get("attention.key_length", hidden // heads),
        ffn=own["expert_feed_forward_length" if moe else "feed_forward_length"],
        vocabulary=next(int(tensor.shape[1]) for tensor in reader.tensors if tensor.name == "token_embd.weight"),
        context=context,
        norm_epsilon=own["attention.layer_norm_rms_epsilon"],
        rope_base=own.get("rope.freq_base", 10000.0),
        experts=own["expert_count"] if moe else 0,
        experts_used=own["expert_used_count"] if moe else 0,
        yarn=yarn,
    )
