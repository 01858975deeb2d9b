"""The commands, one a module: ``run`` takes the arguments and a session, and returns the exit code."""
