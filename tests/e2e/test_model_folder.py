"""`quern serve --model FOLDER`: a model as Hugging Face has it, served."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import requests

from quern.config_models import Quantise
from quern.engine.engine_choice import native_facts
from quern.modelfiles.sizes import loaded_bytes, size_on_disk
from quern.models.progress import format_bytes

from .conftest import QUERN, StartServer, chat

pytestmark = pytest.mark.skipif(
    native_facts().instruction_set is None, reason="the engine cpu can't run on this machine"
)


def test_a_folder_is_served_under_its_name_and_its_answers_stream(
    start_server: StartServer, model_folder: Path
) -> None:
    server = start_server(model=str(model_folder))
    (model,) = requests.get(f"{server.url}/v1/models", timeout=10).json()["data"]
    assert model["id"] == model_folder.name
    assert "cpu, chosen by auto" in server.log()
    (text, chunks), (again, _) = (chat(server.url, "冒泡排序", temperature=0, max_tokens=1500)[1:] for _ in range(2))
    assert text == again
    assert len(chunks) > 2
    assert server.stop() == 0


def test_an_engine_that_reads_no_folders_is_refused_with_a_way_out(tmp_path: Path, model_folder: Path) -> None:
    command = [QUERN, "serve", "--engine", "llamacpp", "--model", str(model_folder), "--port", "0"]
    result = subprocess.run(
        [*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert "convert_hf_to_gguf.py" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_doctor_reckons_with_the_folders_weights(tmp_path: Path, model_folder: Path) -> None:
    command = [QUERN, "doctor", "--model", str(model_folder), "--port", "0", "--data-dir", str(tmp_path)]
    report = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    assert f"at {model_folder} (" in report
    assert "ok    engine    cpu: " in report
    weights = loaded_bytes(size_on_disk(model_folder), "F16", Quantise.Q8)
    assert f"(model {format_bytes(weights)}, KV cache" in report
