"""The checks behind the notebooks' exercises, a file a chapter; `flux_edu.learn.check` finds them.

`CHECKS` maps the number of an exercise to a function that takes the answer and raises AssertionError, with a message
that names the likely mistake, unless it is right. `SOLUTIONS` holds an answer that passes.
"""
