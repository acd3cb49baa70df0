"""engines: what executes a model. Importing this loads nothing."""
