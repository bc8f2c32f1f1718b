"""How the breakers and retries of each library are read, ours among them."""
