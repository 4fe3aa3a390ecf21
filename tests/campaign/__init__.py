"""A campaign of faults: what users, machines and strangers do to files and runs, thousands of times, from a seed.

`make campaign` runs it; `python -m campaign --kind K --seed S --try N` repeats one try.
"""
