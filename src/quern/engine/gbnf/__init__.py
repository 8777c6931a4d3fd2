"""JSON schemas as GBNF, llama.cpp's notation of grammars."""
