"""samzoo: which adaptation of the Segment Anything Model works best on my data, and what does it cost?"""

__version__ = "0.2.0"
