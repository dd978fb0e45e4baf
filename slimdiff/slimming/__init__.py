"""Slim a model that exists: design a student for it, write its config, and compare the two."""
