"""models: what a model is, where its files lie, and how the bundled one is made. Importing this loads nothing."""
