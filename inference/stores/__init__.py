"""Adapters for object stores."""
