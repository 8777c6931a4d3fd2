"""Who may use the server, as what: keys, owners, roles."""
