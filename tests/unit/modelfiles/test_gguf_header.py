"""Reading a model file's metadata, whole and damaged."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.modelfiles.gguf_files import MERGES, TOKENS, TYPES, write_gguf

from quern.errors import ModelCorrupt, ModelError, ModelLoadError, ModelNotFound
from quern.modelfiles.gguf_header import read_metadata


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


def test_every_kind_of_value_is_read_as_another_library_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "values.gguf"
    writer = gguf.GGUFWriter(path, "any")
    writer.add_uint8("a.u8", 2**8 - 1)
    writer.add_int8("a.i8", -(2**7))
    writer.add_uint16("a.u16", 2**16 - 1)
    writer.add_int16("a.i16", -(2**15))
    writer.add_uint32("a.u32", 2**32 - 1)
    writer.add_int32("a.i32", -(2**31))
    writer.add_uint64("a.u64", 2**64 - 1)
    writer.add_int64("a.i64", -(2**63))
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "冒泡 🫧")
    writer.add_array("a.texts", ["", "é", "\u0000"])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = read_metadata(path)
    whole_numbers = {"u8": 255, "i8": -128, "u16": 65535, "i16": -32768, "u32": 2**32 - 1, "i32": -(2**31)}
    whole_numbers |= {"u64": 2**64 - 1, "i64": -(2**63)}
    assert {name: metadata.integer(f"a.{name}") for name in whole_numbers} == whole_numbers
    assert metadata.text("a.text") == "冒泡 🫧"
    assert metadata.texts("a.texts") == ["", "é", "\u0000"]
    assert metadata.integers("a.numbers") == [1, -2, 3]
    assert metadata.integers("a.u8") == [255]
    assert metadata.text("none", "default") == "default"
    assert metadata.integer("none") is None
    assert metadata.texts("none") == []


@pytest.mark.parametrize("key", ["a.f32", "a.bool", "a.texts", "a.mixed"])
def test_a_value_of_another_type_than_expected_is_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "values.gguf"
    writer = gguf.GGUFWriter(path, "any")
    writer.add_float32("a.f32", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_array("a.texts", ["one"])
    writer.add_array("a.mixed", [0.5, 1.5])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = read_metadata(path)
    with pytest.raises(ModelCorrupt, match=key):
        metadata.integer(key)
    with pytest.raises(ModelCorrupt, match=key):
        metadata.text(key)
    with pytest.raises(ModelCorrupt, match=key):
        metadata.integers(key)
    if key != "a.texts":
        with pytest.raises(ModelCorrupt, match=key):
            metadata.texts(key)


def test_a_file_cut_off_anywhere_in_its_header_is_corrupt(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    for length in [*range(400), *range(400, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelCorrupt, match=r"Fetch"):
            read_metadata(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_bytes_end_in_one_of_our_errors_or_none(whole: bytes, tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for position in data.draw(st.lists(st.integers(4, 600), min_size=1, max_size=4)):
        damaged[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged)
    with suppress(ModelError):
        read_metadata(path)


@pytest.mark.parametrize("length", [2**26 + 1, 2**40, 2**64 - 1])
@pytest.mark.parametrize("item", [0, 8, 12])
def test_an_impossible_length_is_refused_before_any_memory_is_taken(tmp_path: Path, length: int, item: int) -> None:
    path = tmp_path / "long.gguf"
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    path.write_bytes(header + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, item, length) + bytes(100))
    with pytest.raises(ModelCorrupt, match=f"a length of {length}"):
        read_metadata(path)


def test_a_file_that_is_something_else_is_not_a_model(tmp_path: Path) -> None:
    for content in (b"", b"GG", b"PK\x03\x04 a zip archive", b'{"a": 1}'):
        path = tmp_path / "other.gguf"
        path.write_bytes(content)
        with pytest.raises(ModelCorrupt, match="is not a GGUF file"):
            read_metadata(path)


def test_versions_and_byte_orders_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    for version in (1, 4, 3 << 24):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, 0))
        with pytest.raises(ModelLoadError, match=f"version {version}"):
            read_metadata(path)


def test_a_missing_file_is_not_found_and_a_folder_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"none\.gguf"):
        read_metadata(tmp_path / "none.gguf")
    with pytest.raises(ModelLoadError, match="can't be read"):
        read_metadata(tmp_path)


def test_the_vocabulary_arrives_in_order(tmp_path: Path) -> None:
    metadata = read_metadata(write_gguf(tmp_path / "tiny.gguf"))
    assert metadata.texts("tokenizer.ggml.tokens") == TOKENS
    assert metadata.integers("tokenizer.ggml.token_type") == TYPES
    assert metadata.texts("tokenizer.ggml.merges") == MERGES
