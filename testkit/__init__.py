"""Real servers and real data for tests, the demo and benchmarks; nothing here is part of the provider."""
