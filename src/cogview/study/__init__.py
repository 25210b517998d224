"""The human study (CogView, section 4.2 and appendix E): people compare images of several models.

For each caption, a rater sees one image of every model, blind and in random order, gives each three scores
from 1 to 5 (clarity, texture, relevance) and an overall score from 1 to 10, and then chooses the best. Two
models may share one slot (the paper's A-B test of super-resolution). Raters who did not finish, or whose
choices contradict their own scores, are excluded.

``create`` writes a study's folder, ``store`` stores answers in SQLite, ``server`` serves the pages,
``statistics`` and ``results`` compute the figures and the plots of figure 10.
"""
