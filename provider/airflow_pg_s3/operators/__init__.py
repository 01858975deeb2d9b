"""The operators: they resolve connections and templates, call the core, and report."""
