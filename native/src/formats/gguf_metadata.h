// The metadata at the head of a GGUF file.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "formats/header_reader.h"

namespace quern {

// Values by key. Arrays and long strings, which describe the tokenizer, are passed over: their value is a
// monostate.
class GgufMetadata {
public:
    using Value = std::variant<std::monostate, bool, uint64_t, int64_t, double, std::string>;

    // Reads `count` entries; throws FileError.
    GgufMetadata(HeaderReader& reader, uint64_t count);

    // Nothing where there is no such key; FileError where the value is of another kind.
    std::optional<uint32_t> count(std::string_view key) const;
    std::optional<float> number(std::string_view key) const;
    std::optional<std::string> text(std::string_view key) const;

    // FileError where there is no such key.
    uint32_t needed_count(std::string_view key) const;
    float needed_number(std::string_view key) const;
    std::string needed_text(std::string_view key) const;

    const std::string& path() const { return path_; }

private:
    const Value* find(std::string_view key) const;

    std::string path_;
    std::map<std::string, Value, std::less<>> values_;
};

}  // namespace quern
