"""What is said about an inference process."""

import signal
from pathlib import Path

import pytest

from quern.engine.llamacpp.process import describe_device, explain_failed_load

MODEL = Path("/models/m.gguf")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (1, "E ggml_aligned_malloc: insufficient memory; failed to allocate buffer of size 614404718592"),
        (-signal.SIGABRT, "terminate called after throwing an instance of 'std::bad_alloc'"),
        (-signal.SIGKILL, "W load: something before the kernel's OOM killer came"),
    ],
)
def test_a_lack_of_memory_is_recognised_and_names_the_setting(code: int, line: str) -> None:
    message = explain_failed_load(code, [line], MODEL, 4_700_000_000)
    assert message.startswith("There was not enough memory to load /models/m.gguf: the file has 4.7 GB")
    assert "engine.kv_tokens" in message
    assert line in message


def test_a_cpu_without_the_instructions_is_recognised() -> None:
    message = explain_failed_load(-signal.SIGILL, [], MODEL, 1)
    assert "AVX2" in message
    assert "engine.url" in message


def test_any_other_end_is_told_with_the_last_lines() -> None:
    assert explain_failed_load(-signal.SIGSEGV, ["one", "two"], MODEL, 1) == (
        "The model /models/m.gguf could not be loaded: the inference process was ended by SIGSEGV. The file may be "
        "damaged or of a kind that this version doesn't know; fetch it again or choose another model. Its last lines:\n"
        "  one\n  two"
    )


@pytest.mark.parametrize(
    ("system", "device"),
    [
        ("CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | OPENMP = 1 | ", "CPU, 2 threads (AVX2 build)"),
        ("CPU : NEON = 1 | ARM_FMA = 1 | ", "CPU, 2 threads (NEON build)"),
        ("CPU : OPENMP = 1 | ", "CPU, 2 threads"),
        ("CUDA : ARCHS = 800,890 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX2 = 1 | ", "CUDA"),
    ],
)
def test_the_device_is_described_for_people(system: str, device: str) -> None:
    assert describe_device(system, 2) == device
