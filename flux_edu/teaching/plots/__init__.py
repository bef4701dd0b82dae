"""The figures of the notebooks, a file a chapter: functions from numbers to a matplotlib Figure.

A figure's label (`fig.set_label`) is its alternative text.
"""
