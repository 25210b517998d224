"""OpenAI's Images API: its fields, model names and sizes, and what they mean for the models served here."""
