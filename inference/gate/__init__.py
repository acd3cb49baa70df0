"""The gate: what a candidate has to show on golden and on recent images before it may label the nights."""
