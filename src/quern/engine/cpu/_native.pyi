"""What the native module offers; `native/src/bindings.cpp` is the other side.

Every call that computes releases the GIL. One thread at a time may call into one `Model`.
"""

from collections.abc import Callable, Mapping, Sequence

BLOCK_TOKENS: int
"""Tokens in one block of the KV cache."""

ARCHITECTURES: tuple[str, ...]
"""Values of a model's `general.architecture` (GGUF) or `model_type` (Hugging Face) that `Model` runs."""

def instruction_set() -> str | None:
    """The widest instruction set of this CPU that the kernels use, or None.

    `avx512_bf16` (with VNNI), `avx512_vnni`, `avx_vnni` or `avx2`.
    """

class ModelFileError(Exception):
    """A model file cannot be read or run; the message is a sentence that names the file."""

class Token:
    """A sampled token. `logprob` is the natural logarithm of its probability before temperature and truncation."""

    @property
    def id(self) -> int: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top(self) -> list[tuple[int, float]]:
        """The likeliest (id, logprob) pairs, best first; as many as `top_logprobs` asked for."""

class Sampler:
    """How one sequence draws its tokens, with what it has drawn. The defaults switch every step off: greedy.

    The n-th token of a seed depends on the seed, on n, on the logits and on `allow` alone.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        seed: int = 0,
        logit_bias: Mapping[int, float] | None = None,
        top_logprobs: int = 0,
    ) -> None: ...
    def observe_prompt(self, ids: Sequence[int]) -> None:
        """Tell the repetition penalty which ids the prompt has."""

    def observe_generated(self, ids: Sequence[int]) -> None:
        """Go on after these, which another sampler with the same options drew in an earlier life, as if this one had.

        Each of them is a draw: `position` grows by as many, and the penalties count them.
        """

    @property
    def position(self) -> int:
        """How many tokens were drawn. The next draw takes the seed's number of this position, whatever was drawn."""

    def allow(self, mask: bytes) -> None:
        """Let the next token be one of these ids only; it is forgotten once that is drawn.

        A bit for each id, in little-endian 32-bit words, the lowest id in the lowest bit; further bits don't matter.
        Whatever the options say, no other id can be drawn. Logprobs stay those of all ids. Raises ValueError for a mask
        that is shorter than the vocabulary.
        """

    def sample(self, logits: object) -> Token:
        """Draw from float32 logits, shape [vocabulary_size]. For tests; `Model.forward` does it by itself."""

class Embedding:
    """Where a sequence's vector goes, once a step has computed its end: the last token's hidden state after the output
    norm, divided by its length.
    """

    def __init__(self) -> None: ...
    @property
    def values(self) -> bytes:
        """`Model.embedding_length` float32 numbers in the machine's order; nothing before they are computed, and where
        the hidden state has no length that is a number.
        """

class Item:
    """One sequence's part of a step.

    `tokens`: ids to compute, at least one; the first stands at `position`. `blocks`: the sequence's KV blocks from
    position 0 on, enough to hold all of `tokens`. With a `sampler` the last `samples` tokens give logits, sampled in
    order; sampling stops after the first token that differs from the one that follows it in `tokens`, so the last
    `samples - 1` tokens are drafts to be verified. With an `embedding` instead, the last token's state is put there.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        position: int,
        blocks: Sequence[int],
        sampler: Sampler | None = None,
        samples: int = 1,
        embedding: Embedding | None = None,
    ) -> None: ...

class Model:
    """A loaded model with its KV cache.

    `path`: a GGUF file, or a directory with `config.json` and safetensors. `kv_tokens` is rounded up to whole blocks;
    memory is touched only as blocks are used. `kv_type`: `bf16` or `int8`. `quantise`: `q8` or `q4`, for the weights
    of files that hold floats. `isa`: one of `instruction_set`'s values to force, or empty. `progress` gets the share
    of weights loaded, 0 to 1; what it raises ends the loading. Raises ModelFileError.
    """

    def __init__(
        self,
        path: str,
        *,
        threads: int,
        kv_tokens: int,
        kv_type: str = "bf16",
        quantise: str = "q8",
        isa: str = "",
        progress: Callable[[float], None] | None = None,
    ) -> None: ...
    @property
    def architecture(self) -> str: ...
    @property
    def context_length(self) -> int: ...
    @property
    def embedding_length(self) -> int: ...
    @property
    def vocabulary_size(self) -> int: ...
    @property
    def kv_blocks(self) -> int: ...
    @property
    def kv_bytes_per_token(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def isa(self) -> str: ...
    def forward(self, items: Sequence[Item]) -> list[list[Token]]:
        """Compute one step; the result has one list for each item, empty for items without a sampler.

        Raises ValueError for ids, positions or blocks out of range; nothing has been computed then.
        """

    def logits(self, items: Sequence[Item]) -> list[object]:
        """The same step, giving each item's raw logits: float32 NumPy arrays, shape [samples, vocabulary_size]."""

