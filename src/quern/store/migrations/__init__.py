"""The database's history, one file a step under `versions/`. Append-only: a step that was released never changes."""
