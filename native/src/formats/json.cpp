#include "formats/json.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace quern {
namespace {

constexpr int deepest = 32;
constexpr size_t most_values = 2'000'000;  // a value takes up to 60 times the memory of its two bytes of text

void append_utf8(std::string& text, uint32_t code) {
    const auto continuation = [&](int shift) { text += static_cast<char>(0x80 | (code >> shift & 0x3f)); };
    if (code < 0x80) {
        text += static_cast<char>(code);
    } else if (code < 0x800) {
        text += static_cast<char>(0xc0 | code >> 6);
        continuation(0);
    } else if (code < 0x10000) {
        text += static_cast<char>(0xe0 | code >> 12);
        continuation(6);
        continuation(0);
    } else {
        text += static_cast<char>(0xf0 | code >> 18);
        continuation(12);
        continuation(6);
        continuation(0);
    }
}

class Parser {
public:
    explicit Parser(std::string_view text) : text_(text) {}

    Json parse() {
        Json value = parse_value(0);
        skip_space();
        if (at_ != text_.size()) {
            fail("something after the end of the JSON");
        }
        return value;
    }

private:
    [[noreturn]] void fail(const std::string& what) const {
        throw JsonError(what + " at byte " + std::to_string(at_));
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    // A NUL byte in the text looks like its end, and is refused like it wherever that matters.
    bool take(char expected) {
        const bool here = at_ < text_.size() && text_[at_] == expected;
        at_ += here;
        return here;
    }

    void need(char expected) {
        if (!take(expected)) {
            fail(std::string("no ") + expected);
        }
    }

    void skip_space() {
        while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) {
            ++at_;
        }
    }

    Json parse_value(int depth) {
        if (depth > deepest) {
            fail("more than " + std::to_string(deepest) + " levels of nesting");
        }
        if (++values_ > most_values) {
            fail("more than " + std::to_string(most_values) + " values");
        }
        skip_space();
        switch (peek()) {
            case '{': return parse_object(depth);
            case '[': return parse_array(depth);
            case '"': return Json(parse_string());
            case 't': return parse_word("true", Json(true));
            case 'f': return parse_word("false", Json(false));
            case 'n': return parse_word("null", Json());
            default: return parse_number();
        }
    }

    Json parse_word(std::string_view word, Json value) {
        if (text_.substr(at_, word.size()) != word) {
            fail("an unknown word");
        }
        at_ += word.size();
        return value;
    }

    Json parse_array(int depth) {
        Json::Array items;
        need('[');
        skip_space();
        if (take(']')) {
            return Json(std::move(items));
        }
        do {
            items.push_back(parse_value(depth + 1));
            skip_space();
        } while (take(','));
        need(']');
        return Json(std::move(items));
    }

    Json parse_object(int depth) {
        Json::Object members;
        need('{');
        skip_space();
        if (take('}')) {
            return Json(std::move(members));
        }
        do {
            skip_space();
            std::string key = parse_string();
            skip_space();
            need(':');
            members.emplace_back(std::move(key), parse_value(depth + 1));
            skip_space();
        } while (take(','));
        need('}');
        std::sort(members.begin(), members.end(),
                  [](const auto& a, const auto& b) { return a.first < b.first; });
        const auto same_key = [](const auto& a, const auto& b) { return a.first == b.first; };
        if (std::adjacent_find(members.begin(), members.end(), same_key) != members.end()) {
            fail("an object with the same key twice, which ends");
        }
        return Json(std::move(members));
    }

    std::string parse_string() {
        std::string result;
        need('"');
        while (!take('"')) {
            if (at_ >= text_.size() || static_cast<unsigned char>(text_[at_]) < 0x20) {
                fail("a string that doesn't end");
            }
            if (take('\\')) {
                parse_escape(result);
            } else {
                result += text_[at_++];
            }
        }
        return result;
    }

    void parse_escape(std::string& result) {
        constexpr std::string_view letters = "\"\\/bfnrt";
        constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
        if (take('u')) {
            return append_utf8(result, parse_code_point());
        }
        const size_t letter = letters.find(peek());
        if (at_ >= text_.size() || letter == std::string_view::npos) {
            fail("an unknown escape");
        }
        result += meanings[letter];
        ++at_;
    }

    uint32_t parse_code_point() {
        const uint32_t first = parse_hex4();
        if (first < 0xd800 || first > 0xdfff) {
            return first;
        }
        const bool paired = first < 0xdc00 && take('\\') && take('u');
        const uint32_t second = paired ? parse_hex4() : 0;
        if (second < 0xdc00 || second > 0xdfff) {
            fail("half a surrogate pair");
        }
        return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    }

    uint32_t parse_hex4() {
        uint32_t code = 0;
        const std::string_view digits = text_.substr(at_, 4);
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
        if (digits.size() != 4 || error != std::errc{} || end != digits.data() + 4) {
            fail("an escape without four hexadecimal digits");
        }
        at_ += 4;
        return code;
    }

    bool take_digits() {
        const size_t begin = at_;
        while (peek() >= '0' && peek() <= '9') {
            ++at_;
        }
        return at_ > begin;
    }

    Json parse_number() {
        const size_t begin = at_;
        take('-');
        bool good = take('0') || take_digits();
        bool whole = true;
        if (good && take('.')) {
            whole = false;
            good = take_digits();
        }
        if (good && (take('e') || take('E'))) {
            whole = false;
            if (!take('+')) {
                take('-');
            }
            good = take_digits();
        }
        if (!good) {
            fail("something that is no value");
        }
        return convert(text_.substr(begin, at_ - begin), whole);
    }

    Json convert(std::string_view digits, bool whole) const {
        const char* end = digits.data() + digits.size();
        int64_t integer = 0;
        if (whole && std::from_chars(digits.data(), end, integer).ec == std::errc{}) {
            return Json(integer);
        }
        double number = 0;
        if (std::from_chars(digits.data(), end, number).ec != std::errc{}) {
            fail("a number out of range");
        }
        return Json(number);
    }

    std::string_view text_;
    size_t at_ = 0;
    size_t values_ = 0;
};

}  // namespace

const Json* Json::find(std::string_view key) const {
    const Object* members = object();
    if (members == nullptr) {
        return nullptr;
    }
    const auto before = [](const auto& member, std::string_view wanted) { return member.first < wanted; };
    const auto found = std::lower_bound(members->begin(), members->end(), key, before);
    return found != members->end() && found->first == key ? &found->second : nullptr;
}

Json parse_json(std::string_view text) {
    return Parser(text).parse();
}

}  // namespace quern
