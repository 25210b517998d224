"""The command line, one file a verb; ``app.py`` knows where each verb lives."""
