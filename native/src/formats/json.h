// JSON (RFC 8259), read strictly.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace quern {

// The message is a clause: what is wrong, and at which byte.
class JsonError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// A value. Whole numbers of up to 63 bits are kept exactly, all others as double.
class Json {
public:
    using Array = std::vector<Json>;
    using Object = std::vector<std::pair<std::string, Json>>;  // ordered by key, no key twice

    Json() = default;  // null
    template <typename T>
    explicit Json(T value) : value_(std::move(value)) {}

    bool is_null() const { return std::holds_alternative<std::monostate>(value_); }

    // The value where it is of that kind, otherwise nullptr. number() is for doubles; whole numbers are
    // integers.
    const bool* boolean() const { return std::get_if<bool>(&value_); }
    const int64_t* integer() const { return std::get_if<int64_t>(&value_); }
    const double* number() const { return std::get_if<double>(&value_); }
    const std::string* text() const { return std::get_if<std::string>(&value_); }
    const Array* array() const { return std::get_if<Array>(&value_); }
    const Object* object() const { return std::get_if<Object>(&value_); }

    // An object's member; nullptr where there is none, or where this is no object.
    const Json* find(std::string_view key) const;

private:
    std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

// Refuses, with JsonError, more than 32 levels of nesting, two million values, a key twice, numbers beyond
// double's range, unpaired surrogates, anything after the value. Bytes above 0x7f in strings are not checked
// to be UTF-8.
Json parse_json(std::string_view text);

}  // namespace quern
