"""What is Quern's own about conversations: branches, search, export and import."""
