"""Reports as self-contained HTML pages, and all plots: one model of a page, one template, matplotlib."""
