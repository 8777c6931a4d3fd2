"""The engine for GGUF files that llama.cpp runs: llama-server, in a child process of ours or elsewhere."""
