"""What happens to an operation: frozen descriptions, each an answer to "what can go wrong"."""
