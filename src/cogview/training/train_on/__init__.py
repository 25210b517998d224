"""One command from a folder of pictures to a model that draws them (`cogview train-on`).

- ``sizes.py``   what is trained at each size, and the recipes for it
- ``look.py``    what the data are, what every sample becomes, what it will cost
- ``names.py``   captions for pictures that have none, from their files' names
- ``settings.py``  what was asked for, and how far it is
- ``run.py``     the stages, each of which can be stopped and resumed
- ``card.py``    the model card of the result
"""
