"""The galleries: every checkpoint's answers and continuations, to be read side by side without a server."""
