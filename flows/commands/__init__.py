"""The commands of `k2`, a file a group: read, call one function of k2 or one loop, answer. Declared in `flows.cli`."""
