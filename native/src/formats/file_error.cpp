#include "formats/file_error.h"

namespace quern {

FileError damaged(const std::string& path, const std::string& what) {
    return FileError("The model file " + path + " is damaged or was not fetched completely: " + what +
                     ". Fetch it again.");
}

FileError unsupported(const std::string& path, const std::string& what) {
    return FileError("Quern's CPU engine can't run the model " + path + ": " + what +
                     ". Use another model or conversion, or the engine `llamacpp`.");
}

std::string in_quotes(std::string_view text) {
    constexpr size_t longest = 80;
    std::string result = "\"";
    for (const char character : text.substr(0, longest)) {
        const bool printable = character >= 0x20 && character < 0x7f;
        result += printable ? character : '?';
    }
    result += text.size() > longest ? "...\"" : "\"";
    return result;
}

}  // namespace quern
