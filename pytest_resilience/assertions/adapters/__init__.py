"""How the breakers and retries of each library are read, ours among them.

Each module reads one library, which it imports only when it is asked; it gives `read`, a
`Reader`. None of them changes what it reads.
"""
