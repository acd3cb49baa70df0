"""The peers, each in its documented idiom. Runs in an environment of its own; nothing of the product is imported."""