# For tests and tools: looking into model files.

class ModelFile:
    """A model file's header. Tensors have GGUF's names, whichever format the file has."""

    @property
    def config(self) -> dict[str, object]:
        """The members of `ModelConfig` in `formats/config.h` by name; `yarn` is None or such a dictionary."""

    @property
    def tensors(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """(name, type, shape) by name; shapes are slowest dimension first, as NumPy's."""

    @property
    def size(self) -> int:
        """Bytes of all its files with tensors."""

    def check_tensors(self) -> None:
        """Raise ModelFileError unless the tensors are exactly those that the configuration needs."""

    def read_floats(self, name: str) -> object:
        """A tensor's values: a float32 NumPy array. Raises ModelFileError."""

def open_model(path: str) -> ModelFile:
    """Read the header of a GGUF file or a Hugging Face folder. Raises ModelFileError."""

def float_to_half(value: float) -> int:
    """The bits of the nearest IEEE 754 half-precision number, ties to even."""

def float_to_bfloat16(value: float) -> int:
    """The bits of the nearest bfloat16 number, ties to even."""

# For tests: single kernels. Arrays are NumPy's, C-contiguous; floats are float32. `isa` is one of `kernel_sets()`. All
# raise ValueError for shapes that don't fit together.

def kernel_sets() -> list[str]:
    """The instruction sets that this CPU has kernels for, widest first."""

def unpack(weight_type: str, rows: object) -> object:
    """Weights as the kernels keep them, [outputs, inputs].

    `rows`: uint8 [outputs, bytes of a row], as a GGUF file stores the type. Floats are quantised to 8 bits.
    """

def quantise(x: object, *, isa: str, coarse: bool = False) -> tuple[object, object]:
    """The int8 codes [rows, columns] of x and their scales [rows, columns / 32].

    `coarse`: 256 values share a scale.
    """

def multiply(
    weight_type: str,
    weights: object,
    x: object,
    *,
    isa: str,
    threads: int = 1,
    coarse: bool = False,
    bias: object = None,
    add_to: object = None,
) -> object:
    """x [tokens, inputs], quantised, times `weights`, stored as in `unpack`: [tokens, outputs].

    `bias` [outputs] is added, or else the product to `add_to` [tokens, outputs]. Activations get coarse scales where
    the weight type needs them, or if asked for.
    """

def multiply_gated(weight_type: str, gate: object, up: object, x: object, *, isa: str, threads: int = 1) -> object:
    """SwiGLU: silu(x gate^T) * (x up^T)."""

def attend(
    queries: object,
    keys: object,
    values: object,
    *,
    blocks: Sequence[int],
    position: int,
    isa: str,
    int8: bool = False,
) -> object:
    """Causal attention of one sequence through a KV cache: [tokens, heads, dim].

    Queries are [tokens, heads, dim], of the tokens at `position` and after; keys and values [context, kv_heads, dim],
    of the tokens from 0 on, are put into `blocks`. They are kept as bfloat16, or `int8` with a scale for each.
    """

# For benchmarks: what the machine can do, and what one kernel makes of it.

def read_bandwidth(threads: int, bytes: int, seconds: float) -> float:  # noqa: A002
    """Bytes per second that `threads` threads read together from a buffer of `bytes`."""

def int8_peak(threads: int, seconds: float) -> float:
    """8-bit operations per second of `threads` threads together; a multiplication and an addition are two."""

def bf16_peak(threads: int, seconds: float) -> float:
    """The same with BF16 factors and float sums."""

def bench_gemm(weight_type: str, tokens: int, outputs: int, inputs: int, threads: int, seconds: float) -> float:
    """Seconds per call of the matrix product that `Model` uses for weights of a GGUF type such as `Q4_K`.

    Weights are [outputs, inputs], activations [tokens, inputs]. Repeated for about `seconds`, over several matrices of
    weights in turn so that they come from memory as they do in a model.
    """
