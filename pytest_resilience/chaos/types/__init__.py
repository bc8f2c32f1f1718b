"""The chaos types that users can ask for: each, its parameters, units and defaults."""
