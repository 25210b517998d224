"""OpenAI's Images API: its fields, model names and sizes, mapped to the served models."""
