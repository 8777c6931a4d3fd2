"""What engines share whose model runs in a server process, ours or somebody else's."""
