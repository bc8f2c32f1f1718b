"""What users can ask for: every chaos type, its parameters, units and defaults."""
