"""Ollama's dialect: `/api/…`, answers as lines of JSON."""
