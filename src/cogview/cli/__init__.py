"""The command line: one file per verb; ``app.py`` lists them."""
