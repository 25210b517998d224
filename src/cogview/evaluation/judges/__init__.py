"""The networks that judge generated images, none of them seen by a generator, and their trainings."""
