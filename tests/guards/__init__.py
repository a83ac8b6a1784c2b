"""Each guard against something that was seen to go wrong has a test that fails without it.

`guard` says what a guard is, `table` which there are; `trial` takes one out in a copy of the tree
and runs the tests that must notice; `command` does so with all. docs/guards.md tells how to use it.
"""
