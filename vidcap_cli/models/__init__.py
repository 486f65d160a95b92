"""The captioners: prompt, frame choice and preprocessing of each model family, in numpy.

Nothing here imports MindSpore, so decoder processes and tests can use it at no cost.
"""
