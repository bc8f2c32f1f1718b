"""Toxiproxy's toxics."""
