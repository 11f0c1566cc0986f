"""Decide: what each family of methods does, as values and pure functions.

Nothing here knows Ray, MLflow, files, a clock or a global random state.
"""
