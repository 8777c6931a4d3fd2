"""OpenAI's dialects: Chat Completions, Completions, Responses, Conversations."""
