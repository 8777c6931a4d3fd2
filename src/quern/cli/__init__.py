"""The `quern` command."""
