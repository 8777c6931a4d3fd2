"""Writes the GGUF file of a Qwen2 or Qwen3 model as a folder in Hugging Face's layout, for vLLM and Transformers.

The weights are what the file's blocks mean, rounded to bfloat16: the folder of a file with four bits per weight is as
good as that file, and no better. It is for machines on which only the GGUF file can be had, and for tests.

    quern engines install transformers
    ~/.local/share/quern/engines/transformers/bin/python deploy/export_folder.py model.gguf Qwen2.5-Coder-0.5B
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

DTYPES = ("bfloat16", "float16", "float32")


def main() -> None:
    """Export as the command line says."""
    options = _options()
    source, target = options.gguf.resolve(), options.folder.resolve()
    if not source.is_file():
        sys.exit(f"There is no file {source}. Give the path of a GGUF file.")
    if target.exists():
        sys.exit(f"{target} is there already, so nothing was written. Remove it, or give another name.")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    export(source, partial, options.dtype)
    partial.rename(target)
    print(target)


def export(source: Path, target: Path, dtype: str) -> None:
    """Write the model of the GGUF file `source` into the new folder `target`."""
    torch: Any = importlib.import_module("torch")  # these two are in an environment of their own, without our types
    transformers: Any = importlib.import_module("transformers")
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name, "local_files_only": True}
    unpacked = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **place, dtype=getattr(torch, dtype), quantization_config=unpacked
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    # The weights are floats now; these would have them saved as what the file had.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.dtype = dtype
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path, help="the GGUF file")
    parser.add_argument("folder", type=Path, help="the folder to make")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the weights in the folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
