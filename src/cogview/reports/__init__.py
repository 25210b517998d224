"""Self-contained HTML reports, and all plots, with matplotlib."""
