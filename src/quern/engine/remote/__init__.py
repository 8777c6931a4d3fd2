"""Servers of completions that somebody else runs, one or more: vLLM, a router, a cluster."""
