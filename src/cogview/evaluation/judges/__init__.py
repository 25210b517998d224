"""The networks that judge generated pictures, none of them seen by a generator, and their trainings."""
