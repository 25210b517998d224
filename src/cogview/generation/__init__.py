"""Drawing tokens: sampling, the decode engine, and one file a task."""
