"""One command from a folder of images to a model that draws them (`cogview train-on`).

- ``model_sizes.py``  what is trained at each size, and the recipes for it
- ``survey.py``  what the data are, what every sample becomes, what it will cost
- ``filename_captions.py``  captions for images that have none, from their files' names
- ``settings.py``  what was asked for, and how far it is
- ``stages.py``  the stages, each of which can be stopped and resumed
- ``card.py``  the model card of the result
"""
