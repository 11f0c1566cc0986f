"""Where do the examples lie, and how are they read?

One module a sort of source. The test split is the same for every experiment, whatever its seed, so
that seeds are comparable. pandas, Pillow and the optional packages are imported when something is
read, so that checking an experiment file takes no time.
"""
