"""From sources to the chunks that are trained on, and back: gathering, encoding, mixing, reading, following."""
