#include "formats/gguf_metadata.h"

#include <limits>
#include <utility>

#include "formats/file_error.h"

namespace quern {
namespace {

enum class ValueType : uint32_t {
    Uint8 = 0,
    Int8 = 1,
    Uint16 = 2,
    Int16 = 3,
    Uint32 = 4,
    Int32 = 5,
    Float32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    Uint64 = 10,
    Int64 = 11,
    Float64 = 12,
};

constexpr uint64_t longest_key = 65535;  // the specification's limit
constexpr uint64_t longest_kept_text = 1024;

FileError unknown_type(const std::string& path, const std::string& key, uint32_t type) {
    return damaged(path, "its metadata value " + in_quotes(key) + " is of type " + std::to_string(type) +
                             ", which can't be");
}

GgufMetadata::Value read_text(HeaderReader& reader) {
    const auto length = reader.read<uint64_t>();
    if (length > longest_kept_text) {
        reader.skip(length);
        return {};
    }
    return reader.read_text(length);
}

// Bytes of one array item; nothing for types that have no fixed size.
std::optional<uint64_t> item_bytes(ValueType type) {
    switch (type) {
        case ValueType::Uint8:
        case ValueType::Int8:
        case ValueType::Bool: return 1;
        case ValueType::Uint16:
        case ValueType::Int16: return 2;
        case ValueType::Uint32:
        case ValueType::Int32:
        case ValueType::Float32: return 4;
        case ValueType::Uint64:
        case ValueType::Int64:
        case ValueType::Float64: return 8;
        default: return std::nullopt;
    }
}

void skip_array(HeaderReader& reader, const std::string& key) {
    const auto type = reader.read<uint32_t>();
    const auto count = reader.read<uint64_t>();
    const bool texts = type == static_cast<uint32_t>(ValueType::String);
    const auto each = texts ? sizeof(uint64_t) : item_bytes(static_cast<ValueType>(type));
    if (!each) {  // among them arrays of arrays, which no model has
        throw unknown_type(reader.path(), key, type);
    }
    if (count > reader.remaining() / *each) {
        throw damaged(reader.path(), "its metadata value " + in_quotes(key) + " can't have " +
                                         std::to_string(count) + " items: the file is too short");
    }
    if (!texts) {
        return reader.skip(count * *each);
    }
    for (uint64_t i = 0; i < count; ++i) {
        reader.skip(reader.read<uint64_t>());
    }
}

GgufMetadata::Value read_value(HeaderReader& reader, const std::string& key) {
    const auto type = reader.read<uint32_t>();
    switch (static_cast<ValueType>(type)) {
        case ValueType::Uint8: return uint64_t{reader.read<uint8_t>()};
        case ValueType::Int8: return int64_t{reader.read<int8_t>()};
        case ValueType::Uint16: return uint64_t{reader.read<uint16_t>()};
        case ValueType::Int16: return int64_t{reader.read<int16_t>()};
        case ValueType::Uint32: return uint64_t{reader.read<uint32_t>()};
        case ValueType::Int32: return int64_t{reader.read<int32_t>()};
        case ValueType::Uint64: return reader.read<uint64_t>();
        case ValueType::Int64: return reader.read<int64_t>();
        case ValueType::Float32: return double{reader.read<float>()};
        case ValueType::Float64: return reader.read<double>();
        case ValueType::Bool: return reader.read<uint8_t>() != 0;
        case ValueType::String: return read_text(reader);
        case ValueType::Array: skip_array(reader, key); return {};
    }
    throw unknown_type(reader.path(), key, type);
}

FileError wrong_kind(const std::string& path, std::string_view key, const char* expected) {
    return damaged(path, "its metadata value " + in_quotes(key) + " is not " + expected);
}

template <typename T>
T needed(std::optional<T> value, const std::string& path, std::string_view key) {
    if (!value) {
        throw damaged(path, "it has no metadata value " + in_quotes(key));
    }
    return std::move(*value);
}

}  // namespace

GgufMetadata::GgufMetadata(HeaderReader& reader, uint64_t count) : path_(reader.path()) {
    for (uint64_t i = 0; i < count; ++i) {
        const auto length = reader.read<uint64_t>();
        if (length == 0 || length > longest_key) {
            throw damaged(path_, "a key of its metadata can't be " + std::to_string(length) + " bytes long");
        }
        std::string key = reader.read_text(length);
        Value value = read_value(reader, key);
        const auto [place, added] = values_.try_emplace(std::move(key), std::move(value));
        if (!added) {
            throw damaged(path_, "it has the metadata value " + in_quotes(place->first) + " twice");
        }
    }
}

const GgufMetadata::Value* GgufMetadata::find(std::string_view key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
}

std::optional<uint32_t> GgufMetadata::count(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) {
        return std::nullopt;
    }
    constexpr uint32_t most = std::numeric_limits<uint32_t>::max();
    if (const auto* natural = std::get_if<uint64_t>(value); natural != nullptr && *natural <= most) {
        return static_cast<uint32_t>(*natural);
    }
    if (const auto* integer = std::get_if<int64_t>(value);
        integer != nullptr && *integer >= 0 && *integer <= most) {
        return static_cast<uint32_t>(*integer);
    }
    throw wrong_kind(path_, key, "a whole number below 4294967296");
}

std::optional<float> GgufMetadata::number(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) {
        return std::nullopt;
    }
    if (const auto* real = std::get_if<double>(value)) {
        return static_cast<float>(*real);
    }
    throw wrong_kind(path_, key, "a floating-point number");
}

std::optional<std::string> GgufMetadata::text(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) {
        return std::nullopt;
    }
    if (const auto* text = std::get_if<std::string>(value)) {
        return *text;
    }
    throw wrong_kind(path_, key, "a short text");
}

uint32_t GgufMetadata::needed_count(std::string_view key) const {
    return needed(count(key), path_, key);
}

float GgufMetadata::needed_number(std::string_view key) const {
    return needed(number(key), path_, key);
}

std::string GgufMetadata::needed_text(std::string_view key) const {
    return needed(text(key), path_, key);
}

}  // namespace quern
