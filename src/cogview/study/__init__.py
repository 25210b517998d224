"""The human study (CogView, section 4.2 and appendix E): people compare images of several models.

For a caption, a rater sees one image of every model, blind and in an order of their own; gives each three
scores of 1 to 5 (clarity, texture, relevance) and an overall score of 1 to 10; then chooses the best. Two
models may share one place (the paper's A-B test of super-resolution). Answers of raters who did not finish,
or whose choices contradict their own scores, do not count.

``create`` makes a study's folder, ``store`` keeps answers in SQLite, ``server`` shows the pages,
``statistics`` and ``report`` make Figure 10 of it.
"""
