"""One command from a folder of images to a trained model family (`cogview train-on`).

- ``model_sizes.py``  the models of each size, and their recipes
- ``survey.py``  a survey of the data, and an estimate of the cost
- ``filename_captions.py``  captions from file names, for images without captions
- ``settings.py``  the options; ``state.py`` the state of a run
- ``stages.py``  the stages, each of which can be stopped and resumed
- ``measure.py``  the time of a training step
- ``card.py``  the model card of the result
"""
