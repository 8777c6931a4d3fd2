"""The database: conversations, messages, turns and the journal of unfinished ones."""
