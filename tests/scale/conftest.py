"""A results database with millions of outcomes, made once."""
