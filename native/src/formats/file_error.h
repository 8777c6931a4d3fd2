// The one error of everything that reads model files.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace quern {

// A model file can't be read or run. The message is a sentence that names the file and says what to do; it is
// ASCII wherever it quotes the file's own contents.
class FileError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// The bytes are not what the format says. `what` is a clause without a full stop.
FileError damaged(const std::string& path, const std::string& what);

// The file may be sound, and Quern's engine doesn't run it. `what` is a clause without a full stop.
FileError unsupported(const std::string& path, const std::string& what);

// Text from a file, fit for a message: in quotation marks, printable ASCII, cut after 80 characters.
std::string in_quotes(std::string_view text);

}  // namespace quern
