"""Experiment files of Chaos Toolkit."""
