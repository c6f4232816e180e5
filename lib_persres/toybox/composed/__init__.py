"""The Toybox's next base model, which draws several things at once: scenes, trainings, judge and measures of its own.

`python -m lib_persres.toybox.composed` trains and measures it; what is shipped is made by the modules above until it is
replaced.
"""
