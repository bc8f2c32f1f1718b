"""Toxiproxy's HTTP API."""
