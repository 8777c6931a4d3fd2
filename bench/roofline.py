"""How near the matrix kernels come to what the machine can do, for every shape of weights in a model.

The machine's peaks are measured first, then `_native.bench_gemm` for every distinct (type, outputs, inputs) of the
model and several numbers of tokens. A product takes at least the longer of reading its weights, as the file has them,
and multiplying: that is the limit. The last lines add up all matrices of a forward pass, for a dense model.

    python bench/roofline.py --model qwen2.5-coder-1.5b --json build/results/roofline.json
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from installed import installed
from limits import Peaks, Weight, read_weights
from quern.engine.cpu import _native
from results import machine, write_json

TOKENS = (1, 2, 4, 8, 16, 64, 256)
FLOATS = ("F32", "F16", "BF16")  # a router of experts, if anything: too small to matter
TABLE_HEAD = """\
| weights | outputs x inputs | tokens | µs | GB/s | TOPS | of the limit |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What distinguishes one matrix product from another; `bytes` are the weights' in the file."""

    type: str
    outputs: int
    inputs: int
    bytes: int

    @classmethod
    def of(cls, weight: Weight) -> Shape:
        """One expert's, where there are several."""
        return cls(weight.type, weight.outputs, weight.inputs, weight.bytes // weight.experts)

    def limit_seconds(self, tokens: int, peaks: Peaks) -> float:
        """The least time that the product can take."""
        return max(self.bytes / peaks.bandwidth, 2 * tokens * self.outputs * self.inputs / peaks.int8)


@dataclass(frozen=True, slots=True)
class Product:
    """One measured product. `count`: how many of it a forward pass has."""

    type: str
    outputs: int
    inputs: int
    count: int
    tokens: int
    seconds: float
    limit_seconds: float
    bytes_per_second: float
    operations_per_second: float


def measure(shape: Shape, count: int, tokens: int, peaks: Peaks, seconds: float) -> Product:
    """Run one product for about `seconds`."""
    each = _native.bench_gemm(shape.type, tokens, shape.outputs, shape.inputs, peaks.threads, seconds)
    return Product(
        shape.type,
        shape.outputs,
        shape.inputs,
        count,
        tokens,
        each,
        shape.limit_seconds(tokens, peaks),
        shape.bytes / each,
        2 * tokens * shape.outputs * shape.inputs / each,
    )


def whole_pass(products: Sequence[Product], tokens: int) -> tuple[float, float]:
    """Seconds that all products with so many tokens take, and the least that they could."""
    mine = [product for product in products if product.tokens == tokens]
    return sum(each.count * each.seconds for each in mine), sum(each.count * each.limit_seconds for each in mine)


def _row(product: Product) -> str:
    shape = f"{product.outputs} x {product.inputs}"
    return (
        f"| {product.count} x {product.type} | {shape} | {product.tokens} | {product.seconds * 1e6:.0f} "
        f"| {product.bytes_per_second / 1e9:.1f} | {product.operations_per_second / 1e12:.3f} "
        f"| {product.limit_seconds / product.seconds:.0%} |"
    )


def main() -> None:
    """Measure the peaks and every product, print both, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b", help="a catalog name or a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--seconds", type=float, default=0.3, help="for each product")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    here, peaks = machine(), Peaks.measure(options.threads)
    print(f"{peaks}\n\n{TABLE_HEAD}")
    weights = [weight for weight in read_weights(installed(options.model)) if weight.type not in FLOATS]
    shapes = Counter(map(Shape.of, weights))
    products: list[Product] = []
    for shape, count in shapes.items():
        for tokens in options.tokens:
            products.append(measure(shape, count, tokens, peaks, options.seconds))
            print(_row(products[-1]), flush=True)
    print()
    dense = all(weight.experts == 1 for weight in weights)
    for tokens in options.tokens if dense else ():
        seconds, limit = whole_pass(products, tokens)
        print(f"all of them, {tokens} tokens: {seconds * 1e3:.1f} ms, {tokens / seconds:.0f} tokens/s,", end=" ")
        print(f"{limit / seconds:.0%} of the limit")
    write_json(
        options.json,
        {
            "machine": here,
            "model": options.model,
            "peaks": peaks.as_dict(),
            "products": [asdict(product) for product in products],
        },
    )


if __name__ == "__main__":
    main()
