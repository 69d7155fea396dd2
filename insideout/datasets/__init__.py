"""Training data: where the bundled data comes from, and one module per export format."""
