"""The run directory: where everything lies, what is true of it, and what comes next."""
