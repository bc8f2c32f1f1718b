"""Python children of this process meet the same experiments, and what they meet counts here."""
