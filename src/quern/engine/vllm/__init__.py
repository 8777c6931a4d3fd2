"""vLLM in a child process, from an environment of its own."""
