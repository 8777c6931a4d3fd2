"""The engine for servers that complete token ids over OpenAI's protocol, as vLLM does; where they come from is not its
business.
"""
